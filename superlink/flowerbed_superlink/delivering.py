"""Messages that survive a lost answer; a part of our LinkState, on Flower's own tables. What is deliverable says `delivery`.

Flower delivers at most once, both to a SuperNode and to a ServerApp. Here a message or reply is offered until it is confirmed,
each message ends in exactly one reply or one error, and a request that a client repeats does what it did. Not for tasks'
own messages, which this federation does not have.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from flwr.app import Error, Message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, Status
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState, _message_model_to_dict
from flwr.server.superlink.linkstate.utils import (
    convert_sint64_values_in_dict_to_uint64,
    convert_uint64_values_in_dict_to_sint64,
    create_message_error_unavailable_ins_message,
    create_message_error_unavailable_res_message,
    dict_to_message,
    message_to_dict,
)
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import ObjectPushSessionPending
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes, Run
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from psycopg.errors import InFailedSqlTransaction
from sqlalchemy import delete, select
from sqlalchemy.exc import InternalError
from sqlalchemy.orm import Session

from flowerbed_superlink import delivery
from flowerbed_superlink.log import event
from flowerbed_superlink.objects import LevelObjectStore

RESTARTED = "The SuperNode was started anew while it worked on this message."
SIGNED_OFF = "The SuperNode signed off while it worked on this message."
REMOVED = "The SuperNode was removed from the federation."
GIVEN_UP = "The SuperNode asks for other work without having replied to this message."
IDLE_S = 35.0  # longer than any one request of a client lasts, so that two pulls this far apart are two

_IDS = ["run_id", "src_node_id", "dst_node_id"]
_answered: ContextVar[frozenset[str]] = ContextVar("flowerbed_answered", default=frozenset())


class ConfirmedObjectStore(LevelObjectStore):
    """ObjectStore in which the end of a reply's object, which is its confirmation, is the end of reply and message."""

    def delete(self, object_id: str) -> None:
        """Delete an object and those below it, and the message that it is the reply to."""
        with self._mutation_session() as session:
            session.execute(delivery.forget(object_id))
            super().delete(object_id)


class DeliveringLinkState(SqlLinkState):
    """LinkState that offers messages and replies until they are confirmed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  as Flower has it
        super().__init__(*args, **kwargs)
        self._idle: dict[int, dict[str, float]] = {}

    def get_message_ins(self, node_id: int, limit: int | None, *, run_id: int | None = None) -> list[Message]:
        """Return a node's messages that are whole and not confirmed: new ones first, then those offered longest ago.

        A pull that finds none says that the node works on nothing. The SuperLink itself, which Flower asks for with each of a
        ServerApp's pulls, is sent messages by AgentApps only.

        Raises:
            AssertionError: `limit` is below 1.
        """
        if limit is not None and limit < 1:
            raise AssertionError("`limit` must be >= 1")
        if node_id == SUPERLINK_NODE_ID:
            return []
        with self.session() as session:
            rows = session.execute(*delivery.claim(node_id, limit, run_id)).all()
            if not rows:
                self._end_given_up(session, node_id)
            left = {row.message_id for row, federation in rows if not self._reaches(node_id, federation)}
            self.delete_messages(left)
            return [_message(row) for row, _ in rows if row.message_id not in left]

    def was_sent(self, node_id: int, run_id: int, message_id: str) -> bool:
        """Return whether a message of this run is to this node."""
        query = select(MessageIns.run_id).where(MessageIns.message_id == message_id)
        query = query.where(MessageIns.dst_node_id == uint64_to_int64(node_id))
        with self.session() as session:
            return session.scalar(query) == uint64_to_int64(run_id)

    def _reaches(self, node_id: int, federation_id: str) -> bool:
        return bool(self.federation_manager.has_node(node_id, federation_id))

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Store a message and its objects' ids, or find it stored by an earlier attempt whose answer was lost."""
        try:
            return super().store_message_and_object_tree(message, object_tree, session_id)
        except InternalError as error:
            # Flower goes on after a duplicate key, which it expects; PostgreSQL ends the transaction there.
            if message.metadata.reply_to_message_id or not isinstance(error.orig, InFailedSqlTransaction):
                raise
        return self._stored_before(message, object_tree, session_id)

    def _stored_before(self, message: Message, object_tree: ObjectTree, session_id: str) -> tuple[bool, list[str]]:
        with self.session() as session:
            known = session.get(MessageIns, message.metadata.message_id)
            if known is None or known.run_id != uint64_to_int64(message.metadata.run_id):
                return False, []
            delivered = known.delivered_at != ""
            return True, [] if delivered else self.preregister_object_tree(object_tree, session_id)

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Store an object that is awaited; what is not awaited was stored before, and its message perhaps received since.

        A sender whose push session has expired is not told: its message is gone, and ends in an error.
        """
        if (stored := super().store_object(run_id, session_id, object_id, object_content)) or not session_id:
            return stored
        awaited = select(ObjectPushSessionPending.object_id).where(
            ObjectPushSessionPending.session_id == session_id, ObjectPushSessionPending.object_id == object_id
        )
        with self.session() as session:
            return session.scalar(awaited) is None

    def store_objects(self, run_id: int, session_id: str, contents: Mapping[str, bytes]) -> set[str]:
        """Store verified objects that a push session awaits, in one go; return the ids of those that it did await."""
        if not contents:
            return set()
        with self.session() as session:
            claimed = set(session.scalars(delivery.claim_objects(run_id, session_id, list(contents))))
            if not claimed:
                return set()
            store: Any = self.object_store  # ours
            store.put_all({object_id: contents[object_id] for object_id in claimed})
            if session.scalar(delivery.count_down(session_id, len(claimed))) == 0:
                self._cleanup_push_session(session_id, cleanup_messages=False)
            return claimed

    def activate_task(self, task_id: int) -> bool:
        """Start a task; one that runs is started, too, for a client whose first answer was lost."""
        if super().activate_task(task_id):
            return True
        tasks = self.get_tasks(task_ids=[task_id])
        return bool(tasks) and tasks[0].status.status == Status.RUNNING

    def get_message_res(self, message_ids: set[str], run_id: int) -> list[Message]:
        """Return the replies that are whole and errors for messages that get none, until the ServerApp confirms them.

        Raises:
            ValueError: a message is another run's.
        """
        if not message_ids:
            return []
        with self.session() as session:
            rows = session.execute(delivery.standing(message_ids)).all()
            if any(row.MessageIns and row.MessageIns.run_id != uint64_to_int64(run_id) for row in rows):
                raise ValueError("`message_ids` contains invalid IDs")
            found = [reply for row in rows if (reply := self._reply(session, row, run_id)) is not None]
        _answered.set(frozenset(reply.metadata.reply_to_message_id for reply in found))
        return found

    def _reply(self, session: Session, row: Any, run_id: int) -> Message | None:  # noqa: ANN401  of `standing`
        """Return a message's reply or error, None while it can still be replied to."""
        sent = row.MessageIns
        if sent is None or sent.created_at + sent.ttl <= now().timestamp() or not self._in_federation(row):
            self.delete_messages({row.message_id})
            error = create_message_error_unavailable_ins_message(row.message_id, run_id)
            self._store_generated_message(error)
            return error
        if row.whole:
            return _message(row.MessageRes)
        return self._end(session, sent, None) if row.gone else None

    def _in_federation(self, row: Any) -> bool:  # noqa: ANN401  of `standing`
        return self._reaches(int64_to_uint64(row.MessageIns.dst_node_id), row.federation_id)

    def delete_messages(self, message_ins_ids: set[str]) -> None:
        """Delete messages and their replies, but for what has just been answered: it waits for its confirmation.

        Flower's handler deletes what a ServerApp's pull returns before it has arrived.
        """
        if message_ins_ids and message_ins_ids == _answered.get():
            _answered.set(frozenset())
            return
        super().delete_messages(message_ins_ids)

    def activate_node(self, node_id: int, heartbeat_interval: float) -> bool:
        """Sign a node on; what it was working on before is lost."""
        with self.session() as session:
            done = super().activate_node(node_id, heartbeat_interval)
            if done:
                self._end_all(session, node_id, RESTARTED, delivery.in_hand())
            return done

    def deactivate_node(self, node_id: int) -> bool:
        """Sign a node off; what it was working on is lost."""
        with self.session() as session:
            done = super().deactivate_node(node_id)
            if done:
                self._end_all(session, node_id, SIGNED_OFF, delivery.in_hand())
            return done

    def delete_node(self, owner_aid: str, node_id: int) -> None:
        """Remove a node and end everything that was sent to it."""
        with self.session() as session:
            super().delete_node(owner_aid, node_id)
            self._end_all(session, node_id, REMOVED, delivery.unanswered())
        self._idle.pop(node_id, None)

    def finish_task(self, task_id: int, sub_status: str, details: str) -> bool:
        """End a task, and what is on its way to and from its run if that ends with it."""
        done = super().finish_task(task_id, sub_status, details)
        if done:
            self._clean_up([task_id])
        return done

    def _on_task_tokens_expired(self, tasks: list[Task]) -> None:
        """Fail runs whose ServerApp is lost, and delete their messages: no SuperNode is to work on them."""
        super()._on_task_tokens_expired(tasks)
        self._clean_up([task.task_id for task in tasks])

    def _clean_up(self, task_ids: list[int]) -> None:
        """Delete the messages of runs whose ServerApp is over, which Flower does when somebody lists them."""
        over = select(Run.run_id).where(Run.primary_task_id.in_([uint64_to_int64(task_id) for task_id in task_ids]))
        with self.session() as session:
            run_ids = [int64_to_uint64(run_id) for run_id in session.scalars(over) if run_id is not None]
        for run_id in run_ids:
            self.cleanup_run(run_id)

    def _end_given_up(self, session: Session, node_id: int) -> None:
        """End what a node has confirmed and not replied to, once it has asked for other work twice, far enough apart.

        A SuperNode works on one message at a time and asks for the next one when its reply is sent, or could not be.
        """
        seen, current = self._idle.pop(node_id, {}), time.monotonic()
        rows = session.scalars(*delivery.given_up(node_id)).all()
        if not rows:
            return
        first = {str(row.message_id): seen.get(str(row.message_id), current) for row in rows}
        for row in rows:
            if current - first[str(row.message_id)] >= IDLE_S:
                self._end(session, row, GIVEN_UP)
        self._idle[node_id] = first

    def _end_all(self, session: Session, node_id: int, reason: str, which: Sequence[Any]) -> None:
        for row in session.scalars(delivery.of_node(node_id, which)).all():
            self._end(session, row, reason)

    def _end(self, session: Session, sent: MessageIns, reason: str | None) -> Message | None:
        """Reply to a message with an error, for this reason or because its node is away; None if a reply came first.

        The error takes the place that the reply would have: what arrives later is refused as a second one.
        """
        error = _error(_message(sent), reason)
        values = message_to_dict(error)
        convert_uint64_values_in_dict_to_sint64(values, _IDS)
        session.execute(
            delete(MessageRes).where(MessageRes.reply_to_message_id == sent.message_id, ~delivery.complete())
        )
        insert = self.dialect_insert(MessageRes).values(values)
        stored: Any = insert.on_conflict_do_nothing().returning(MessageRes.message_id)
        if session.scalar(stored) is None:
            return None
        self._store_generated_message(error)
        event("message-ended", message=sent.message_id, run_id=error.metadata.run_id, why=error.error.reason)
        return error


def _message(row: MessageIns | MessageRes) -> Message:
    values = _message_model_to_dict(row)
    convert_sint64_values_in_dict_to_uint64(values, _IDS)
    return dict_to_message(values)


def _error(sent: Message, reason: str | None) -> Message:
    """Return an error in the form of Flower's own, for its own reason or another."""
    error = create_message_error_unavailable_res_message(sent.metadata, "node_unavail")
    if reason is not None:
        error.error = Error(ErrorCode.NODE_UNAVAILABLE, reason)
        error.metadata.__dict__["_message_id"] = error.object_id
    return error
