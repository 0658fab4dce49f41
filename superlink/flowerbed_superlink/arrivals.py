"""The audit trail's records of SuperNodes, and of what the gate refuses; not of people, who are known further in (`recording`).

A SuperNode polls every three seconds, so what succeeds is recorded for activation and deactivation alone, and a refusal that
repeats itself once a minute, with how often it did.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flowerbed_superlink.errors import MaterialError, Refused
from flowerbed_superlink.material import CERTIFICATE_HEADER, EDGE_HEADER, PUBLIC_KEY_HEADER, Material
from flowerbed_superlink.repeats import OTHER, WINDOW_S, Repeats
from flowerbed_superlink.routes import CONTROL, CONTROL_ROUTES, FLEET, FLEET_ROUTES, OUR_ROUTES, OURS
from flowerbed_superlink.trail import UNRECORDED, Trail, TrailUnavailable

if TYPE_CHECKING:
    from flowerbed_superlink.gate import Head

CHANGES = frozenset({FLEET + "activate-node", FLEET + "deactivate-node"})
_KNOWN = FLEET_ROUTES | CONTROL_ROUTES | OUR_ROUTES


class Arrivals:
    """Writes what becomes of requests at the gate; used from one event loop."""

    def __init__(self, trail: Trail, material: Material, window_s: float = WINDOW_S) -> None:
        self._trail, self._material, self._repeats = trail, material, Repeats(trail, window_s)

    async def begin(self, head: Head) -> None:
        """Record that a SuperNode is about to be activated or deactivated.

        Raises:
            Refused: 503, it could not be recorded.
        """
        if head.path not in CHANGES:
            return
        try:
            await self._trail.record_async(**self._values(head, "started"))
        except TrailUnavailable as error:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, UNRECORDED, str(error)) from error

    def ended(self, head: Head, status: int) -> None:
        """Record how Flower answered a Fleet request, if it changed something or was refused."""
        if 400 <= status < 500:
            self._repeats.note(self._values(head, "refused", f"{status} Flower's own check"))
        elif head.path in CHANGES:
            failed = status >= 500
            self._trail.note(**self._values(head, "failed" if failed else "done", str(status) if failed else ""))

    def refused(self, head: Head, refused: Refused) -> None:
        """Record a refusal of the gate's, if it concerns sites or people."""
        if head.raw.startswith((FLEET, CONTROL, OURS)):
            self._repeats.note(self._values(head, "refused", f"{int(refused.status)} {refused.why}"))

    def _values(self, head: Head, outcome: str, detail: str = "") -> dict[str, Any]:
        site, organisation = self._site(head)
        return {
            "who": site,
            "aid": "",
            "organisation": organisation,
            "verb": head.path.rsplit("/", 1)[1] if head.path in _KNOWN else OTHER,
            "object": self._material.supernode(_first(head, PUBLIC_KEY_HEADER)) or "",
            "outcome": outcome,
            "source": head.client,
            "run": None,
            "detail": detail,
        }

    def _site(self, head: Head) -> tuple[str, str]:
        """Return site and organisation, if the edge says so: a certificate is no secret, anybody can send one."""
        try:
            if not self._material.from_edge(head.all(EDGE_HEADER)):
                return "", ""
        except MaterialError:
            return "", ""
        return self._material.site_names(_first(head, CERTIFICATE_HEADER)) or ("", "")


def _first(head: Head, name: bytes) -> str:
    values = head.all(name)
    return values[0].decode("latin-1") if len(values) == 1 else ""
