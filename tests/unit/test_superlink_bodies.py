"""Bodies at the gate: what arrives counts, not what is announced; within a time, and a budget of each API's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from flowerbed_superlink import bodies
from superlink_gate import Body, World
from superlink_support import Authority, TestSite, new_site

FLEET = "/v1/fleet/push-object"
CONTROL = "/v1/control/start-run"
RUNTIME = "/v1/runtime/push-object"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def sites(authority: Authority) -> list[TestSite]:
    return [new_site(authority, "charite", "Charité"), new_site(authority, "leipzig", "Uniklinik Leipzig")]


@pytest.fixture
def world(tmp_path: Path, authority: Authority, sites: list[TestSite]) -> World:
    return World(tmp_path, authority, sites)


def _call(world: World, path: str, size: int, receive: Any = None, site: int = 0) -> asyncio.Task[list[dict[str, Any]]]:
    headers = [(b"content-length", str(size).encode())]
    if path != RUNTIME:
        headers += [(k.lower().encode(), v.encode()) for k, v in world.sites[site].headers().items()]
    return asyncio.create_task(world.send(path, receive, headers=headers))


async def _statuses(calls: list[asyncio.Task[list[dict[str, Any]]]]) -> list[int]:
    return [(await call)[0]["status"] for call in calls]


def _run(work: Awaitable[list[int]]) -> list[int]:
    async def bounded() -> list[int]:
        return await asyncio.wait_for(work, 20)

    return asyncio.run(bounded())


def test_idle_connections_reserve_nothing(world: World) -> None:
    """Three sockets that announce 64 MiB each and send nothing stopped everything."""

    async def work() -> list[int]:
        never = asyncio.Event()
        idle = [_call(world, path, 64 * MIB, Body(64 * MIB, never, 64 * MIB)) for path in (RUNTIME, FLEET) * 4]
        await asyncio.sleep(0.05)
        calls = [_call(world, FLEET, 5 * MIB), _call(world, CONTROL, 5 * MIB), _call(world, RUNTIME, 5 * MIB)]
        statuses = await _statuses(calls)
        for call in idle:
            call.cancel()
        return statuses

    assert _run(work()) == [200, 200, 200]


@pytest.mark.parametrize("limit", ["IDLE_S", "BODY_S"])
def test_a_body_that_comes_too_slowly_is_refused(world: World, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(bodies, limit, 0.3)

    async def trickle() -> dict[str, Any]:
        await asyncio.sleep(0.1 if limit == "BODY_S" else 5)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def work() -> list[int]:
        return await _statuses([_call(world, path, 1000, trickle) for path in (FLEET, CONTROL, RUNTIME)])

    assert _run(work()) == [503, 503, 503]
    assert world.inner.reached == []


def test_one_api_cannot_starve_another(world: World) -> None:
    async def work() -> list[int]:
        world.inner.wait = asyncio.Event()
        runtime = [_call(world, RUNTIME, 30 * MIB) for _ in range(4)]
        await asyncio.sleep(0.2)
        others = [_call(world, FLEET, 30 * MIB), _call(world, CONTROL, 10 * MIB)]
        await asyncio.sleep(0.2)
        world.inner.wait.set()
        return await _statuses(runtime + others)

    for _ in range(2):  # what was held is given back
        statuses = _run(work())
        assert sorted(statuses[:4]) == [200, 200, 503, 503]
        assert statuses[4:] == [200, 200]


def test_one_site_cannot_starve_another(world: World) -> None:
    async def work() -> list[int]:
        world.inner.wait = asyncio.Event()
        first = [_call(world, FLEET, 30 * MIB) for _ in range(4)]
        await asyncio.sleep(0.2)
        second = [_call(world, FLEET, 20 * MIB, site=1)]
        await asyncio.sleep(0.2)
        world.inner.wait.set()
        return await _statuses(first + second)

    statuses = _run(work())
    assert sorted(statuses[:4]) == [200, 200, 503, 503]
    assert statuses[4] == 200


def test_bodies_reach_flower_whole_and_what_comes_after_them_too(world: World) -> None:
    async def work() -> list[int]:
        return await _statuses([_call(world, FLEET, 3 * MIB + 7, Body(3 * MIB + 7, chunk=1000))])

    assert _run(work()) == [200]
    assert world.inner.bytes == 3 * MIB + 7


def test_a_client_that_leaves_is_forgotten(world: World) -> None:
    async def leave() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def work() -> list[int]:
        return [len(await _call(world, RUNTIME, 60 * MIB, leave)) for _ in range(3)]

    assert _run(work()) == [0, 0, 0]
    assert world.inner.reached == []
