"""Leaves out what a task would wait or pay for needlessly, in the task's own process; not waits of SuperExec or the SuperNode.

With held pulls only (`install`). Each name is compared with the pinned flwr and left as it is, with one line of the log,
if it differs. Nothing here protects anybody: a task could undo it, and would only be as slow as stock Flower.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Callable, Collection, Sized
from functools import partial, wraps
from importlib import import_module
from time import monotonic, sleep
from typing import Any

from . import outgoing
from .spec import CLIENT_APP, SERVER_APP

log = logging.getLogger("flowerbed.executor")

SWITCH = "FLOWERBED_HELD_PULLS"

FIRST_HEARTBEAT = 10.0
"""Seconds until a task's own first heartbeat. A task has 30 s to start and then 60 s, and the executor sends them for it too."""

FEW = 8
"""Up to so many objects travel one after another: a second connection takes longer to open than they take."""

_GRID, _HEARTBEAT = "flwr.superlink.grid.http_grid", "flwr.supercore.heartbeat"
_OBJECTS, _CLIENT_APP = "flwr.supercore.inflatable.inflatable_utils", "flwr.supernode.runtime.run_clientapp"


class GridTime:
    """Stands in for the module `time` in the Grid's module, which uses nothing of it but `time` and `sleep`."""

    time = staticmethod(time.time)

    def __init__(self, wait: Callable[[float], None] = sleep, clock: Callable[[], float] = monotonic) -> None:
        self._wait, self._clock = wait, clock
        self._pull_started = float("-inf")

    def pulling(self) -> None:
        """Note the start of a pull."""
        self._pull_started = self._clock()

    def sleep(self, seconds: float) -> None:
        """Wait for what is left of `seconds` since the pull started: a SuperLink that held it is asked again at once."""
        left = self._pull_started + seconds - self._clock()
        if left > 0:
            self._wait(left)


def install(program: str) -> None:
    """Leave out what tasks of `program` need not have, if this task's environment says so."""
    if os.environ.get(SWITCH) != "1":
        return
    for leave_out in _LEFT_OUT.get(program, ()):
        if reason := leave_out():
            log.warning("%s has no effect on this: %s is not what this executor is made for.", SWITCH, reason)


def _pause_from_the_pull() -> str:
    """Count the Grid's pause between pulls from the start of the pull; return what does not fit, empty if all did."""
    module = import_module(_GRID)
    grid = module.HttpGrid
    send = grid.send_and_receive.__code__
    if module.time is not time or {"time", "sleep"} - set(send.co_names) or 3 not in send.co_consts:
        return f"{_GRID}.HttpGrid.send_and_receive"
    pull, grid_time = grid.pull_messages, GridTime()
    if _parameters(pull) != ("self", "message_ids"):
        return f"{_GRID}.HttpGrid.pull_messages"

    @wraps(pull)
    def pull_and_tell(self: Any, message_ids: Any) -> Any:  # noqa: ANN401 - Flower's own signature
        grid_time.pulling()
        return pull(self, message_ids)

    grid.pull_messages = pull_and_tell
    module.time = grid_time  # type: ignore[attr-defined]  # replaced on purpose
    return ""


def _first_heartbeat_later() -> str:
    """Have a short task send no heartbeat: it would open a connection of its own for it. See `_pause_from_the_pull`."""
    sender = import_module(_HEARTBEAT).HeartbeatSender
    run = sender._run  # noqa: SLF001 - compared here
    if _parameters(run) != ("self",) or "_stop_event" not in run.__code__.co_names:
        return f"{_HEARTBEAT}.HeartbeatSender._run"

    @wraps(run)
    def run_later(self: Any) -> None:  # noqa: ANN401 - Flower's own class
        if not self._stop_event.wait(FIRST_HEARTBEAT):
            run(self)

    sender._run = run_later  # noqa: SLF001 - compared above
    return ""


def _few_objects_on_one_connection() -> str:
    """Open no second connection for a few objects. See `_pause_from_the_pull`."""
    objects, client_app = import_module(_OBJECTS), import_module(_CLIENT_APP)
    if "max_concurrent_pulls" not in _parameters(objects.pull_objects):
        return f"{_OBJECTS}.pull_objects"
    if "max_concurrent_pushes" not in _parameters(objects.push_objects) or (
        client_app.push_objects is not objects.push_objects
    ):
        return f"{_CLIENT_APP}.push_objects"
    objects.pull_objects = _alone_if_few(objects.pull_objects, "max_concurrent_pulls")  # type: ignore[attr-defined]
    client_app.push_objects = _alone_if_few(objects.push_objects, "max_concurrent_pushes")  # type: ignore[attr-defined]
    return ""


def _alone_if_few(transfer: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(transfer)
    def run(objects: Sized, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Flower's own signature
        wanted: Collection[str] | None = kwargs.get("object_ids_to_push")
        if len(objects if wanted is None else wanted) <= FEW:
            kwargs[name] = 1
        return transfer(objects, *args, **kwargs)

    return run


_LEFT_OUT = {
    CLIENT_APP: (_first_heartbeat_later, _few_objects_on_one_connection, partial(outgoing.install, CLIENT_APP)),
    SERVER_APP: (_pause_from_the_pull, partial(outgoing.install, SERVER_APP)),
}


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)
