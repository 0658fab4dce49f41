"""How fast SuperExec may ask for tasks where the Runtime API holds each question until there is one.

SuperExec then sleeps next to nothing between questions, so if they come back empty at once (a Runtime API that does not hold
them), this brings Flower's own pace back.
"""

from __future__ import annotations

import time

_AT_ONCE = 0.5
"""An empty answer within so many seconds was not held."""
_TOLERATED = 3
"""So many of them in a row may come from releases and restarts."""
_STOCK_SECONDS = 1.0
"""Flower's default of FLWR_SUPEREXEC_TASK_POLL_INTERVAL."""


class Pace:
    """Counts empty answers that came at once."""

    def __init__(self) -> None:
        self._asked, self._empty = float("-inf"), 0

    def asks(self) -> None:
        """SuperExec asks for a task now."""
        self._asked = time.monotonic()

    def got_one(self) -> None:
        """The answer was a task."""
        self._asked, self._empty = float("-inf"), 0

    def pause(self) -> float:
        """Return how many seconds to sleep before the next question."""
        self._empty = self._empty + 1 if time.monotonic() - self._asked < _AT_ONCE else 0
        return _STOCK_SECONDS if self._empty > _TOLERATED else 0.0
