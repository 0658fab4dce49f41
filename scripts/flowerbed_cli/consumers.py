"""What each container finds at `/secrets`: the table "Images, users" of docs/contracts.md, and the clients' secrets.

Makes secrets that do not exist yet and copies certificates that the authority issued; lays nothing out.
"""

from __future__ import annotations

from pathlib import Path

from flowerbed_topology import Topology

from .errors import FlowerbedError
from .project import Project
from .secrets import Consumer, ensure_kept, supernode_key, token

POSTGRES, NGINX, SUPERLINK, SUPERNODE, CLI, KEYCLOAK, ROOT = 9701, 9702, 9703, 9704, 9705, 9706, 0
# Each owns, or for the trail may insert into, the database of its name.
DATABASE_ROLES = ("superlink", "keycloak", "flowerbed", "audit")
# The SuperLink's container has its own state, the list of people and the trail to write.
SUPERLINK_ROLES = ("superlink", "flowerbed", "audit")


def server_files(project: Project, leaf: str) -> dict[str, bytes]:
    """Return what a server needs to serve as `leaf`."""
    return {
        "tls.crt": pem(project.pki / "issued" / f"{leaf}.crt"),
        "tls.key": (project.pki / "private" / f"{leaf}.key").read_bytes(),
        "ca.crt": (project.pki / "ca.crt").read_bytes(),
    }


def pem(path: Path) -> bytes:
    """Return the certificate at `path` without the text that easy-rsa and openssl may put before it."""
    if not path.is_file():
        name = path.stem
        raise FlowerbedError(f"There is no valid certificate {name}: run flowerbed ca issue {name}, then make up.")
    content = path.read_bytes()
    return content[content.index(b"-----BEGIN CERTIFICATE-----") :]


def core_consumers(project: Project, topology: Topology) -> list[Consumer]:
    """Return what the central containers find at `/secrets`."""
    superexec = ensure_kept(project, "superexec.secret", token)
    authority = (project.pki / "ca.crt").read_bytes()
    return [
        Consumer("postgres", POSTGRES, server_files(project, "postgres") | database_passwords(project)),
        Consumer("keycloak", KEYCLOAK, server_files(project, "keycloak") | keycloak_files(project, topology)),
        Consumer("edge", NGINX, server_files(project, "edge") | edge_files(project)),
        Consumer("superlink", SUPERLINK, server_files(project, "superlink") | superlink_files(project, superexec)),
        Consumer("serverapp", ROOT, {"ca.crt": authority, "superexec.secret": superexec}),
        Consumer("cli", CLI, {"ca.crt": authority}),
    ]


def database_passwords(project: Project) -> dict[str, bytes]:
    """Return `<role>.password` of every database role."""
    return {name: ensure_kept(project, name, token) for name in (f"{role}.password" for role in DATABASE_ROLES)}


def keycloak_files(project: Project, topology: Topology) -> dict[str, bytes]:
    """Return Keycloak's configuration: it reads no secret from a file of its own."""
    from flowerbed_keycloak.config import keycloak_conf  # its package takes most of a second to import

    password = ensure_kept(project, "keycloak.password", token).decode()
    bootstrap = ensure_kept(project, "keycloak-bootstrap.secret", token).decode()
    return {"keycloak.conf": keycloak_conf(topology, password, bootstrap).encode()}


def edge_files(project: Project) -> dict[str, bytes]:
    """Return the revocation list, and the header by which the SuperLink knows the edge."""
    edge = ensure_kept(project, "edge.token", token)
    header = b'proxy_set_header X-Flowerbed-Edge "' + edge + b'";\n'
    return {"crl.pem": (project.pki / "crl.pem").read_bytes(), "edge-header.conf": header}


def superlink_files(project: Project, superexec: bytes) -> dict[str, bytes]:
    """Return the SuperLink's secrets; `pgpass` has a line for each database that its container uses (libpq)."""
    passwords = database_passwords(project)
    lines = [f"postgres:5432:{role}:{role}:".encode() + passwords[f"{role}.password"] for role in SUPERLINK_ROLES]
    return {
        "crl.pem": (project.pki / "crl.pem").read_bytes(),
        "edge.token": ensure_kept(project, "edge.token", token),
        "superexec.secret": superexec,
        "pgpass": b"\n".join(lines) + b"\n",
    }


def client_secrets(project: Project, topology: Topology) -> dict[str, str]:
    """Return the secrets of the realm's confidential clients: client to secret."""
    clients = ("kit", "hub", "grafana", *(pipeline.client for pipeline in topology.pipelines))
    return {client: ensure_kept(project, f"client-{client}.secret", token).decode() for client in clients}


def site_consumers(project: Project, site: str) -> list[Consumer]:
    """Return what one site's containers find at `/secrets`."""
    superexec = ensure_kept(project, f"superexec-{site}.secret", token)
    key = ensure_kept(project, f"supernode-{site}.key", supernode_key)
    client = client_files(project, site)
    authority = (project.pki / "ca.crt").read_bytes()
    crl = (project.pki / "crl.pem").read_bytes()
    return [
        Consumer(f"gateway-{site}", NGINX, server_files(project, f"gateway-{site}") | client | {"crl.pem": crl}),
        Consumer(
            f"supernode-{site}",
            SUPERNODE,
            server_files(project, f"supernode-{site}") | {"supernode.key": key, "superexec.secret": superexec},
        ),
        Consumer(f"clientapp-{site}", ROOT, {"ca.crt": authority, "superexec.secret": superexec}),
    ]


def client_files(project: Project, site: str) -> dict[str, bytes]:
    """Return a gateway's client certificate and key.

    Nothing for a site whose certificate was revoked: it keeps the one that it has, and is refused with it until it is
    given another.

    Raises:
        FlowerbedError: the certificate was signed for a key that its custodian made, which is not on this host.
    """
    certificate, key = project.pki / "issued" / f"{site}.crt", project.pki / "private" / f"{site}.key"
    if not certificate.is_file():
        return {}
    if not key.is_file():
        raise FlowerbedError(
            f"{certificate} was signed for a key that is not on this host, where {site} would run: put the key at {key}, "
            f"or flowerbed ca revoke {site} and flowerbed ca issue {site}."
        )
    return {"client.crt": pem(certificate), "client.key": key.read_bytes()}
