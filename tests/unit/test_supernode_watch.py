"""When a SuperNode counts as alive, when a stop may happen, which routes exist. No Flower process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.supernode.main import create_app

from flowerbed_supernode.liveness import HEARTBEAT_LIMIT, LOOP_LIMIT, Liveness
from flowerbed_supernode.routes import ALLOWED, AllowedRoutes
from flowerbed_supernode.stop import GracefulStop


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_alive_means_that_the_loop_moves_and_heartbeats_succeed() -> None:
    clock = Clock()
    liveness = Liveness(Path("unused"), clock)
    assert not liveness.well()
    liveness.step()
    assert not liveness.well()
    liveness.beat()
    assert liveness.well()
    clock.now += HEARTBEAT_LIMIT - 1
    liveness.step()
    assert liveness.well()
    clock.now += 2
    assert not liveness.well()
    liveness.beat()
    clock.now += LOOP_LIMIT - 1
    liveness.beat()
    assert not liveness.well()


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in kept.items():
        signal.signal(number, handler)


def leave(*_: object) -> None:
    raise SystemExit(0)


def stop_during(action: Any) -> Any:
    def run(*_args: object, **_kwargs: object) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return action()

    return run


def test_an_idle_supernode_leaves_at_once() -> None:
    stop = GracefulStop(20)
    stop.take_over(leave)
    stop.pull(lambda: None)
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)


def test_a_message_in_hand_is_answered_first() -> None:
    stop, sent = GracefulStop(20), []
    stop.take_over(leave)
    assert stop.pull(stop_during(lambda: 7)) == 7
    with pytest.raises(SystemExit):
        stop.push(lambda: sent.append("reply"))
    assert sent == ["reply"]


def test_a_pull_under_way_may_still_bring_a_message_and_an_empty_one_ends() -> None:
    stop = GracefulStop(20)
    stop.take_over(leave)
    with pytest.raises(SystemExit):
        stop.pull(stop_during(lambda: None))


def test_waiting_for_a_reply_has_an_end() -> None:
    stop = GracefulStop(0.05)
    stop.take_over(leave)
    stop.pull(lambda: 7)
    with pytest.raises(SystemExit):
        stop.push(stop_during(lambda: signal.pause()))


def test_every_allowed_route_exists_in_flower() -> None:
    paths = create_app().openapi()["paths"]
    for method, path in ALLOWED:
        assert method.lower() in paths[path], path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/runtime/create-task"),
        ("POST", "/v1/runtime/start-automation"),
        ("POST", "/v1/runtime/get-connector"),
        ("POST", "/v1/runtime/push-logs"),
        ("POST", "/v1/responses"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/runtime/acquire-task"),
        ("POST", "/v1/runtime/acquire-task/"),
        ("POST", "//v1/runtime/acquire-task"),
        ("POST", "/v1/runtime/pull-object/../create-task"),
    ],
)
def test_other_routes_are_refused_before_flower_sees_them(method: str, path: str) -> None:
    sent: list[Any] = []

    async def flower(*_: object) -> None:
        pytest.fail("the request was passed on")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(AllowedRoutes(flower)({"type": "http", "method": method, "path": path}, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 404
