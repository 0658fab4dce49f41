"""A researcher's machine: a container on the notebooks network with `flwr`, its home kept between commands, and nothing else."""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flowerbed_cli import docker as kit_docker

from .browser import Person, link_in
from .federation import KIT, STACK, Federation, docker

HOME = "/tmp/flwr"


@dataclass(frozen=True)
class Laptop:
    """One machine; `flwr` on it is whoever logged in there."""

    name: str

    def run(self, *command: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """Run a command; both streams come back as stdout."""
        return subprocess.run(
            ["docker", "exec", self.name, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=timeout, check=False, env=kit_docker.environment(),
        )  # fmt: skip

    def flwr(self, *arguments: str, timeout: float = 180) -> str:
        """Run `flwr`, which must succeed."""
        done = self.run("flwr", *arguments, timeout=timeout)
        assert done.returncode == 0, f"flwr {' '.join(arguments)}: {done.stdout}"
        return done.stdout

    def json(self, *arguments: str) -> dict[str, Any]:
        """Return the JSON that `flwr` answers."""
        text = self.flwr(*arguments, "--format", "json")
        answer: dict[str, Any] = json.loads(text[text.index("{") :])
        return answer

    def login(self, person: Person, *, new_password: str = "") -> None:
        """Log in through the browser. Where Keycloak is too busy to answer, try again, as `flwr login` says."""
        for _ in range(3):
            with self.logging_in() as (link, ended):
                person.log_in(link, new_password)
                code, printed = ended()
            if code == 0:
                assert "Login successful" in printed, printed
                return
            assert "try again" in printed, printed
            new_password = ""
        raise AssertionError(printed)

    @contextmanager
    def logging_in(self) -> Iterator[tuple[str, Callable[[], tuple[int, str]]]]:
        """Start `flwr login`; give its link, and what waits for its end: exit code and what it printed."""
        command = ["docker", "exec", "-e", "PYTHONUNBUFFERED=1", self.name, "flwr", "login"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=kit_docker.environment()
        ) as process:
            assert process.stdout
            lines = []
            for line in process.stdout:
                lines.append(line)
                if link_in(line):
                    break
            assert link_in("".join(lines)), "".join(lines)
            rest = process.stdout
            try:
                yield link_in(lines[-1]), lambda: (process.wait(120), "".join(lines) + rest.read())
            finally:
                process.kill()

    def store(self) -> dict[str, str]:
        """Return what the credential store holds: the last part of each key to its content."""
        text = self.run("cat", f"{HOME}/credentials.yaml").stdout
        kept: dict[str, str] = yaml.safe_load(text)
        return {key.rsplit(".", 1)[1]: base64.b64decode(value).decode() for key, value in kept.items()}

    def claims(self) -> dict[str, Any]:
        """Return what the kept access token says."""
        return claims(self.store()["oidc-access-token"])

    def expire(self) -> None:
        """Wait until the SuperLink takes the kept access token no more: its end, and the 30 s that clocks may differ by."""
        time.sleep(max(0.0, self.claims()["exp"] + 32 - time.time()))

    def submit(self, config: str) -> int:
        """Submit the first app; return the run's id."""
        text = self.flwr("run", "/app", "--format", "json", "--run-config", config)
        found = re.search(r'"run-id": *"?(\d+)', text)
        assert found, text
        return int(found.group(1))

    def status(self, run: int) -> str:
        """Return a run's status, such as `finished:completed`."""
        return str(self.json("ls", "--run-id", str(run))["runs"][0]["status"])


def claims(token: str) -> dict[str, Any]:
    """Return what a token says."""
    part = token.split(".")[1]
    answer: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return answer


@contextmanager
def laptop(federation: Federation, app: Path = KIT / "apps" / "breast-cancer") -> Iterator[Laptop]:
    """Set up a machine with connection and root certificate, as the researcher's guide says."""
    machine = Laptop(f"{STACK}-laptop-{secrets.token_hex(4)}")
    env = ["--env-file", str(KIT / "versions.env"), "--env-file", str(federation.root / "build" / "core.env")]
    docker("compose", *env, "-f", str(KIT / "compose" / "core.yaml"), "run", "-d", "--name", machine.name,
           "-v", f"{app}:/app:ro", "--entrypoint", "sleep", "cli", "infinity")  # fmt: skip
    try:
        # A laptop runs more at once than the kit's one command.
        docker("update", "--memory", "3g", "--memory-swap", "3g", "--pids-limit", "500", machine.name)
        done = machine.run("sh", "-ec", f"mkdir -p {HOME} && cp /config/config.toml {HOME}/")
        assert done.returncode == 0, done.stdout
        yield machine
    finally:
        docker("rm", "-f", machine.name, check=False)
