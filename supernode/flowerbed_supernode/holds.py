"""Holds SuperExec's question for a task until there is one whose message is wholly there; not for other routes.

When that is, `incoming` knows. Holding is plain ASGI: a held question costs no thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, cast

from fastapi import FastAPI
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.corestate import CoreState
from flwr.supercore.dependencies.superexec import authenticate_superexec_request
from flwr.supercore.error import FlowerError
from flwr.supercore.exit import add_exit_handler
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from google.protobuf.message import DecodeError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .incoming import Incoming

if TYPE_CHECKING:
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

HOLD_SECONDS = 20.0
"""How long a question is held at most: SuperExec reads for 30 s."""

LOOK_SECONDS = 1.0
"""How often a held question looks by itself: a task can become pending again when its token expires."""

PATH = "/v1/runtime/acquire-task"
_METHOD = "/flwr.proto.Runtime/AcquireTask"


def install(incoming: Incoming) -> Callable[[FastAPI], None]:
    """Keep tasks from being claimed too early; return what adds the middleware to the Runtime API's app."""
    incoming.install()
    held = Held()
    # First of all when Flower exits, for whatever reason: its server waits 3 s for questions under way.
    add_exit_handler(held.stop, run_before_force_exit=True)
    return lambda app: app.add_middleware(HeldAcquires, incoming=incoming, held=held)


class _End(Enum):
    """Why a hold has ended before there was a task and before its time was over."""

    DISCONNECTED = "disconnected"
    REPEATED = "repeated"
    REPLACED = "replaced"
    STOPPED = "stopped"


class _Hold:
    """One held question. Only `wake` may be called from another thread than its event loop's."""

    def __init__(self) -> None:
        self._loop, self._woken = asyncio.get_running_loop(), asyncio.Event()
        self.ended: _End | None = None

    def wake(self) -> None:
        # The loop is closed when the server has ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._woken.set)

    def end(self, why: _End) -> None:
        self.ended = why
        self.wake()

    async def woken(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        self._woken.clear()


class HeldAcquires:
    """Middleware: a verified question for a task waits until there is one; every other request passes.

    Flower's own route is called once, with the question as it came, or not at all: when the client has gone, when a
    newer question from the same address has replaced this one, and when the SuperNode stops (both answered empty). A
    second request with the nonce of one that is held is refused.
    """

    def __init__(self, app: ASGIApp, incoming: Incoming, held: Held) -> None:
        self._app, self._incoming, self._held = app, incoming, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the request, or pass it on as it is."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        body = await _body(receive)
        if body is None:
            return
        question = _verified(scope, body)
        if question is None:
            await self._app(scope, _replaying(body, receive), send)
            return
        with self._held.nonce(question) as new:
            ended = await self._hold(question.wanted, question.address, receive) if new else _End.REPEATED
            if ended is None:
                await self._app(scope, _replaying(body, receive), send)
            elif ended is not _End.DISCONNECTED:
                await _answer(send, 401 if ended is _End.REPEATED else 200)

    async def _hold(self, wanted: AcquireTaskRequest, address: str, receive: Receive) -> _End | None:
        """Wait for a task; return what ended the wait instead, None for a task or the end of its time."""
        hold, deadline = _Hold(), time.monotonic() + HOLD_SECONDS
        watcher = asyncio.ensure_future(_watch(receive, hold))
        forget = self._incoming.listen(hold.wake)
        with self._held.by(address, hold):
            try:
                while not hold.ended and not self._incoming.ready(wanted):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        break
                    await hold.woken(min(left, LOOK_SECONDS))
                # A disconnection that has arrived meanwhile is seen before a task is claimed for nobody.
                await asyncio.sleep(0)
            finally:
                forget()
                watcher.cancel()
        return hold.ended


class Held:
    """The holds of one SuperNode: at most one for each address, none once it stops."""

    def __init__(self) -> None:
        self._holds: dict[str, _Hold] = {}
        self._nonces: set[str] = set()
        self._stopped = False

    @contextmanager
    def nonce(self, question: _Question) -> Iterator[bool]:
        """While a question is held and answered; False if one with its nonce is. Used up at the end, as by Flower's route."""
        if question.nonce in self._nonces:
            yield False
            return
        self._nonces.add(question.nonce)
        try:
            yield True
        finally:
            # False where Flower's route has done so.
            question.use_up()
            self._nonces.discard(question.nonce)

    @contextmanager
    def by(self, address: str, hold: _Hold) -> Iterator[None]:
        """While a hold lasts; it replaces an older one of the same address."""
        if older := self._holds.get(address):
            older.end(_End.REPLACED)
        self._holds[address] = hold
        # Only now: `stop` says so before it looks at the holds, so one of the two sees the other.
        if self._stopped:
            hold.end(_End.STOPPED)
        try:
            yield
        finally:
            if self._holds.get(address) is hold:
                del self._holds[address]

    def stop(self) -> None:
        """End every hold, and each that comes; from any thread."""
        self._stopped = True
        for hold in list(self._holds.values()):
            hold.end(_End.STOPPED)


@dataclass
class _Question:
    """A question for a task, and its nonce, which Flower reserves when its own route is called.

    Stands in for Flower's store of nonces in Flower's own check: it only looks whether the nonce is there.
    """

    wanted: AcquireTaskRequest
    address: str
    state: InMemoryNodeState
    reservation: tuple[str, str, float] | None = None

    @property
    def nonce(self) -> str:
        """The nonce; empty if Flower's check did not come to it."""
        return self.reservation[1] if self.reservation else ""

    def reserve_nonce(self, namespace: str, nonce: str, expires_at: float) -> bool:
        """Return whether it could be reserved."""
        self.reservation = (namespace, nonce, expires_at)
        return (namespace, nonce) not in self.state.nonce_store

    def use_up(self) -> None:
        """Reserve the nonce if Flower's route has not."""
        if self.reservation:
            self.state.reserve_nonce(*self.reservation)


def _verified(scope: Scope, body: bytes) -> _Question | None:
    """Return the question if it may be held: it asks for something, and Flower's own check accepts who asks."""
    request = Request({**scope, "state": {}})
    try:
        wanted = AcquireTaskRequest.FromString(body)
        state = request.app.state.runtime_state_factory.state()
        question = _Question(wanted, (scope.get("client") or ("", 0))[0], state)
        request.state.protobuf_request = wanted
        authenticate_superexec_request(request, cast(CoreState, question), _METHOD)
    except (DecodeError, FlowerError):
        return None
    # Without a secret Flower accepts everybody and asks for no nonce: nobody is held.
    return question if question.nonce and (wanted.supported_task_types or wanted.agentapp_fab_hashes) else None


async def _body(receive: Receive) -> bytes | None:
    """Return the whole body (bounded by `bodies`), None if the client has gone."""
    chunks, more = [], True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks)


async def _watch(receive: Receive, hold: _Hold) -> None:
    """End the hold when the client goes away: nothing else can arrive after the body."""
    while (await receive())["type"] != "http.disconnect":
        pass
    hold.end(_End.DISCONNECTED)


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that hands the body over once; then the server's own, which tells of a disconnection."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


async def _answer(send: Send, status: int) -> None:
    """Answer without a task: in Flower's form that is a message without fields, which has no bytes."""
    headers = [(b"content-type", PROTOBUF_MEDIA_TYPE.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
