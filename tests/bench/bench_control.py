"""A Control call, and `flwr list` as a whole process, through the whole secured path, beside a stock insecure SuperLink.

The secured path is the edge, the check of a pipeline's access token, the audit trail and PostgreSQL; the stock SuperLink is
that of `bench_rounds`. Both are asked call by call in turns, each on one connection that stays open, by the same plain
client, so that what a client costs hides no difference. The pause between two calls keeps below the edge's limit of 50 a
second. `flwr` runs on the host on both sides, from the same environment, with a home of its own for each side. `list-runs`
is measured without runs and with some that have finished, as Flower cleans up after each of those whenever it is listed.

Not for what a token's check costs alone (`bench_tokens`), nor a record (`bench_audit`).
"""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bench_rounds import ENVIRONMENT, FLWR, PORT, Row, comparison, log_in, our_home, secured_run, stock, stock_run
from flwr.proto.control_pb2 import ListFederationsResponse, ListRunsResponse

from e2e.client import Edge, bearer
from e2e.federation import Federation

CALLS, WARM = 200, 20
PAUSE_S = 0.02
RUNS = 3
TURNS = 10
PROTOBUF = {"Content-Type": "application/protobuf"}
NO_TRAINING = "rounds=0 exchanges=0 nodes=0"


def rows(federation: Federation) -> list[Row]:
    """Return calls without a run and with a few finished ones, and the process; `ratio` is ours divided by stock Flower's."""
    with stock() as theirs, our_home(federation) as ours:
        before = [
            calls(federation, "list-federations", federations),
            calls(federation, "list-runs", runs, expected=0, note=", no runs"),
        ]
        finish_runs(federation, theirs)
        listed = calls(federation, "list-runs", runs, expected=RUNS, note=f", {RUNS} finished runs")
        return [*before, listed, processes(federation, ours, theirs)]


def calls(federation: Federation, verb: str, count: Callable[[bytes], int], expected: int = 1, note: str = "") -> Row:
    """Return the milliseconds of a call on each side; both must answer with as many things as expected."""
    with (
        closing(Edge(federation).connection("superlink")) as ours,
        closing(http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)) as theirs,
    ):
        sides: list[tuple[http.client.HTTPConnection, dict[str, str]]] = [(ours, bearer(federation)), (theirs, {})]
        found = {count(call(connection, verb, headers)) for _ in range(WARM) for connection, headers in sides}
        if found != {expected}:
            raise RuntimeError(f"{verb}: answered with {sorted(found)}, not {expected} alone: is the federation new?")
        turns = [[paced(connection, verb, headers) for connection, headers in sides] for _ in range(CALLS)]
    made = comparison(f"Control call {verb}{note}", *([turn[side] for turn in turns] for side in (0, 1)))
    return made | {"unit": "ms"}


def paced(connection: http.client.HTTPConnection, verb: str, headers: dict[str, str]) -> float:
    """Return the milliseconds of one call, made after the pause."""
    time.sleep(PAUSE_S / 2)
    started = time.perf_counter()
    call(connection, verb, headers)
    return (time.perf_counter() - started) * 1000


def call(connection: http.client.HTTPConnection, verb: str, headers: dict[str, str]) -> bytes:
    """Return the answer to a request without fields."""
    connection.request("POST", f"/v1/control/{verb}", body=b"", headers=PROTOBUF | headers)
    reply = connection.getresponse()
    body = reply.read()
    if reply.status != 200:
        raise RuntimeError(f"{verb}: {reply.status} {body!r}")
    return body


def runs(body: bytes) -> int:
    """Return how many runs an answer lists."""
    return len(ListRunsResponse.FromString(body).run_dict)


def federations(body: bytes) -> int:
    """Return how many federations an answer lists."""
    return len(ListFederationsResponse.FromString(body).federations)


def finish_runs(federation: Federation, home: Path) -> None:
    """Have both sides finish as many runs, of an app that ends at once."""
    for _ in range(RUNS):
        secured_run(federation, NO_TRAINING)
        stock_run(home, NO_TRAINING)


def processes(federation: Federation, ours: Path, theirs: Path) -> Row:
    """Return the seconds of `flwr list` from start to exit on each side, the first of each left out."""
    log_in(federation, ours)
    turns = [(listing(ours, "flowerbed"), listing(theirs, "stock")) for _ in range(TURNS + 1)]
    return comparison(f"flwr list, whole process, {RUNS} finished runs", *map(list, zip(*turns[1:], strict=True)))


def listing(home: Path, connection: str) -> float:
    """Return the seconds that `flwr list` takes, which must show every run."""
    environment = ENVIRONMENT | {"FLWR_HOME": str(home), "COLUMNS": "200"}
    command = [*FLWR, "list", connection]
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    took = time.perf_counter() - started
    if done.returncode or done.stdout.count("finished:completed") != RUNS:
        raise RuntimeError(f"flwr list {connection} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return took
