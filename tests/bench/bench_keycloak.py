"""Keycloak as the core stack has it: seconds to healthy, MiB at rest, and how long a reconcile takes.

Not for token validation: that is `bench_tokens`. One Keycloak, on a PostgreSQL of its own, started a few times.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from images_support import docker
from keycloak_support import Keycloak

LATER_STARTS = 3
RECONCILES = 5
REST_S = 20
Row = dict[str, object]


def rows() -> list[Row]:
    """Every figure of one Keycloak."""
    with tempfile.TemporaryDirectory(prefix="flowerbed-bench-keycloak-") as name:
        keycloak = Keycloak(Path(name))
        try:
            return list(_rows(keycloak))
        finally:
            keycloak.remove()


def _rows(keycloak: Keycloak) -> Iterator[Row]:
    keycloak.prepare()
    keycloak.start()
    yield _row("Keycloak healthy on an empty database", "s", [keycloak.started_in["empty"]])
    yield _row("first reconcile, 8 people", "s", [_timed(keycloak.reconcile)])
    yield _row("reconcile that finds nothing to do", "s", [_timed(keycloak.reconcile) for _ in range(RECONCILES)])
    yield _row("Keycloak healthy on its database", "s", [_later(keycloak) for _ in range(LATER_STARTS)])
    keycloak.reconcile()
    time.sleep(REST_S)
    yield _row("Keycloak at rest", "MiB", [_memory(keycloak)])


def _later(keycloak: Keycloak) -> float:
    docker("stop", keycloak.keycloak)
    return keycloak.begin()


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _memory(keycloak: Keycloak) -> float:
    said = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", keycloak.keycloak)
    found = re.match(r"([0-9.]+)(MiB|GiB)", said)
    assert found, said
    return float(found[1]) * (1024 if found[2] == "GiB" else 1)


def _row(name: str, unit: str, values: Sequence[float]) -> Row:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {"name": name, "unit": unit, "runs": len(values), **figures}
