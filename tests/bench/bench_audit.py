"""The audit trail on the real PostgreSQL image: records written a second, records verified a second, one record's wait.

Written through `Trail`, as the SuperLink writes them, by threads that each wait for their record to be committed; its lines
on standard output go to a file. Verified in a file and live, through `docker exec`, with the functions of `flowerbed audit`.
Run as a script it prints a table.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]

import psycopg  # noqa: E402 - the script is also run by itself

from audit_support import Operator  # noqa: E402
from flowerbed_cli import audit, audit_chain, audit_rows  # noqa: E402
from flowerbed_superlink.database import connect  # noqa: E402
from flowerbed_superlink.trail import _TIMES, Trail  # noqa: E402
from images_support import inspect  # noqa: E402
from postgres_server import Server, serving  # noqa: E402

THREADS, EACH, RUNS = 64, 50, 5
ROWS = 100_000
PASSWORD = "benchmark"
Row = dict[str, object]


def rows(runs: int = RUNS) -> list[Row]:
    """Return the rows for the benchmark runner."""
    with tempfile.TemporaryDirectory(prefix="flowerbed-bench-audit-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with serving(folder, f"fb-audit-{uuid.uuid4().hex[:8]}-postgres", audit=PASSWORD) as server:
            return list(_rows(folder, server, runs))


def _rows(folder: Path, server: Server, runs: int) -> Iterator[Row]:
    with _trail(folder, server) as trail:
        yield _row("audit: one record, waited for", "ms", [1000 * _once(trail) for _ in range(40 * runs)])
        yield _row(f"audit: records written, {THREADS} threads", "/s", [_written(trail) for _ in range(runs)])
    _fill(folder, server)
    operator = Operator(folder / "operator")
    export = folder / "export.jsonl"
    stack = server.container.removesuffix("-postgres")
    lines = list(audit_rows.rows(stack))
    export.write_bytes(b"".join(line + b"\n" for line in lines))
    with export.open("ab") as file:
        file.write(operator.sealed(len(lines), bytes.fromhex(lines[-1][-66:-2].decode())) + b"\n")
    count = len(lines)
    del lines
    in_file = [_rate(count, lambda: audit.verify_file(export, operator.ca, operator.crl, None)) for _ in range(runs)]
    yield _row(f"audit: records verified, file of {count:,}", "/s", in_file)
    yield _row(
        f"audit: records verified, live table of {count:,}",
        "/s",
        [_rate(count, lambda: _live(stack)) for _ in range(runs)],
    )


@contextmanager
def _trail(folder: Path, server: Server) -> Iterator[Trail]:
    trail = Trail(lambda: _connect(folder, server))
    with (folder / "stdout").open("w") as out, redirect_stdout(out):
        yield trail
        trail.close()


def _connect(folder: Path, server: Server) -> psycopg.Connection[tuple[object, ...]]:
    (folder / "pgpass").write_text(f"*:*:*:audit:{PASSWORD}\n")
    (folder / "pgpass").chmod(0o400)
    address = inspect(server.container)["NetworkSettings"]["IPAddress"]
    return connect("postgresql://audit@postgres:5432/audit", folder, hostaddr=address, **_TIMES)


def _record(trail: Trail, number: int) -> None:
    trail.record(
        who="researcher-north",
        aid="p-0123456789abcdef0123",
        organisation="north",
        verb="list-runs",
        object="flowerbed/breast-cancer 1.0.0",
        outcome="done",
        source="172.20.0.1",
        run=2**63 + number,
    )


def _once(trail: Trail) -> float:
    began = time.perf_counter()
    _record(trail, 0)
    return time.perf_counter() - began


def _written(trail: Trail) -> float:
    def work(first: int) -> None:
        for number in range(EACH):
            _record(trail, first + number)

    threads = [threading.Thread(target=work, args=[n * EACH]) for n in range(THREADS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return THREADS * EACH / (time.perf_counter() - began)


def _fill(folder: Path, server: Server) -> None:
    """Add rows of a record's size until there are enough to read."""
    text = '{"at":"2026-01-01T00:00:00.000000+00:00","who":"researcher-north","detail":"' + "x" * 180 + '"}'
    with _connect(folder, server) as connection:
        connection.execute("SET statement_timeout = 0")
        for _ in range(ROWS // 1000):
            connection.execute("INSERT INTO audit.trail (record) SELECT unnest(%s::text[])", [[text] * 1000])


def _rate(count: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def _live(stack: str) -> None:
    for _ in audit_chain.Chain().follow(audit_rows.rows(stack)):
        pass


def _row(name: str, unit: str, values: Sequence[float]) -> Row:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {"name": name, "unit": unit, **figures, "runs": len(values)}


def main() -> None:
    """Print every row."""
    for row in rows():
        sys.stdout.write("{name}: {median:,.1f} {unit} ({min:,.1f} to {max:,.1f})\n".format(**row))


if __name__ == "__main__":
    main()
