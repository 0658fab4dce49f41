"""Tells whether the SuperNode does its work, and ends it when it no longer can.

Flower swallows the exception that ends its main loop, and lets a heartbeat thread end, while the Runtime API's thread
keeps the process alive: a site that looks healthy and is deaf. Here a file is touched only while the main loop moves
and heartbeats succeed, and a loop or thread that has ended ends the process, so that Docker starts it again.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from flwr.supercore.heartbeat import HeartbeatSender

log = logging.getLogger("flowerbed.supernode")

HEARTBEAT_LIMIT = 60.0
"""Seconds without a successful heartbeat after which the file ages: the SuperLink then calls the node offline."""

LOOP_LIMIT = 60.0
"""Seconds without a step of the main loop after which the file ages: longer than one pull may take (30 s)."""

_PERIOD = 2.0


def die(reason: str, code: int = 1) -> None:
    """End the process at once, whatever threads are left."""
    log.error("%s The SuperNode ends, to be started again.", reason)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Liveness:
    """When the main loop last moved and a heartbeat last succeeded (seconds of the monotonic clock)."""

    def __init__(self, alive: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._alive, self._clock = alive, clock
        self._stepped = self._beaten = float("-inf")

    def step(self) -> None:
        """The main loop has moved."""
        self._stepped = self._clock()

    def beat(self) -> None:
        """A heartbeat has succeeded."""
        self._beaten = self._clock()

    def well(self) -> bool:
        """Return whether both are recent."""
        now = self._clock()
        return now - self._stepped < LOOP_LIMIT and now - self._beaten < HEARTBEAT_LIMIT

    def watch(self) -> None:
        """Touch the file for as long as all is well; never returns."""
        while True:
            if self.well():
                with suppress(OSError):
                    self._alive.touch()
            time.sleep(_PERIOD)


def install(liveness: Liveness) -> None:
    """Watch Flower's heartbeat thread and main loop, and start touching the file."""
    connection = import_module("flwr.supernode.fleet_http_connection")
    connection.HeartbeatSender = _watched_sender(liveness)  # type: ignore[attr-defined]  # replaced on purpose
    _wrap_steps(liveness)
    threading.Thread(target=liveness.watch, name="flowerbed-liveness", daemon=True).start()


def _watched_sender(liveness: Liveness) -> type[HeartbeatSender]:
    class WatchedHeartbeatSender(HeartbeatSender):
        """Flower's own, but its end is not silent."""

        def _run(self) -> None:
            reason = "it returned"
            try:
                super()._run()
            except Exception as error:  # noqa: BLE001 - whatever it was, the thread is over
                reason = str(error)
            if not self._stop_event.is_set():
                die(f"The heartbeat to the SuperLink has ended: {reason}.")

        def _heartbeat(self) -> None:
            super()._heartbeat()
            liveness.beat()

    return WatchedHeartbeatSender


def _stepping_through(half: Callable[..., Any], liveness: Liveness) -> Callable[..., Any]:
    """Wrap the Fleet calls that one half of the main loop is given: a large model takes many of them."""

    def stepping(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any Fleet call
            answer = call(*args, **kwargs)
            liveness.step()
            return answer

        return step

    @wraps(half)
    def run(**given: Any) -> Any:  # noqa: ANN401 - Flower's own signature
        liveness.step()  # a first pull may be held for longer than anybody wants to wait for a sign of life
        return half(**{name: stepping(value) if callable(value) else value for name, value in given.items()})

    return run


def _wrap_steps(liveness: Liveness) -> None:
    """Each pull or push begun is a step, each answer of the SuperLink's, and each look for the reply of a ClientApp at work."""
    loop = import_module("flwr.supernode.start_client_internal")
    for name in ("_pull_and_store_message", "_push_messages"):
        setattr(loop, name, _stepping_through(getattr(loop, name), liveness))
    node_state = import_module("flwr.supernode.nodestate.in_memory_nodestate").InMemoryNodeState
    look = node_state.get_messages_legacy

    @wraps(look)
    def look_and_step(self: object, **kwargs: Any) -> Any:  # noqa: ANN401 - Flower's own signature
        if kwargs.get("is_reply"):
            liveness.step()
        return look(self, **kwargs)

    node_state.get_messages_legacy = look_and_step
