"""Every message that a SuperNode has taken ends in exactly one reply.

Flower's SuperNode handles one message at a time and waits for its reply without end. A ClientApp that ends without
one (it was stopped, it failed before it read the message, it reported its end by itself) would keep the whole site
waiting for ever. So when a task has finished without a reply, an error reply is stored that carries the reason.

A reply counts, and is shown to Flower's main loop, only when every object of its tree is there: the loop waits without
end for one that is missing, and ends when a tree has none of the message's name. What protects the store while this is
decided is the state's own lock of messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from flwr.app import Error
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.runtime_pb2 import PushAppMessagesRequest, PushAppMessagesResponse
from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import TaskType
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.object_store import NoObjectInStoreError

from flowerbed_wire import trees

if TYPE_CHECKING:
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

log = logging.getLogger("flowerbed.supernode")

_HANDLING = frozenset({TaskType.CLIENT_APP.value, TaskType.AGENT_APP.value})
"""Types of task that handle a message."""


class Replies:
    """Which tasks have replied, and the replies whose objects are still under way. Used under the state's message lock."""

    def __init__(self, replied: Callable[[], None]) -> None:
        self.replied = replied
        """Called when a reply is there for the main loop."""
        self._answered: set[int] = set()
        self._held: dict[str, tuple[Task, set[str]]] = {}

    def hold(self, state: InMemoryNodeState, message_id: str, task: Task, missing: set[str]) -> None:
        """Keep a reply that was just stored from the main loop until nothing of it is missing."""
        entry = state.msg_store[message_id]
        if message_id not in self._held and entry.is_retrieved:
            return
        # The main loop takes only what nobody has taken.
        entry.is_retrieved = True
        self._held[message_id] = (task, missing)
        self._release_if_whole(state, message_id)

    def arrived(self, state: InMemoryNodeState, object_id: str) -> None:
        """Note that an object was stored."""
        for message_id, (_, missing) in list(self._held.items()):
            if object_id in missing:
                missing.discard(object_id)
                self._release_if_whole(state, message_id)

    def _release_if_whole(self, state: InMemoryNodeState, message_id: str) -> None:
        task, missing = self._held[message_id]
        if not missing and _is_whole(state, message_id):
            state.msg_store[message_id].is_retrieved = False
            self._answered.add(task.task_id)
            del self._held[message_id]
            self.replied()

    def drop(self, state: InMemoryNodeState, run_id: int) -> None:
        """Forget the replies of this run that never became whole."""
        for message_id, (task, _) in list(self._held.items()):
            if task.run_id == run_id:
                del self._held[message_id]
                state.msg_store.pop(message_id, None)
                state.object_store.delete(message_id)

    def take(self, task_id: int) -> bool:
        """Forget the task; True if it had replied."""
        answered = task_id in self._answered
        self._answered.discard(task_id)
        return answered


def _is_whole(state: InMemoryNodeState, message_id: str) -> bool:
    try:
        tree = state.object_store.get_object_tree(message_id)
    except NoObjectInStoreError:
        return False
    return all(state.object_store.get(object_id) for object_id in trees.ids([tree]))


def give_up(state: InMemoryNodeState, replies: Replies, run_id: int, reason: str) -> None:
    """Store an error reply for the message of this run that is being handled.

    A task that has not replied holds up the main loop, so whatever message of its run is unanswered is the task's.
    """
    with state.lock_msg_store:
        replies.drop(state, run_id)
        for message_id, entry in state.msg_store.items():
            metadata = entry.message.metadata
            if metadata.run_id == run_id and not metadata.reply_to_message_id and not entry.is_retrieved:
                # Nobody may take it any more; Flower answers only what was taken.
                entry.is_retrieved = True
                state.record_message_processing_start(message_id)
                state.object_store.delete(message_id)
    state._store_error_replies({run_id}, Error(ErrorCode.CLIENT_APP_CRASHED, reason))  # noqa: SLF001 - see `pinned`
    replies.replied()
    log.warning("run %d: a task ended without a reply: %s", run_id, reason)


def check_reply(state: InMemoryNodeState, request: PushAppMessagesRequest, task: Task) -> None:
    """Refuse what is not the one reply to a message of the task's run: it would be sent, or become a task's input.

    Raises:
        FlowerError: with the reason.
    """
    for message in request.messages_list:
        asked = state.msg_store.get(message.metadata.reply_to_message_id)
        known = asked is not None and asked.is_retrieved and not asked.message.metadata.reply_to_message_id
        if asked is None or not known or asked.message.metadata.run_id != task.run_id:
            raise _refusal("The message is no reply to one of this task's run.")
        _check_is_new(state, message.metadata.message_id, message.metadata.reply_to_message_id)
    for message, tree in zip(request.messages_list, request.message_object_trees, strict=False):
        if (why := trees.problem(tree, message.metadata.message_id)) is not None:
            raise _refusal(f"The reply is not taken: {why}.")


def _check_is_new(state: InMemoryNodeState, message_id: str, asked_id: str) -> None:
    """One reply for each message, which may be pushed again, and no name that something else has already."""
    given = {key for key, entry in state.msg_store.items() if entry.message.metadata.reply_to_message_id == asked_id}
    if given - {message_id}:
        raise _refusal("The message has a reply already.")
    if not given and (message_id in state.msg_store or message_id in state.object_store):
        raise _refusal("The reply has the name of something else.")


def _refusal(sentence: str) -> FlowerError:
    return FlowerError(ApiErrorCode.RUNTIME_MESSAGE_RUN_ID_MISMATCH, sentence)


def install(replied: Callable[[], None] = lambda: None) -> None:
    """Wrap what stores a reply, what removes one, what finishes a task and what expires one.

    `replied` is called, from any thread, when a reply is there for the main loop.
    """
    replies = Replies(replied)
    handlers = import_module("flwr.supernode.servicer.runtime.runtime_handlers")
    _wrap_push_messages(handlers, replies)
    _wrap_push_object(handlers, replies)
    _wrap_confirm(handlers)
    node_state = import_module("flwr.supernode.nodestate.in_memory_nodestate").InMemoryNodeState
    finish_task = node_state.finish_task

    def answered(state: InMemoryNodeState, task_id: int) -> bool:
        with state.lock_msg_store:
            return replies.take(task_id)

    @wraps(finish_task)
    def finish_and_answer(self: InMemoryNodeState, task_id: int, sub_status: str, details: str) -> bool:
        finished = bool(finish_task(self, task_id, sub_status, details))
        if finished and not answered(self, task_id):
            for task in self.get_tasks(task_ids=[task_id]):
                if task.type in _HANDLING:
                    give_up(self, replies, task.run_id, details or "The ClientApp ended without a reply.")
        return finished

    @wraps(node_state._on_task_tokens_expired)  # noqa: SLF001 - see `pinned`
    def expire_and_answer(self: InMemoryNodeState, tasks: list[Task]) -> None:
        for task in tasks:
            if not answered(self, task.task_id) and task.type in _HANDLING:
                give_up(self, replies, task.run_id, "The ClientApp stopped responding.")

    node_state.finish_task = finish_and_answer
    node_state._on_task_tokens_expired = expire_and_answer  # noqa: SLF001 - see `pinned`


def _wrap_push_messages(handlers: ModuleType, replies: Replies) -> None:
    push_messages = handlers.push_messages

    @wraps(push_messages)
    def push_and_hold(request: PushAppMessagesRequest, state: InMemoryNodeState, task: Task) -> PushAppMessagesResponse:
        # Both locks, in Flower's order: the main loop must not see the reply before it is held back.
        with state._lock_object_push_sessions, state.lock_msg_store:  # noqa: SLF001 - see `pinned`
            check_reply(state, request, task)
            response: PushAppMessagesResponse = push_messages(request, state, task)
            for message_id in response.message_ids:
                replies.hold(state, message_id, task, set(response.objects_to_push))
        return response

    handlers.push_messages = push_and_hold  # type: ignore[attr-defined]  # wrapped on purpose


def _wrap_push_object(handlers: ModuleType, replies: Replies) -> None:
    push_object = handlers.push_object

    @wraps(push_object)
    def push_and_release(request: PushObjectRequest, state: InMemoryNodeState, task: Task) -> PushObjectResponse:
        response: PushObjectResponse = push_object(request, state, task)
        if response.stored:
            with state.lock_msg_store:
                replies.arrived(state, request.object_id)
        return response

    handlers.push_object = push_and_release  # type: ignore[attr-defined]  # wrapped on purpose


def _wrap_confirm(handlers: ModuleType) -> None:
    confirm = handlers.confirm_message_received

    @wraps(confirm)
    def confirm_what_was_asked(
        request: ConfirmMessageReceivedRequest, state: InMemoryNodeState, task: Task
    ) -> ConfirmMessageReceivedResponse:
        """Flower deletes whatever object is named, a reply on its way too."""
        with state.lock_msg_store:
            asked = state.msg_store.get(request.message_object_id)
            metadata = asked.message.metadata if asked else None
            if metadata is None or metadata.run_id != task.run_id or metadata.reply_to_message_id:
                raise _refusal("The message was not for this task.")
            response: ConfirmMessageReceivedResponse = confirm(request, state, task)
        return response

    handlers.confirm_message_received = confirm_what_was_asked  # type: ignore[attr-defined]  # wrapped on purpose
