"""The gate as an ASGI application: what it refuses, with which status, and what it lets through."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_superlink import watched
from flowerbed_superlink.gate import Gate
from flowerbed_superlink.material import Material
from flowerbed_superlink.routes import CONTROL_ROUTES, FLEET_ROUTES, REFUSED, RUNTIME_ROUTES
from superlink_support import (
    DAY,
    DOMAIN,
    NOW,
    Authority,
    TestSite,
    binding,
    edge_headers,
    federation,
    new_key,
    new_site,
    replace,
    subject,
    write_material,
)

FLEET = "/v1/fleet/pull-messages"
CONTROL = "/v1/control/list-runs"
RUNTIME = "/v1/runtime/acquire-task"


class Inner:
    """The application behind the gate: remembers what reached it and answers as it is told."""

    def __init__(self) -> None:
        self.reached: list[dict[str, Any]] = []
        self.status = 200
        self.error: Exception | None = None

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        self.reached.append(scope)
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"inner"})


class World:
    """One gate with its files, and requests to it."""

    def __init__(self, directory: Path, authority: Authority, sites: list[TestSite]) -> None:
        self.authority, self.sites = authority, sites
        self.secrets, self.config = write_material(directory, authority, sites)
        self.inner = Inner()
        self.gate = Gate(self.inner, Material(self.secrets, self.config))

    def call(self, path: str, headers: Any = None, method: str = "POST", content: bytes = b"") -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.gate, raise_app_exceptions=False, client=("192.0.2.9", 1))
            async with httpx.AsyncClient(transport=transport, base_url="https://superlink") as client:
                return await client.request(method, path, headers=headers, content=content)

        return asyncio.run(send())

    def scope(self, path: str, **changes: Any) -> list[dict[str, Any]]:
        """Send a scope that httpx would not, and return what was sent back."""
        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "headers": [(b"content-length", b"0")],
            "client": None,
        }

        async def collect(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.gate(scope | changes, None, collect))  # type: ignore[arg-type]  # no body is read
        return sent


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def sites(authority: Authority) -> list[TestSite]:
    return [new_site(authority, "charite", "Charité"), new_site(authority, "leipzig", "Uniklinik Leipzig")]


@pytest.fixture
def world(tmp_path: Path, authority: Authority, sites: list[TestSite]) -> World:
    return World(tmp_path, authority, sites)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, authority: Authority, sites: list[TestSite]) -> World:
    """One world for all of Hypothesis' examples."""
    return World(tmp_path_factory.mktemp("shared"), authority, sites)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at files on every request instead of once per second."""
    monkeypatch.setattr(watched, "CHECK_INTERVAL_S", 0.0)


def test_every_allowed_route_passes_and_loses_the_edges_headers(world: World) -> None:
    for path in sorted(FLEET_ROUTES):
        assert world.call(path, world.sites[0].headers()).status_code == 200, path
    for path in sorted(CONTROL_ROUTES):
        assert world.call(path, edge_headers()).status_code == 200, path
    for path in sorted(RUNTIME_ROUTES):
        assert world.call(path).status_code == 200, path
    assert world.call("/artifacts/" + "a" * 43, edge_headers(), "GET").status_code == 200
    assert world.call("/health", method="GET").status_code == 200
    assert world.call("/health", method="HEAD").status_code == 200
    names = {name for scope in world.inner.reached for name, _ in scope["headers"]}
    assert b"x-flowerbed-edge" not in names
    assert b"x-flowerbed-client-cert" not in names
    assert b"flwr-public-key" in names


@pytest.mark.parametrize("path", sorted(REFUSED))
def test_known_but_refused_routes_are_404_from_both_sides(world: World, path: str) -> None:
    for method in ("GET", "POST"):
        assert world.call(path, world.sites[0].headers(), method).status_code == 404
        assert world.call(path, None, method).status_code == 404
    assert world.inner.reached == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/fleet/",
        "/v1/fleet/pull-messages/",
        "//v1/fleet/pull-messages",
        "/v1//fleet/pull-messages",
        "/v1/fleet/../runtime/acquire-task",
        "/v1/control/./list-runs",
        "/v1/Control/list-runs",
        "/v1/%63ontrol/list-runs",
        "/v1/control%2Flist-runs",
        "/v1/control/list-runs%00",
        "/v1/control/list-runs;x=1",
        "/health/",
        "/artifacts/",
        "/artifacts/" + "a" * 42,
        "/artifacts/" + "a" * 44,
        "/artifacts/../health",
        "/metrics",
    ],
)
def test_nothing_but_the_exact_path_matches(world: World, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        sent = world.scope(path, method=method, headers=[(b"x-flowerbed-edge", b"t" * 43)])
        assert sent[0]["status"] == 404, (path, method)
    assert world.inner.reached == []


@given(path=st.text(max_size=60), method=st.sampled_from(["GET", "POST", "HEAD", "PUT"]))
def test_no_invented_path_reaches_flower(shared: World, path: str, method: str) -> None:
    known = FLEET_ROUTES | CONTROL_ROUTES | RUNTIME_ROUTES | {"/health"}
    if "/" + path not in known:
        sent = shared.scope("/" + path, method=method)
        assert sent[0]["status"] == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_404(world: World, method: str) -> None:
    assert world.call(FLEET, world.sites[0].headers(), method).status_code == 404
    assert world.call(CONTROL, edge_headers(), method).status_code == 404
    assert world.call(RUNTIME, None, method).status_code == 404
    if method not in ("GET", "HEAD"):
        assert world.call("/health", None, method).status_code == 404
    if method != "GET":
        assert world.call("/artifacts/" + "a" * 43, edge_headers(), method).status_code == 404


def test_a_decoded_path_or_a_mount_point_is_not_the_path(world: World) -> None:
    assert world.scope(CONTROL, raw_path=b"/v1/%63ontrol/list-runs")[0]["status"] == 404
    assert world.scope("/health", method="GET", root_path="/v1")[0]["status"] == 404


def test_websockets_are_closed(world: World) -> None:
    assert world.scope(CONTROL, type="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert world.inner.reached == []


@pytest.mark.parametrize("path", [FLEET, CONTROL, "/artifacts/" + "a" * 43])
@pytest.mark.parametrize(
    "tokens", [[], [""], ["wrong"], ["t" * 42], ["t" * 44], ["t" * 43, "t" * 43], ["wrong", "t" * 43], ["é"]]
)
def test_without_exactly_the_edges_token_nothing_is_served(world: World, path: str, tokens: list[str]) -> None:
    site = world.sites[0].headers()
    headers = [(b"content-length", b"0")] + [(b"x-flowerbed-edge", t.encode()) for t in tokens]
    headers += [(k.lower().encode(), v.encode()) for k, v in site.items() if k != "X-Flowerbed-Edge"]
    method = "GET" if path.startswith("/artifacts") else "POST"
    assert world.scope(path, headers=headers, method=method)[0]["status"] == 403
    assert world.inner.reached == []


@pytest.mark.parametrize("value", ["", "wrong", "t" * 43])
def test_the_runtime_api_is_not_there_through_the_edge(world: World, value: str) -> None:
    assert world.call(RUNTIME, {"X-Flowerbed-Edge": value}).status_code == 404
    assert world.inner.reached == []


Forgery = Callable[[World], dict[str, str]]


def _certificate(world: World, **changes: Any) -> dict[str, str]:
    """Return headers of a certificate like the first site's, but for what is given."""
    site = world.sites[0]
    key = changes.pop("key", site.key)
    wanted: dict[str, Any] = {
        "subject": subject(site.organisation, site.name),
        "usage": ExtendedKeyUsageOID.CLIENT_AUTH,
        "names": [binding(key, changes.pop("domain", DOMAIN))],
    } | changes
    authority = wanted.pop("authority", world.authority)
    return edge_headers(authority.issue(new_key(), wanted.pop("names"), **wanted), key)


FORGERIES: dict[str, Forgery] = {
    "no certificate": lambda w: edge_headers(None, w.sites[0].key),
    "no key": lambda w: edge_headers(w.sites[0].certificate, None),
    "another site's key": lambda w: edge_headers(w.sites[0].certificate, w.sites[1].key),
    "an unregistered key": lambda w: _certificate(w, key=new_key()),
    "a foreign authority": lambda w: _certificate(w, authority=Authority("Foreign")),
    "a foreign authority of our name": lambda w: _certificate(w, authority=Authority()),
    "expired": lambda w: _certificate(w, end=NOW - datetime.timedelta(hours=1), start=NOW - DAY),
    "not yet valid": lambda w: _certificate(w, start=NOW + datetime.timedelta(hours=1)),
    "another organisation": lambda w: _certificate(w, subject=subject("Uniklinik Leipzig", "charite")),
    "another site's name": lambda w: _certificate(w, subject=subject("Charité", "leipzig")),
    "an unknown site": lambda w: _certificate(w, subject=subject("Charité", "unknown")),
    "another domain": lambda w: _certificate(w, domain="evil.test"),
    "a server's certificate": lambda w: _certificate(w, usage=ExtendedKeyUsageOID.SERVER_AUTH),
    "no binding": lambda w: _certificate(w, names=[]),
    "two bindings": lambda w: _certificate(w, names=[binding(w.sites[0].key), binding(w.sites[1].key)]),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_site_that_is_not_wholly_itself_is_refused_with_403(
    world: World, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    response = world.call(FLEET, FORGERIES[name](world))
    assert response.status_code == 403
    assert response.json()["detail"]
    refusals = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"refused"' in line]
    assert len(refusals) == 1
    assert refusals[0]["why"]
    assert refusals[0]["client"] == "192.0.2.9"
    assert world.inner.reached == []


@pytest.mark.usefixtures("at_once")
def test_the_log_names_site_serial_and_reason_of_a_revoked_certificate(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    site = world.sites[0]
    assert world.call(FLEET, site.headers()).status_code == 200
    replace(world.secrets / "crl.pem", world.authority.crl([site.certificate.serial_number]))
    assert world.call(FLEET, site.headers()).status_code == 403
    assert world.call(FLEET, world.sites[1].headers()).status_code == 200
    line = next(json.loads(line) for line in capsys.readouterr().err.splitlines() if '"refused"' in line)
    assert line["why"] == "revoked"
    assert line["site"] == "charite"
    assert line["serial"] == f"{site.certificate.serial_number:X}"


def test_a_revoked_certificate_is_refused_within_a_second(world: World) -> None:
    clock = _Clock()
    material = Material(world.secrets, world.config)
    for file in (material._crl, material._federation, material._token):
        file._clock = clock
    world.gate = Gate(world.inner, material)
    site = world.sites[0]
    assert world.call(FLEET, site.headers()).status_code == 200
    replace(world.secrets / "crl.pem", world.authority.crl([site.certificate.serial_number]))
    clock.now += 1.0
    assert world.call(FLEET, site.headers()).status_code == 403


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("state", ["missing", "garbled", "empty", "expired", "foreign"])
def test_without_a_valid_crl_fleet_requests_wait(world: World, state: str) -> None:
    assert world.call(FLEET, world.sites[0].headers()).status_code == 200
    path = world.secrets / "crl.pem"
    contents = {
        "garbled": b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        "empty": b"",
        "expired": world.authority.crl([], NOW - datetime.timedelta(minutes=1)),
        "foreign": Authority().crl([]),
    }
    path.unlink() if state == "missing" else replace(path, contents[state])
    response = world.call(FLEET, world.sites[0].headers())
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert world.call(CONTROL, edge_headers()).status_code == 200
    replace(path, world.authority.crl([]))
    assert world.call(FLEET, world.sites[0].headers()).status_code == 200


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"domain": "flowerbed.test"}'])
def test_without_a_valid_topology_fleet_requests_wait(world: World, content: bytes) -> None:
    replace(world.config / "federation.json", content)
    assert world.call(FLEET, world.sites[0].headers()).status_code == 503


@pytest.mark.usefixtures("at_once")
def test_a_removed_site_and_a_new_key_take_effect(world: World) -> None:
    site, other = world.sites
    replace(world.config / "federation.json", json.dumps(federation([other])).encode())
    assert world.call(FLEET, site.headers()).status_code == 403
    renewed = new_site(world.authority, site.name, site.organisation)
    replace(world.config / "federation.json", json.dumps(federation([renewed, other])).encode())
    assert world.call(FLEET, site.headers()).status_code == 403
    assert world.call(FLEET, renewed.headers()).status_code == 200


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("content", [None, b"", b"short\n"])
def test_without_a_token_file_the_edge_waits(world: World, content: bytes | None) -> None:
    path = world.secrets / "edge.token"
    path.unlink() if content is None else replace(path, content)
    assert world.call(CONTROL, edge_headers()).status_code == 503
    assert world.call(RUNTIME).status_code == 200


@pytest.mark.parametrize("header", ["x-flowerbed-client-cert", "flwr-public-key"])
def test_duplicated_identity_headers_are_refused(world: World, header: str) -> None:
    headers = [(k.lower().encode(), v.encode()) for k, v in world.sites[0].headers().items()]
    headers += [(k, v) for k, v in headers if k == header.encode()] + [(b"content-length", b"0")]
    assert world.scope(FLEET, headers=headers)[0]["status"] == 403
    assert world.inner.reached == []


@pytest.mark.parametrize(
    ("lengths", "status"),
    [([], 411), ([b"0", b"0"], 411), ([b"-1"], 411), ([b"x"], 411), ([str(65 * 1024 * 1024).encode()], 413)],
)
def test_bodies_without_a_length_or_too_long_are_refused(world: World, lengths: list[bytes], status: int) -> None:
    headers = [(k.lower().encode(), v.encode()) for k, v in world.sites[0].headers().items()]
    headers += [(b"content-length", length) for length in lengths]
    assert world.scope(FLEET, headers=headers)[0]["status"] == status
    assert world.inner.reached == []


def test_limits_of_the_control_api(world: World) -> None:
    mib = 1024 * 1024
    for path, size, status in [
        ("/v1/control/start-run", 11 * mib, 200),
        ("/v1/control/start-run", 11 * mib + 1, 413),
        (CONTROL, mib, 200),
        (CONTROL, mib + 1, 413),
    ]:
        headers = [(b"x-flowerbed-edge", b"t" * 43), (b"content-length", str(size).encode())]
        assert world.scope(path, headers=headers)[0]["status"] == status


def test_chunked_bodies_are_refused(world: World) -> None:
    headers = [(b"transfer-encoding", b"chunked"), (b"content-length", b"3")]
    assert world.scope(RUNTIME, headers=headers)[0]["status"] == 411


@pytest.mark.parametrize(("status", "seen"), [(500, 503), (501, 503), (599, 503), (502, 502), (503, 503), (504, 504)])
def test_fleet_never_answers_a_5xx_that_ends_a_supernode(world: World, status: int, seen: int) -> None:
    world.inner.status = status
    assert world.call(FLEET, world.sites[0].headers()).status_code == seen
    assert world.call(CONTROL, edge_headers()).status_code == status


def test_an_exception_on_fleet_is_503(world: World) -> None:
    world.inner.error = RuntimeError("boom")
    assert world.call(FLEET, world.sites[0].headers()).status_code == 503
    with pytest.raises(RuntimeError):
        world.scope(RUNTIME)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 412])
def test_flowers_other_answers_on_fleet_are_left_alone(world: World, status: int) -> None:
    world.inner.status = status
    assert world.call(FLEET, world.sites[0].headers()).status_code == status
