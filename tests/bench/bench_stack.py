"""Seconds from `make up` to healthy, on nothing and after `make down`, of a second `make up`; sizes of images; memory at rest.

The core includes Keycloak, whose own figures are `bench_keycloak`'s.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable

import yaml

from e2e.federation import STACK, VERSION, Federation, docker
from flowerbed_cli.up import CORE

STARTS, AGAIN = 2, 4
REST_S = 20
UNITS = {"B": 1e-6, "KiB": 1.024e-3, "MiB": 1.048576, "GiB": 1073.741824}
Row = dict[str, object]


def first_start(federation: Federation) -> list[Row]:
    """Start a federation of which there is nothing yet: no authority, no volume, no realm."""
    return start_rows("on an empty database", [start(federation)])


def rows(federation: Federation) -> list[Row]:
    """Return the figures; the federation is up at the end."""
    federation.flowerbed("up")
    starts = []
    for _ in range(STARTS):
        federation.flowerbed("down")
        starts.append(start(federation))
    again = [seconds(lambda: federation.flowerbed("up")) for _ in range(AGAIN)]
    return [
        *start_rows("after make down", starts),
        row("make up on a running stack", "s", again),
        *image_rows(),
        *memory_rows(federation),
    ]


def start_rows(when: str, starts: list[tuple[float, float]]) -> list[Row]:
    """Return the figures of some starts, images built."""
    core, whole = zip(*starts, strict=True)
    return [
        row(f"make up {when}: core with Keycloak healthy", "s", list(core)),
        row(f"make up {when}: core and 3 sites healthy, realm compared", "s", list(whole)),
    ]


def start(federation: Federation) -> tuple[float, float]:
    """Return the seconds from the start of `up` until all of the core has been healthy, and until `up` has ended."""
    command = ["docker", "events", "--filter", "event=health_status", "--format"]
    with subprocess.Popen(
        [*command, "{{.TimeNano}} {{.Actor.Attributes.name}} {{.Action}}"], stdout=subprocess.PIPE, text=True
    ) as events:
        time.sleep(0.5)  # `docker events` says nothing when it listens
        started = time.time()
        federation.flowerbed("up")
        ended = time.time()
        events.terminate()
        lines = events.communicate()[0].splitlines()
    first: dict[str, float] = {}
    for at, name, *what in map(str.split, lines):
        if what[-1] == "healthy":
            first.setdefault(name, int(at) / 1e9)
    return max(first[f"{STACK}-{service}"] for service in CORE) - started, ended - started


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


def memory_rows(federation: Federation) -> list[Row]:
    """Return the memory at rest in MB, as Docker counts it, of the core and three sites with and without warm parents."""
    wait_until_warm(federation)
    used = memory()
    kinds = ("postgres", "keycloak", "superlink", "serverapp", "edge", "gateway", "supernode", "clientapp")
    single = [row(f"memory at rest, {kind}", "MB", [v for k, v in used.items() if k.endswith(kind)]) for kind in kinds]
    federation.write(
        yaml.safe_load((federation.root / "federation.yaml").read_text()) | {"rounds": {"warm_executors": False}}
    )
    federation.flowerbed("up")
    cold = memory()
    return [
        row("memory at rest, core and 3 sites, executors warm", "MB", [sum(used.values())]),
        row("memory at rest, core and 3 sites, without warm executors", "MB", [sum(cold.values())]),
        row(
            "memory at rest, core and 3 sites, without warm executors and Keycloak",
            "MB",
            [sum(cold.values()) - cold["keycloak"]],
        ),
        *single,
    ]


def wait_until_warm(federation: Federation) -> None:
    """Wait until every executor has its warm parent.

    Raises:
        TimeoutError: one has none after five minutes.
    """
    executors = ["serverapp", *(f"{site.name}-clientapp" for site in federation.topology.sites)]
    deadline = time.monotonic() + 300
    while any("The warm parent is ready" not in federation.logs(executor) for executor in executors):
        if time.monotonic() > deadline:
            raise TimeoutError("an executor has no warm parent")
        time.sleep(2)


def memory() -> dict[str, float]:
    """Return what each container of the stack uses, in MB, after a rest."""
    time.sleep(REST_S)
    lines = docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}").splitlines()
    return {line.split()[0].removeprefix(f"{STACK}-"): megabytes(line.split()[1]) for line in lines if STACK in line}


def megabytes(text: str) -> float:
    """Return `105.2MiB` in MB."""
    found = re.fullmatch(r"([\d.]+)([A-Za-z]+)", text)
    assert found, text
    return float(found.group(1)) * UNITS[found.group(2)]
