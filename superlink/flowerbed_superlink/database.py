"""How every part of this package connects to PostgreSQL; not what is stored there, which is `state`'s.

Imports nothing of Flower, so that `status` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg

CONNECT_TIMEOUT_S = 5


def connect_arguments(secrets: Path) -> dict[str, Any]:
    """Return libpq's parameters: verified TLS, the password from a file, UTC, and a dead server noticed in seconds."""
    return {
        "passfile": str(secrets / "pgpass"),
        "sslmode": "verify-full",
        "sslrootcert": str(secrets / "ca.crt"),
        # Questions over few rows each: compiling one costs more than asking it (delivery's look expensive to the planner).
        "options": "-c timezone=UTC -c jit=off",
        "application_name": "superlink",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }


def connect(url: str, secrets: Path, **other: Any) -> psycopg.Connection[tuple[Any, ...]]:  # noqa: ANN401  libpq's
    """Open one connection to a URL of the settings; `other` parameters of libpq prevail over ours.

    Raises:
        psycopg.Error: the server is away, not the one we know, or does not know us.
    """
    parts = urlsplit(url)
    return psycopg.connect(
        host=parts.hostname,
        port=parts.port or 5432,
        user=unquote(parts.username or ""),
        dbname=unquote(parts.path.strip("/")),
        autocommit=True,
        **(connect_arguments(secrets) | other),
    )
