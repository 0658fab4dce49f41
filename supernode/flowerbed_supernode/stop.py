"""SIGTERM: the message in hand is answered, then the node is deactivated and the SuperNode ends.

Flower would leave at once; a message is delivered at most once, so its run would wait for that reply until it times
out.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from types import FrameType
from typing import Any

log = logging.getLogger("flowerbed.supernode")

PULL_SECONDS = 5.0
"""How long a stop waits for the answer to a pull under way, which may carry a message."""

HELD_PULL_SECONDS = 0.5
"""The same where the SuperLink holds pulls: then there is always one under way, and what is lost with it is offered again."""

Leave = Callable[[int, FrameType | None], object]


class GracefulStop:
    """Where the main loop is, and what a stop has to wait for. Everything here runs in the main thread."""

    def __init__(self, drain_seconds: float, pull_seconds: float = PULL_SECONDS) -> None:
        self._drain_seconds, self._pull_seconds = drain_seconds, pull_seconds
        self._handling = self._pulling = False
        self._leave: Leave | None = None
        self.asked = False

    def take_over(self, leave: Leave) -> None:
        """Stand in for Flower's SIGTERM handler, which is called when the loop is idle or time is up."""
        self._leave = leave
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGALRM, self._on_alarm)

    def pull(self, pull: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Flower's own signature
        """Run one pull; what it brings is handled before a stop."""
        self._pulling = True
        try:
            found = pull(*args, **kwargs)
            self._handling = found is not None
        finally:
            self._pulling = False
        if self.asked:
            self._wait_or_leave()
        return found

    def push(self, push: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Flower's own signature
        """Wait for the reply and send it; then a stop that was asked for happens."""
        try:
            return push(*args, **kwargs)
        finally:
            self._handling = False
            if self.asked:
                self._wait_or_leave()

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            self._wait_or_leave()

    def _wait_or_leave(self) -> None:
        if self._handling or self._pulling:
            seconds = self._drain_seconds if self._handling else min(self._pull_seconds, self._drain_seconds)
            log.info("Stopping: waiting up to %.0f s for the message in hand, or the pull under way.", seconds)
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        else:
            self._go()

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        if self._handling:
            log.warning("Stopping: the message in hand is left without a reply.")
        self._go()

    def _go(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._leave is not None:
            self._leave(signal.SIGTERM, None)


def install(stop: GracefulStop) -> None:
    """Wrap the two halves of Flower's main loop and the registration of its signal handlers."""
    loop = import_module("flwr.supernode.start_client_internal")
    register = loop.register_signal_handlers
    pull, push = loop._pull_and_store_message, loop._push_messages  # noqa: SLF001 - see `pinned`

    @wraps(register)
    def register_and_take_over(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Flower's own signature
        register(*args, **kwargs)
        leave = signal.getsignal(signal.SIGTERM)
        if callable(leave):
            stop.take_over(leave)

    loop.register_signal_handlers = register_and_take_over  # type: ignore[attr-defined]  # wrapped on purpose
    loop._pull_and_store_message = wraps(pull)(  # type: ignore[attr-defined]  # noqa: SLF001 - wrapped on purpose
        lambda *args, **kwargs: stop.pull(pull, *args, **kwargs)
    )
    loop._push_messages = wraps(push)(  # type: ignore[attr-defined]  # noqa: SLF001 - wrapped on purpose
        lambda *args, **kwargs: stop.push(push, *args, **kwargs)
    )
