"""Waiting for containers to become healthy, and saying early why one does not. Starts and changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from threading import Event
from typing import Any

from flowerbed_topology import Topology

from . import docker
from .errors import DockerError

HEALTHY_WITHIN_S = 180
# Keycloak makes its database at the first start: seconds on an idle host, minutes on one that is busy with other things.
KEYCLOAK_WITHIN_S = 480
# Docker waits 0.1, 0.2, 0.4, ... s between restarts, so these come within seconds; waiting for another takes fewer.
RESTARTS = 5
LONGEST = 300  # characters of a container's line that are shown


def wait_healthy(
    topology: Topology,
    names: Iterable[str],
    ended: Event | None = None,
    ask: Callable[[str], bool] | None = None,
) -> None:
    """Wait until each of the containers is healthy, or until the waiting is `ended`.

    Docker looks every few seconds; `ask` is asked every second about those that are not healthy as far as Docker knows.

    Raises:
        DockerError: one was not within its time, or keeps stopping; the message has its last log lines.
    """
    ended = ended or Event()
    wanted = list(names)
    begun = time.monotonic()
    first: dict[str, int] = {}
    while True:
        found = {item["Name"].lstrip("/"): item for item in docker.containers(topology.name)}
        waiting = [name for name in wanted if health(found.get(name, {})) != "healthy"]
        if not waiting or (ask and all(map(ask, waiting))):
            return
        for name in waiting:
            if restarts(found.get(name, {}), first) >= RESTARTS:
                raise DockerError(f"{name} stops again and again. It logged last:\n{last_words(name)}")
        for name in waiting:
            if time.monotonic() - begun > patience(name):
                raise DockerError(
                    f"{name} is not healthy after {patience(name)} s. It logged last:\n{last_words(name)}"
                )
        if ended.wait(1 if ask else 0.3):
            raise DockerError(f"{waiting[0]} was not waited for any longer.")


def keycloak_ready(container: str) -> bool:
    """Run Keycloak's own health check now."""
    try:
        docker.run(["exec", container, "flowerbed-keycloak-healthy"], timeout=30)
    except DockerError:
        # Also where it is not running yet.
        return False
    return True


def started(topology: Topology) -> dict[str, tuple[str, str]]:
    """Return the running containers: name to id and start time."""
    found = docker.containers(topology.name)
    return {
        item["Name"].lstrip("/"): (item["Id"], item["State"]["StartedAt"]) for item in found if item["State"]["Running"]
    }


def patience(name: str) -> int:
    """Return the seconds that a container has to become healthy."""
    return KEYCLOAK_WITHIN_S if name.endswith("-keycloak") else HEALTHY_WITHIN_S


def health(container: Mapping[str, Any]) -> str:
    """Return what Docker's health check says: `healthy`, `unhealthy`, `starting`; empty if there is none."""
    return str(container.get("State", {}).get("Health", {}).get("Status", ""))


def restarts(container: Mapping[str, Any], first: dict[str, int]) -> int:
    """Return how often Docker has restarted a container since it was first looked at; `first` keeps the counts."""
    if not container:
        return 0
    count = int(container.get("RestartCount", 0))
    return count - first.setdefault(str(container["Id"]), count)


def last_words(container: str) -> str:
    """Return the last lines that a container logged, without what logs in JSON add to them."""
    lines = docker.capture(["logs", "--tail", "8", container]).strip().splitlines()
    return "\n".join(plain(line) for line in lines) or "it logged nothing."


def plain(line: str) -> str:
    """Return the message of a JSON line, such as Keycloak's, whose stack traces have thousands of characters; others cut."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if isinstance(entry, dict) and isinstance(entry.get("message"), str):
        line = f"{entry.get('level', '')} {entry['message']}".strip()
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
