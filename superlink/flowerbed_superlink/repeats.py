"""Keeps refusals and logins that repeat themselves from filling the audit trail; not the trail itself (`trail`).

The first of a kind is recorded at once, and then once a minute how often it came again. A kind is a source, a name, a verb
and a reason: who sends the same thing over and over again costs one row a minute. Of those who are known, `recording` writes
each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock, Timer
from typing import Any

from flowerbed_superlink.trail import Trail

WINDOW_S = 60.0
MAX_KINDS = 1000  # told apart at a time; what is beyond is recorded together
OTHER = "other"  # the verb of what is recorded together, or of a route that does not exist
_TOGETHER = {"who": "", "organisation": "", "verb": OTHER, "object": "", "source": "many", "detail": "many kinds"}

Kind = tuple[str, ...]
Values = dict[str, Any]


@dataclass
class _Repeated:
    """What was recorded, until when its repeats are only counted (monotonic seconds), and how many there were."""

    values: Values
    until: float
    times: int = 0


class Repeats:
    """Counts what repeats itself, for any number of threads."""

    def __init__(self, trail: Trail, window_s: float = WINDOW_S) -> None:
        self._trail, self._window_s, self._lock = trail, window_s, Lock()
        self._known: dict[Kind, _Repeated] = {}  # in the order in which their minutes end
        self._timer: Timer | None = None

    def note(self, values: Values) -> None:
        """Record it, or count it: never waits and never raises."""
        if (first := self.admit(values)) is not None:
            self._trail.note(**first)

    def admit(self, values: Values) -> Values | None:
        """Return what the caller is to record now, or None for a repeat, which is counted."""
        with self._lock:
            kind = _kind(values)
            if kind not in self._known and len(self._known) >= MAX_KINDS:
                kind, values = (), values | _TOGETHER
            if (known := self._known.get(kind)) is not None:
                known.times += 1
                return None
            self._known[kind] = _Repeated(values, time.monotonic() + self._window_s)
            self._wait()
            return values

    def forget(self, values: Values) -> None:
        """Take back what was admitted and could not be recorded, so that the next one is."""
        with self._lock:
            self._known = {kind: known for kind, known in self._known.items() if known.values is not values}

    def _wait(self) -> None:
        if self._timer is None and self._known:
            first = next(iter(self._known.values()))
            self._timer = Timer(max(0.0, first.until - time.monotonic()), self._close_ended)
            self._timer.daemon = True
            self._timer.start()

    def _close_ended(self) -> None:
        """End the minutes that are over: write how often each came again, and forget what did not."""
        with self._lock:
            self._timer, now = None, time.monotonic()
            for kind, known in list(self._known.items()):
                if known.until > now:
                    break
                del self._known[kind]
                if known.times:
                    self._trail.note(**known.values | {"detail": self._again(known)})
                    self._known[kind] = _Repeated(known.values, now + self._window_s)
            self._wait()

    def _again(self, known: _Repeated) -> str:
        again = "once more" if known.times == 1 else f"{known.times} times more"
        return "; ".join(filter(None, (known.values["detail"], f"{again} in {self._window_s:.0f} s")))


def _kind(values: Values) -> Kind:
    return tuple(values[name] for name in ("source", "who", "verb", "outcome", "detail"))
