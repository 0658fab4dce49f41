"""Flower's LinkState and ObjectStore on PostgreSQL; not a schema of our own (Flower's migrations run as they are).

The three overrides that Flower leaves to a PostgreSQL backend, one connection set-up for every engine, and NUL bytes
taken out of every text parameter: PostgreSQL refuses what SQLite stored, and a task's log may hold any byte.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from select import POLLIN, poll
from typing import Any

import psycopg
import sqlalchemy
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.linkstate import LinkState
from flwr.supercore.constant import TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.object_store.object_store import ObjectStore
from flwr.supercore.run import Run
from flwr.supercore.sql_mixin import SqlMixin
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from flwr.supercore.state.schema.linkstate_models import MessageIns
from flwr.supercore.state.schema.objectstore_models import RunObject
from flwr.supercore.utils import uint64_to_int64
from psycopg.abc import Buffer
from psycopg.types.string import StrBinaryDumper, StrDumper, StrDumperUnknown
from sqlalchemy import event
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.orm import Session

from flowerbed_superlink.database import connect_arguments
from flowerbed_superlink.delivering import ConfirmedObjectStore, DeliveringLinkState
from flowerbed_superlink.owned import OwnedLinkState
from flowerbed_superlink.settings import settings

_CHECKED = {"primary_task_type": 7, "series_id": 8}  # arguments of `create_run`, with their positions
POOL_SIZE, POOL_OVERFLOW, POOL_TIMEOUT_S = 5, 15, 10
EXPIRY_INTERVAL_S = 1.0
CLEAN_FOR_S, CLEAN_RUNS = 60.0, 4096
# Control characters but tab, line feed and carriage return, and of escape sequences all but colours (ECMA-48, SGR).
_CONTROLS = re.compile(r"\x1b(?!\[[0-9;]{0,20}m)|[\x01-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
_DEPTH = "flowerbed.depth"  # key in a session's `info`


class _NulFreeText(StrDumperUnknown):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\x00", ""))


class _NulFreeTypedText(StrDumper):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\x00", ""))


class _NulFreeBinary(StrBinaryDumper):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\x00", ""))


def register_nul_free_text() -> None:
    """Have psycopg strip NUL (0x00) from every text parameter; call before the first engine is made.

    Source: psycopg 3, "Data adaptation configuration", whose order of registration is kept: the last is the default.
    """
    for dumper in (_NulFreeBinary, _NulFreeTypedText, _NulFreeText):
        psycopg.adapters.register_dumper(str, dumper)


def check_open(connection: psycopg.Connection[Any], _record: object, _proxy: object) -> None:
    """Have the pool replace a connection that the server has ended while nobody used it.

    In place of SQLAlchemy's `pool_pre_ping`, whose question to the server before every transaction took a fifth of the time of
    a SuperNode's requests. A server has nothing to say on an idle connection but that it ends; one that went without a word is
    noticed by the keepalives of `connect_arguments`, which end the connection as well.

    Raises:
        InvalidatePoolError: the pool connects again, and takes none of the older connections.
    """
    if connection.closed or _readable(connection.fileno()):
        raise InvalidatePoolError("the server has ended the connection")


def _readable(descriptor: int) -> bool:
    waiting = poll()
    waiting.register(descriptor, POLLIN)
    return bool(waiting.poll(0))


class PostgresMixin(SqlMixin):
    """What Flower's SQL states need to run on PostgreSQL; goes first in the MRO."""

    allowed_dialects = frozenset({"postgresql"})

    def dialect_insert(self, table: Any) -> Insert:  # noqa: ANN401  as Flower has it
        """Return PostgreSQL's INSERT, which knows ON CONFLICT."""
        return insert(table)

    @property
    def select_lock_sql(self) -> str:
        """Return the clause with which two claims at once take different rows."""
        return "FOR UPDATE SKIP LOCKED"

    def initialize(self, log_queries: bool = False, **engine_kwargs: Any) -> list[str]:  # noqa: ANN401  as Flower has it
        """Connect and migrate, with connections that are looked at before use."""
        register_nul_free_text()
        defaults: dict[str, Any] = {
            "connect_args": connect_arguments(settings().secrets),
            "pool_size": POOL_SIZE,
            "max_overflow": POOL_OVERFLOW,
            "pool_timeout": POOL_TIMEOUT_S,
        }
        tables = super().initialize(log_queries, **(defaults | engine_kwargs))
        event.listen(self._engine, "checkout", check_open)
        return tables

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Provide Flower's session, which knows how deep it is nested."""
        with super().session() as session:
            session.info[_DEPTH] = session.info.get(_DEPTH, 0) + 1
            try:
                yield session
            finally:
                session.info[_DEPTH] -= 1

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Provide a session for one SELECT: without a transaction, which would cost BEGIN and COMMIT, unless within one."""
        with self.session() as session:
            if session.info[_DEPTH] == 1:
                session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            yield session


class PostgresObjectStore(PostgresMixin, ConfirmedObjectStore):
    """Flower's ObjectStore on PostgreSQL."""


class PostgresLinkState(PostgresMixin, OwnedLinkState, DeliveringLinkState):
    """Flower's LinkState on PostgreSQL, which starts ServerApps and nothing else, each in a series of its own."""

    _expiry_due = float("-inf")

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  as Flower has it
        super().__init__(*args, **kwargs)
        self._clean_until: dict[int, float] = {}

    def _cleanup_expired_task_tokens(self) -> None:
        """End tasks whose heartbeat has stopped, once a second at most.

        Flower looks for them in almost every request, which costs a transaction of two updates each time; a heartbeat lapses
        after 30 s at the earliest.
        """
        if (now := time.monotonic()) >= self._expiry_due:
            self._expiry_due = now + EXPIRY_INTERVAL_S
            super()._cleanup_expired_task_tokens()

    def add_task_log(self, task_id: int, log_message: str) -> None:
        """Add to a task's log, without what would do more to the terminal of whoever reads it than colour it."""
        super().add_task_log(task_id, _CONTROLS.sub("\ufffd", log_message))

    def cleanup_run(self, run_id: int) -> None:
        """Delete what a finished run has left; where nothing was found, look again after a minute at the earliest.

        Flower asks for it for each finished run in a list whenever it is listed, in eleven statements of three transactions.
        """
        if time.monotonic() < self._clean_until.get(run_id, 0):
            return
        if self._left_something(run_id):
            super().cleanup_run(run_id)
            return
        if len(self._clean_until) >= CLEAN_RUNS:
            self._clean_until.clear()
        self._clean_until[run_id] = time.monotonic() + CLEAN_FOR_S

    def _left_something(self, run_id: int) -> bool:
        run = uint64_to_int64(run_id)
        left = (sqlalchemy.exists().where(table.run_id == run) for table in (MessageIns, RunObject, ObjectPushSession))
        with self.reading() as session:
            return bool(session.scalar(sqlalchemy.select(sqlalchemy.or_(*left))))

    def create_run(self, *args: Any, **kwargs: Any) -> int:  # noqa: ANN401  as Flower has it
        """Create a run.

        Raises:
            ValueError: the run's first task would not be a ServerApp, or it would join another run's series; Flower
                shows it as an invalid run configuration.
        """
        task_type, series = (kwargs.get(name, args[at] if len(args) > at else None) for name, at in _CHECKED.items())
        if task_type != TaskType.SERVER_APP:
            raise ValueError(f"this federation runs ServerApps only, not {task_type}")
        if series is not None:
            raise ValueError("a run cannot join another run's series")
        return super().create_run(*args, **kwargs)

    def get_run_info(self, **filters: Any) -> Sequence[Run]:  # noqa: ANN401  as Flower has it
        """Return runs, with one question to the database where Flower has two transactions."""
        self._cleanup_expired_task_tokens()
        with self.reading():
            return super().get_run_info(**filters)

    def has_object(self, run_id: int, object_id: str) -> bool:
        """Return whether one of this run's messages holds the object."""
        query = sqlalchemy.select(RunObject.run_id).where(
            RunObject.run_id == uint64_to_int64(run_id), RunObject.object_id == object_id
        )
        with self.reading() as session:
            return session.scalar(query) is not None

    def get_object(self, run_id: int, object_id: str) -> bytes | None:
        """Return an object's content, empty until it has arrived; None for one that is not this run's."""
        with self.session():
            return super().get_object(run_id, object_id) if self.has_object(run_id, object_id) else None


class PostgresObjectStoreFactory(ObjectStoreFactory):
    """Make the one ObjectStore of this process."""

    def store(self) -> ObjectStore:
        """Return the ObjectStore, connected and migrated."""
        with self._store_lock:
            if self.store_instance is None:
                store = PostgresObjectStore(self.database)
                store.initialize()
                self.store_instance = store
            return self.store_instance


class PostgresLinkStateFactory(LinkStateFactory):
    """Make the one LinkState of this process."""

    def state(self) -> LinkState:
        """Return the LinkState, connected and migrated; it shares transactions with the store through an equal URL."""
        if self.state_instance is not None:
            return self.state_instance
        with self._state_lock:
            if self.state_instance is None:
                store = self.objectstore_factory.store()
                state = PostgresLinkState(self.database, self.federation_manager, store)
                state.initialize()
                self.state_instance = state
            return self.state_instance
