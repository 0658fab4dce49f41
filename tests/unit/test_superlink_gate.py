"""The gate as an ASGI application: routes, token, sizes, and what it makes of Flower's failures."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_superlink.routes import CONTROL_ROUTES, FLEET_ROUTES, REFUSED, RUNTIME_ROUTES
from superlink_gate import World
from superlink_support import Authority, TestSite, edge_headers, new_site

FLEET = "/v1/fleet/pull-messages"
CONTROL = "/v1/control/list-runs"
RUNTIME = "/v1/runtime/acquire-task"
STREAM_LOGS = "/v1/control/stream-logs"
PULL = "/artifacts/" + "a" * 43


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
        (STREAM_LOGS, 64 * 1024, 200),
        (STREAM_LOGS, 64 * 1024 + 1, 413),
    ]:
        headers = [(b"x-flowerbed-edge", b"t" * 43), (b"content-length", str(size).encode())]
        assert world.scope(path, headers=headers)[0]["status"] == status


def test_limits_of_the_runtime_api(world: World) -> None:
    mib = 1024 * 1024
    for path, size, status in [
        ("/v1/runtime/push-object", 64 * mib, 200),
        ("/v1/runtime/push-object", 64 * mib + 1, 413),
        ("/v1/runtime/push-messages", 8 * mib, 200),
        ("/v1/runtime/push-messages", 8 * mib + 1, 413),
    ]:
        assert world.scope(path, headers=[(b"content-length", str(size).encode())])[0]["status"] == status, path


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


@pytest.mark.parametrize(("path", "allowed", "said"), [(STREAM_LOGS, 60, b"logs are followed"), (PULL, 8, b"download")])
def test_long_answers_are_served_to_so_many_at_once(world: World, path: str, allowed: int, said: bytes) -> None:
    headers = [(b"x-flowerbed-edge", b"t" * 43), (b"content-length", b"0")]
    method = "GET" if path == PULL else "POST"

    async def crowd() -> list[list[dict[str, Any]]]:
        world.inner.wait = asyncio.Event()
        calls = [asyncio.create_task(world.send(path, headers=headers, method=method)) for _ in range(allowed + 2)]
        await asyncio.sleep(0.05)
        world.inner.wait.set()
        return [await call for call in calls]

    for _ in range(2):
        answers = asyncio.run(crowd())
        assert [sent[0]["status"] for sent in answers] == [200] * allowed + [503] * 2
        assert all(said in sent[1]["body"] for sent in answers[allowed:])
