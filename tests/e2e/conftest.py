"""One federation for all end-to-end tests, started as an operator would and removed afterwards.

FLOWERBED_E2E_KEEP=1 leaves it running and takes up one that runs, for working on a single test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .client import Edge, Log
from .federation import CANARY, KIT, STACK, Federation, docker, fresh, sweep

ROOT = KIT / ".cache" / "e2e" / STACK
KEEP = os.environ.get("FLOWERBED_E2E_KEEP") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.docker)


@pytest.fixture(scope="session")
def federation() -> Iterator[Federation]:
    kept = KEEP and (ROOT / "build" / "core.env").is_file()
    running = Federation(ROOT) if kept else fresh(ROOT)
    try:
        running.flowerbed("up")
        if not kept:
            plant_canaries(running)
        yield running
        if not KEEP:
            running.flowerbed("clean", "--yes", "--identity")
    finally:
        if not KEEP:
            sweep()


@pytest.fixture(scope="session")
def edge(federation: Federation) -> Edge:
    """The edge, to be asked by its names."""
    return Edge(federation)


@pytest.fixture
def log(federation: Federation) -> Log:
    """What the containers log from here on."""
    return Log(federation)


def plant_canaries(federation: Federation) -> None:
    """Give each site a row with a value that occurs nowhere else, to be searched for wherever rows must not be."""
    for site in federation.topology.sites:
        row = ",".join([f"{CANARY}{site.number}"] * 30 + ["1"])
        docker(
            "run", "--rm", "--network", "none", "--entrypoint", "sh", "-v", f"{site.stack}-{site.name}-data:/data",
            "debian:trixie-slim", "-euc", f"echo {row} >> /data/breast-cancer.csv",
        )  # fmt: skip
