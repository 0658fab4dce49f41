"""`python -m flowerbed_superlink.status`: registered SuperNodes and runs as JSON, for `make status`; changes nothing.

Reads Flower's tables, with the columns of the pinned version, without importing Flower: under half a second.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import sys
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from flowerbed_superlink.database import connect
from flowerbed_superlink.errors import StartupError
from flowerbed_superlink.settings import settings

HEARTBEAT_PATIENCE = 2  # flwr.common.constant: a SuperNode is online for this many heartbeat intervals
MAX_RUNS = 20

_NODES = """
    SELECT node_id, name, status, public_key, registered_at, online_until, heartbeat_interval
    FROM node WHERE status <> 'unregistered' ORDER BY name, registered_at
"""
_RUNS = """
    SELECT run.run_id, run.fab_id, run.fab_version, run.federation_id, task.pending_at, task.running_at,
           task.finished_at, task.starting_at, task.sub_status, task.details
    FROM run JOIN task ON task.task_id = run.primary_task_id ORDER BY task.pending_at DESC LIMIT %s
"""


def main() -> int:
    """Print the status; return 0, or 2 with one sentence on standard error."""
    try:
        json.dump(read_status(), sys.stdout, indent=2, default=str)
    except (StartupError, psycopg.Error) as error:
        sys.stderr.write(f"The SuperLink's database cannot be read: {' '.join(str(error).split())}\n")
        return 2
    sys.stdout.write("\n")
    return 0


def read_status() -> dict[str, Any]:
    """Return `{"nodes": […], "runs": […]}`; times are UTC in ISO 8601, or null.

    Raises:
        StartupError: the environment is wrong.
        psycopg.Error: the database is away.
    """
    place = settings()
    with connect(place.database, place.secrets) as connection, connection.cursor(row_factory=dict_row) as cursor:
        nodes = cursor.execute(_NODES).fetchall()
        runs = cursor.execute(_RUNS, [MAX_RUNS]).fetchall()
    return {"nodes": [_node(row) for row in nodes], "runs": [_run(row) for row in runs]}


def _node(row: dict[str, Any]) -> dict[str, Any]:
    until, interval = row["online_until"], row["heartbeat_interval"] or 0
    online = row["status"] == "online" and until is not None and until > datetime.now(UTC).timestamp()
    return {
        "id": _unsigned(row["node_id"]),
        "name": row["name"],
        "supernode": fingerprint(row["public_key"]),
        "online": online,
        "online_until": _time(until),
        "last_heartbeat": _time(until - HEARTBEAT_PATIENCE * interval if online else None),
        "registered_at": row["registered_at"],
    }


def _run(row: dict[str, Any]) -> dict[str, Any]:
    steps = {"finished": row["finished_at"], "running": row["running_at"], "starting": row["starting_at"]}
    return {
        "id": _unsigned(row["run_id"]),
        "app": row["fab_id"],
        "version": row["fab_version"],
        "federation": row["federation_id"],
        "status": next((name for name, when in steps.items() if when is not None), "pending"),
        "sub_status": row["sub_status"] or None,
        "details": row["details"] or None,
        "pending_at": row["pending_at"],
        "running_at": row["running_at"],
        "finished_at": row["finished_at"],
    }


def fingerprint(pem: bytes | None) -> str | None:
    """Return the SHA-256 of the SubjectPublicKeyInfo in a PEM, as certificates carry it."""
    lines = (pem or b"").strip().splitlines()
    try:
        der = base64.b64decode(b"".join(lines[1:-1]), validate=True)
    except binascii.Error:
        return None
    return hashlib.sha256(der).hexdigest() if der else None


def _unsigned(value: int) -> int:
    """Flower's identifiers are unsigned, PostgreSQL's integers are not."""
    return value % 2**64


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
