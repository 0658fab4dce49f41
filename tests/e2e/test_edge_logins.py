"""Keycloak behind the edge: what `auth.` and `admin.` serve, to whom, and from where. Not for logging in itself."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import urlencode

import pytest

from . import probe
from .client import Edge, Identity, Log, ask, identity
from .federation import Federation
from .running import wait_for

DISCOVERY = "/realms/flowerbed/.well-known/openid-configuration"


def holder(federation: Federation, name: str) -> Identity:
    return identity(federation.root / "ca" / "pki", name)


def test_the_issuer_is_the_same_outside_and_inside(edge: Edge, federation: Federation) -> None:
    issuer = federation.topology.issuer
    outside = json.loads(edge.ask("auth", DISCOVERY, method="GET").body)
    assert outside["issuer"] == issuer
    fetch = (
        "import json, ssl, urllib.request as web\n"
        "trust = ssl.create_default_context(cafile='/secrets/ca.crt')\n"
        f"print('FOUND', web.urlopen('{issuer}/.well-known/openid-configuration', context=trust, timeout=20).read().decode())"
    )
    for place in ("superlink", "cli"):
        answer = probe.inside(federation, place, f"python - <<'END'\n{fetch}\nEND\n")
        assert json.loads(answer.split("FOUND ", 1)[1].splitlines()[0]) == outside


CLOSED = [
    "/",
    "/admin/",
    "/admin/realms/flowerbed/users",
    "/admin/master/console/",
    "/realms/master",
    "/realms/master/",
    "/realms/master/protocol/openid-connect/token",
    "/realms/flowerbed/../master/protocol/openid-connect/token",
    "/realms/flowerbed/%2e%2e/master/protocol/openid-connect/token",
    "/realms/flowerbed/..%2fmaster/protocol/openid-connect/token",
    "/realms/flowerbed/..;/master/protocol/openid-connect/token",
    "/realms/flowerbed;/../master/",
    "/realms/flowerbed\\..\\master/",
    "//realms/master/",
    "/realms/flowerbed/clients-registrations/default",
    "/.well-known/oauth-authorization-server/realms/master",
    "/metrics",
    "/health",
    "/health/ready",
    "/js/keycloak.js",
    "/v1/control/list-runs",
]


@pytest.mark.parametrize("path", CLOSED)
def test_auth_serves_one_realm_and_nothing_that_administers(edge: Edge, path: str) -> None:
    assert edge.ask("auth", path, method="GET").status in (400, 404)


@pytest.mark.parametrize("path", ["/realms/flowerbed/", DISCOVERY, "/realms/flowerbed/protocol/openid-connect/certs"])
def test_auth_serves_what_logins_need(edge: Edge, path: str) -> None:
    reply = edge.ask("auth", path, method="GET")
    assert reply.status == 200
    assert reply.headers["strict-transport-security"] == "max-age=31536000"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-frame-options"] == "SAMEORIGIN"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers.get("server", "nginx") == "nginx"


def test_a_login_page_stays_in_its_window_and_its_cookies_on_tls(edge: Edge, federation: Federation) -> None:
    issuer = federation.topology.issuer
    asked = {
        "client_id": "account-console",
        "response_type": "code",
        "scope": "openid",
        "redirect_uri": f"{issuer}/account/",
        "code_challenge": "x" * 43,
        "code_challenge_method": "S256",
    }
    reply = edge.ask("auth", f"/realms/flowerbed/protocol/openid-connect/auth?{urlencode(asked)}", method="GET")
    assert reply.status == 200
    assert b'type="password"' in reply.body
    assert "frame-ancestors 'self'" in reply.headers["content-security-policy"]
    assert "Secure" in reply.headers["set-cookie"]
    assert "HttpOnly" in reply.headers["set-cookie"]


def test_what_a_client_says_of_its_way_is_overwritten(edge: Edge, federation: Federation) -> None:
    forged = {
        "X_Forwarded_Host": "evil.test",
        "X_Forwarded_Proto": "http",
        "X_Forwarded_Prefix": "/x",
        "Forwarded": "host=evil.test",
    }
    answer = edge.ask("auth", DISCOVERY, method="GET", **forged).body.decode()
    assert "evil.test" not in answer
    assert json.loads(answer)["issuer"] == federation.topology.issuer


def test_the_administration_needs_an_operators_certificate(edge: Edge, federation: Federation, log: Log) -> None:
    console = "/admin/master/console/"
    assert edge.ask("admin", console, method="GET").status == 400
    assert edge.ask("admin", console, method="GET", who=holder(federation, "gateway-north")).status == 400
    assert edge.ask("admin", console, method="GET", who=holder(federation, "north")).status == 403
    assert edge.ask("admin", console, method="GET", who=holder(federation, "operator")).status == 200
    assert log.find("edge", path=console, status=403)["subject"] == "CN=north,OU=site,O=North Clinic"


@pytest.mark.parametrize("path", ["/", "/realms/flowerbed/device", "/metrics", "/v1/control/list-runs"])
def test_the_administrations_name_serves_nothing_else(edge: Edge, federation: Federation, path: str) -> None:
    assert edge.ask("admin", path, method="GET", who=holder(federation, "operator")).status == 404


def test_a_handshake_for_auth_opens_no_administration(edge: Edge, federation: Federation) -> None:
    host = f"admin.{federation.topology.domain}:{edge.port}"
    assert edge.ask("auth", "/admin/master/console/", method="GET", Host=host).status == 421


def test_a_revoked_operator_is_refused_and_the_realm_left_alone(edge: Edge, federation: Federation) -> None:
    held = holder(federation, "operator")
    certificate, key = held.certificate.read_bytes(), held.key.read_bytes()
    kept = Identity(federation.root / "operator.crt", federation.root / "operator.key")
    kept.certificate.write_bytes(certificate)
    kept.key.write_bytes(key)
    kept.key.chmod(0o400)
    try:
        federation.flowerbed("ca", "revoke", "operator", "--reason", "superseded")
        said = " ".join(federation.flowerbed("up").stdout.split())
        assert "the operator's certificate was revoked" in said

        def refused() -> bool:
            return edge.ask("admin", "/admin/master/console/", method="GET", who=kept).status == 400

        wait_for("the edge refuses the revoked certificate", refused, 10, 0.2)
    finally:
        federation.flowerbed("ca", "issue", "operator")
        federation.flowerbed("up")
    assert edge.ask("admin", "/admin/master/console/", method="GET", who=holder(federation, "operator")).status == 200


def test_twenty_may_log_in_at_once_and_a_flood_is_refused(edge: Edge) -> None:
    """All come with one address, as everybody on a host does; the fleet and everybody's runs are counted apart."""

    def some(count: int) -> list[int]:
        with closing(edge.connection("auth")) as connection:
            return [ask(connection, "/realms/flowerbed/device", method="GET").status for _ in range(count)]

    with ThreadPoolExecutor(max_workers=20) as pool:
        logins = [status for found in pool.map(some, [10] * 20) for status in found]
        assert set(logins) == {200}
        flood = [status for found in pool.map(some, [40] * 20) for status in found]
    assert set(flood) == {200, 429}
    assert edge.ask("superlink", "/health", method="GET").status == 200
