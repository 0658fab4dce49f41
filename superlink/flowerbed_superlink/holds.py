"""Long polling: three routes of Flower's that would answer empty are kept waiting until they would not.

Runs within Flower's authentication of SuperNodes and the translation of bodies, around the check of submissions and the routes.
A request that waits asks Flower's route exactly once, at the end, or never where it must be answered empty. It decides nothing
about what is answered: routes that are not waited for, and requests that do not verify, pass at once and as they are.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Response
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    AcquireTaskResponse,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
)
from flwr.supercore.constant import MAX_TIMESTAMP_DIFF_SECONDS, MIN_TIMESTAMP_DIFF_SECONDS
from flwr.supercore.error import ApiErrorCode, FlowerError
from sqlalchemy.exc import SQLAlchemyError

from flowerbed_superlink import verifying
from flowerbed_superlink.log import event
from flowerbed_superlink.looking import Answer, Question, foreign
from flowerbed_superlink.routes import CONTROL, FLEET, RUNTIME
from flowerbed_superlink.visit import Visit, visit_of
from flowerbed_superlink.waiting import LIMIT_S, End, Hold, Kind, Waiting

if TYPE_CHECKING:
    from google.protobuf.message import Message as ProtoMessage
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FLEET_PULL, ACQUIRE, RUNTIME_PULL = FLEET + "pull-messages", RUNTIME + "acquire-task", RUNTIME + "pull-messages"
# Bytes of a body that may wait: it does not count in the gate's budgets meanwhile. 1,000 message ids are 66,000 bytes.
LONGEST = {FLEET_PULL: 4096, ACQUIRE: 4096, RUNTIME_PULL: 128 * 1024}
EMPTY: dict[str, Callable[[], ProtoMessage]] = {
    FLEET_PULL: PullMessagesResponse,
    ACQUIRE: AcquireTaskResponse,
    RUNTIME_PULL: PullAppMessagesResponse,
}
# For whom there may be something once such a request is answered. Flower's heartbeats and pulls make nothing ready.
CHANGES: dict[str, frozenset[Kind]] = {
    RUNTIME + "push-messages": frozenset({Kind.NODE}),
    RUNTIME + "push-object": frozenset({Kind.NODE}),
    RUNTIME + "push-task-output": frozenset(Kind),
    RUNTIME + "create-task": frozenset({Kind.EXECUTOR}),
    FLEET + "push-messages": frozenset({Kind.TASK}),
    FLEET + "push-object": frozenset({Kind.TASK}),
    FLEET + "activate-node": frozenset({Kind.NODE, Kind.TASK}),
    FLEET + "deactivate-node": frozenset({Kind.NODE, Kind.TASK}),
    FLEET + "confirm-message-received": frozenset({Kind.NODE, Kind.TASK}),
    CONTROL + "start-run": frozenset({Kind.EXECUTOR}),
    CONTROL + "stop-run": frozenset(Kind),
    CONTROL + "register-node": frozenset({Kind.NODE}),
    CONTROL + "unregister-node": frozenset({Kind.NODE, Kind.TASK}),
}
THREADS = 8  # that verify; each asks the database once
T = TypeVar("T")


@asynccontextmanager
async def release_at_stop(app: FastAPI) -> AsyncIterator[None]:
    """Let everybody go as soon as uvicorn is told to stop: it waits for requests before it says so to the application.

    uvicorn's handler is called as before; it puts back the ones before its own at its end.
    """
    waiting: Waiting | None = getattr(app.state, "waiting", None)
    loop = asyncio.get_running_loop()
    if waiting is None or threading.current_thread() is not threading.main_thread():
        yield None
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)

        def told(signum: int, frame: FrameType | None, before: object = before) -> None:
            loop.call_soon_threadsafe(waiting.stop)
            if callable(before):
                before(signum, frame)

        signal.signal(number, told)
    yield None
    waiting.stop()


class Holds:
    """Keep pulls waiting until there is something to pull."""

    def __init__(self, app: ASGIApp, waiting: Waiting) -> None:
        self._app, self._waiting = app, waiting
        self._nonces: set[str] = set()  # of requests that wait: Flower does not know them yet
        self._threads: CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as the ASGI specification 3.0 says."""
        path = scope["path"] if scope["type"] == "http" else ""
        if path in CHANGES:
            await self._change(CHANGES[path], scope, receive, send)
            return
        visit = visit_of(scope) if path in EMPTY else None
        hold = await self._hold(path, scope, visit) if visit is not None else None
        if visit is None or hold is None or not self._waiting.has_room():
            await self._app(scope, receive, send)
            return
        with self._keeping(scope, hold) as nonce:
            visit.give_back()
            end = await self._waiting.wait(hold, lambda: _gone(visit.receive))
            if end is End.GO_ON and visit.again() is None:
                await self._app(scope, receive, send)
                return
            if nonce is not None:
                await self._use_up(scope, nonce)
        _refuse(end, visit)
        await _answer_empty(path, scope, receive, send)

    @contextmanager
    def _keeping(self, scope: Scope, hold: Hold) -> Iterator[str | None]:
        """Take no other request with this SuperExec's nonce until Flower has written it down; it is None for all others.

        Raises:
            FlowerError: there is one already, as Flower says it of a nonce that was used.
        """
        nonce = verifying.executor_nonce(_headers(scope)) if hold.kind is Kind.EXECUTOR else None
        self._check_nonce(nonce)
        try:
            self._nonces.update([nonce] if nonce is not None else [])
            yield nonce
        finally:
            self._nonces.discard(nonce or "")

    def _check_nonce(self, nonce: str | None) -> None:
        if nonce in self._nonces:
            raise FlowerError(
                ApiErrorCode.RUNTIME_AUTHENTICATION_FAILED, "SuperExec's nonce belongs to a waiting request."
            )

    async def _change(self, kinds: frozenset[Kind], scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and wake as soon as it is answered: what it wrote is committed then."""

        async def sending(message: Message) -> None:
            # Whoever is refused has changed nothing, and must not have the database asked.
            if message["type"] == "http.response.start" and not 400 <= message["status"] < 500:
                self._waiting.changed(kinds)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except BaseException:
            self._waiting.changed(kinds)  # it may have done its work all the same
            raise

    async def _hold(self, path: str, scope: Scope, visit: Visit) -> Hold | None:
        """Return how a request is to wait, or None for one that must not."""
        request = scope.get("state", {}).get("protobuf_request")
        if visit.length > LONGEST[path] or not self._waiting.has_room():
            return None
        try:
            if isinstance(request, PullMessagesRequest):
                return _node(request, visit)
            if isinstance(request, PullAppMessagesRequest):
                return await self._task(request, scope, visit)
            if isinstance(request, AcquireTaskRequest):
                return await self._executor(request, scope, visit)
        except SQLAlchemyError as error:
            event("hold-not-verified", path=path, error=type(error).__name__)
        return None

    async def _task(self, request: PullAppMessagesRequest, scope: Scope, visit: Visit) -> Hold | None:
        token, wanted = verifying.task_token(_headers(scope)), frozenset(request.message_ids)
        if token is None or not wanted or await self._thread(lambda: foreign(_state(scope), token, wanted)):
            return None
        question = Question(tokens=frozenset({token}), messages=wanted)

        def ready(answer: Answer) -> bool:
            return token not in answer.valid or wanted <= answer.settled

        return Hold(Kind.TASK, token, ready, question, visit.again)

    async def _executor(self, request: AcquireTaskRequest, scope: Scope, visit: Visit) -> Hold | None:
        headers, secret = _headers(scope), scope["app"].state.superexec_auth_secret
        types, bundles = frozenset(request.supported_task_types), frozenset(request.agentapp_fab_hashes)
        self._check_nonce(verifying.executor_nonce(headers))
        if not secret or not types | bundles:
            return None
        if not await self._thread(lambda: verifying.is_executor(_state(scope), secret, headers, request, LIMIT_S)):
            return None

        def ready(answer: Answer) -> bool:
            return answer.lapsed or bool(types & answer.types) or bool(bundles & answer.bundles)

        address = (scope.get("client") or ("", 0))[0]
        return Hold(Kind.EXECUTOR, (address, types, bundles), ready, Question(executors=True), visit.again)

    async def _use_up(self, scope: Scope, nonce: str) -> None:
        """Write down a nonce that Flower's route will not be asked with."""
        expires = time.time() + MAX_TIMESTAMP_DIFF_SECONDS - MIN_TIMESTAMP_DIFF_SECONDS
        try:
            await self._thread(lambda: _state(scope).reserve_nonce(verifying.NAMESPACE, nonce, expires))
        except SQLAlchemyError as error:
            event("nonce-not-kept", error=type(error).__name__)

    async def _thread(self, work: Callable[[], T]) -> T:
        self._threads = self._threads or CapacityLimiter(THREADS)
        return await to_thread.run_sync(work, limiter=self._threads)


def _node(request: PullMessagesRequest, visit: Visit) -> Hold:
    """Return how a SuperNode waits; Flower has authenticated it."""
    node = request.node.node_id
    question = Question(nodes=frozenset({node}))
    return Hold(Kind.NODE, node, lambda answer: node in answer.with_messages, question, visit.again)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _refuse(end: End, visit: Visit) -> None:
    """Raise for what must not be answered empty.

    Raises:
        HTTPException: the gate does not let the request in any more, or the node has been removed, in Flower's own words.
    """
    if visit.refused is not None:
        raise HTTPException(visit.refused.status, visit.refused.detail)
    if end is End.UNKNOWN:
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "Invalid SuperNode authentication")


async def _answer_empty(path: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer that there is nothing, as Flower's handlers do: the translation of bodies makes the response."""
    scope["state"]["protobuf_response"] = EMPTY[path]()
    await Response()(scope, receive, send)


def _state(scope: Scope) -> Any:  # noqa: ANN401  Flower's LinkState, with ours behind it
    return scope["app"].state.linkstate_factory.state()


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return found
