"""The networks: their subnets, and how addresses are laid out in them.

Not for sites, whose subnets follow from their number: see `organisations`.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .errors import Finding, refuse
from .names import Text

# Room for 31 fixed addresses, the bridge's own included, and as many handed out by Docker.
SMALLEST = 26
SMALLEST_SITES = 23
SITE_PREFIX = 24
# Docker gives the first address to the bridge, so fixed ones start at the second.
_OFFSETS = {"edge": 2, "superlink": 3, "postgres": 4, "serverapp": 5, "keycloak": 6}
_FIRST_GATEWAY = 15
_PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))


class Zone(StrEnum):
    """A network of the central stack. Each site adds two of its own."""

    SERVICES = "services"
    CLIENTS = "clients"
    MONITORING = "monitoring"
    NOTEBOOKS = "notebooks"
    DATA = "data"
    SERVERAPP = "serverapp"
    EDGE = "edge"


# Who has a fixed address where. The command-line container has none: several may run at once.
MEMBERS: dict[str, tuple[Zone, ...]] = {
    "edge": (Zone.EDGE, Zone.SERVICES, Zone.CLIENTS, Zone.NOTEBOOKS),
    "superlink": (Zone.SERVICES, Zone.DATA, Zone.SERVERAPP),
    "postgres": (Zone.DATA,),
    "keycloak": (Zone.SERVICES, Zone.DATA),
    "serverapp": (Zone.SERVERAPP,),
}

Subnet = Annotated[IPv4Network, Text]


class Networks(BaseModel):
    """One private IPv4 subnet for each network, disjoint from all others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    services: Subnet = Field(
        default=IPv4Network("172.20.0.0/16"), description="Edge, SuperLink, Keycloak and what joins them later."
    )
    clients: Subnet = Field(default=IPv4Network("172.21.0.0/16"), description="Edge and the sites' gateways.")
    monitoring: Subnet = Field(
        default=IPv4Network("172.22.0.0/16"), description="Monitoring; kept free until it is there."
    )
    sites: Subnet = Field(
        default=IPv4Network("172.23.0.0/16"),
        description="Each site takes a /24 by its number: the lower half for gateway and SuperNode, the upper for "
        "SuperNode and ClientApp executor.",
    )
    notebooks: Subnet = Field(default=IPv4Network("172.24.0.0/16"), description="Researchers' side of the edge.")
    data: Subnet = Field(default=IPv4Network("172.25.0.0/24"), description="PostgreSQL and its clients.")
    serverapp: Subnet = Field(default=IPv4Network("172.26.0.0/24"), description="ServerApp executor and SuperLink.")
    edge: Subnet = Field(
        default=IPv4Network("172.27.0.0/24"), description="The edge alone; the one with published ports."
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        subnets = [(key, getattr(self, key)) for key in type(self).model_fields]
        refuse([*_unusable(subnets), *_overlaps(subnets)])
        return self


def _unusable(subnets: list[tuple[str, IPv4Network]]) -> list[Finding]:
    found = []
    for key, subnet in subnets:
        smallest = SMALLEST_SITES if key == "sites" else SMALLEST
        if subnet.prefixlen > smallest:
            found.append(Finding((key,), subnet, f"it is too small, so give a /{smallest} or larger"))
        if not any(subnet.subnet_of(private) for private in _PRIVATE):
            found.append(Finding((key,), subnet, "give a subnet of a private range, such as 10.20.0.0/16"))
    return found


def _overlaps(subnets: list[tuple[str, IPv4Network]]) -> list[Finding]:
    return [
        Finding((key,), subnet, f"it overlaps {other} ({taken}), so give it addresses of its own")
        for (other, taken), (key, subnet) in combinations(subnets, 2)
        if subnet.overlaps(taken)
    ]


def ip_range(subnet: IPv4Network) -> IPv4Network:
    """The upper half, from which Docker may hand out addresses; fixed ones lie in the lower."""
    return list(subnet.subnets(prefixlen_diff=1))[1]


def bridge(subnet: IPv4Network) -> IPv4Address:
    """The host's own address on that network."""
    return subnet[1]


def fixed(subnet: IPv4Network, role: str) -> IPv4Address:
    """The address of a role of the central stack; the same offset in every network."""
    return subnet[_OFFSETS[role]]


def site_capacity(networks: Networks) -> int:
    """The highest site number that both the sites' and the clients' subnet have room for."""
    in_sites = 2 ** (SITE_PREFIX - networks.sites.prefixlen) - 1
    in_clients = networks.clients.num_addresses // 2 - _FIRST_GATEWAY - 1
    return int(min(in_sites, in_clients))


def gateway_on_clients(networks: Networks, number: int) -> IPv4Address:
    """The address of a site's gateway on the clients network."""
    return networks.clients[_FIRST_GATEWAY + number]


def site_subnets(networks: Networks, number: int) -> tuple[IPv4Network, IPv4Network]:
    """A site's two subnets: gateway and SuperNode, then SuperNode and ClientApp executor."""
    first = networks.sites[number * 2 ** (32 - SITE_PREFIX)]
    lower, upper = IPv4Network((first, SITE_PREFIX)).subnets(prefixlen_diff=1)
    return lower, upper
