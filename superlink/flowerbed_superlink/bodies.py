"""Receives request bodies for the gate: counted as they arrive, within a time and a budget; not what is in them.

Flower reads a body whole before it authenticates its sender, so whoever can connect could fill the memory, or hold its
place for ever. A stated length reserves nothing. Each API has a budget of its own, so that none starves another, and in
the Fleet API so does each client certificate. A body counts until its request is answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from flowerbed_superlink.errors import Refused
from flowerbed_superlink.routes import CONTROL, FLEET, RUNTIME

if TYPE_CHECKING:
    from starlette.types import Message, Receive

MIB = 1024 * 1024
# All together; each body is held up to three times while it is parsed and stored, and the container has 1 GiB.
BUDGETS: Mapping[str, int] = {FLEET: 96 * MIB, CONTROL: 32 * MIB, RUNTIME: 64 * MIB}
CERTIFICATE_BUDGET = 64 * MIB

IDLE_S, BODY_S = 15.0, 60.0
MIN_RATE = 512 * 1024  # bytes per second, for what BODY_S is too short: a site's array of 64 MiB gets 188 s

_BUSY = "The SuperLink is busy, try again."
_SLOW = "The request's body did not arrive in time, try again."


class Disconnected(Exception):  # noqa: N818  not a fault
    """The client went away before its body was complete; there is nobody to answer."""


class Bodies:
    """What the bodies of all requests at work hold of their budgets."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()

    def holding(self, api: str, certificate: str | None = None) -> Holding:
        """Return an empty share of an API's budget, and of a certificate's."""
        limits = {api: BUDGETS[api]}
        if certificate is not None:
            limits[certificate] = CERTIFICATE_BUDGET
        return Holding(self._used, limits)


class Holding:
    """What one request's body holds; a context manager that gives it back."""

    def __init__(self, used: Counter[str], limits: Mapping[str, int]) -> None:
        self._used, self._limits, self._held = used, limits, 0

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Hold nothing from now on."""
        held, self._held = self._held, 0
        for key in self._limits:
            self._used[key] -= held
            if not self._used[key]:
                del self._used[key]

    async def receive(self, receive: Receive, length: int) -> Receive:
        """Read a body of `length` bytes; return a `receive` that gives it out at once, then what comes after it.

        Raises:
            Refused: 503, the budget is used up or the body came too slowly; every client of Flower's tries again.
            Disconnected: the client has gone.
        """
        loop, body, more = asyncio.get_running_loop(), bytearray(), True
        end = loop.time() + BODY_S + length / MIN_RATE
        while more:
            try:
                async with asyncio.timeout_at(min(end, loop.time() + IDLE_S)):
                    message = await receive()
            except TimeoutError:
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, _SLOW, f"{len(body)} of {length} bytes in time") from None
            if message["type"] != "http.request":
                raise Disconnected
            self._add(len(chunk := message.get("body", b"")))
            body += chunk
            more = message.get("more_body", False)
        return replay(bytes(body), receive)

    def _add(self, size: int) -> None:
        if any(self._used[key] + size > limit for key, limit in self._limits.items()):
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, _BUSY, "too many bytes in flight")
        self._held += size
        for key in self._limits:
            self._used[key] += size


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives out a whole body at once, then what `receive` gives."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
