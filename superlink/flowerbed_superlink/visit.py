"""What the gate passes inward about a request that it let in, for a middleware that keeps one waiting; not for Flower.

The gate strips what it decided by from the request, and holds the body's share of a budget until the request is answered. A
request that waits must be decided on again before it goes on, must learn that its client has gone, and must not keep the share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowerbed_superlink.errors import Refused

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

_KEY = "flowerbed.visit"


@dataclass
class Visit:
    """One request within the gate."""

    length: int  # of its body, in bytes
    receive: Receive  # the connection's own: once the body was read, it returns when the client has gone
    check: Callable[[], object]  # decides again as the gate did; raises Refused
    give_back: Callable[[], None]  # ends what the body holds of its budget
    refused: Refused | None = None  # why it was refused after it had been let in

    def again(self) -> Refused | None:
        """Decide again, by the files as they are now; return why the request must not go on, or None."""
        try:
            self.check()
        except Refused as refused:
            self.refused = refused
        return self.refused


def announce(scope: Scope, visit: Visit) -> None:
    """Leave a visit where `visit_of` finds it."""
    scope[_KEY] = visit


def visit_of(scope: Scope) -> Visit | None:
    """Return what the gate said about this request, or None if it did not come through it."""
    visit = scope.get(_KEY)
    return visit if isinstance(visit, Visit) else None
