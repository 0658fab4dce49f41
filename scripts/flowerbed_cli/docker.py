"""Docker and Compose as this kit calls them: short wrappers around the commands, errors as one sentence. No state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from .errors import DockerError
from .project import KIT, Project

TIMEOUT_S = 600
# What the docker command may learn from whoever calls. Compose prefers a caller's variables to those of its env files, so one
# that happens to be called FLOWERBED_SECRETS or SITE must not reach it.
PASSED = {"HOME", "LANG", "LOGNAME", "PATH", "SSH_AUTH_SOCK", "TERM", "TMPDIR", "TZ", "USER"}
PASSED_PREFIXES = ("BUILDKIT_", "BUILDX_", "DOCKER_", "LC_", "XDG_")


def environment() -> dict[str, str]:
    """Return the caller's environment, less what is not named above and what sets no proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in PASSED or name.startswith(PASSED_PREFIXES) or name.lower().endswith("_proxy")
    }


def call(
    command: Sequence[str], *, stdin: str | bytes | None = None, timeout: float = TIMEOUT_S, merged: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed, whatever its exit code; `merged` puts both streams into stdout.

    Raises:
        DockerError: it took longer than `timeout` seconds.
    """
    fed = stdin.encode() if isinstance(stdin, str) else stdin or b""
    errors = subprocess.STDOUT if merged else subprocess.PIPE
    try:
        done = subprocess.run(
            command, input=fed, stdout=subprocess.PIPE, stderr=errors, timeout=timeout, check=False, env=environment()
        )
    except subprocess.TimeoutExpired as error:
        raise DockerError(f"{' '.join(command[:5])} took longer than {timeout:.0f} s.") from error
    # What a container prints is anybody's bytes.
    printed = [(text or b"").decode(errors="replace") for text in (done.stdout, done.stderr)]
    return subprocess.CompletedProcess(done.args, done.returncode, *printed)


def run(arguments: Sequence[str], *, stdin: str | None = None, timeout: float = TIMEOUT_S) -> str:
    """Run `docker ARGUMENTS` and return what it printed.

    Raises:
        DockerError: the command failed, was not found, or took longer than `timeout` seconds.
    """
    if shutil.which("docker") is None:
        raise DockerError("docker is not installed: run make host.")
    done = call(["docker", *arguments], stdin=stdin, timeout=timeout)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-8:]
        raise DockerError(f"docker {' '.join(arguments[:6])} failed: " + "\n".join(last))
    return done.stdout


def compose(project: Project, name: str, *arguments: str, overlay: bool = False) -> list[str]:
    """Return the arguments of `docker compose` for the core (`name` is "core") or for the site called `name`."""
    core = name == "core"
    files = ["-f", str(KIT / "compose" / ("core.yaml" if core else "site.yaml"))]
    if overlay:
        files += ["-f", str(KIT / "compose" / "gpu.yaml")]
    env = project.build / ("core.env" if core else f"site-{name}.env")
    return ["compose", "--env-file", str(KIT / "versions.env"), "--env-file", str(env), *files, *arguments]


def inspect(kind: str, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return `docker KIND inspect` of those of `names` that exist."""
    if not (wanted := list(names)):
        return []
    done = call(["docker", kind, "inspect", *wanted], timeout=60)
    return list(json.loads(done.stdout or "[]"))


def containers(stack: str) -> list[dict[str, Any]]:
    """Return every container of the stack, its core and its sites, as `docker inspect` shows them."""
    listed = run(["ps", "-aq", "--filter", f"label=flowerbed.stack={stack}"]).split()
    return inspect("container", listed) if listed else []


def one_shot(
    project: Project, script: str, *, mounts: Sequence[tuple[Path, str]] = (), options: Sequence[str] = ()
) -> str:
    """Run a shell script as root in the tools image, for what this user may not do; return what it printed."""
    return run([*tools(project, mounts, options), "sh", "-eu", "-s"], stdin=script, timeout=60)


def tools(project: Project, mounts: Sequence[tuple[Path, str]], options: Sequence[str]) -> list[str]:
    """Return the arguments that run a command in the tools image, with no more rights than `options` give."""
    binds = [part for source, target in mounts for part in ("-v", f"{source}:{target}")]
    image = f"flowerbed/tools:{project.versions['FLOWERBED_VERSION']}"
    fixed = ["run", "--rm", "-i", "--read-only", "--security-opt", "no-new-privileges:true", "--cap-drop", "ALL"]
    return [*fixed, *options, *binds, image]


def unpack(project: Project, target: Path, archive: bytes) -> None:
    """Unpack a tar archive into `target` as root in the tools image, owners and modes as the archive says."""
    allowed = ["--network", "none", "--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE", "--cap-add", "FOWNER"]
    container = tools(project, [(target, "/target")], allowed)
    done = call(["docker", *container, "tar", "-xpf", "-", "-C", "/target"], stdin=archive, timeout=60)
    if done.returncode:
        raise DockerError(f"The secrets could not be laid out: {done.stderr.strip()}")


def attached(arguments: Sequence[str], *, stdin: int) -> int:
    """Run `docker ARGUMENTS` on this process's own output; return its exit code. `stdin` is a file descriptor."""
    return subprocess.run(["docker", *arguments], stdin=stdin, check=False, env=environment()).returncode


def capture(arguments: Sequence[str]) -> str:
    """Run `docker ARGUMENTS` and return what it printed on both streams, whatever its exit code."""
    return call(["docker", *arguments], timeout=60, merged=True).stdout


def stream(arguments: Sequence[str], *, stdin: int = subprocess.DEVNULL) -> Generator[str, None, None]:
    """Run `docker ARGUMENTS` and yield its lines, both streams, as they come; end it when the caller stops reading.

    `stdin` is a file descriptor.

    Raises:
        DockerError: it ended with an exit code other than 0.
    """
    command = ["docker", *arguments]
    with subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=environment(),
    ) as process:
        assert process.stdout is not None  # noqa: S101  (PIPE was asked for)
        try:
            yield from process.stdout
        except BaseException:
            process.terminate()  # a container that it starts may outlive it: see `runs.own_container`
            raise
    if process.returncode:
        raise DockerError(f"docker {' '.join(arguments[:2])} ended with exit code {process.returncode}.")
