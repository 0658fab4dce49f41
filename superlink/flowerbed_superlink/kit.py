"""The kit's own database: its schema, and how it is reached; not Flower's, whose migrations end at a foreign table.

`people` are the accounts (docs/contracts.md, "Identity"). `ran` says which site was given work of which run: Flower deletes
its messages when a run ends, and a custodian asks afterwards.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import psycopg

from flowerbed_superlink.database import connect
from flowerbed_superlink.settings import settings

# The kit's own account, which registers and owns every SuperNode; its name is its id.
KIT_AID = "flowerbed"
# One lock for everybody who makes the schema: two at once would both find it missing.
_LOCK = "SELECT pg_advisory_xact_lock(7201, 1)"
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS people (
        aid text PRIMARY KEY,
        name text NOT NULL UNIQUE,
        kind text NOT NULL CHECK (kind IN ('person', 'demo', 'pipeline', 'kit')),
        email text,
        first_name text,
        last_name text,
        organisation text,
        roles text[] NOT NULL,
        federations text[] NOT NULL,
        enabled boolean NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE IF NOT EXISTS ran (
        run numeric(20) NOT NULL,
        site text NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (run, site)
    );
    CREATE INDEX IF NOT EXISTS ran_by_site ON ran (site, at)
"""
_TIMES = {"connect_timeout": 3, "tcp_user_timeout": 3000, "options": "-c timezone=UTC -c statement_timeout=5000"}


def open_kit() -> psycopg.Connection[Any]:
    """Open one connection to the kit's database, in autocommit.

    Raises:
        psycopg.Error: the server is away or does not know us.
    """
    place = settings()
    return connect(place.kit_database, place.secrets, **_TIMES)


def ensure_schema(connection: psycopg.Connection[Any]) -> None:
    """Make what is missing of the schema; changes nothing that is there."""
    with connection.transaction():
        connection.execute(_LOCK)
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)


_KITS: WeakSet[Kit] = WeakSet()


def close_all() -> None:
    """Close every connection that a `Kit` of this process holds."""
    for kit in list(_KITS):
        kit.close()


class Kit:
    """One connection, opened again when it broke; one caller at a time uses it."""

    def __init__(self) -> None:
        self._connection: psycopg.Connection[Any] | None = None
        _KITS.add(self)

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query that may be done twice; a broken connection is opened again once.

        Raises:
            psycopg.Error: the server is away.
        """
        if self._connection is not None:
            try:
                return _rows(self._connection, query, values)
            except psycopg.errors.QueryCanceled:  # it took too long, and would again
                raise
            except psycopg.OperationalError:
                self.close()
        self._connection = open_kit()
        return _rows(self._connection, query, values)

    def close(self) -> None:
        """Close the connection; the next query opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _rows(connection: psycopg.Connection[Any], query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    cursor = connection.execute(query.encode(), values)
    return cursor.fetchall() if cursor.description is not None else []
