"""Containers of the kit's images for tests: hardened as the Compose files harden them, under names of their own."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

KIT = Path(__file__).resolve().parents[1]
VERSIONS = dict(
    line.split("=", 1) for line in (KIT / "versions.env").read_text().splitlines() if "=" in line and line[0] != "#"
)
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def image(name: str) -> str:
    return f"flowerbed/{name}:{VERSIONS['FLOWERBED_VERSION']}"


def run(*command: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False, **options)
    said = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{said}"
    return done


def docker(*arguments: str | Path, check: bool = True) -> str:
    done = run("docker", *arguments, check=check)
    return (done.stdout + done.stderr).strip()


def inside(name: str, *command: str, options: tuple[str, ...] = ()) -> str:
    """Run a command in a fresh, hardened container without a network; return what it printed."""
    return docker("run", "--rm", *HARDENED, "--network", "none", "--tmpfs", "/tmp", *options, image(name), *command)


def unique(what: str) -> str:
    return f"flowerbed-test-img-{what}-{uuid.uuid4().hex[:8]}"


def inspect(container: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(docker("inspect", container))
    return found[0]


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = monotonic() + seconds
    while not true():
        assert monotonic() < end, f"not within {seconds} s"
        sleep(0.1)
