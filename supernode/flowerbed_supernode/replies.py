"""Every message that a SuperNode has taken ends in exactly one reply.

Flower's SuperNode handles one message at a time and waits for its reply without end. A ClientApp that ends without
one (it was stopped, it failed before it read the message, it reported its end by itself) would keep the whole site
waiting for ever. So when a task has finished without a reply, an error reply is stored that carries the reason.
"""

from __future__ import annotations

import logging
import threading
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING

from flwr.app import Error
from flwr.common.constant import ErrorCode
from flwr.proto.runtime_pb2 import PushAppMessagesRequest, PushAppMessagesResponse
from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import TaskType
from flwr.supercore.error import ApiErrorCode, FlowerError

if TYPE_CHECKING:
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

log = logging.getLogger("flowerbed.supernode")

_HANDLING = frozenset({TaskType.CLIENT_APP.value, TaskType.AGENT_APP.value})
"""Types of task that handle a message."""


class RepliedTasks:
    """Tasks that have stored a reply and have not finished yet."""

    def __init__(self) -> None:
        self._tasks: set[int] = set()
        self._lock = threading.Lock()

    def add(self, task_id: int) -> None:
        """Note that this task has replied."""
        with self._lock:
            self._tasks.add(task_id)

    def take(self, task_id: int) -> bool:
        """Forget the task; True if it had replied."""
        with self._lock:
            replied = task_id in self._tasks
            self._tasks.discard(task_id)
            return replied


def give_up(state: InMemoryNodeState, run_id: int, reason: str) -> None:
    """Store an error reply for the message of this run that is being handled.

    A task that has not replied holds up the main loop, so whatever message of its run is unanswered is the task's.
    """
    with state.lock_msg_store:
        for message_id, entry in state.msg_store.items():
            metadata = entry.message.metadata
            if metadata.run_id == run_id and not metadata.reply_to_message_id and not entry.is_retrieved:
                # Nobody may take it any more; Flower answers only what was taken.
                entry.is_retrieved = True
                state.record_message_processing_start(message_id)
                state.object_store.delete(message_id)
    state._store_error_replies({run_id}, Error(ErrorCode.CLIENT_APP_CRASHED, reason))  # noqa: SLF001 - see `pinned`
    log.warning("run %d: a task ended without a reply: %s", run_id, reason)


def check_reply(state: InMemoryNodeState, request: PushAppMessagesRequest, task: Task) -> None:
    """Refuse what is no reply to a message of the task's run: it would be sent, or become a later task's input."""
    for message in request.messages_list:
        with state.lock_msg_store:
            asked = state.msg_store.get(message.metadata.reply_to_message_id)
            known = asked is not None and asked.is_retrieved and not asked.message.metadata.reply_to_message_id
            if asked is None or not known or asked.message.metadata.run_id != task.run_id:
                raise FlowerError(
                    ApiErrorCode.RUNTIME_MESSAGE_RUN_ID_MISMATCH, "The message is no reply to one of this task's run."
                )


def install() -> None:
    """Wrap what stores a reply, what finishes a task and what expires one."""
    replied = RepliedTasks()
    _wrap_push_messages(replied)
    node_state = import_module("flwr.supernode.nodestate.in_memory_nodestate").InMemoryNodeState
    finish_task, expired = node_state.finish_task, node_state._on_task_tokens_expired  # noqa: SLF001 - see `pinned`

    @wraps(finish_task)
    def finish_and_answer(self: InMemoryNodeState, task_id: int, sub_status: str, details: str) -> bool:
        finished = bool(finish_task(self, task_id, sub_status, details))
        if finished and not replied.take(task_id):
            for task in self.get_tasks(task_ids=[task_id]):
                if task.type in _HANDLING:
                    give_up(self, task.run_id, details or "The ClientApp ended without a reply.")
        return finished

    @wraps(expired)
    def expire_and_answer(self: InMemoryNodeState, tasks: list[Task]) -> None:
        for task in tasks:
            if not replied.take(task.task_id) and task.type in _HANDLING:
                give_up(self, task.run_id, "The ClientApp stopped responding.")

    node_state.finish_task = finish_and_answer
    node_state._on_task_tokens_expired = expire_and_answer  # noqa: SLF001 - see `pinned`


def _wrap_push_messages(replied: RepliedTasks) -> None:
    handlers = import_module("flwr.supernode.servicer.runtime.runtime_handlers")
    push_messages = handlers.push_messages

    @wraps(push_messages)
    def push_and_note(request: PushAppMessagesRequest, state: InMemoryNodeState, task: Task) -> PushAppMessagesResponse:
        check_reply(state, request, task)
        response: PushAppMessagesResponse = push_messages(request, state, task)
        replied.add(task.task_id)
        return response

    handlers.push_messages = push_and_note  # type: ignore[attr-defined]  # wrapped on purpose
