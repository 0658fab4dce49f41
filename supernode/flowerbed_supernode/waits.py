"""Ends the waits of Flower's main loop when what they wait for has happened; not the SuperLink's or a ClientApp's waits.

Flower's SuperNode looks for the reply to its one message every 0.5 s, and sleeps 3 s after an empty pull. Here the
first wait ends when a reply has become whole, and the second counts from the start of the pull: a SuperLink that held
the pull that long is asked again at once, and one that answers empty, refuses or replaces a pull at once is asked once
in 3 s as before. Flower's own look every 0.5 s stays, so that nothing depends on being woken.
"""

from __future__ import annotations

import ast
import inspect
import logging
import threading
import time
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

from . import pinned
from .incoming import Incoming

log = logging.getLogger("flowerbed.supernode")

PAUSE = 3.0
"""Seconds from the start of one pull to the start of the next, unless the first brought a message."""

_MAIN_LOOP = "flwr.supernode.start_client_internal"

_LITERAL_WAITS = [
    ("start_client_internal", "sleep", 3),
    ("_push_messages", "sleep", 0.5),
    ("_push_messages", "sleep", 0.5),
]
"""Every use of the name `time` in Flower's main loop: function, attribute, argument."""


class LoopTime:
    """Stands in for the module `time` in Flower's main loop, which uses nothing of it but `sleep`."""

    def __init__(
        self, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sleep, self._clock = sleep, clock
        self._replied = threading.Event()
        self._pull_started = float("-inf")

    def pulling(self) -> None:
        """Note the start of a pull."""
        self._pull_started = self._clock()

    def replied(self) -> None:
        """End the wait for a reply, or the next one if there is none; from any thread."""
        self._replied.set()

    def sleep(self, seconds: float) -> None:
        """Wait as the main loop does here: after an empty pull, or for a reply."""
        if seconds == PAUSE:
            left = self._pull_started + PAUSE - self._clock()
            if left > 0:
                self._sleep(left)
            return
        self._replied.wait(seconds)
        # Cleared before the look that follows: what is stored from here on ends the next wait.
        self._replied.clear()


def fits() -> bool:
    """Return whether Flower's waits are those that are replaced here; if not, say so in one line of the log."""
    reason = pinned.difference(pinned.WAITS)
    if not reason and (found := _uses_of_time()) != _LITERAL_WAITS:
        reason = f"the waits of {_MAIN_LOOP} are {found}"
    if reason:
        log.warning("FLOWERBED_HELD_PULLS has no effect, the SuperNode waits as stock Flower does: %s.", reason)
    return not reason


def install(loop_time: LoopTime, incoming: Incoming) -> None:
    """Put `loop_time` in place of `time` in the main loop, and tell it and `incoming` of every pull.

    What is stored as a reply must tell `loop_time` too (see `replies.install`).
    """
    loop = import_module(_MAIN_LOOP)
    pull = loop._pull_and_store_message  # noqa: SLF001 - see `pinned`

    @wraps(pull)
    def pull_and_tell(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Flower's own signature
        loop_time.pulling()
        with incoming.pull():
            return pull(*args, **kwargs)

    loop._pull_and_store_message = pull_and_tell  # type: ignore[attr-defined]  # noqa: SLF001 - wrapped on purpose
    loop.time = loop_time  # type: ignore[attr-defined]  # replaced on purpose


def _uses_of_time() -> list[tuple[str, str, object]]:
    """Return how the main loop's source uses the name `time`, in the form of `_LITERAL_WAITS`."""
    try:
        tree = ast.parse(inspect.getsource(import_module(_MAIN_LOOP)))
    except OSError:
        return []
    found: list[tuple[str, str, object]] = []
    for function in tree.body:
        uses = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == "time"]
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and _is_of_time(node.func)]
        name = getattr(function, "name", "")
        found += [(name, ast.unparse(call.func).removeprefix("time."), _literal(call)) for call in calls]
        if len(uses) != len(calls):
            found.append((name, "another use", None))
    return found


def _is_of_time(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "time"


def _literal(call: ast.Call) -> object:
    return call.args[0].value if len(call.args) == 1 and isinstance(call.args[0], ast.Constant) else None
