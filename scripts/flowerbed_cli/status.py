"""`flowerbed status`: one line per service and site, from Docker, the CA and the SuperLink. Only looks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowerbed_ca.reporting import Status
from flowerbed_topology import Topology

from . import certificates, docker, firewall
from .errors import DockerError
from .project import Project
from .up import CORE, SITE, superlink_status


@dataclass(frozen=True)
class Line:
    """One line of the table; `fine` decides the exit code."""

    name: str
    state: str
    certificate: str
    heartbeat: str
    fine: bool


def status(project: Project, topology: Topology, console: Console) -> bool:
    """Print the table; return whether everything is as it should be."""
    authority = certificates.state(project)
    lines = list(gather(topology, certificates.days_left(authority)))
    console.print(table(topology, lines))
    notes = list(remarks(project, topology, authority))
    for note in notes:
        console.print(Text.assemble(("! ", "yellow"), note))
    return all(line.fine for line in lines) and not notes


def gather(topology: Topology, days: dict[str, int]) -> Iterator[Line]:
    """Yield a line for each service of the core, then one for each site."""
    states = container_states(topology)
    for service in CORE:
        state = states.get(f"{topology.name}-{service}", "missing")
        # A server's leaf has its name; the executor has none.
        yield Line(service, state, left(days, [service]), "", state == "healthy")
    beats = heartbeats(topology) if states.get(f"{topology.name}-superlink") == "healthy" else {}
    for site in topology.sites:
        own = [states.get(f"{topology.name}-{site.name}-{service}", "missing") for service in SITE]
        bad = [f"{service} {state}" for service, state in zip(SITE, own, strict=True) if state != "healthy"]
        leaves = [site.name, f"gateway-{site.name}", f"supernode-{site.name}"]
        beat, alive = beats.get(site.name, ("never", False))
        yield Line(f"site {site.name}", ", ".join(bad) or "healthy", left(days, leaves), beat, not bad and alive)


def container_states(topology: Topology) -> dict[str, str]:
    """Return container name to `healthy`, `unhealthy`, `starting`, or Docker's state where it does not run."""
    found = docker.containers(topology.name)
    return {
        item["Name"].lstrip("/"): item["State"].get("Health", {}).get("Status", "running")
        if item["State"]["Status"] == "running"
        else item["State"]["Status"]
        for item in found
    }


def left(days: dict[str, int], leaves: list[str]) -> str:
    """Return the days that the first of these certificates to end has left."""
    known = [days[leaf] for leaf in leaves if leaf in days]
    return f"{min(known)} d" if known else ""


def heartbeats(topology: Topology) -> dict[str, tuple[str, bool]]:
    """Return site to how long ago its SuperNode's last heartbeat came, and whether it counts as online."""
    try:
        nodes = superlink_status(topology)["nodes"]
    except DockerError:
        return {}
    now = datetime.now(UTC)
    return {node["name"]: heartbeat(node, now) for node in nodes if node["name"]}


def heartbeat(node: dict[str, Any], now: datetime) -> tuple[str, bool]:
    """Return one node's last heartbeat as "12 s ago", and whether it is online."""
    if not node.get("last_heartbeat"):
        return "never", False
    ago = (now - datetime.fromisoformat(node["last_heartbeat"])).total_seconds()
    return f"{max(ago, 0):.0f} s ago", bool(node["online"])


def table(topology: Topology, lines: list[Line]) -> Table:
    """Return the lines as a table."""
    made = Table(title=Text(f"{topology.name} at {topology.url('superlink')}"), title_justify="left")
    for name in ("service", "state", "certificate", "heartbeat"):
        made.add_column(name)
    for line in lines:
        state = Text(line.state, style="green" if line.fine else "red")
        made.add_row(line.name, state, line.certificate, line.heartbeat)
    return made


def remarks(project: Project, topology: Topology, authority: Status | None) -> Iterator[str]:
    """Yield a sentence, with its remedy, for each thing that no line shows."""
    if authority and not authority.crl_valid:
        yield "There is no valid revocation list, without which every site is refused: run make up."
    elif authority and authority.crl_warning:
        yield f"The revocation list ends in {authority.crl_days_left} days, after which every site is refused: run make up."
    soon = sorted(name for name, left_days in certificates.days_left(authority).items() if left_days <= 30)
    if soon:
        yield f"Certificates end within 30 days ({', '.join(soon)}): run make up."
    if not firewall_in_force(project, topology):
        yield "The firewall table is not in force (the host was restarted, or nft flushed): run make up."


def firewall_in_force(project: Project, topology: Topology) -> bool:
    """Return whether the table is there; False where this user cannot look."""
    try:
        return firewall.is_in_force(project, topology)
    except DockerError:
        return False
