"""The way from the host to Keycloak's admin API: through the edge's published address, with the operator's certificate.

The host may not be able to resolve `admin.<domain>`, so the address is given and the name is only what TLS and HTTP speak of.
Not for what is said over it: that is in `read` and `apply`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from keycloak import KeycloakAdmin, KeycloakOpenID, KeycloakOpenIDConnection
from keycloak.connection import ConnectionManager
from keycloak.exceptions import KeycloakPostError, raise_error_from_response
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool

MASTER = "master"
KIT_CLIENT = "flowerbed-kit"
BOOTSTRAP_CLIENT = "flowerbed-bootstrap"
# Realms are made in seconds, and in a minute on a host that is busy with everything else.
TIMEOUT_S = 120


@dataclass(frozen=True)
class Access:
    """How the kit reaches Keycloak: where, what it trusts, and its secrets, which no `repr` shows."""

    url: str
    """Of the admin API's public name, such as `https://admin.example.org:8443`."""
    address: str
    """Where this host reaches the edge."""
    ca: Path
    operator: tuple[Path, Path] | None
    """The operator's certificate and key."""
    kit_secret: str = field(repr=False)
    bootstrap_secret: str = field(repr=False)
    port: int | None = None
    """Where that is not the URL's."""


class _Edge(HTTPAdapter):
    """Connects to one address, whatever host the URL has; server name, certificate and Host header stay the URL's."""

    def __init__(self, address: str, port: int | None) -> None:
        self._address, self._port = address, port
        super().__init__()

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: bool | str | None,
        proxies: Mapping[str, str] | None = None,  # noqa: ARG002 - a federation's own edge is behind no proxy
        cert: tuple[str, str] | str | None = None,
    ) -> HTTPConnectionPool:
        """Return a connection to the address instead of the name; what requests' own does otherwise."""
        where, how = self.build_connection_pool_key_attributes(request, verify or False, cert)
        name, where["host"] = where["host"], self._address
        where["port"] = self._port or where["port"]
        how |= {"server_hostname": name, "assert_hostname": name}
        return self.poolmanager.connection_from_host(**where, pool_kwargs=how)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        """Send with the URL's host as Host header."""
        request.headers["Host"] = urlsplit(request.url or "").netloc
        return super().send(request, *args, **kwargs)


class _Tokens(ConnectionManager):
    """What tokens are asked over."""

    def __init__(self, access: Access) -> None:
        super().__init__(base_url=f"{access.url}/", headers={}, timeout=TIMEOUT_S)
        _prepare(self, self._s, access)


class Connection(KeycloakOpenIDConnection):
    """python-keycloak's connection over the edge, as one client of realm master; counts what it writes."""

    def __init__(self, access: Access, client: str, secret: str, realm: str) -> None:
        super().__init__(
            server_url=f"{access.url}/",
            client_id=client,
            client_secret_key=secret,
            realm_name=realm,
            user_realm_name=MASTER,
            timeout=TIMEOUT_S,
        )
        _prepare(self, self._s, access)
        self.writes = 0
        self._keycloak_openid = KeycloakOpenID(
            server_url=f"{access.url}/", realm_name=MASTER, client_id=client, client_secret_key=secret
        )
        self._keycloak_openid.connection = _Tokens(access)

    def export(self, realm: str) -> dict[str, Any]:
        """Return a whole realm but its people, with secrets masked; a POST in form alone, and so not counted."""
        path = f"admin/realms/{realm}/partial-export?exportClients=true&exportGroupsAndRoles=true"
        answer = super().raw_post(path, data="")
        found: dict[str, Any] = raise_error_from_response(answer, KeycloakPostError)  # type: ignore[assignment] # it is JSON
        return found

    def raw_post(self, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        """Send, and count."""
        self.writes += 1
        return super().raw_post(*args, **kwargs)

    def raw_put(self, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        """Send, and count."""
        self.writes += 1
        return super().raw_put(*args, **kwargs)

    def raw_delete(self, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        """Send, and count."""
        self.writes += 1
        return super().raw_delete(*args, **kwargs)


def _prepare(connection: ConnectionManager, session: requests.Session, access: Access) -> None:
    """Let a connection trust our CA alone, show the operator's certificate, and ignore proxies and the like."""
    # Not at construction: the library hands them to an asynchronous client too, which is not used here and warns.
    connection.verify = str(access.ca)
    connection.cert = tuple(map(str, access.operator)) if access.operator else None
    session.trust_env = False
    session.mount("https://", _Edge(access.address, access.port))


def administrator(access: Access, client: str, secret: str, realm: str) -> KeycloakAdmin:
    """Return python-keycloak's admin client as a client of realm master, for one realm."""
    return KeycloakAdmin(connection=Connection(access, client, secret, realm))


def writes(admin: KeycloakAdmin) -> int:
    """Return how many changes were sent over its connection."""
    return admin.connection.writes if isinstance(admin.connection, Connection) else 0


@contextmanager
def within(admin: KeycloakAdmin, realm: str) -> Iterator[None]:
    """Speak of one realm for a while."""
    before = str(admin.get_current_realm())
    admin.change_current_realm(realm)
    try:
        yield
    finally:
        admin.change_current_realm(before)
