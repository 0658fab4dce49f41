"""A client of the edge that may lie: its own certificate, server name, Host header, path and SuperNode key.

It connects to 127.0.0.1, as the edge is published there, and always verifies the edge's certificate.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import time
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from flowerbed_ca.authority import Authority
from flowerbed_cli import accounts
from flowerbed_cli.project import Project

from .federation import Federation, docker

# An answer takes milliseconds; on a host that is busy with other stacks, Keycloak's first page takes longer.
PATIENCE_S = 60
# As a keyword argument of `Edge.ask`, whose underscores become dashes.
PROTOBUF = {"Content_Type": "application/protobuf"}


@dataclass(frozen=True)
class Identity:
    """A client certificate with its key, as files."""

    certificate: Path
    key: Path


def identity(pki: Path, name: str) -> Identity:
    """Return what the store `pki` holds of a leaf."""
    return Identity(pki / "issued" / f"{name}.crt", pki / "private" / f"{name}.key")


def copied_authority(federation: Federation, directory: Path, **options: Any) -> Authority:
    """Return an authority with the federation's own CA key, whose store is a copy: it can sign what must be refused."""
    shutil.copytree(federation.root / "ca" / "pki", directory / "pki")
    return Authority(directory / "pki", **options)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def detail(self) -> str:
        """The reason that the SuperLink's middleware gives."""
        return str(json.loads(self.body)["detail"])


@dataclass
class Edge:
    """The edge, as seen from the host."""

    federation: Federation
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    port: int = field(init=False)

    def __post_init__(self) -> None:
        self.port = self.federation.topology.edge.https_port

    def context(self, who: Identity | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.federation.root / "ca" / "pki" / "ca.crt"))
        context.minimum_version, context.maximum_version = self.versions
        if who:
            context.load_cert_chain(who.certificate, who.key)
        return context

    def connection(self, server: str, who: Identity | None = None) -> http.client.HTTPSConnection:
        """Open a TLS connection for the server name `server`, such as `fleet`, and leave it open."""
        name = server if "." in server else f"{server}.{self.federation.topology.domain}"
        made = http.client.HTTPSConnection(name, self.port, timeout=PATIENCE_S)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        made.sock = self.context(who).wrap_socket(plain, server_hostname=name)
        return made

    def ask(
        self,
        server: str,
        path: str,
        *,
        method: str = "POST",
        who: Identity | None = None,
        body: bytes = b"",
        **headers: str,
    ) -> Reply:
        """Send one request on a connection of its own; headers are given with `_` for `-`."""
        connection = self.connection(server, who)
        try:
            return ask(connection, path, method=method, body=body, **headers)
        finally:
            connection.close()


def ask(
    connection: http.client.HTTPConnection, path: str, *, method: str = "POST", body: bytes = b"", **headers: str
) -> Reply:
    """Send one request on an open connection."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, path, skip_host="Host" in named)
    for name, value in {"Content-Length": str(len(body)), **named}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


def bearer(federation: Federation, client: str = "pipeline-demo") -> dict[str, str]:
    """Return the header with which a pipeline, or the kit, proves who it is."""
    return {"Authorization": f"Bearer {accounts.token(Project(federation.root), federation.topology, client)}"}


def new_supernode_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def supernode_key(federation: Federation, site: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_ssh_private_key(
        (federation.root / "secrets" / "kit" / f"supernode-{site}.key").read_bytes(), None
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def signed(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Return the headers with which a SuperNode proves its key (flwr's NodeAuthHttpInterceptor)."""
    timestamp = datetime.now(UTC).isoformat()
    signature = sign_message(key, timestamp.encode())
    return {
        "flwr_public_key": b64encode(public_key_to_bytes(key.public_key())).decode(),
        "flwr_timestamp": timestamp,
        "flwr_signature": b64encode(signature).decode(),
    }


class Log:
    """What containers log from now on; a mark in time, so that a line is one that this test caused."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._since = datetime.now(UTC).isoformat()

    def lines(self, service: str) -> list[dict[str, Any]]:
        """Return the JSON lines that a service has logged since."""
        text = docker("logs", "--since", self._since, self._federation.container(service))
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def find(self, service: str, **fields: object) -> dict[str, Any]:
        """Return a line with these fields, waiting up to 5 s for it."""
        deadline = time.monotonic() + 5
        while True:
            lines = self.lines(service)
            found = [line for line in lines if all(line.get(name) == value for name, value in fields.items())]
            if found:
                return found[-1]
            assert time.monotonic() < deadline, f"no line of {service} has {fields}: {lines[-20:]}"
            time.sleep(0.2)
