"""Everything that can stand in the way of `make up`, looked for before anything starts. Each finding is one sentence.

Looks only; changes nothing.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowerbed_ca.errors import CaError
from flowerbed_topology import Topology

from . import certificates, docker, images, owned, secrets
from .errors import DockerError, PreflightError
from .project import Project

CORE_MEMORY_MB, SITE_MEMORY_MB = 1400, 600
DISK_GB = 3
WIDEST_ROUTE = 8  # no organisation's own network is wider


def check(project: Project, topology: Topology, project_id: str | None) -> None:
    """Raise PreflightError with every problem found."""
    try:
        docker.run(["version", "--format", "{{.Server.Version}}"], timeout=20)
        docker.run(["compose", "version"], timeout=20)
    except DockerError as error:
        raise PreflightError([f"Docker Engine with Compose v2 is needed: run make host ({error})"]) from error
    running = {item["Name"].lstrip("/") for item in docker.containers(topology.name) if item["State"]["Running"]}
    problems = [
        *place_problems(project),
        *images.problems(project, gpu=any(site.settings.gpu for site in topology.sites)),
        *volume_problems(topology, project_id),
        *authority_problems(project, topology),
        *data_problems(topology),
        *share_problems(topology),
        *network_problems(topology),
    ]
    if f"{topology.name}-edge" not in running:
        problems += port_problems(topology)
    if not running:
        problems += capacity_problems(topology)
    if problems:
        raise PreflightError(problems)


def volume_problems(topology: Topology, project_id: str | None) -> Iterator[str]:
    """Yield a sentence for each volume of this stack's name that another clone made."""
    for volume in docker.inspect("volume", volume_names(topology)):
        owner = (volume["Labels"] or {}).get("flowerbed.project")
        if owner != project_id:
            yield (
                f"Volume {volume['Name']} was made by another clone, whose passwords are not here: give this one "
                f"another `name` in federation.yaml, or delete the old data (docker volume rm {volume['Name']})."
            )


def volume_names(topology: Topology) -> list[str]:
    """Return the names of every volume that the stack may have."""
    core = [f"{topology.name}-postgres", f"{topology.name}-results"]
    return core + [f"{topology.name}-{site.name}-{kind}" for site in topology.sites for kind in ("data", "state")]


def place_problems(project: Project) -> Iterator[str]:
    """Yield a sentence if Docker could not mount from the project's directory."""
    if bad := sorted(set(str(project.root)) & set(":$\"'\\`#")):
        yield f"The directory {project.root} has {' '.join(bad)} in its name, which Compose cannot mount: rename it."


def authority_problems(project: Project, topology: Topology) -> Iterator[str]:
    """Yield what the authority would refuse, such as a certificate that was made for another title."""
    try:
        certificates.refuse_drift(project, topology, secrets.supernode_keys(project, topology))
    except CaError as error:
        yield str(error)


def data_problems(topology: Topology) -> Iterator[str]:
    """Yield a sentence for each data directory that is not there."""
    places = {member.name: index for index, member in enumerate(topology.organisations)}
    for site in topology.sites:
        if site.data.directory and not os.path.isdir(site.data.directory):  # noqa: PTH112  (an unreadable parent is False)
            yield (
                f"federation.yaml: organisations[{places[site.name]}].site.data.directory is {site.data.directory!r}: "
                f"{site.name} has no such directory on this host, so create it or correct the path."
            )


def share_problems(topology: Topology) -> Iterator[str]:
    """Yield a sentence for each site whose volume was made for another share of the sample than it should hold now.

    Seeding never touches what is there, and shares of different cuts have rows in common.
    """
    sites = {owned.data_volume(site): site for site in topology.sites if site.data.sample}
    for volume in docker.inspect("volume", sites):
        name, site = volume["Name"], sites[volume["Name"]]
        held = (volume["Labels"] or {}).get(owned.SHARE)
        if held and held != site.data.share:
            yield (
                f"Volume {name} holds {held} and federation.yaml gives {site.name} {site.data.share}, so sites could hold "
                "the same rows: set organisations[].site.data back, or delete the volume (make down, then "
                f"docker volume rm {name})."
            )


def port_problems(topology: Topology) -> Iterator[str]:
    """Yield a sentence for each published port that something else already listens on."""
    for key in ("https_port", "http_port"):
        port = getattr(topology.edge, key)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((str(topology.edge.bind), port))
            except PermissionError:
                continue  # a low port and not root: the Engine binds it, not this user
            except OSError:
                yield (
                    f"Port {port} on {topology.edge.bind} is taken: stop what listens there "
                    f"(ss -ltnp 'sport = :{port}' names it), or set edge.{key} in federation.yaml."
                )


def network_problems(topology: Topology) -> Iterator[str]:
    """Yield a sentence for each of our subnets that a route of the host or another Docker network overlaps."""
    networks = owned.all_networks()
    bridges = {net for network in networks for net in owned.subnets(network)}
    taken = [
        (f"Docker network {network['Name']}", net)
        for network in networks
        if not owned.is_own_network(topology.name, network)
        for net in owned.subnets(network)
    ]
    taken += [(f"a route of this host through {device}", net) for device, net in host_routes() if net not in bridges]
    yield from overlaps(topology, taken)
    yield from moved(topology, networks)


def overlaps(topology: Topology, taken: list[tuple[str, ipaddress.IPv4Network]]) -> Iterator[str]:
    """Yield a sentence for each of our subnets that overlaps one of those taken."""
    for zone in type(topology.networks).model_fields:
        subnet = getattr(topology.networks, zone)
        for what, net in taken:
            if subnet.overlaps(net):
                yield f"Subnet {subnet} overlaps {net}, {what}: set networks.{zone} in federation.yaml to a free one."


def moved(topology: Topology, networks: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each network of ours that exists with another subnet: Docker cannot change one in use."""
    wanted = owned.network_subnets(topology)
    for network in networks:
        name = network["Name"]
        if name in wanted and wanted[name] not in owned.subnets(network):
            yield f"Network {name} exists and is not {wanted[name]}, as federation.yaml says: run make down first."


def host_routes() -> list[tuple[str, ipaddress.IPv4Network]]:
    """Return the host's IPv4 routes but the default ones, with their devices.

    A VPN that takes all traffic sets a default route in two halves, 0.0.0.0/1 and 128.0.0.0/1: those leave room as well.
    """
    if shutil.which("ip") is None:
        return []
    done = docker.call(["ip", "-j", "-4", "route"], timeout=10)
    routes: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    known = [(route.get("dev", "?"), route["dst"]) for route in routes if route.get("dst", "default") != "default"]
    found = [(device, ipaddress.IPv4Network(target, strict=False)) for device, target in known]
    return [(device, target) for device, target in found if target.prefixlen >= WIDEST_ROUTE]


def capacity_problems(topology: Topology) -> Iterator[str]:
    """Yield a sentence where memory or disk is too little for the stack at rest and one training run."""
    need = CORE_MEMORY_MB + SITE_MEMORY_MB * len(topology.sites)
    available = available_memory_mb()
    if available is not None and available < need:
        yield f"{available} MB of memory are available and {need} MB are needed: stop something, or remove a site."
    root = Path(docker.run(["info", "--format", "{{.DockerRootDir}}"]).strip())
    if root.exists() and (free := shutil.disk_usage(root).free // 10**9) < DISK_GB:
        yield f"{free} GB of disk are free in {root} and {DISK_GB} GB are needed: try docker image prune."


def available_memory_mb() -> int | None:
    """Return the memory that can be had without swapping, in MB, or None where the kernel does not say."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) // 1000
