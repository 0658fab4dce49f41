"""The records of one request of a person or pipeline: begun, done, refused or failed; not the trail itself (`trail`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flowerbed_superlink.errors import Refused
from flowerbed_superlink.log import event
from flowerbed_superlink.named import Named, answered
from flowerbed_superlink.repeats import WINDOW_S, Repeats
from flowerbed_superlink.roles import Verb
from flowerbed_superlink.tokens import Claims
from flowerbed_superlink.trail import UNRECORDED, Trail, TrailUnavailable

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


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

    def __init__(self, trail: Trail, window_s: float = WINDOW_S) -> None:
        self._trail, self._strangers = trail, Repeats(trail, window_s)

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
        """Record a refusal of ours; what a stranger repeats is counted: a flood of them must not fill the disk."""
        event("refused", status=int(refused.status), why=refused.why, path=request.scope["path"], client=request.source)
        values = request.values("refused", request.named, f"{int(refused.status)} {refused.detail}")
        if request.claims is None:
            self._strangers.note(values)
        else:
            self._trail.note(**values)

    def failed(self, request: Request) -> None:
        """Record that a fault of ours ended a request before it was decided."""
        self._ended(request, 0)

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
