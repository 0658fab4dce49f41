"""The records of one request of a person or pipeline: begun, done, refused or failed; not the trail itself (`trail`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING, Any

from flowerbed_superlink.errors import Refused
from flowerbed_superlink.log import event
from flowerbed_superlink.named import Named, answered
from flowerbed_superlink.roles import Verb
from flowerbed_superlink.tokens import Claims
from flowerbed_superlink.trail import Trail, TrailUnavailable

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNRECORDED = "The audit trail cannot be written, so nothing was done: try again."
STRANGERS = 20  # refusals of senders that nobody knows, recorded per second; more are counted


@dataclass
class Request:
    """One request, as far as it is known."""

    name: str
    source: str
    scope: Scope
    claims: Claims | None = None
    verb: Verb | None = None
    named: Named = field(default_factory=Named)

    def values(self, outcome: str, named: Named, detail: str = "") -> dict[str, Any]:
        """Return the record's values."""
        claims = self.claims
        return {
            "who": claims.name if claims else "",
            "aid": claims.aid if claims else "",
            "organisation": claims.organisation if claims else "",
            "verb": self.name,
            "object": named.object,
            "outcome": outcome,
            "source": self.source,
            "run": named.run,
            "detail": f"{named.detail} {detail}".strip(),
        }


class Strangers:
    """Bounds the records of senders whom nobody knows: a flood of them must not fill the disk."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._second, self._admitted, self._left_out = 0, 0, 0

    def admit(self) -> str | None:
        """Return what to add to the next record about those that were left out, or None to leave this one out too."""
        with self._lock:
            if (second := int(self._clock())) != self._second:
                self._second, self._admitted = second, 0
            if self._admitted >= STRANGERS:
                self._left_out += 1
                return None
            self._admitted += 1
            said, self._left_out = f" ({self._left_out} more before)" if self._left_out else "", 0
            return said


class Recording:
    """Writes what becomes of requests."""

    def __init__(self, trail: Trail, clock: Callable[[], float] = time.monotonic) -> None:
        self._trail, self._strangers = trail, Strangers(clock)

    async def begin(self, request: Request) -> None:
        """Record a change before it is done.

        Raises:
            Refused: 503, it could not be recorded.
        """
        if request.verb is None or not request.verb.changes:
            return
        try:
            await self._trail.record_async(**request.values("started", request.named))
        except TrailUnavailable as error:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, UNRECORDED, str(error)) from error

    def refused(self, request: Request, refused: Refused) -> None:
        """Record a refusal of ours. A flood of strangers is only counted."""
        event("refused", status=int(refused.status), why=refused.why, path=request.scope["path"], client=request.source)
        left_out = "" if request.claims is not None else self._strangers.admit()
        if left_out is None:
            return
        detail = f"{int(refused.status)} {refused.detail}{left_out}"
        self._trail.note(**request.values("refused", request.named, detail))

    async def serve(self, request: Request, app: ASGIApp, receive: Receive, send: Send) -> None:
        """Pass a request on, and record how it ended: a change when it ended, a read when its answer begins."""
        status, reads = 0, request.verb is not None and not request.verb.changes

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if reads:
                    self._ended(request, status)
            await send(message)

        try:
            await app(request.scope, receive, watched)
        finally:
            if not reads or not status:
                self._ended(request, status)

    def _ended(self, request: Request, status: int) -> None:
        outcome = "failed" if not status or status >= 500 else "refused" if status >= 400 else "done"
        response = request.scope.get("state", {}).get("answered")
        named = answered(request.named, response) if outcome == "done" else request.named
        self._trail.note(**request.values(outcome, named, "" if outcome == "done" else str(status or "no answer")))
