"""Who asks, and whether they may: the middleware inside the gate, around Flower, for requests of people and pipelines.

It decides by the table in `roles` and by the run that a request names, before Flower sees anything; what a run that is
nobody's business answers is exactly what one that does not exist answers. A verb that changes something is recorded
before it is done, and not done unrecorded. 401 makes `flwr` refresh its token, so only a token's own faults answer it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from anyio import CapacityLimiter, to_thread

from flowerbed_superlink.asking import Asking, ask_as
from flowerbed_superlink.bodies import Disconnected, replay
from flowerbed_superlink.directory import Directory
from flowerbed_superlink.errors import MaterialError, PeopleError, ProviderError, Refused, TokenError
from flowerbed_superlink.named import named
from flowerbed_superlink.recording import Recording, Request
from flowerbed_superlink.roles import LOGIN_VERBS, VERBS, Verb, allows_run
from flowerbed_superlink.routes import CONTROL, OURS
from flowerbed_superlink.submissions import DATABASE_AWAY
from flowerbed_superlink.tokens import Claims, Tokens
from flowerbed_superlink.trail import Trail

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Threads that check tokens, which anybody may send, and others for what valid ones ask: an identity provider that hangs must
# hold neither those nor the handlers'.
CHECKS = 32
QUICK = 64 * 1024  # bytes of a body that is read without a thread
# Flower's own answers, so that the one cannot be told from the other.
AUTHENTICATION_FAILED = {"code": 36, "detail": "Authentication failed."}
NO_RUN = {"code": 16, "detail": "Run ID not found."}

T = TypeVar("T")


class Access:
    """Authenticate, authorise and record."""

    def __init__(self, app: ASGIApp, tokens: Tokens, directory: Directory, trail: Trail) -> None:
        self._app, self._tokens, self._directory = app, tokens, directory
        self._recording = Recording(trail)
        self._limits: dict[str, CapacityLimiter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as the ASGI specification 3.0 says."""
        path = scope["path"] if scope["type"] == "http" else ""
        ask_as(None)
        if not path.startswith((CONTROL, OURS)):
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        request = Request(path.rsplit("/", 1)[1], client[0] if client else "", scope)
        ask_as(Asking(request.source))
        if path.startswith(CONTROL) and request.name in LOGIN_VERBS:  # `login` records what comes of these
            await self._app(scope, receive, send)
            return
        try:
            receive = await self._decide(request, receive)
            await self._recording.begin(request)
        except Disconnected:
            return
        except Refused as refused:
            self._recording.refused(request, refused)
            await _answer(send, refused)
            return
        except Exception:
            self._recording.failed(request)
            raise
        await self._recording.serve(request, self._app, receive, self._while_enabled(request, send))

    def _while_enabled(self, request: Request, send: Send) -> Send:
        """End what is sent for long, a followed log, as soon as its reader is disabled."""
        if request.name != "stream-logs" or request.claims is None:
            return send
        aid, shut = request.claims.aid, False

        async def sending(message: Message) -> None:
            nonlocal shut
            if shut:
                return
            if message["type"] == "http.response.body" and await self._problem(aid) is not None:
                message, shut = {"type": "http.response.body", "body": b"", "more_body": False}, True
            await send(message)

        return sending

    async def _decide(self, request: Request, receive: Receive) -> Receive:
        claims, refusal = await self._who(request)
        ask_as(Asking(request.source, claims))
        verb = request.verb = VERBS.get(request.name)
        scopes = verb.scopes_of(claims) if verb is not None else frozenset()
        if refusal is None and not scopes:
            refusal = Refused(HTTPStatus.FORBIDDEN, not_theirs(verb, claims), "role")
        if refusal is not None:
            with suppress(Refused):  # refused all the same: this says of what
                await self._read(request, receive)
            raise refusal
        receive = await self._read(request, receive)
        if verb is not None and request.named.run is not None:
            await self._check_run(request, verb, claims, request.named.run)
        return receive

    async def _read(self, request: Request, receive: Receive) -> Receive:
        """Find out what a request names; return what gives its body out again."""
        if request.scope["method"] != "POST" or request.verb is None:
            return receive
        body, name = await _body(receive), request.verb.name
        request.named = await self._thread(lambda: named(name, body)) if len(body) > QUICK else named(name, body)
        return replay(body, receive)

    async def _who(self, request: Request) -> tuple[Claims, Refused | None]:
        """Return who asks, and why they are not let in, if so."""
        try:
            token = _bearer(request.scope)
            claims = self._tokens.remembered(token)
            if claims is None:
                claims = await self._thread(lambda: self._tokens.validate(token), "tokens")
            problem = await self._problem(claims.aid)
        except TokenError as error:
            answer = AUTHENTICATION_FAILED | {"extra": str(error)}
            raise Refused(HTTPStatus.UNAUTHORIZED, str(error), "token", answer=answer) from error
        except (ProviderError, PeopleError) as error:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        request.claims = claims
        return claims, Refused(HTTPStatus.FORBIDDEN, problem, "account") if problem is not None else None

    async def _problem(self, aid: str) -> str | None:
        if self._directory.settled(aid):
            return self._directory.problem(aid)
        return await self._thread(lambda: self._directory.problem(aid))

    async def _check_run(self, request: Request, verb: Verb, claims: Claims, run: int) -> None:
        state = request.scope["app"].state.linkstate_factory.state()
        try:
            found = await self._thread(lambda: state.get_run_info(run_ids=[run]))
            federation = state.manager.name_of(found[0].federation_id) if found else None
        except (MaterialError, *DATABASE_AWAY) as error:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "The SuperLink is not ready, try again.") from error
        if found and allows_run(verb.scopes_of(claims), claims, found[0].flwr_aid, federation or ""):
            return
        why = "another's run" if found else "no such run"
        raise Refused(HTTPStatus.NOT_FOUND, "Run ID not found.", why, answer=NO_RUN)

    async def _thread(self, call: Callable[[], T], kind: str = "known") -> T:
        if kind not in self._limits:  # needs the event loop
            self._limits[kind] = CapacityLimiter(CHECKS)
        return await to_thread.run_sync(call, limiter=self._limits[kind])


def not_theirs(verb: Verb | None, claims: Claims) -> str:
    """Return the sentence for an account whose roles do not allow a verb."""
    if verb is None:
        return "Nobody may do that here."
    theirs = ", ".join(sorted(claims.roles)) or "none"
    needed = " or ".join(sorted(verb.scopes))
    hint = " See `flowerbed runs`." if verb.name == "list-runs" and "custodian" in claims.roles else ""
    return f"`{verb.command}` needs the role {needed}, and {claims.name} has {theirs}: ask an operator.{hint}"


def _bearer(scope: Scope) -> str:
    values: list[bytes] = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    if not values:
        raise TokenError("Nobody is logged in: run `flwr login`.")
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise TokenError("Exactly one Bearer token is needed: run `flwr login`.")
    return token.strip()


async def _body(receive: Receive) -> bytes:
    """Return the body, which the gate holds whole already."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


async def _answer(send: Send, refused: Refused) -> None:
    body = json.dumps(refused.fields.get("answer") or {"detail": refused.detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))  # exactly: `flwr` refreshes its token only then
    if refused.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", b"3"))
    await send({"type": "http.response.start", "status": int(refused.status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
