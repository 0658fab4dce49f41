"""What the gate writes into the audit trail about SuperNodes, and about requests that come no further."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flowerbed_superlink import repeats
from flowerbed_superlink.arrivals import Arrivals
from flowerbed_superlink.material import Material
from flowerbed_superlink.trail import UNRECORDED
from superlink_gate import AWAY, World
from superlink_support import Authority, TestSite, edge_headers, fingerprint, new_key, new_site, replace

ACTIVATE, DEACTIVATE = "/v1/fleet/activate-node", "/v1/fleet/deactivate-node"
PULL, BEAT = "/v1/fleet/pull-messages", "/v1/fleet/send-node-heartbeat"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def site(authority: Authority) -> TestSite:
    return new_site(authority, "charite", "Charité")


@pytest.fixture
def world(tmp_path: Path, authority: Authority, site: TestSite) -> World:
    return World(tmp_path, authority, [site])


def summary(world: World) -> list[tuple[str, str, str, str]]:
    return [(r["who"], r["verb"], r["outcome"], r["detail"]) for r in world.recorded()]


def test_activation_and_deactivation_are_recorded_before_and_after(world: World, site: TestSite) -> None:
    for path in (ACTIVATE, PULL, BEAT, DEACTIVATE):
        assert world.call(path, site.headers()).status_code == 200
    assert summary(world) == [
        ("charite", "activate-node", "started", ""),
        ("charite", "activate-node", "done", ""),
        ("charite", "deactivate-node", "started", ""),
        ("charite", "deactivate-node", "done", ""),
    ]
    first = world.audit.records[0]
    assert (first["organisation"], first["source"], first["run"]) == ("Charité", "192.0.2.9", None)
    assert first["object"] == fingerprint(site.key)


@pytest.mark.parametrize("path", [ACTIVATE, DEACTIVATE])
def test_what_cannot_be_recorded_is_not_done(world: World, site: TestSite, path: str) -> None:
    world.audit.error = AWAY
    answer = world.call(path, site.headers())
    assert (answer.status_code, answer.json()["detail"]) == (503, UNRECORDED)
    assert answer.headers["retry-after"] == "3"
    assert world.inner.reached == []
    world.audit.error = None
    assert world.call(path, site.headers()).status_code == 200


def test_without_a_trail_refusals_stay_refusals_and_work_goes_on(world: World, site: TestSite) -> None:
    world.audit.error = AWAY
    assert world.call(PULL, site.headers()).status_code == 200
    assert world.call(PULL, edge_headers(site.certificate, new_key())).status_code == 403
    world.inner.status = 401
    assert world.call(PULL, site.headers()).status_code == 401


def test_what_flower_refuses_or_fails_at_is_recorded(world: World, site: TestSite) -> None:
    world.inner.status = 403
    assert world.call(PULL, site.headers()).status_code == 403
    world.inner.status = 500
    assert world.call(PULL, site.headers()).status_code == 503
    assert world.call(ACTIVATE, site.headers()).status_code == 503
    world.inner.error = RuntimeError("no disk")
    assert world.call(ACTIVATE, site.headers()).status_code == 503
    assert summary(world) == [
        ("charite", "pull-messages", "refused", "403 Flower's own check"),
        ("charite", "activate-node", "started", ""),
        ("charite", "activate-node", "failed", "503"),
        ("charite", "activate-node", "started", ""),
        ("charite", "activate-node", "failed", "503"),
    ]


def test_each_refusal_of_the_gate_says_who_and_why(world: World, authority: Authority, site: TestSite) -> None:
    token = site.headers()["X-Flowerbed-Edge"]
    replace(world.secrets / "crl.pem", authority.crl([site.certificate.serial_number]))
    world.use(Material(world.secrets, world.config))
    assert world.call(ACTIVATE, site.headers()).status_code == 403
    assert world.call(ACTIVATE, edge_headers()).status_code == 403
    around = {name: value for name, value in site.headers().items() if name != "X-Flowerbed-Edge"}
    assert world.call(PULL, around).status_code == 403
    assert world.call("/v1/control/start-automation", edge_headers()).status_code == 404
    assert world.call("/v1/fleet/ignore me", site.headers()).status_code == 404
    assert world.call("/v1/runtime/acquire-task", edge_headers()).status_code == 404
    assert world.call("/v1/nothing", edge_headers()).status_code == 404
    assert summary(world) == [
        ("charite", "activate-node", "refused", "403 revoked"),
        ("", "activate-node", "refused", "403 empty header x-flowerbed-client-cert"),
        ("", "pull-messages", "refused", "403 no valid edge token"),
        ("", "other", "refused", "404 route not allowed"),
        ("charite", "other", "refused", "404 route not allowed"),
    ]
    assert token not in "".join(world.audit.texts)


def test_a_refusal_that_repeats_itself_is_recorded_once_a_minute_with_how_often(world: World, site: TestSite) -> None:
    async def poll() -> None:
        for _ in range(5):
            await send()
        await asyncio.sleep(0.3)
        await send()
        await asyncio.sleep(0.5)
        await send()

    material = Material(world.secrets, world.config)
    world.gate._arrivals = Arrivals(world.trail, material, 0.2)
    headers = [(k.lower().encode(), v.encode()) for k, v in edge_headers(site.certificate, new_key()).items()]

    async def send() -> list[dict[str, Any]]:
        return await world.send(PULL, headers=[*headers, (b"content-length", b"0")], client=("192.0.2.9", 1))

    asyncio.run(poll())
    why = "403 certificate bound to another SuperNode key"
    assert [detail for _, _, _, detail in summary(world)] == [
        why,
        f"{why}; 4 times more in 0 s",
        f"{why}; once more in 0 s",
        why,
    ]


def test_many_kinds_of_refusals_are_recorded_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MAX_KINDS", 3)
    head = [(b"content-length", b"0")]

    async def flood() -> None:
        for number in range(9):
            await world.send(PULL, headers=head, client=(f"192.0.2.{number}", 1))

    asyncio.run(flood())
    assert [(r["source"], r["detail"]) for r in world.recorded()] == [
        *[(f"192.0.2.{n}", "403 no valid edge token") for n in range(3)],
        ("many", "many kinds"),
    ]
    assert len(world.gate._arrivals._repeats._known) == 4
