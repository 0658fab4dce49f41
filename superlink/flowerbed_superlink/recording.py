"""The records of one request of a person or pipeline: begun, done, refused or failed; not the trail itself (`trail`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
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


class Recording:
    """Writes what becomes of requests."""

    def __init__(self, trail: Trail, clock: Callable[[], float] = time.monotonic) -> None:
        self._trail, self._clock = trail, clock
        self._second, self._strangers, self._uncounted = 0, 0, 0

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
        """Record a refusal of ours. A flood of strangers' requests is counted: it must not fill the disk."""
        event("refused", status=int(refused.status), why=refused.why, path=request.scope["path"], client=request.source)
        left_out = ""
        if request.claims is None:
            if self._floods():
                return
            left_out = f" ({self._uncounted} more before)" if self._uncounted else ""
            self._uncounted = 0
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

    def _floods(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._strangers = second, 0
        self._strangers += 1
        self._uncounted += self._strangers > STRANGERS
        return self._strangers > STRANGERS
