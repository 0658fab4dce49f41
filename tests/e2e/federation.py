"""A federation of the tests' own, driven as operators, researchers and attackers do: commands and containers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flowerbed_cli import accounts, firewall
from flowerbed_cli import docker as kit_docker
from flowerbed_cli.project import Project
from flowerbed_topology import Topology, load

KIT = Path(__file__).resolve().parents[2]
VERSION = Project(KIT).versions["FLOWERBED_VERSION"]
# FLOWERBED_E2E_INDEX (0 to 9) keeps the stacks of two checkouts, or of two test runs, out of each other's way.
INDEX = int(os.environ.get("FLOWERBED_E2E_INDEX", "0"))
STACK = f"fbtest{INDEX}"
CANARY = "271828.182845"
NET = f"10.{213 + INDEX}"
SITES = ((1, "north", "North Clinic"), (2, "south", "South Clinic"), (3, "west", "Clinique Été"))
# Of a range of its own, so that a federation that somebody uses on this host goes on undisturbed.
FEDERATION: dict[str, Any] = {
    "name": STACK,
    "title": "Test Consortium",
    "domain": f"{STACK}.localhost",
    "edge": {"https_port": 18443 + INDEX, "http_port": 18080 + INDEX},
    "networks": {
        "services": f"{NET}.0.0/24",
        "clients": f"{NET}.1.0/24",
        "monitoring": f"{NET}.2.0/24",
        "notebooks": f"{NET}.3.0/24",
        "data": f"{NET}.4.0/24",
        "serverapp": f"{NET}.5.0/24",
        "edge": f"{NET}.6.0/24",
        "sites": f"{NET}.16.0/20",
    },
    "organisations": [
        {
            "name": name,
            "title": title,
            "site": {"number": number, "data": {"sample": "breast-cancer", "part": number, "of": 3}},
        }
        for number, name, title in SITES
    ],
    "federations": [
        {"name": "cancer", "organisations": ["north", "south", "west"]},
        # For whoever must not see what is in the first.
        {"name": "rare", "organisations": ["west"]},
    ],
    "identity": {"demo_people": True},
    "pipelines": [
        {"name": "demo", "organisation": "north", "roles": ["researcher"]},
        {"name": "outsider", "organisation": "west", "federations": ["rare"], "roles": ["researcher"]},
    ],
}


def docker(*arguments: str, check: bool = True, stdin: str | int | None = None, timeout: float = 300) -> str:
    """Run docker, fed with a text or a file descriptor; return both streams."""
    given: dict[str, Any] = {"stdin": stdin} if isinstance(stdin, int) else {"input": stdin}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        ["docker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout,
        env=kit_docker.environment(),
        **given,
    )
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}"
    return done.stdout


@dataclass(frozen=True)
class Federation:
    """One running federation and the directory of its project."""

    root: Path

    @property
    def topology(self) -> Topology:
        return load(self.root / "federation.yaml")

    def flowerbed(self, *arguments: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run the `flowerbed` command on this project."""
        command = [str(Path(sys.executable).parent / "flowerbed"), "--project", str(self.root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
        assert not check or done.returncode == 0, f"flowerbed {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def write(self, content: dict[str, Any]) -> None:
        """Replace federation.yaml."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "federation.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))

    def container(self, service: str) -> str:
        """Return a container's name: `superlink`, `north-gateway`."""
        return f"{STACK}-{service}"

    def sh(
        self, service: str, script: str, *, user: str | None = None, check: bool = True, timeout: float = 120
    ) -> str:
        """Run a shell script inside a running container."""
        options = ["-u", user] if user else []
        return docker(
            "exec", "-i", *options, self.container(service), "bash", "-c", script, check=check, timeout=timeout
        )

    def python(self, service: str, code: str, *, user: str | None = None, check: bool = True) -> str:
        """Run Python code inside a running container."""
        options = ["-u", user] if user else []
        return docker("exec", "-i", *options, self.container(service), "python", "-", stdin=code, check=check)

    def sql(self, query: str) -> str:
        """Run SQL on the SuperLink's database; return bare rows."""
        return docker(
            "exec", "-i", self.container("postgres"), "psql", "-h", "/run/postgresql", "-U", "postgres",
            "-d", "superlink", "-XAtq", "-c", query,
        ).strip()  # fmt: skip

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what Docker says of a container."""
        answer: list[dict[str, Any]] = json.loads(docker("inspect", self.container(service)))
        return answer[0]

    def logs(self, service: str) -> str:
        """Return everything that a container has logged."""
        return docker("logs", self.container(service))

    def flwr(
        self, script: str, *options: str, check: bool = True, timeout: float = 600, account: str = "pipeline-demo"
    ) -> str:
        """Run a shell script beside the `flwr` CLI as the demo pipeline, or as another client that needs no person."""
        env = ["--env-file", str(KIT / "versions.env"), "--env-file", str(self.root / "build" / "core.env")]
        command = [
            "compose", *env, "-f", str(KIT / "compose" / "core.yaml"), "run", "--rm", "-T", *options,
            "--entrypoint", "sh", "cli", "-euc", accounts.LOGIN + script,
        ]  # fmt: skip
        with accounts.fed(Project(self.root), self.topology, account) as credentials:
            return docker(*command, check=check, timeout=timeout, stdin=credentials)

    def submit(self, app: Path, config: str = "") -> int:
        """Submit an app and return its run id, without waiting."""
        option = f" --run-config '{config}'" if config else ""
        text = self.flwr(f"flwr run /app flowerbed --format json{option}", "-v", f"{app}:/app:ro")
        found = re.search(r'"run-id": *"?(\d+)', text)
        assert found, text
        return int(found.group(1))

    def run_status(self, run: int) -> str:
        """Return a run's status as `flwr ls` gives it, such as `finished:completed`."""
        text = self.flwr(f"flwr ls flowerbed --run-id {run} --format json")
        answer = json.loads(text[text.index("{") :])
        return str(answer["runs"][0]["status"])

    def run_log(self, run: int) -> str:
        """Return a run's whole log."""
        return self.flwr(f"flwr log {run} flowerbed --show", check=False)


def sweep() -> None:
    """Remove whatever an earlier, crashed test left of this stack, whichever clone it came from."""
    for container in docker("ps", "-aq", "--filter", f"label=flowerbed.stack={STACK}").split():
        docker("rm", "-f", container)
    for kind in ("network", "volume"):
        names = docker(kind, "ls", "--format", "{{.Name}}", "--filter", f"name={STACK}-").split()
        for name in names:
            docker(kind, "rm", name, check=False)
    firewall.remove_firewall(Project(KIT), Topology.model_validate(FEDERATION))


def fresh(root: Path) -> Federation:
    """Return a federation with nothing of an earlier one left."""
    sweep()
    shutil.rmtree(root, ignore_errors=True)
    federation = Federation(root)
    federation.write(FEDERATION)
    return federation
