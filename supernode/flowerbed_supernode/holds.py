"""Holds SuperExec's question for a task until there is one whose message is wholly there; not for other routes.

Flower creates a task before it has stored its message and pulled the message's objects. A ClientApp that is faster
fails ("No messages received") or waits a second for an object. So no task can be claimed before that (`Incoming`), and
the question is answered at that moment (`HeldAcquires`). Holding is plain ASGI: a held question costs no thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI
from flwr.common.constant import Status
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.proto.task_pb2 import Task
from flwr.supercore.corestate import CoreState
from flwr.supercore.dependencies.superexec import authenticate_superexec_request
from flwr.supercore.error import FlowerError
from flwr.supercore.exit import add_exit_handler
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from google.protobuf.message import DecodeError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

HOLD_SECONDS = 20.0
"""How long a question is held at most: SuperExec reads for 30 s."""

LOOK_SECONDS = 1.0
"""How often a held question looks by itself: a task can become pending again when its token expires."""

PATH = "/v1/runtime/acquire-task"
_METHOD = "/flwr.proto.Runtime/AcquireTask"


class Incoming:
    """The tasks of this SuperNode, and whether the message of the newest is still on its way in. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pulling = self._receiving = False
        self._open: dict[int, Task] = {}
        self._listeners: set[Callable[[], None]] = set()

    @contextmanager
    def pull(self) -> Iterator[None]:
        """Within one pull of the main loop's: a task that it creates cannot be claimed until it has ended."""
        self._pulling = True
        try:
            yield
        finally:
            with self._lock:
                self._pulling = self._receiving = False
            self.tell()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener`, from any thread, when a pull has ended; return what ends that."""
        with self._lock:
            self._listeners.add(listener)

        def forget() -> None:
            with self._lock:
                self._listeners.discard(listener)

        return forget

    def tell(self) -> None:
        """Call every listener."""
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def ready(self, request: AcquireTaskRequest) -> bool:
        """Return whether the request would be given a task now. Changes nothing in Flower's state."""
        with self._lock:
            if self._receiving:
                return False
            for task_id, task in list(self._open.items()):
                if task.status.status == Status.FINISHED:
                    del self._open[task_id]
            return any(
                task.type in request.supported_task_types or task.fab_hash in request.agentapp_fab_hashes
                for task in self._open.values()
                if task.status.status == Status.PENDING
            )

    def install(self) -> None:
        """Wrap what creates a task and what claims one."""
        node_state = import_module("flwr.supernode.nodestate.in_memory_nodestate").InMemoryNodeState
        create, claim = node_state.create_task, node_state.claim_task

        @wraps(create)
        def create_and_keep(state: InMemoryNodeState, *args: Any, **kwargs: Any) -> int | None:  # noqa: ANN401 - Flower's
            with self._lock:
                self._receiving = self._pulling
            task_id: int | None = create(state, *args, **kwargs)
            if task_id is not None:
                with self._lock:
                    self._open[task_id] = state.task_store[task_id]
            return task_id

        @wraps(claim)
        def claim_if_whole(state: InMemoryNodeState, task_id: int) -> str | None:
            with self._lock:
                return None if self._receiving else claim(state, task_id)

        node_state.create_task, node_state.claim_task = create_and_keep, claim_if_whole


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
    newer question from the same address has replaced this one, and when the SuperNode stops (both answered empty).
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
        wanted, address = _verified(scope, body), (scope.get("client") or ("", 0))[0]
        ended = await self._hold(wanted, address, receive) if wanted else None
        if ended is _End.DISCONNECTED:
            return
        if ended:
            await _answer_empty(send)
        else:
            await self._app(scope, _replaying(body, receive), send)

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
        self._stopped = False

    @contextmanager
    def by(self, address: str, hold: _Hold) -> Iterator[None]:
        """While a hold lasts; it replaces an older one of the same address."""
        if self._stopped:
            hold.end(_End.STOPPED)
        if older := self._holds.get(address):
            older.end(_End.REPLACED)
        self._holds[address] = hold
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


class _Unreserved:
    """Flower's store of nonces, read only: the nonce is reserved when the question reaches Flower's own route."""

    def __init__(self, state: InMemoryNodeState) -> None:
        self._state, self.fresh = state, False

    def reserve_nonce(self, namespace: str, nonce: str, expires_at: float) -> bool:
        """Return whether it could be reserved."""
        del expires_at
        self.fresh = (namespace, nonce) not in self._state.nonce_store
        return self.fresh


def _verified(scope: Scope, body: bytes) -> AcquireTaskRequest | None:
    """Return the question if it may be held: it asks for something, and Flower's own check accepts who asks."""
    request = Request({**scope, "state": {}})
    nonces = _Unreserved(request.app.state.runtime_state_factory.state())
    try:
        wanted = AcquireTaskRequest.FromString(body)
        request.state.protobuf_request = wanted
        authenticate_superexec_request(request, cast(CoreState, nonces), _METHOD)
    except (DecodeError, FlowerError):
        return None
    # Without a secret Flower accepts everybody and asks for no nonce: nobody is held.
    return wanted if nonces.fresh and (wanted.supported_task_types or wanted.agentapp_fab_hashes) else None


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


async def _answer_empty(send: Send) -> None:
    """Answer as Flower does when there is no task: a message without fields has no bytes."""
    headers = [(b"content-type", PROTOBUF_MEDIA_TYPE.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
