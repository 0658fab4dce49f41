"""What is to be delivered, as questions to Flower's tables; nothing here changes or locks a row.

A message is *whole* when its object and all objects below it are in the object store. A SuperNode's confirmation deletes
them, so that a message whose own object is still there has not been confirmed: it is offered (again) to its node.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flwr.supercore.constant import NodeStatus
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import Task
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes, Node, Run
from flwr.supercore.state.schema.objectstore_models import ObjectChild, StoredObject
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    String,
    and_,
    any_,
    bindparam,
    exists,
    func,
    or_,
    select,
)
from sqlalchemy.orm import Session


def nodes_with_messages(session: Session, node_ids: Collection[int]) -> set[int]:
    """Return those of these nodes whose next pull gets a message; one statement, no locks.

    A node that has left its federation may be returned once more: its pull then deletes the message and is empty.
    """
    if not node_ids:
        return set()
    wanted = bindparam("nodes", [uint64_to_int64(node) for node in node_ids], ARRAY(BigInteger))
    query = select(MessageIns.dst_node_id).distinct().where(MessageIns.dst_node_id == any_(wanted), *deliverable())
    return {int64_to_uint64(node) for node in session.scalars(query) if node is not None}


def settled(session: Session, message_ids: Collection[str]) -> set[str]:
    """Return those of these messages whose reply is whole, or that can end only in an error now; one statement, no locks."""
    if not message_ids:
        return set()
    asked = bindparam("messages", list(message_ids), ARRAY(String))
    wanted = func.unnest(asked).table_valued("message_id").render_derived()
    query = (
        select(wanted.c.message_id)
        .outerjoin(MessageIns, MessageIns.message_id == wanted.c.message_id)
        .outerjoin(Node, Node.node_id == MessageIns.dst_node_id)
        .outerjoin(MessageRes, MessageRes.reply_to_message_id == wanted.c.message_id)
        .where(or_(lost(), and_(MessageRes.message_id.is_not(None), whole(MessageRes.message_id))))
    )
    return set(session.scalars(query))


def deliverable() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which a row of `message_ins` is offered to its node."""
    return (
        MessageIns.created_at + MessageIns.ttl > now().timestamp(),
        exists().where(
            Run.run_id == MessageIns.run_id, Task.task_id == Run.primary_task_id, Task.finished_at.is_(None)
        ),
        in_store(MessageIns.message_id),
        ~exists().where(MessageRes.reply_to_message_id == MessageIns.message_id),
        whole(MessageIns.message_id),
    )


def lost() -> ColumnElement[bool]:
    """Return the condition under which a message, joined with its node, gets no reply any more: gone, too old, node away."""
    current = now().timestamp()
    return or_(
        MessageIns.message_id.is_(None),
        MessageIns.created_at + MessageIns.ttl <= current,
        Node.node_id.is_(None),
        Node.status == NodeStatus.UNREGISTERED,
        Node.online_until.is_(None),
        Node.online_until < current,
    )


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
