"""Seconds from `make up` to healthy, on nothing and after `make down`, of a second `make up`; sizes of images; memory at rest.

The core includes Keycloak, whose own figures are `bench_keycloak`'s.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

from e2e.federation import STACK, VERSION, Federation, docker

STARTS, AGAIN = 2, 4
REST_S = 20
UNITS = {"B": 1e-6, "KiB": 1.024e-3, "MiB": 1.048576, "GiB": 1073.741824}
Row = dict[str, object]


def first_start(federation: Federation) -> Row:
    """Start a federation of which there is nothing yet: no authority, no volume, no realm."""
    name = "make up to healthy on an empty database, core and 3 sites, images built"
    return row(name, "s", [seconds(lambda: federation.flowerbed("up"))])


def rows(federation: Federation) -> list[Row]:
    """Return the figures; the federation is up at the end."""
    federation.flowerbed("up")
    starts = []
    for _ in range(STARTS):
        federation.flowerbed("down")
        starts.append(seconds(lambda: federation.flowerbed("up")))
    again = [seconds(lambda: federation.flowerbed("up")) for _ in range(AGAIN)]
    return [
        row("make up to healthy, core and 3 sites, images built", "s", starts),
        row("make up on a running stack", "s", again),
        *image_rows(),
        *memory_rows(),
    ]


def row(name: str, unit: str, values: list[float]) -> Row:
    """Return one figure."""
    middle = sorted(values)[len(values) // 2]
    return {"name": name, "unit": unit, "median": middle, "min": min(values), "max": max(values), "runs": len(values)}


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def image_rows() -> list[Row]:
    """Return the sizes of the images in MB (10^6 bytes), layers shared between them counted in each."""
    images = ("nginx", "flower", "postgres", "keycloak", "app")
    names = ["debian:trixie-slim"] + [f"flowerbed/{name}:{VERSION}" for name in images]
    found = {name: json.loads(docker("image", "inspect", name))[0]["Size"] / 1e6 for name in names}
    return [row(f"image {name}", "MB", [size]) for name, size in found.items()]


def memory_rows() -> list[Row]:
    """Return the memory at rest in MB, as Docker counts it, of the core and three sites, and of each kind."""
    time.sleep(REST_S)
    lines = docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}").splitlines()
    used = {line.split()[0].removeprefix(f"{STACK}-"): megabytes(line.split()[1]) for line in lines if STACK in line}
    kinds = ("postgres", "keycloak", "superlink", "serverapp", "edge", "gateway", "supernode", "clientapp")
    single = [row(f"memory at rest, {kind}", "MB", [v for k, v in used.items() if k.endswith(kind)]) for kind in kinds]
    return [row("memory at rest, core and 3 sites", "MB", [sum(used.values())]), *single]


def megabytes(text: str) -> float:
    """Return `105.2MiB` in MB."""
    found = re.fullmatch(r"([\d.]+)([A-Za-z]+)", text)
    assert found, text
    return float(found.group(1)) * UNITS[found.group(2)]
