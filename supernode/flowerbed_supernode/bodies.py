"""Bounds what a request may bring before anybody has looked at who sends it.

Flower reads a request's whole body into memory before it authenticates. So bodies are read here first: announced,
counted, limited in size and time, and limited in sum over all requests. Not for rates: tasks are few.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIB = 1024 * 1024

LARGEST = 64 * MIB
"""Bytes of one body; Flower's own are arrays in parts of 5 MiB and app bundles of at most 10 MiB."""

MESSAGES = 8 * MIB
"""Bytes of a body that holds no object and no context: what is empty in it takes 26 times its size once parsed."""

LARGE = ("/push-object", "/push-task-output")

IN_FLIGHT = 256 * MIB
"""Bytes of all bodies that are being received or answered."""

SMALL = 64 * 1024
"""Bodies of up to so many bytes do not count: what SuperExec asks and heartbeats go on when others fill the sum."""

SECONDS = 60.0
"""How long one body may take to arrive."""


class RefusedError(Exception):
    """The request gets this status and no more attention."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class BoundedBodies:
    """Middleware: 411 without a length, 413 over the limit, 408 when it is slow, 503 when too much is in flight."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then pass the request on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        counted: list[int] = []
        try:
            try:
                body = await asyncio.wait_for(self._read(_announced(scope), receive, counted), SECONDS)
            except RefusedError as refusal:
                await _refuse(send, refusal.status)
                return
            except TimeoutError:
                await _refuse(send, 408)
                return
            await self._app(scope, _replaying(body, receive), send)
        finally:
            self._in_flight -= sum(counted)

    async def _read(self, announced: int, receive: Receive, counted: list[int]) -> bytes:
        chunks, more, received = [], True, 0
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise RefusedError(400)
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
            received += len(chunks[-1])
            if received > announced:
                raise RefusedError(413)
            if announced > SMALL:
                counted.append(len(chunks[-1]))
                self._in_flight += len(chunks[-1])
                if self._in_flight > IN_FLIGHT:
                    raise RefusedError(503)
        return b"".join(chunks)


def _announced(scope: Scope) -> int:
    """Return the body's announced length.

    Raises:
        RefusedError: 411 without one, 413 over the limit.
    """
    length = dict(scope["headers"]).get(b"content-length", b"")
    if not length.isdigit():
        raise RefusedError(411)
    most = LARGEST if scope["path"].endswith(LARGE) else MESSAGES
    if len(length) > len(str(most)) or int(length) > most:
        raise RefusedError(413)
    return int(length)


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that hands the body over once; then the server's own, which tells of a disconnection."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


async def _refuse(send: Send, status: int) -> None:
    # Closed, for what is left of the body must not be read either.
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
