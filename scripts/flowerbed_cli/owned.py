"""Which of the host's Docker networks and volumes are this stack's, those of departed sites included. Only looks."""

from __future__ import annotations

import ipaddress
from typing import Any

from flowerbed_topology import Site, Topology

from . import docker

PROJECT = "com.docker.compose.project"
SHARE = "flowerbed.share"
ZONES = ("edge", "services", "clients", "notebooks", "data", "serverapp")


def all_networks() -> list[dict[str, Any]]:
    """Return every Docker network of this host, as `docker network inspect` shows it."""
    return docker.inspect("network", docker.run(["network", "ls", "-q"]).split())


def is_own_network(stack: str, network: dict[str, Any]) -> bool:
    """Return whether a network is the stack's core's or a site's, whether federation.yaml still names it or not."""
    name, project = str(network["Name"]), str((network["Labels"] or {}).get(PROJECT, ""))
    if project == stack:
        return name.startswith(f"{stack}-fl-") and name.endswith("-network")
    site = project.removeprefix(f"{stack}-")
    return site != project and name in (f"{stack}-fl-site-{site}", f"{stack}-fl-site-{site}-app")


def subnets(network: dict[str, Any]) -> list[ipaddress.IPv4Network]:
    """Return a network's IPv4 subnets."""
    parts = (network["IPAM"] or {}).get("Config") or []
    texts = [part.get("Subnet", "") for part in parts]
    return [ipaddress.IPv4Network(text, strict=False) for text in texts if text and ":" not in text]


def network_subnets(topology: Topology) -> dict[str, ipaddress.IPv4Network]:
    """Return the subnet that each network of the stack should have."""
    core = {topology.network_name(zone): topology.subnet(zone) for zone in ZONES}
    site = {site.network_name: site.subnet for site in topology.sites}
    return core | site | {site.app_network_name: site.app_subnet for site in topology.sites}


def departed_networks(topology: Topology) -> list[str]:
    """Return the names of the stack's networks that federation.yaml no longer gives cause for."""
    own = [str(item["Name"]) for item in all_networks() if is_own_network(topology.name, item)]
    return sorted(set(own) - set(network_subnets(topology)))


def data_volume(site: Site) -> str:
    """Return the name of the volume that holds a site's share of a sample."""
    return f"{site.stack}-{site.name}-data"


def own_volumes(stack: str, project_id: str) -> list[str]:
    """Return the stack's volumes that this project made; another clone's of the same name are not ours to delete."""
    names = docker.run(["volume", "ls", "-q", "--filter", f"label=flowerbed.project={project_id}"]).split()
    return [name for name in names if name.startswith(f"{stack}-")]
