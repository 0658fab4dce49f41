"""Making containers take up secrets that were laid out since they started: reloaded where they can, else restarted.

What is still to be taken up is noted on disk before it is laid out, so that the next `up` finishes an interrupted one.
Not for laying out: that is `secrets`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from flowerbed_topology import Topology

from . import docker
from .files import write
from .project import Project
from .secrets import stamp

# What a container does when its secrets change: NGINX and PostgreSQL read them again; Keycloak and Flower's processes start
# again, and so does PostgreSQL for a new role, which it makes at its start.
RELOADED = ("edge", "gateway", "postgres")
# The SuperLink's middleware looks at the CRL each second by itself, Keycloak at its certificate every five minutes. The CLI's
# container lives for one command.
LIVE = {"superlink": {"crl.pem"}, "keycloak": {"tls.crt", "tls.key"}, "cli": {"ca.crt"}}


def directory(project: Project) -> Path:
    """Return where the notes lie, one file per consumer."""
    return project.secrets / "kit" / "to-reload"


def note(project: Project, changed: Mapping[str, set[str]]) -> None:
    """Note which files of which consumers are about to change."""
    for consumer, names in changed.items():
        path = directory(project) / f"{consumer}.json"
        earlier = set(json.loads(path.read_bytes())) if path.is_file() else set()
        write(path, json.dumps(sorted(earlier | names)).encode(), 0o600)


def ensure_reloaded(project: Project, topology: Topology) -> list[str]:
    """Make containers take up what was noted; return those that were restarted."""
    ages = started_at(topology)
    restarted = []
    for path in sorted(directory(project).glob("*.json")):
        consumer, names = path.stem, set(json.loads(path.read_bytes()))
        container = f"{topology.name}-{consumer_container(consumer)}"
        due = container in ages and not names <= LIVE.get(consumer, set())
        if due and ages[container] <= laid_out_at(project, consumer):
            if reloads(consumer, names):
                reload(container)
            else:
                docker.run(["restart", container])
                restarted.append(container)
        path.unlink()
    return restarted


def reloads(consumer: str, names: set[str]) -> bool:
    """Return whether a container takes up these files without being started again."""
    return consumer.split("-")[0] in RELOADED and not any(name.endswith(".password") for name in names)


def laid_out_at(project: Project, consumer: str) -> datetime:
    """Return when the secrets of `consumer` were last laid out; a container that started later has them."""
    return datetime.fromtimestamp(stamp(project, consumer).stat().st_mtime, UTC)


def reload(container: str) -> None:
    """Have the main process read its files again.

    Not by `docker kill --signal HUP`: the Engine takes any `docker kill` for a stop by hand, after which
    `unless-stopped` does not start the container again when it crashes (seen on 20.10).
    """
    docker.run(["exec", container, "bash", "-c", "kill -HUP 1"])


def started_at(topology: Topology) -> dict[str, datetime]:
    """Return the running containers' start times."""
    return {
        item["Name"].lstrip("/"): datetime.fromisoformat(item["State"]["StartedAt"])
        for item in docker.containers(topology.name)
        if item["State"]["Running"]
    }


def consumer_container(consumer: str) -> str:
    """Return the end of the container's name: `gateway-north` is mounted by `north-gateway`."""
    kind, _, site = consumer.partition("-")
    return f"{site}-{kind}" if site else kind
