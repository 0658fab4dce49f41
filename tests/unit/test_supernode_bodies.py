"""What a request may bring to the SuperNode's Runtime API before it is authenticated. No Flower process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flowerbed_supernode import bodies
from flowerbed_supernode.bodies import BoundedBodies

Receive = Callable[[], Awaitable[Any]]


async def flower(_scope: Any, receive: Receive, send: Callable[[Any], Awaitable[None]]) -> None:
    """Answers with what it was given."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


async def ask(
    app: BoundedBodies,
    *chunks: bytes,
    announced: str | None = None,
    pause: float = 0,
    path: str = "/v1/runtime/push-object",
) -> tuple[int, bytes]:
    sent: list[Any] = []
    left = list(chunks)

    async def receive() -> Any:
        await asyncio.sleep(pause)
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    length = str(sum(map(len, chunks))) if announced is None else announced
    headers = [(b"content-length", length.encode())] if length else []
    await app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
    return sent[0]["status"], sent[1]["body"]


def test_a_body_arrives_whole() -> None:
    assert asyncio.run(ask(BoundedBodies(flower), b"one", b"", b"two")) == (200, b"onetwo")
    assert asyncio.run(ask(BoundedBodies(flower), b"")) == (200, b"")


@pytest.mark.parametrize(
    ("announced", "status"),
    [("", 411), ("-1", 411), ("x", 411), ("2", 413), (str(64 * 1024 * 1024 + 1), 413), ("9" * 5000, 413)],
)
def test_a_body_has_an_honest_length_of_64_mib_at_most(announced: str, status: int) -> None:
    assert asyncio.run(ask(BoundedBodies(flower), b"abc", announced=announced)) == (status, b"")


def test_what_holds_no_object_has_8_mib_at_most() -> None:
    status, _ = asyncio.run(
        ask(BoundedBodies(flower), b"", announced=str(8 * 1024 * 1024 + 1), path="/v1/runtime/push-messages")
    )
    assert status == 413


def test_a_slow_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SECONDS", 0.05)
    assert asyncio.run(ask(BoundedBodies(flower), b"a", b"b", pause=10)) == (408, b"")


def test_large_bodies_together_are_limited_and_small_ones_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "IN_FLIGHT", 300_000)
    app = BoundedBodies(flower)

    async def together() -> list[tuple[int, bytes]]:
        large = [ask(app, bytes(100_000), bytes(100_000), pause=0.05) for _ in range(2)]
        return await asyncio.gather(*large, ask(app, b"small", pause=0.12))

    first, second, small = asyncio.run(together())
    assert sorted((first[0], second[0])) == [200, 503]
    assert small == (200, b"small")
    assert asyncio.run(ask(app, bytes(200_000)))[0] == 200
