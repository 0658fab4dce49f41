"""Who may open a connection to whom: the reachability table, as data for the tests that try every pair.

Not the enforcement: that is the networks of `compose/`, the addresses that services listen on, and the kit's firewall.

It is about TCP. What an open port then answers is each service's own matter: certificates, tokens, allowed routes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from . import zones
from .topology import Site, Topology
from .zones import MEMBERS, Zone

POSTGRES_PORT = 5432
SUPERLINK_PORT = 8000
KEYCLOAK_PORT = 8443
GATEWAY_PORT = 9443
SUPERNODE_PORT = 9094

HOST = "host"
OUTSIDE = "outside"

_NEIGHBOURS = "Containers on one bridge can reach each other's open ports; "
# Why each pair that shares a bridge with an open port is let through, by role.
_ALLOWED = {
    ("superlink", "postgres"): "The SuperLink keeps its state in PostgreSQL.",
    ("edge", "superlink"): "The edge forwards the Fleet and Control APIs.",
    ("serverapp", "superlink"): "The ServerApp executor uses the Runtime API.",
    ("postgres", "superlink"): _NEIGHBOURS
    + "nothing needs this, and without secret or token the SuperLink answers /health only.",
    ("edge", "keycloak"): "The edge forwards logins, and the operator's administration.",
    ("keycloak", "postgres"): "Keycloak keeps the realm in PostgreSQL.",
    ("superlink", "edge"): "The SuperLink asks the issuer by its public name; only auth. answers here.",
    ("superlink", "keycloak"): _NEIGHBOURS + "the SuperLink needs the issuer through the edge only.",
    ("keycloak", "superlink"): _NEIGHBOURS
    + "nothing needs this, and without secret or token the SuperLink answers /health only.",
    ("keycloak", "edge"): _NEIGHBOURS + "nothing needs this, and only auth. answers here.",
    ("gateway", "edge"): "The gateway forwards the Fleet API; only fleet. answers here.",
    ("cli", "edge"): "The CLI uses the Control API; only superlink. and auth. answer here.",
    ("supernode", "gateway"): "The SuperNode reaches the Fleet API through its own gateway.",
    ("clientapp", "supernode"): "The ClientApp executor uses the Runtime API.",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of a container, and the networks' view of it. `port` None means every port."""

    container: str
    network: str
    address: IPv4Address | None
    port: int | None
    listens: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """May `source` open a TCP connection to `target` at `address` and `port`?

    Containers are named by role, those of a site `<role>-<site>`. `network` is the Docker network of `address`. `port`
    None means every port, `address` None any address of the target.
    """

    source: str
    target: str
    network: str
    address: IPv4Address | None
    port: int | None
    allowed: bool
    why: str


def containers(topology: Topology) -> dict[str, tuple[str, ...]]:
    """Every container of a topology, with the Docker networks that it is on."""
    central = {role: tuple(map(topology.network_name, members)) for role, members in MEMBERS.items()}
    found = {**central, "cli": (topology.network_name(Zone.NOTEBOOKS),)}
    for site in topology.sites:
        found[f"gateway-{site.name}"] = (topology.network_name(Zone.CLIENTS), site.network_name)
        found[f"supernode-{site.name}"] = (site.network_name, site.app_network_name)
        found[f"clientapp-{site.name}"] = (site.app_network_name,)
    return found


def endpoints(topology: Topology) -> tuple[Endpoint, ...]:
    """Every address of every container, with its ports, whether anything listens there or not."""
    return (*_central(topology), *(end for site in topology.sites for end in _of_site(topology, site)))


def reachability(topology: Topology) -> tuple[Rule, ...]:
    """The whole table: each container towards each endpoint of every other one, the host, and what lies beyond it."""
    targets = endpoints(topology)
    return tuple(
        rule for source, networks in containers(topology).items() for rule in _from(topology, source, networks, targets)
    )


def _central(topology: Topology) -> Iterator[Endpoint]:
    def at(role: str, zone: Zone, port: int | None, listens: bool, note: str = "") -> Endpoint:
        return Endpoint(role, topology.network_name(zone), topology.address(role, zone), port, listens, note)

    yield at("postgres", Zone.DATA, POSTGRES_PORT, True)
    for zone in MEMBERS["superlink"]:
        yield at("superlink", zone, SUPERLINK_PORT, True)
    yield at("keycloak", Zone.SERVICES, KEYCLOAK_PORT, True)
    yield at("keycloak", Zone.DATA, KEYCLOAK_PORT, False, "Keycloak listens on the services network only.")
    for zone in MEMBERS["edge"]:
        yield at("edge", zone, topology.edge.https_port, True)
        plain = "The edge answers plain HTTP on its own network only, where nobody else is."
        yield at("edge", zone, topology.edge.http_port, zone is Zone.EDGE, plain)
    yield at("serverapp", Zone.SERVERAPP, None, False, "The executor opens no port.")
    yield Endpoint("cli", topology.network_name(Zone.NOTEBOOKS), None, None, False, "The CLI opens no port.")


def _of_site(topology: Topology, site: Site) -> Iterator[Endpoint]:
    gateway, supernode, clientapp = (f"{role}-{site.name}" for role in ("gateway", "supernode", "clientapp"))
    clients = topology.network_name(Zone.CLIENTS)
    own = "A gateway listens on its site's address only, so that gateways cannot reach each other."
    yield Endpoint(gateway, clients, site.gateway_clients_address, GATEWAY_PORT, False, own)
    yield Endpoint(gateway, site.network_name, site.gateway_address, GATEWAY_PORT, True)
    inner = "The Runtime API listens on the app network only."
    yield Endpoint(supernode, site.network_name, site.supernode_address, SUPERNODE_PORT, False, inner)
    yield Endpoint(supernode, site.app_network_name, site.supernode_app_address, SUPERNODE_PORT, True)
    note = "The executor opens no port."
    yield Endpoint(clientapp, site.app_network_name, site.clientapp_address, None, False, note)


def _from(topology: Topology, source: str, networks: tuple[str, ...], targets: tuple[Endpoint, ...]) -> Iterator[Rule]:
    for end in targets:
        if end.container != source:
            shared = end.network in networks
            why = _reason(source, end, shared)
            allowed = shared and end.listens
            yield Rule(source, end.container, end.network, end.address, end.port, allowed, why)
    yield from _to_host(topology, source, networks)
    yield Rule(source, OUTSIDE, "", None, None, False, _no_way_out(topology, networks))


def _reason(source: str, end: Endpoint, shared: bool) -> str:
    if shared and end.listens:
        return _ALLOWED[_role(source), _role(end.container)]
    return end.note if shared else "They share no network there, and Docker keeps bridges apart."


def _role(container: str) -> str:
    return container.partition("-")[0]


def _to_host(topology: Topology, source: str, networks: tuple[str, ...]) -> Iterator[Rule]:
    why = "The bridge's address is the host's, and the kit's firewall drops new connections to it."
    bridges = _bridges(topology)
    for network in networks:
        yield Rule(source, HOST, network, bridges[network], None, False, why)


def _bridges(topology: Topology) -> dict[str, IPv4Address]:
    found = {topology.network_name(zone): zones.bridge(topology.subnet(zone)) for zone in Zone}
    for site in topology.sites:
        found[site.network_name] = zones.bridge(site.subnet)
        found[site.app_network_name] = zones.bridge(site.app_subnet)
    return found


def _no_way_out(topology: Topology, networks: tuple[str, ...]) -> str:
    if topology.network_name(Zone.EDGE) in networks:
        return "The edge's network is not internal, so the kit's firewall drops new connections that leave it."
    return "All its networks are internal."
