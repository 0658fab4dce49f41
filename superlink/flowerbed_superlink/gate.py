"""The outermost ASGI middleware: decides, before Flower sees a request, whether it may come in at all.

It holds to "The edge and the SuperLink's middleware" in docs/contracts.md. It does not authenticate people or nodes
(Flower does, afterwards), and it does not terminate TLS (the edge does).

What a refusal answers is chosen by what a SuperNode makes of it: 403 it reads as "this run is not running" and goes on
polling, 503 it retries, 401 would interrupt its process and any other 5xx would end its main loop for good. So nothing
here answers 401, and no 5xx but 502 to 504 leaves `/v1/fleet/`.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from flowerbed_superlink.bodies import MIB, Bodies, Disconnected, Holding
from flowerbed_superlink.errors import MaterialError, Refused
from flowerbed_superlink.log import event
from flowerbed_superlink.material import CERTIFICATE_HEADER, EDGE_HEADER, PUBLIC_KEY_HEADER
from flowerbed_superlink.routes import (
    ARTIFACTS,
    CONTROL,
    CONTROL_ROUTES,
    FLEET,
    FLEET_ROUTES,
    HEALTH,
    OUR_ROUTES,
    RUNTIME,
    RUNTIME_ROUTES,
)
from flowerbed_superlink.visit import Visit, announce

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from flowerbed_superlink.arrivals import Arrivals
    from flowerbed_superlink.material import Material


# One object's content, or a task's context. All else is parsed to much more than its size: what is empty counts a byte or two.
LARGEST_BODY = 64 * MIB
LARGE = frozenset({FLEET + "push-object", RUNTIME + "push-object", RUNTIME + "push-task-output"})
MESSAGES_BODY = 8 * MIB
START_RUN_BODY = 11 * MIB  # an app bundle is at most 10 MiB
CONTROL_BODY = MIB
STREAM_BODY = MIB // 16  # held in the budget for as long as a log is followed
LOGIN_BODY = MIB // 32  # of people whom nobody knows yet

# How many may be served at once. A followed log holds a handler's thread (extensions.THREADS) until its run ends.
START_RUN, STREAM_LOGS = CONTROL + "start-run", CONTROL + "stream-logs"
LOGINS = {CONTROL + name: LOGIN_BODY for name in ("get-login-details", "get-auth-tokens", "refresh-auth-tokens")}
# A login waits for the identity provider: one that hangs must not hold the threads that SuperNodes need.
AT_ONCE = {STREAM_LOGS: 60, ARTIFACTS: 8} | dict.fromkeys(LOGINS, 30)

_CROWDED = {
    STREAM_LOGS: "Too many logs are followed at the moment, try again or use `flwr log RUN --show`.",
    ARTIFACTS: "Too many results are downloaded at the moment, try again: the link stays valid.",
} | dict.fromkeys(LOGINS, "Too many people log in at the moment, try again.")
_NO_ROUTE = "This federation does not offer that route."
_TOKEN_PATH = re.compile(r"/artifacts/[A-Za-z0-9_-]{43}", re.ASCII)
_KEPT_5XX = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})


@dataclass(frozen=True)
class Head:
    """The parts of a request that decisions are made on."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    client: str
    raw: str  # the path as it was sent, for the log only

    def all(self, name: bytes) -> list[bytes]:
        """Return every value of a header, in order; ASGI gives names in lower case."""
        return [value for key, value in self.headers if key == name]


class Gate:
    """Refuse what is not allowed; never let a Fleet request end in a 5xx that ends a SuperNode."""

    def __init__(self, app: ASGIApp, material: Material, arrivals: Arrivals) -> None:
        self._app, self._material, self._arrivals = app, material, arrivals
        self._bodies = Bodies()
        self._serving: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as the ASGI specification 3.0 says."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = _head(scope)
        with ExitStack() as held:
            try:
                length = decide(head, self._material)
                holding = held.enter_context(self._holding(head))
                if head.method == "POST":
                    receive = await holding.receive(receive, length)
                held.enter_context(self._place(head))
                await self._arrivals.begin(head)
            except Disconnected:
                return
            except Refused as refused:
                _log_refusal(head, refused)
                self._arrivals.refused(head, refused)
                await _answer(send, refused.status, refused.detail)
                return
            visit = Visit(length, receive, lambda: decide(head, self._material), holding.give_back)
            await self._pass(head, visit, scope, send)

    def _holding(self, head: Head) -> Holding:
        if head.path.startswith(FLEET):
            return self._bodies.holding(FLEET, _single(head, CERTIFICATE_HEADER))
        return self._bodies.holding(CONTROL if head.path.startswith(CONTROL) else RUNTIME)

    @contextmanager
    def _place(self, head: Head) -> Iterator[None]:
        kind = ARTIFACTS if head.path.startswith(ARTIFACTS) else head.path
        if self._serving[kind] >= AT_ONCE.get(kind, sys.maxsize):
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, _CROWDED[kind], "too many at once")
        self._serving[kind] += 1
        try:
            yield
        finally:
            self._serving[kind] -= 1

    async def _pass(self, head: Head, visit: Visit, scope: Scope, send: Send) -> None:
        scope["headers"] = [h for h in scope["headers"] if h[0] not in (EDGE_HEADER, CERTIFICATE_HEADER)]
        announce(scope, visit)
        if head.path.startswith(FLEET):
            await _guard_fleet(self._app, scope, visit.receive, send, lambda status: self._ended(head, visit, status))
        else:
            await self._app(scope, visit.receive, send)

    def _ended(self, head: Head, visit: Visit, status: int) -> None:
        if visit.refused is not None:
            _log_refusal(head, visit.refused)
            self._arrivals.refused(head, visit.refused)
        else:
            self._arrivals.ended(head, status)


def decide(head: Head, material: Material) -> int:
    """Let a request pass and return the length of its body in bytes, or raise.

    Raises:
        Refused: the request must not reach Flower.
    """
    if head.path == HEALTH and head.method in ("GET", "HEAD"):
        return 0
    _check_route(head)
    try:
        if head.path.startswith(RUNTIME):
            _check_inside(head)
        else:
            _check_edge(head, material)
        if head.path.startswith(FLEET):
            _check_site(head, material)
    except MaterialError as error:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "The SuperLink is not ready, try again.", str(error)) from error
    return _check_body(head)


def _check_route(head: Head) -> None:
    api = FLEET_ROUTES | CONTROL_ROUTES | RUNTIME_ROUTES
    if head.method == "POST" and head.path in api:
        return
    if head.method == "GET" and (head.path in OUR_ROUTES or _TOKEN_PATH.fullmatch(head.path)):
        return
    raise Refused(HTTPStatus.NOT_FOUND, _NO_ROUTE, "route not allowed")


def _check_inside(head: Head) -> None:
    if head.all(EDGE_HEADER):
        raise Refused(HTTPStatus.NOT_FOUND, _NO_ROUTE, "Runtime API with edge header")


def _check_edge(head: Head, material: Material) -> None:
    if not material.from_edge(head.all(EDGE_HEADER)):
        raise Refused(HTTPStatus.FORBIDDEN, "This API is served through the edge only.", "no valid edge token")


def _check_site(head: Head, material: Material) -> None:
    header, key = _single(head, CERTIFICATE_HEADER), _single(head, PUBLIC_KEY_HEADER)
    if (problem := material.site_problem(header, key)) is not None:
        raise Refused(HTTPStatus.FORBIDDEN, problem.detail, problem.why, **problem.fields)


def _single(head: Head, name: bytes) -> str:
    values = head.all(name)
    if len(values) != 1 or not values[0]:
        why = f"{len(values)} headers {name.decode()}" if len(values) != 1 else f"empty header {name.decode()}"
        raise Refused(HTTPStatus.FORBIDDEN, "A site's client certificate and SuperNode key are required.", why)
    return values[0].decode("latin-1")


def _check_body(head: Head) -> int:
    if head.method != "POST":
        return 0
    lengths = head.all(b"content-length")
    if len(lengths) != 1 or head.all(b"transfer-encoding") or not lengths[0].isdigit():
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "The request must state the length of its body.")
    if (length := int(lengths[0])) > (limit := _body_limit(head.path)):
        size = f"{limit // MIB} MiB" if limit >= MIB else f"{limit // 1024} KiB"
        detail = f"The request's body is larger than {size}."
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    return length


def _body_limit(path: str) -> int:
    if not path.startswith(CONTROL):
        return LARGEST_BODY if path in LARGE else MESSAGES_BODY
    return {START_RUN: START_RUN_BODY, STREAM_LOGS: STREAM_BODY, **LOGINS}.get(path, CONTROL_BODY)


async def _guard_fleet(app: ASGIApp, scope: Scope, receive: Receive, send: Send, ended: Callable[[int], None]) -> None:
    """Pass a Fleet request on, and turn every failure of ours into one that the SuperNode retries."""
    started = False

    async def guarded(message: Message) -> None:
        nonlocal started
        if message["type"] == "http.response.start":
            started = True
            if message["status"] >= 500 and message["status"] not in _KEPT_5XX:
                event("fleet-error", path=scope["path"], status=message["status"], answered=503)
                message = {**message, "status": int(HTTPStatus.SERVICE_UNAVAILABLE)}
            ended(message["status"])
        await send(message)

    try:
        await app(scope, receive, guarded)
    except Exception as error:
        event("fleet-error", path=scope["path"], error=f"{type(error).__name__}: {error}", answered=503)
        if started:
            raise
        ended(int(HTTPStatus.SERVICE_UNAVAILABLE))
        await _answer(send, HTTPStatus.SERVICE_UNAVAILABLE, "The SuperLink failed, try again.")


def _head(scope: Scope) -> Head:
    raw: bytes = scope.get("raw_path") or scope["path"].encode("latin-1", "replace")
    # A path that means something else once decoded, or that a proxy prefixed, matches nothing.
    plain = not scope.get("root_path") and raw == scope["path"].encode("utf-8", "surrogateescape")
    client = scope.get("client")
    return Head(
        method=scope["method"],
        path=scope["path"] if plain else "",
        headers=tuple((bytes(k).lower(), bytes(v)) for k, v in _headers(scope)),
        client=client[0] if client else "",
        raw=raw.decode("latin-1"),
    )


def _headers(scope: Scope) -> Iterable[tuple[bytes, bytes]]:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return headers


def _log_refusal(head: Head, refused: Refused) -> None:
    event(
        "refused",
        status=int(refused.status),
        why=refused.why,
        method=head.method,
        path=head.raw if not head.path.startswith(ARTIFACTS) else ARTIFACTS,
        client=head.client,
        **refused.fields,
    )


async def _answer(send: Send, status: HTTPStatus, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # the body, if any, is not read
    ]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", b"3"))
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
