"""The audit trail's rows, streamed out of PostgreSQL's container as the lines of an export. Reads, in constant memory.

The superuser's socket inside the container is the one way to read them: no role that serves has it.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Generator

from . import docker
from .errors import DockerError, FlowerbedError

# The same bytes as an exported line, made by the server. In COPY's text format a backslash is doubled, and every character that
# could end a line is written as a backslash and a letter, so that a line is a row whatever somebody wrote into it.
COPY = (
    'COPY (SELECT format(\'{{"seq":%s,"record":%s,"hash":"%s"}}\', seq, record, encode(hash, \'hex\')) '
    "FROM audit.trail ORDER BY seq {order}) TO STDOUT"
)
_LAST_LINES = 4


def rows(stack: str, *, newest_first: bool = False) -> Generator[bytes, None, None]:
    """Yield each row as an exported line, without its newline; ends the query when it is closed early.

    Raises:
        FlowerbedError: PostgreSQL does not run, or has no audit trail.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            _command(stack, newest_first=newest_first),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env=docker.environment(),
        )
        try:
            assert process.stdout is not None  # noqa: S101  (PIPE was asked for)
            for line in process.stdout:
                yield line.rstrip(b"\n").replace(b"\\\\", b"\\")
            if process.wait():
                said.seek(0)
                raise _failure(stack, said.read().decode(errors="replace"))
        finally:
            process.kill()
            process.communicate()


def _command(stack: str, *, newest_first: bool) -> list[str]:
    client = ["psql", "--host=/run/postgresql", "--username=postgres", "--dbname=audit", "--no-psqlrc", "--quiet"]
    query = COPY.format(order="DESC" if newest_first else "ASC")
    return ["docker", "exec", f"{stack}-postgres", *client, "--set=ON_ERROR_STOP=1", "--command", query]


def _failure(stack: str, said: str) -> FlowerbedError:
    if "No such container" in said or "is not running" in said:
        return FlowerbedError(
            f"The audit trail of {stack} cannot be read, as PostgreSQL does not run: run make up first."
        )
    if 'database "audit" does not exist' in said or 'relation "audit.trail" does not exist' in said:
        return FlowerbedError(f"The database of {stack} has no audit trail yet: run make up, which adds it.")
    return DockerError("The audit trail cannot be read: " + "\n".join(said.strip().splitlines()[-_LAST_LINES:]))
