"""Seconds per round of the shipped app, PyTorch and differential privacy included, beside stock Flower on the same host.

As the app itself counts them, from its first message to its last reply, divided by its rounds; every round trains and evaluates
at three sites. The stock side is that of `bench_rounds`, from an environment that has PyTorch (that of `make simulate`, several
GB, made at the first time), on the same three data sets. Not for the app's accuracy (`bench_app`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import bench_stack
from bench_rounds import Row, comparison, stock, stock_log, stock_nodes

from e2e.federation import KIT, Federation

APP = KIT / "apps" / "breast-cancer"
VENV = KIT / ".venv-simulate"
SITES, ROUNDS, RUNS = 3, 5, 2
# Noise enough for all these rounds to cost little of a site's budget.
CONFIG = f"num-server-rounds={ROUNDS} noise-multiplier=8.0"


def rows(federation: Federation) -> list[Row]:
    """Return the comparison; `ratio` is ours divided by stock Flower's."""
    subprocess.run([KIT / "scripts" / "venv.sh", str(VENV), "simulate"], check=True, cwd=KIT, stdout=subprocess.DEVNULL)
    bench_stack.wait_until_warm(federation)
    ours = [per_round(federation.flwr(f"flwr run /app flowerbed --stream --run-config '{CONFIG}'", "-v", f"{APP}:/app:ro"))
            for _ in range(RUNS)]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name) / "data")
        variables = {"PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}", "FLOWERBED_SIMULATION_DIR": name}
        with stock(**variables) as home, stock_nodes(SITES, **variables):
            theirs = [per_round(stock_log(home, APP, CONFIG)) for _ in range(RUNS)]
    return [comparison(f"round of the first app, private, {SITES} sites", ours, theirs)]


def per_round(log: str) -> float:
    """Return the seconds of a round, by the app's closing figures."""
    found = re.search(r"FLOWERBED_SUMMARY (\{.*\})", log)
    assert found, log
    closing = json.loads(found.group(1))
    assert closing["rounds"] == ROUNDS, closing
    return float(closing["seconds"]) / ROUNDS


def write_data(folder: Path) -> None:
    """Write each site's share of the sample table as `make simulate` does."""
    for part in range(1, SITES + 1):
        place = folder / f"site-{part}"
        place.mkdir(parents=True)
        script = [
            str(KIT / "apps" / "samples.py"),
            str(place / "breast-cancer.csv"),
            "--part",
            str(part),
            "--of",
            str(SITES),
        ]
        subprocess.run([str(VENV / "bin" / "python"), *script], check=True)
