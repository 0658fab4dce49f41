"""The gate and the sites: forged, revoked and foreign certificates, and the files that decide."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from flowerbed_superlink import watched
from flowerbed_superlink.material import Material
from superlink_gate import World
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
)

FLEET = "/v1/fleet/pull-messages"
CONTROL = "/v1/control/list-runs"
RUNTIME = "/v1/runtime/acquire-task"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def sites(authority: Authority) -> list[TestSite]:
    return [new_site(authority, "charite", "Charité"), new_site(authority, "leipzig", "Uniklinik Leipzig")]


@pytest.fixture
def world(tmp_path: Path, authority: Authority, sites: list[TestSite]) -> World:
    return World(tmp_path, authority, sites)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at files on every request instead of once per second."""
    monkeypatch.setattr(watched, "CHECK_INTERVAL_S", 0.0)


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
    world.use(material)
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
