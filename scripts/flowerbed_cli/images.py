"""The kit's images: built from this clone, each labelled with the SHA-256 of its inputs, so that old ones are found.

The base image is scripts/base-image.sh's, the hashes are scripts/source-hash.sh's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from . import docker
from .errors import DockerError
from .project import KIT, Project

NAMES = ("postgres", "nginx", "tools", "flower", "app", "samples", "keycloak")
LOG = "images.log"
CALLERS = ("FLOWERBED_MIRROR", "FLOWERBED_PULL_SECONDS")  # scripts/base-image.sh


def source_hashes(torch: str) -> dict[str, str]:
    """Return `FLOWERBED_SOURCE_<IMAGE>` for every image, as scripts/source-hash.sh computes it."""
    command = [str(KIT / "scripts" / "source-hash.sh"), "--env"]
    environment = docker.environment() | {"FLOWERBED_TORCH": torch}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise DockerError(f"scripts/source-hash.sh failed: {done.stderr.strip()}")
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def stale(project: Project, torch: str = "cpu") -> list[str]:
    """Return the images that are missing or older than this clone; of the CUDA ones there is the app image alone."""
    names, suffix = (NAMES, "") if torch == "cpu" else (("app",), f"-{torch}")
    tag, wanted = project.versions["FLOWERBED_VERSION"] + suffix, source_hashes(torch)
    found = docker.inspect("image", [f"flowerbed/{name}:{tag}" for name in names])
    labels = {name: item["Config"]["Labels"] or {} for item in found for name in item["RepoTags"]}
    return [
        name
        for name in names
        if labels.get(f"flowerbed/{name}:{tag}", {}).get("flowerbed.source")
        != wanted[f"FLOWERBED_SOURCE_{name.upper()}"]
    ]


def problems(project: Project, *, gpu: bool) -> Iterator[str]:
    """Yield a sentence if images have to be built first; `gpu` says whether a site wants the CUDA one."""
    if names := stale(project):
        yield f"Images are missing or older than this clone ({', '.join(names)}): run make images."
    if gpu and stale(project, "cuda"):
        yield "The app image for sites with GPUs is missing or older than this clone: run make images TORCH=cuda."


def build(project: Project, console: Console, *, torch: str = "cpu") -> list[str]:
    """Build what is missing or out of date; return the images built. The build's output is in `build/images.log`.

    Raises:
        DockerError: the base image could not be had, or a build failed; the message holds the last lines.
    """
    due = stale(project, torch)
    if not due:
        return []
    log = project.build / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = docker.environment() | own_settings() | source_hashes(torch) | host_ca()
    if torch != "cpu":
        environment |= {"FLOWERBED_TORCH": torch, "FLOWERBED_APP_SUFFIX": f"-{torch}"}
    command = [
        "docker",
        "compose",
        "--env-file",
        str(KIT / "versions.env"),
        "-f",
        str(KIT / "compose" / "images.yaml"),
        "build",
    ]
    with log.open("w") as output:
        for what, arguments in (("base", [str(KIT / "scripts" / "base-image.sh")]), (", ".join(due), [*command, *due])):
            with console.status(Text(f"building images: {what} (log: {log})")):
                logged(arguments, environment, log, output.fileno())
    return due


def logged(arguments: list[str], environment: dict[str, str], log: Path, output: int) -> None:
    """Run a command with its output in the log.

    Raises:
        DockerError: it failed; the message holds the log's last lines.
    """
    done = subprocess.run(arguments, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise DockerError(f"Building failed; {log} has it all and ends with:\n{last}")


def own_settings() -> dict[str, str]:
    """Return what a caller may say of the builds; a version or an image's name comes from versions.env alone."""
    return {name: os.environ[name] for name in CALLERS if name in os.environ}


def host_ca() -> dict[str, str]:
    """Return the variable that hands the host's CA bundle to the builds (scripts/host.sh knows where it lies)."""
    done = subprocess.run([KIT / "scripts" / "host.sh", "ca-bundle"], capture_output=True, text=True, check=False)
    path = done.stdout.strip()
    return {"FLOWERBED_HOST_CA": path} if done.returncode == 0 and path else {}
