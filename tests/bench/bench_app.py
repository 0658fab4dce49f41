"""Accuracy of the first app: centralised, federated, and federated under differential privacy, over several seeds.

Runs the app's own reading, training, aggregation and evaluation in one process: no Docker, no SuperLink. A seed deals
the patients out to sites and to held-out rows anew. Batches and noise take no seed, here as in a federation.

Usage: python tests/bench/bench_app.py [--seeds 10] [--table breast-cancer.csv] [--json build/bench/app.json]
"""

# ruff: noqa: E402 - Flower loads an app from its folder, and so does this
import argparse
import csv
import json
import statistics
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

KIT = Path(__file__).resolve().parents[2]
APP = KIT / "apps" / "breast-cancer"
sys.path[:0] = [str(KIT / "apps"), str(APP)]

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

import samples
from breast_cancer.arrays import Arrays, checked_arrays, initial_arrays
from breast_cancer.budget import rdp_epsilon
from breast_cancer.settings import RunConfig
from breast_cancer.table import FILE_NAME, Rows, Table, read_table
from breast_cancer.training import Measured, Steps, measure, train

SITES = 3
RUN = RunConfig.of(tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"])
PRIVATE = Steps(RUN.local_steps, RUN.sample_rate, RUN.learning_rate, RUN.max_grad_norm, RUN.noise_multiplier)
# No noise and a norm that no gradient reaches: plain SGD through the same code.
PLAIN = replace(PRIVATE, max_grad_norm=1e9, noise_multiplier=0.0)


@dataclass(frozen=True)
class Way:
    """One way to train on the sites' tables."""

    name: str
    fit: Callable[[list[Table]], Arrays]


def federated(tables: list[Table], steps: Steps) -> Arrays:
    """Return the model after the app's rounds of local training and FedAvg."""
    arrays = initial_arrays()
    for _ in range(RUN.num_server_rounds):
        updates = [(train(arrays, table.train, steps), len(table.train)) for table in tables]
        arrays = checked_arrays(aggregate_arrayrecords([as_records(*update) for update in updates], "num-examples"))
    return arrays


def as_records(arrays: Arrays, rows: int) -> RecordDict:
    """Return an update as a site sends it."""
    record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    return RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": rows})})


def converged(tables: list[Table]) -> Arrays:
    """Return scikit-learn's logistic regression on all rows in one place: what the table yields without any of this."""
    from sklearn.linear_model import LogisticRegression

    rows = together([table.train for table in tables])
    fitted = LogisticRegression(max_iter=10_000).fit(rows.features, rows.target)
    return {"weight": fitted.coef_.astype(np.float32), "bias": fitted.intercept_.astype(np.float32)}


def centralised(tables: list[Table]) -> Arrays:
    """Return the model after as many steps on all rows in one place, without noise."""
    steps = replace(PLAIN, count=PLAIN.count * RUN.num_server_rounds)
    return train(initial_arrays(), together([table.train for table in tables]), steps)


def together(parts: list[Rows]) -> Rows:
    """Return all rows in one."""
    return Rows(np.concatenate([part.features for part in parts]), np.concatenate([part.target for part in parts]))


WAYS = (
    Way("centralised, to convergence", converged),
    Way("centralised, as many steps", centralised),
    Way("federated", lambda tables: federated(tables, PLAIN)),
    Way("federated with DP", lambda tables: federated(tables, PRIVATE)),
)


def deal(header: samples.Row, rows: list[samples.Row], seed: int) -> list[Table]:
    """Return the sites' tables, patients dealt out by the seed."""
    order = np.random.RandomState(seed).permutation(len(rows))
    shuffled = [rows[i] for i in order]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        tables = []
        for part in range(1, SITES + 1):
            samples.write_csv(path, header, samples.part_of(shuffled, part, SITES))
            tables.append(read_table(path, salt=f"bench-{seed}".encode()))
    return tables


def run(header: samples.Row, rows: list[samples.Row], seeds: int) -> dict[str, list[Measured]]:
    """Return each way's figures on all held-out rows, one for each seed."""
    figures: dict[str, list[Measured]] = {way.name: [] for way in WAYS}
    for seed in range(seeds):
        tables = deal(header, rows, seed)
        held_out = together([table.held_out for table in tables])
        for way in WAYS:
            figures[way.name].append(measure(way.fit(tables), held_out))
    return figures


def as_results(figures: dict[str, list[Measured]]) -> list[dict[str, Any]]:
    """Return the figures in the form of build/bench/results.json, with mean and standard deviation."""
    results = []
    for name, measured in figures.items():
        for metric in ("accuracy", "auc"):
            values = [getattr(one, metric) for one in measured]
            results.append(
                {
                    "name": f"{name}: {metric}",
                    "unit": "share",
                    "median": statistics.median(values),
                    "min": min(values),
                    "max": max(values),
                    "runs": len(values),
                    "mean": statistics.fmean(values),
                    "stdev": statistics.stdev(values),
                }
            )
    return results


def show(results: list[dict[str, Any]]) -> str:
    """Return the table as Markdown."""
    epsilon = rdp_epsilon([(RUN.noise_multiplier, RUN.sample_rate, RUN.local_steps * RUN.num_server_rounds)], RUN.delta)
    lines = ["| | mean | standard deviation | min | max |", "|---|---|---|---|---|"]
    lines += [
        f"| {one['name']} | {one['mean']:.3f} | {one['stdev']:.3f} | {one['min']:.3f} | {one['max']:.3f} |"
        for one in results
    ]
    privacy = f"epsilon {epsilon:.2f} at delta {RUN.delta:g} at each of {SITES} sites"
    lines.append(f"\n{results[0]['runs']} seeds; {privacy}.")
    return "\n".join(lines)


def read_samples(path: Path | None) -> tuple[samples.Row, list[samples.Row]]:
    """Return header and rows of the sample table, from a file where scikit-learn's copy is not installed."""
    if path is None:
        return samples.read_table()
    with path.open(encoding="ascii", newline="") as file:
        header, *rows = (tuple(row) for row in csv.reader(file))
    return header, rows


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Measure the first app's accuracy.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--table", type=Path, help="the sample table as CSV (default: scikit-learn's)")
    parser.add_argument("--json", type=Path, default=KIT / "build" / "bench" / "app.json")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"--seeds is {args.seeds}: at least 2 are needed for a spread")
    results = as_results(run(*read_samples(args.table), seeds=args.seeds))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(results, indent=2) + "\n")
    sys.stdout.write(show(results) + "\n")


if __name__ == "__main__":
    main()
