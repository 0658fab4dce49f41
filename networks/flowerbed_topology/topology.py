"""The model of federation.yaml as a whole, and what follows from it: names, addresses, URLs.

Pure: reads no file, no environment and no socket. Reading is in `loading`, who may talk to whom in `policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from . import accounts, zones
from .accounts import Identity, Person, Pipeline
from .errors import Finding, refuse
from .names import Domain, Filled, Flag, Integer, Label, StackName, Text, Title
from .organisations import Budget, Data, Federation, Organisation, Resources, SiteSettings, SuperLinkResources
from .rules import across
from .zones import MEMBERS, Networks, Zone

_PUBLIC_HOSTS = ("fleet", "superlink", "auth", "admin", "hub", "grafana")


class Edge(BaseModel):
    """The edge: NGINX, the only service with published ports."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bind: Annotated[IPv4Address, Text] = Field(
        default=IPv4Address("127.0.0.1"),
        description="Host address of the published ports; 127.0.0.1 keeps them to this host.",
    )
    https_port: Integer = Field(default=443, ge=1, le=65535, description="Port of every URL, inside Docker too.")
    http_port: Integer = Field(default=80, ge=1, le=65535, description="Redirects to HTTPS.")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        found = []
        if self.bind.is_multicast or self.bind.is_reserved:
            remedy = "give an address of this host, such as 127.0.0.1, or 0.0.0.0 for all of them"
            found.append(Finding(("bind",), self.bind, remedy))
        if self.http_port == self.https_port:
            found.append(Finding(("http_port",), self.http_port, "https_port has that port already, so choose another"))
        refuse(found)
        return self

    @property
    def local(self) -> IPv4Address:
        """Where this host reaches the edge."""
        return IPv4Address("127.0.0.1") if self.bind.is_unspecified else self.bind


class Authority(BaseModel):
    """The certificate authority."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root_years: Integer = Field(default=10, ge=2, le=30, description="Years that the root certificate is valid.")
    leaf_days: Integer = Field(default=397, ge=1, le=397, description="Days that every other certificate is valid.")


class Rounds(BaseModel):
    """What makes rounds fast; without both, the SuperLink, SuperNodes and executors behave as stock Flower's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    held_pulls: Flag = Field(
        default=True, description="Hold a pull open until there is something, instead of asking every 3 s."
    )
    warm_executors: Flag = Field(
        default=True, description="Fork tasks from a parent with the libraries loaded, instead of starting Python."
    )


@dataclass(frozen=True)
class Site:
    """A site with everything that its number and the subnets fix. Its name is its organisation's."""

    name: str
    organisation: str
    stack: str
    settings: SiteSettings
    budget: Budget
    subnet: IPv4Network
    app_subnet: IPv4Network
    gateway_clients_address: IPv4Address

    @property
    def number(self) -> int:
        """The site's number, from 1."""
        return self.settings.number

    @property
    def data(self) -> Data:
        """Where its rows come from."""
        return self.settings.data

    @property
    def node_config(self) -> dict[str, str | int | float | bool]:
        """The SuperNode's node config: `partition-id` from the number, so that it never shifts, and the operator's."""
        return {"partition-id": self.number - 1, **self.settings.node_config}

    @property
    def network_name(self) -> str:
        """The network of gateway and SuperNode."""
        return f"{self.stack}-fl-site-{self.name}"

    @property
    def app_network_name(self) -> str:
        """The network of SuperNode and ClientApp executor."""
        return f"{self.network_name}-app"

    @property
    def project(self) -> str:
        """The site's Compose project."""
        return f"{self.stack}-{self.name}"

    @property
    def ip_range(self) -> IPv4Network:
        """What Docker may hand out of `subnet`."""
        return zones.ip_range(self.subnet)

    @property
    def app_ip_range(self) -> IPv4Network:
        """What Docker may hand out of `app_subnet`."""
        return zones.ip_range(self.app_subnet)

    @property
    def gateway_address(self) -> IPv4Address:
        """The gateway on the site's network: the only address on which it listens."""
        return self.subnet[2]

    @property
    def supernode_address(self) -> IPv4Address:
        """The SuperNode on the site's network, where it listens on nothing."""
        return self.subnet[3]

    @property
    def supernode_app_address(self) -> IPv4Address:
        """The SuperNode on the app network, where its Runtime API is."""
        return self.app_subnet[3]

    @property
    def clientapp_address(self) -> IPv4Address:
        """The ClientApp executor on the app network."""
        return self.app_subnet[4]


class Topology(BaseModel):
    """A federation on Flower: who takes part, where their data is, and on which addresses everything runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="flowerbed federation")

    name: StackName = Field(
        default="flowerbed", description="Prefix of every container, network and volume on the host."
    )
    title: Title = Field(default="Flowerbed Consortium", description="The consortium's name, O= of its certificates.")
    consortium: Label = Field(
        default="flowerbed", description="First half of federation ids: @<consortium>/<federation>."
    )
    domain: Domain = Field(
        default="flowerbed.localhost", description="Public names are below it: fleet., superlink. and so on."
    )
    edge: Edge = Field(default=Edge(), description="Where the one way in is published.")
    networks: Networks = Field(default=Networks(), description="Subnets of the Docker networks.")
    organisations: Annotated[tuple[Organisation, ...], Filled] = Field(
        description="Members, each with one site.", json_schema_extra={"minItems": 1}
    )
    federations: Annotated[tuple[Federation, ...], Filled] = Field(
        description="Who trains with whom.", json_schema_extra={"minItems": 1}
    )
    identity: Identity = Field(default=Identity(), description="How people log in, and for how long.")
    pipelines: tuple[Pipeline, ...] = Field(default=(), description="Machines with credentials of their own.")
    rounds: Rounds = Field(default=Rounds(), description="Switches of what makes rounds fast.")
    superlink: SuperLinkResources = Field(default=SuperLinkResources(), description="Limits of the SuperLink.")
    serverapp: Resources = Field(default=Resources(), description="Limits of the ServerApp executor.")
    ca: Authority = Field(default=Authority(), description="Lifetimes of certificates.")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(
            [
                *across(self.organisations, self.federations, self.networks, self.title),
                *accounts.findings(self.pipelines, self.organisations, self.federations),
            ]
        )
        return self

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """All sites, by number."""
        return tuple(sorted(map(self._site, self.organisations), key=lambda site: site.number))

    def site(self, name: str) -> Site:
        """One site by name. Raises KeyError."""
        return {site.name: site for site in self.sites}[name]

    def _site(self, organisation: Organisation) -> Site:
        number = organisation.site.number
        subnet, app_subnet = zones.site_subnets(self.networks, number)
        return Site(
            name=organisation.name,
            organisation=organisation.title,
            stack=self.name,
            settings=organisation.site,
            budget=organisation.budget,
            subnet=subnet,
            app_subnet=app_subnet,
            gateway_clients_address=zones.gateway_on_clients(self.networks, number),
        )

    def subnet(self, zone: Zone | str) -> IPv4Network:
        """The subnet of a network. Raises ValueError for an unknown zone."""
        subnet: IPv4Network = getattr(self.networks, Zone(zone))
        return subnet

    def ip_range(self, zone: Zone | str) -> IPv4Network:
        """The half of a network's subnet from which Docker may hand out addresses."""
        return zones.ip_range(self.subnet(zone))

    def address(self, role: str, zone: Zone | str) -> IPv4Address:
        """The fixed address of edge, superlink, keycloak, postgres or serverapp on a network.

        Raises KeyError for a role without fixed addresses, ValueError where the role is not on that network.
        """
        if Zone(zone) not in MEMBERS[role]:
            raise ValueError(f"{role} is not on the {zone} network")
        return zones.fixed(self.subnet(zone), role)

    def network_name(self, zone: Zone | str) -> str:
        """The Docker name of a network."""
        return f"{self.name}-fl-{Zone(zone)}-network"

    @property
    def hostnames(self) -> tuple[str, ...]:
        """Every public name, all answered by the edge."""
        return tuple(f"{host}.{self.domain}" for host in _PUBLIC_HOSTS)

    def authority(self, host: str) -> str:
        """`fleet.<domain>`, with the port unless it is 443. Raises ValueError for an unknown host."""
        if host not in _PUBLIC_HOSTS:
            raise ValueError(f"no public name starts with {host}")
        return f"{host}.{self.domain}" + ("" if self.edge.https_port == 443 else f":{self.edge.https_port}")

    def url(self, host: str) -> str:
        """`https://fleet.<domain>` for `fleet`, with the port unless it is 443. Raises ValueError if unknown."""
        return f"https://{self.authority(host)}"

    @property
    def issuer(self) -> str:
        """The URL of the realm that issues everybody's tokens, the same inside and outside Docker (OpenID Connect)."""
        return f"{self.url('auth')}/realms/flowerbed"

    @property
    def demo_people(self) -> tuple[Person, ...]:
        """One person per organisation and role; none unless `identity.demo_people` says so."""
        return tuple(accounts.demo_people(self.organisations, self.federations)) if self.identity.demo_people else ()

    def federations_of(self, organisation: str) -> tuple[str, ...]:
        """The names of the federations that an organisation is part of."""
        return accounts.federations_of(organisation, self.federations)

    def pipeline_federations(self, pipeline: Pipeline) -> tuple[str, ...]:
        """The names of the federations in which a pipeline may act."""
        return pipeline.federations or self.federations_of(pipeline.organisation)

    @property
    def all_subnets(self) -> tuple[IPv4Network, ...]:
        """The configured subnets; the sites' is one, of which each site takes a part."""
        return tuple(getattr(self.networks, key) for key in type(self.networks).model_fields)
