"""Whether those who wait would get something now: one read-only transaction for all of them; it claims and changes nothing.

What is deliverable is `delivery`'s to say. Not for the answers themselves, which Flower's own routes give.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from datetime import datetime

from flwr.supercore.constant import NodeStatus
from flwr.supercore.date import now
from flwr.supercore.sql_mixin import SqlMixin
from flwr.supercore.state.schema.corestate_models import NonceStore, Task
from flwr.supercore.state.schema.linkstate_models import MessageIns, Node
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from sqlalchemy import ARRAY, BigInteger, BindParameter, String, any_, bindparam, exists, or_, select
from sqlalchemy.orm import Session

from flowerbed_superlink.delivery import nodes_with_messages, settled

# Made once: that takes longer than PostgreSQL takes to find nothing.
_NOW: BindParameter[datetime] = bindparam("current", callable_=now)
_SPEAKING = (Task.finished_at.is_(None), Task.active_until >= _NOW)  # what Flower's `get_task_by_token` asks of a task
_OF_NODES = Node.node_id == any_(bindparam("nodes", type_=ARRAY(BigInteger)))
_STILL_THERE = select(Node.node_id).where(_OF_NODES, Node.status != NodeStatus.UNREGISTERED)
_VALID = select(Task.token).where(*_SPEAKING, Task.token == any_(bindparam("tokens", type_=ARRAY(String))))
_RUN = select(Task.run_id).where(*_SPEAKING, Task.token == bindparam("token"))
_UNCLAIMED = Task.token.is_(None) & Task.starting_at.is_(None)
_LAPSED = Task.token.is_not(None) & (Task.active_until < _NOW)
_PUT_BACK = _LAPSED & Task.running_at.is_(None)
_PENDING = select(Task.type, Task.fab_hash).distinct().where(Task.finished_at.is_(None), or_(_UNCLAIMED, _PUT_BACK))
_ANY_LAPSED = select(exists().where(Task.finished_at.is_(None), _LAPSED))


@dataclass(frozen=True)
class Question:
    """Who waits for what."""

    nodes: Set[int] = frozenset()
    tokens: Set[str] = frozenset()  # of tasks
    messages: Set[str] = frozenset()  # that those tasks want replies to
    executors: bool = False


@dataclass(frozen=True)
class Answer:
    """What there is for them."""

    registered: Set[int] = frozenset()  # nodes that are still known
    with_messages: Set[int] = frozenset()  # nodes
    valid: Set[str] = frozenset()  # tokens that still speak for a task
    settled: Set[str] = frozenset()  # messages
    types: Set[str] = field(default_factory=frozenset)  # of tasks to be claimed
    bundles: Set[str] = field(default_factory=frozenset)  # hashes of their app bundles
    lapsed: bool = False  # a task's claim has run out; Flower notices when somebody asks it for tasks


def look(state: SqlMixin, question: Question) -> Answer:
    """Answer from the database.

    Raises:
        SQLAlchemyError: it is away.
    """
    with state.session() as session:
        _read_only(session)
        pending = _pending(session) if question.executors else set()
        return Answer(
            registered=_registered(session, question.nodes),
            with_messages=nodes_with_messages(session, question.nodes),
            valid=_valid(session, question.tokens),
            settled=settled(session, question.messages),
            types={name for name, _ in pending},
            bundles={bundle for _, bundle in pending if bundle},
            lapsed=question.executors and bool(session.scalar(_ANY_LAPSED)),
        )


def foreign(state: SqlMixin, token: str, messages: Set[str]) -> bool:
    """Return whether a token speaks for no task, or one of these messages is another run's: Flower refuses both.

    Raises:
        SQLAlchemyError: the database is away.
    """
    with state.session() as session:
        _read_only(session)
        run = session.scalar(_RUN, {"token": token})
        wanted = any_(bindparam("messages", list(messages), ARRAY(String)))
        others = exists().where(MessageIns.message_id == wanted, MessageIns.run_id != run)
        return run is None or bool(session.scalar(select(others)))


def nonce_used(state: SqlMixin, namespace: str, nonce: str) -> bool:
    """Return whether a nonce has been used, without using it.

    Raises:
        SQLAlchemyError: the database is away.
    """
    used = exists().where(NonceStore.namespace == namespace, NonceStore.nonce == nonce)
    with state.session() as session:
        _read_only(session)
        return bool(session.scalar(select(used)))


def _read_only(session: Session) -> None:
    """Have PostgreSQL refuse to change anything in this transaction; costs no round trip."""
    session.connection(execution_options={"postgresql_readonly": True})


def _registered(session: Session, nodes: Set[int]) -> set[int]:
    if not nodes:
        return set()
    wanted = {"nodes": [uint64_to_int64(node) for node in nodes]}
    return {int64_to_uint64(node) for node in session.scalars(_STILL_THERE, wanted) if node is not None}


def _valid(session: Session, tokens: Set[str]) -> set[str]:
    return {token for token in session.scalars(_VALID, {"tokens": list(tokens)}) if token} if tokens else set()


def _pending(session: Session) -> set[tuple[str, str | None]]:
    """Return type and app bundle of tasks that Flower's `acquire_task` would claim, or put back to be claimed."""
    return {(name, bundle) for name, bundle in session.execute(_PENDING)}
