"""A federation whose rounds are switched back to stock Flower's, in federation.yaml."""

from __future__ import annotations

import json
import re

from .federation import FEDERATION, KIT, Federation
from .operating import changed

ECHO = KIT / "tests" / "bench" / "echo"
# Flower's Grid looks for replies at once, when there are none yet, and then every 3 s: once in each of two exchanges.
STOCK_S = 6.0


def test_switched_off_a_run_waits_and_starts_tasks_as_stock_flower_does(federation: Federation) -> None:
    with changed(federation, FEDERATION | {"rounds": {"held_pulls": False, "warm_executors": False}}):
        log = federation.flwr(
            "flwr run /app flowerbed --stream --run-config 'rounds=1 nodes=3'", "-v", f"{ECHO}:/app:ro"
        )
        found = re.search(r"BENCH (\[.*\])", log)
        assert found, log
        assert json.loads(found.group(1))[0] >= STOCK_S
        for executor in ("serverapp", *(f"{site.name}-clientapp" for site in federation.topology.sites)):
            said = federation.logs(executor)
            assert "starts cold" in said
            assert "warm" not in said
