"""A site's gateway and the edge as real NGINX containers, with the kit's own configuration, before a SuperLink of this host.

In the kit's image, hardened as compose/site.yaml hardens it, on a Docker network of their own. Keycloak is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from flowerbed_cli.render import template
from held_support import Held
from images_support import HARDENED, docker, image, inspect, run, unique, wait_until
from superlink_support import DOMAIN, EDGE_TOKEN, TestSite, binding, new_key, pem, private_pem, subject

USER = "9702"
EDGE_PORT, GATEWAY_PORT, SUPERLINK_PORT = 8443, 9443, 8000
"""The last two are the kit's own."""


@dataclass(frozen=True)
class Server:
    """One NGINX."""

    name: str

    def restart(self, grace_s: int) -> None:
        """Stop it as Compose does, kill it when the grace is over, and start it again."""
        docker("restart", "--time", str(grace_s), self.name)

    def reload(self) -> None:
        """Have it read its configuration again, as `flowerbed up` does after a change of certificates."""
        docker("kill", "--signal", "HUP", self.name)

    def requests(self, path: str) -> list[int]:
        """Return the statuses that it has answered a path with, oldest first."""
        lines = [line for line in docker("logs", self.name).splitlines() if line.startswith('{"time"')]
        return [record["status"] for record in map(json.loads, lines) if record["path"] == path]


@dataclass(frozen=True)
class Gateways:
    """The two, and where a SuperNode finds them."""

    edge: Server
    gateway: Server
    address: str


def superlink_certificate(world: Held) -> None:
    """Give the SuperLink a certificate with the name that the edge knows it by, too."""
    key, names = new_key(), [x509.DNSName("localhost"), x509.DNSName("superlink")]
    (world.secrets / "tls.crt").write_bytes(pem(world.authority.issue(key, list(names))))
    (world.secrets / "tls.key").write_bytes(private_pem(key))


@contextmanager
def network() -> Iterator[tuple[str, IPv4Network]]:
    """Make a Docker network with addresses that Docker says are free, and that may be asked for."""
    name = unique("gateway")
    docker("network", "create", name)
    try:
        found = IPv4Network(inspect_network(name))
        docker("network", "rm", name)
        docker("network", "create", "--internal", "--subnet", str(found), name)
        yield name, found
    finally:
        docker("network", "rm", name, check=False)


def inspect_network(name: str) -> str:
    """Return a network's subnet."""
    return str(json.loads(docker("network", "inspect", name))[0]["IPAM"]["Config"][0]["Subnet"])


@contextmanager
def gateways(world: Held, site: TestSite, root: Path, name: str, subnet: IPv4Network) -> Iterator[Gateways]:
    """Run both. The SuperLink must be found at the network's first address, port 8000."""
    bridge, clients, listen = subnet[1], subnet[10], subnet[20]
    edge = nginx(world, root / "edge", edge_conf(clients, bridge), [f"fleet.{DOMAIN}"])
    (edge / "secrets" / "edge-header.conf").write_text(f'proxy_set_header X-Flowerbed-Edge "{EDGE_TOKEN}";\n')
    gateway = nginx(world, root / "gateway", gateway_conf(listen, clients), ["gateway", str(listen)])
    client_certificate(world, site, gateway / "secrets")
    with started(edge, name, clients) as first, started(gateway, name, listen) as second:
        yield Gateways(first, second, f"{listen}:{GATEWAY_PORT}")


def edge_conf(clients: IPv4Address, superlink: IPv4Address) -> str:
    """Return the edge's configuration; what it listens on for people, and Keycloak, are addresses of its own loopback."""
    names = ("published", "notebooks", "services", "keycloak")
    own = {name: f"127.0.0.{number}" for number, name in enumerate(names, start=2)}
    ports = {"https_port": EDGE_PORT, "http_port": 8081, "port_suffix": f":{EDGE_PORT}"}
    return template("edge.conf.j2", {"domain": DOMAIN, "clients": clients, "superlink": superlink, **own, **ports})


def gateway_conf(listen: IPv4Address, fleet: IPv4Address) -> str:
    """Return the gateway's configuration."""
    values = {"listen": listen, "fleet_host": f"fleet.{DOMAIN}", "fleet_address": fleet, "fleet_port": EDGE_PORT}
    return template("gateway.conf.j2", values)


def nginx(world: Held, root: Path, configuration: str, names: list[str]) -> Path:
    """Write an NGINX's `/config` and `/secrets`."""
    for part in ("config", "secrets"):
        (root / part).mkdir(parents=True)
    (root / "config" / "nginx.conf").write_text(configuration)
    key = new_key()
    general = [x509.IPAddress(ip_address(each)) if each[0].isdigit() else x509.DNSName(each) for each in names]
    (root / "secrets" / "tls.crt").write_bytes(pem(world.authority.issue(key, list(general))))
    (root / "secrets" / "tls.key").write_bytes(private_pem(key))
    for name in ("ca.crt", "crl.pem"):
        (root / "secrets" / name).write_bytes((world.secrets / name).read_bytes())
    return root


def client_certificate(world: Held, site: TestSite, secrets: Path) -> None:
    """Write a site's client certificate, whose key the gateway has."""
    key, usage = new_key(), ExtendedKeyUsageOID.CLIENT_AUTH
    who = subject(site.organisation, site.name)
    certificate = world.authority.issue(key, [binding(site.key)], subject=who, usage=usage)
    (secrets / "client.crt").write_bytes(pem(certificate))
    (secrets / "client.key").write_bytes(private_pem(key))


@contextmanager
def started(root: Path, network: str, address: IPv4Address) -> Iterator[Server]:
    """Run an NGINX until the end."""
    run("chown", "-R", f"{USER}:{USER}", root)
    server = Server(f"{network}-{root.name}")
    mounts = [f"--volume={root / part}:/{part}:ro" for part in ("config", "secrets")]
    tmpfs = f"--tmpfs=/run/nginx:size=96m,uid={USER},gid={USER},mode=0700"
    where = ("--network", network, "--ip", str(address), "--name", server.name)
    try:
        docker("run", "--detach", *HARDENED, *where, *mounts, tmpfs, image("nginx"))
        wait_until(lambda: inspect(server.name)["State"]["Running"], 60)
        yield server
    finally:
        docker("rm", "--force", server.name, check=False)


def openssh(site: TestSite) -> bytes:
    """Return a SuperNode's key as its launcher reads it."""
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    return site.key.private_bytes(*form)
