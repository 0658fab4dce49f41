"""Which tasks of this SuperNode may be claimed: not the one whose message is still on its way in.

Flower creates a task before it has stored its message and pulled the message's objects. A ClientApp that is faster
fails ("No messages received") or waits a second for an object. So nobody can claim a task before that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flwr.common.constant import Status
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.proto.task_pb2 import Task

if TYPE_CHECKING:
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState


class Incoming:
    """The tasks of this SuperNode, and whether the message of the newest is still on its way in. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pulling = self._receiving = False
        self._open: dict[int, Task] = {}
        self._listeners: set[Callable[[], None]] = set()

    @contextmanager
    def pull(self) -> Iterator[None]:
        """Within one pull of the main loop's: a task that it creates cannot be claimed until it has ended."""
        self._pulling = True
        try:
            yield
        finally:
            with self._lock:
                self._pulling = self._receiving = False
            self.tell()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener`, from any thread, when a pull has ended; return what ends that."""
        with self._lock:
            self._listeners.add(listener)

        def forget() -> None:
            with self._lock:
                self._listeners.discard(listener)

        return forget

    def tell(self) -> None:
        """Call every listener."""
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def ready(self, request: AcquireTaskRequest) -> bool:
        """Return whether the request would be given a task now. Changes nothing in Flower's state."""
        with self._lock:
            if self._receiving:
                return False
            for task_id, task in list(self._open.items()):
                if task.status.status == Status.FINISHED:
                    del self._open[task_id]
            return any(
                task.type in request.supported_task_types or task.fab_hash in request.agentapp_fab_hashes
                for task in self._open.values()
                if task.status.status == Status.PENDING
            )

    def install(self) -> None:
        """Wrap what creates a task and what claims one."""
        node_state = import_module("flwr.supernode.nodestate.in_memory_nodestate").InMemoryNodeState
        create, claim = node_state.create_task, node_state.claim_task

        @wraps(create)
        def create_and_keep(state: InMemoryNodeState, *args: Any, **kwargs: Any) -> int | None:  # noqa: ANN401 - Flower's
            with self._lock:
                self._receiving = self._pulling
            task_id: int | None = create(state, *args, **kwargs)
            if task_id is not None:
                with self._lock:
                    self._open[task_id] = state.task_store[task_id]
            return task_id

        @wraps(claim)
        def claim_if_whole(state: InMemoryNodeState, task_id: int) -> str | None:
            with self._lock:
                return None if self._receiving else claim(state, task_id)

        node_state.create_task, node_state.claim_task = create_and_keep, claim_if_whole
