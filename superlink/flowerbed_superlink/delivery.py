"""What is to be delivered, as questions to Flower's tables and as statements; who asks and answers is in `delivering`.

A message is *whole* when its object and all objects below it are in the object store. A SuperNode's confirmation deletes
them, so that a message whose own object is still there has not been confirmed: it is offered (again) to its node.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

from flwr.supercore.constant import OBJECT_PUSH_SESSION_TTL_SECONDS, NodeStatus
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import ObjectPushSession, ObjectPushSessionPending, Task
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes, Node, Run
from flwr.supercore.state.schema.objectstore_models import ObjectChild, StoredObject
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Delete,
    Select,
    String,
    TableValuedAlias,
    Update,
    and_,
    any_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningDelete


def nodes_with_messages(session: Session, node_ids: Collection[int]) -> set[int]:
    """Return those of these nodes whose next pull gets a message; one statement, no locks.

    A node that has left its federation may be returned once more: its pull then deletes the message and is empty.
    """
    if not node_ids:
        return set()
    wanted = {"nodes": [uint64_to_int64(node) for node in node_ids]}
    return {int64_to_uint64(node) for node in session.scalars(_nodes_with_messages(), wanted) if node is not None}


@cache
def _nodes_with_messages() -> Select[int | None]:
    wanted = bindparam("nodes", type_=ARRAY(BigInteger))
    return select(MessageIns.dst_node_id).distinct().where(MessageIns.dst_node_id == any_(wanted), *deliverable())


def settled(session: Session, message_ids: Collection[str]) -> set[str]:
    """Return those of these messages whose reply is whole, or that can end only in an error now; one statement, no locks."""
    if not message_ids:
        return set()
    wanted = _asked(message_ids)
    too_old = MessageIns.created_at + MessageIns.ttl <= now().timestamp()
    hopeless = or_(MessageIns.message_id.is_(None), too_old, gone())
    query = (
        select(wanted.c.message_id)
        .outerjoin(MessageIns, MessageIns.message_id == wanted.c.message_id)
        .outerjoin(Node, Node.node_id == MessageIns.dst_node_id)
        .outerjoin(MessageRes, MessageRes.reply_to_message_id == wanted.c.message_id)
        .where(or_(hopeless, and_(MessageRes.message_id.is_not(None), complete())))
    )
    return set(session.scalars(query))


def claim(node_id: int, limit: int | None, run_id: int | None) -> tuple[Update, dict[str, int]]:
    """Return the statement that marks a node's next messages as offered and returns them with their federations' ids."""
    given = {"node": uint64_to_int64(node_id)} | ({"run": uint64_to_int64(run_id)} if run_id is not None else {})
    return _claim(limit, run_id is not None), given


@cache
def _claim(limit: int | None, of_run: bool) -> Update:
    """Return what `claim` does, made once: that takes longer than PostgreSQL takes to find nothing."""
    chosen = select(MessageIns.message_id).where(MessageIns.dst_node_id == bindparam("node"), *deliverable())
    if of_run:
        chosen = chosen.where(MessageIns.run_id == bindparam("run"))
    # One that was never offered has '' for its time, which comes first: what cannot be received blocks nothing else.
    chosen = chosen.order_by(MessageIns.delivered_at, MessageIns.created_at, MessageIns.message_id).limit(limit)
    locked = chosen.with_for_update(skip_locked=True, of=MessageIns).cte("chosen")
    return (
        update(MessageIns)
        .where(MessageIns.message_id.in_(select(locked.c.message_id)), Run.run_id == MessageIns.run_id)
        .values(delivered_at=bindparam("offered_at", callable_=lambda: now().isoformat()))
        .returning(MessageIns, Run.federation_id)
        .execution_options(synchronize_session=False, populate_existing=True)
    )


def standing(message_ids: Collection[str]) -> Select[Any]:
    """Return the query for how messages stand: a row for each, with its reply, `whole` if that is, `gone` if its node is."""
    wanted = _asked(message_ids)
    query = (
        select(
            wanted.c.message_id,
            MessageIns,
            MessageRes,
            Run.federation_id,
            and_(MessageRes.message_id.is_not(None), complete()).label("whole"),
            gone().label("gone"),
        )
        .select_from(wanted)
        .outerjoin(MessageIns, MessageIns.message_id == wanted.c.message_id)
        .outerjoin(Run, Run.run_id == MessageIns.run_id)
        .outerjoin(Node, Node.node_id == MessageIns.dst_node_id)
        .outerjoin(MessageRes, MessageRes.reply_to_message_id == wanted.c.message_id)
    )
    return query.execution_options(populate_existing=True)


def forget(reply_id: str) -> Delete:
    """Return the statement that deletes a reply, if it is one, with the message that it replies to."""
    reply = delete(MessageRes).where(MessageRes.message_id == reply_id).returning(MessageRes.reply_to_message_id).cte()
    statement = delete(MessageIns).where(MessageIns.message_id.in_(select(reply.c.reply_to_message_id)))
    return statement.execution_options(synchronize_session=False)


def claim_objects(run_id: int, session_id: str, object_ids: list[str]) -> ReturningDelete[str]:
    """Return the statement that takes what a push session, one of this run's that has not expired, awaits of these objects."""
    open_session = exists().where(
        ObjectPushSession.session_id == session_id,
        ObjectPushSession.run_id == uint64_to_int64(run_id),
        ObjectPushSession.expires_at > now(),
    )
    pending = delete(ObjectPushSessionPending).where(
        ObjectPushSessionPending.session_id == session_id,
        ObjectPushSessionPending.object_id.in_(object_ids),
        open_session,
    )
    unsynchronized = pending.execution_options(synchronize_session=False)
    return unsynchronized.returning(ObjectPushSessionPending.object_id)


def count_down(session_id: str, arrived: int) -> Update:
    """Return the statement that counts arrived objects of a push session, gives it time, and returns how many are left."""
    counted = update(ObjectPushSession).where(ObjectPushSession.session_id == session_id)
    return (
        counted.values(
            pending_count=ObjectPushSession.pending_count - arrived,
            expires_at=now() + timedelta(seconds=OBJECT_PUSH_SESSION_TTL_SECONDS),
        )
        .returning(ObjectPushSession.pending_count)
        .execution_options(synchronize_session=False)
    )


def of_node(node_id: int, conditions: Sequence[ColumnElement[bool]]) -> Select[MessageIns]:
    """Return the query for those of a node's messages, in runs that go on, that meet these conditions."""
    query = select(MessageIns).where(MessageIns.dst_node_id == uint64_to_int64(node_id), *_alive(), *conditions)
    return query.execution_options(populate_existing=True)


def given_up(node_id: int) -> tuple[Select[MessageIns], dict[str, int]]:
    """Return the query for what a node has in hand, asked with every pull that finds nothing."""
    return _given_up(), {"node": uint64_to_int64(node_id)}


@cache
def _given_up() -> Select[MessageIns]:
    query = select(MessageIns).where(MessageIns.dst_node_id == bindparam("node"), *_alive(), *in_hand())
    return query.execution_options(populate_existing=True)


def deliverable() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which a row of `message_ins` is offered to its node."""
    answered = exists().where(MessageRes.reply_to_message_id == MessageIns.message_id)
    return (*_alive(), in_store(MessageIns.message_id), ~answered, whole(MessageIns.message_id))


def unanswered() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which a message has no reply, or one that is not whole."""
    return (~exists().where(MessageRes.reply_to_message_id == MessageIns.message_id, complete()),)


def in_hand() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which a node works on a message: confirmed, or replied to in part."""
    begun = exists().where(MessageRes.reply_to_message_id == MessageIns.message_id)
    return (*unanswered(), MessageIns.delivered_at != "", or_(begun, ~in_store(MessageIns.message_id)))


def _alive() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which a message is not too old and its run goes on."""
    return (
        MessageIns.created_at + MessageIns.ttl > bindparam("current", callable_=lambda: now().timestamp(), unique=True),
        exists().where(
            Run.run_id == MessageIns.run_id, Task.task_id == Run.primary_task_id, Task.finished_at.is_(None)
        ),
    )


def gone() -> ColumnElement[bool]:
    """Return the condition under which the node that a message was joined with is away or not there."""
    away = or_(Node.online_until.is_(None), Node.online_until < now().timestamp())
    return or_(Node.node_id.is_(None), Node.status == NodeStatus.UNREGISTERED, away)


def complete() -> ColumnElement[bool]:
    """Return the condition that a reply is whole."""
    return whole(MessageRes.message_id)


def in_store(root: Any) -> ColumnElement[bool]:  # noqa: ANN401  a mapped column
    """Return the condition that an object is in the store, its content arrived or not."""
    return exists().where(StoredObject.object_id == root)


def whole(root: Any) -> ColumnElement[bool]:  # noqa: ANN401  a mapped column
    """Return the condition that nothing below an object, itself included, has yet to arrive."""
    return ~exists(_missing(root))


def _missing(root: Any) -> Select[Any]:  # noqa: ANN401  a mapped column
    tree = select(root.label("object_id")).correlate(root.class_).cte("tree", recursive=True, nesting=True)
    tree = tree.union(select(ObjectChild.child_id).where(ObjectChild.parent_id == tree.c.object_id))
    missing = select(StoredObject.object_id).join(tree, StoredObject.object_id == tree.c.object_id)
    return missing.where(StoredObject.is_available == 0)


def _asked(message_ids: Collection[str]) -> TableValuedAlias:
    asked = bindparam("messages", list(message_ids), ARRAY(String))
    return func.unnest(asked).table_valued("message_id").render_derived()
