"""Runs inside the app image, where torch and Opacus are: drives the real ClientApp and prints what it saw as JSON.

For `test_app_breast_cancer_training.py`, which asserts on it. Not a test itself.
"""

# ruff: noqa: E402 - Flower loads an app from its folder, and so does this
import json
import math
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

APP, TABLE = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(APP))

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from breast_cancer.arrays import Arrays, checked_arrays, initial_arrays
from breast_cancer.budget import rdp_epsilon
from breast_cancer.client_app import app
from breast_cancer.dp_optimizer import system_gaussian
from breast_cancer.table import Rows, read_table
from breast_cancer.training import Steps, measure, poisson_batch, train

CONFIG: dict[str, Any] = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
NODE = {"organisation": "charite"}
STEPS = Steps(count=20, sample_rate=0.25, learning_rate=2.0, max_grad_norm=1.0, noise_multiplier=3.0)
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 7, 1


@contextmanager
def site(table: str) -> Iterator[Path]:
    """Be a site: a data directory and an open record, as the executor gives them to a task."""
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "record.jsonl", "a+b") as record:  # noqa: PTH123
        (Path(folder) / "breast-cancer.csv").write_text(table)
        os.environ |= {"FLOWERBED_DATA": folder, "FLOWERBED_STATE_FD": str(record.fileno())}
        yield Path(record.name)


def ask(kind: str, server_round: int, node: dict[str, Any] | None = None, **run: Any) -> dict[str, Any]:
    """Send the ClientApp one message and return what its reply holds."""
    config = CONFIG | {name.replace("_", "-"): value for name, value in run.items()}
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(value) for name, value in initial_arrays().items()}),
            "config": ConfigRecord({"server-round": server_round}),
        }
    )
    context = Context(1, 7, NODE | (node or {}), RecordDict(), config)
    reply = app(Message(content, dst_node_id=7, message_type=kind), context)
    if reply.has_error():
        return {"error": reply.error.reason}
    facts = dict(reply.content["metrics"]) | dict(reply.content["site"])
    if "arrays" in reply.content:
        facts["norm"] = norm(checked_arrays(reply.content["arrays"]))
    return facts


def norm(arrays: Arrays) -> float:
    return math.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in arrays.values()))


def difference(one: Arrays, other: Arrays) -> float:
    return norm({name: one[name] - other[name] for name in one})


def rounds(table: str) -> dict[str, Any]:
    with site(table) as record:
        first = ask("train", 1)
        lines = record.read_text().count("\n")
        return {"first": first, "lines": lines, "second": ask("train", 2), "evaluated": ask("evaluate", 2)}


def refusals(table: str) -> dict[str, Any]:
    found = {}
    with site(table) as record:
        found["no record"] = ask("train", 2)
        found["little noise"] = ask("train", 1, {"min-noise-multiplier": 4.0})
        found["site's budget"] = ask("train", 1, {"max-epsilon": 1.0}, max_epsilon=100.0)
        found["seed"] = ask("train", 1, seed=1)
        found["no evaluation"] = ask("evaluate", 1, {"share-evaluation": False})
        found["record"] = record.read_text()
        found["diverged"] = ask("train", 1, learning_rate=3e38, sample_rate=0.001)
        found["record after divergence"] = record.read_text()
    header, first, *rest = table.splitlines()
    with site("\n".join([header, "4711.0815," + first.split(",", 1)[1].replace(",", ",secret", 1), *rest])):
        found["broken row"] = ask("train", 1)
    with site(table):
        # A descriptor that is none: an error that nobody foresaw.
        os.environ["FLOWERBED_STATE_FD"] = "999"
        found["unforeseen"] = ask("train", 1)
    return found


def privacy(rows: Rows) -> dict[str, Any]:
    start = initial_arrays()
    torch.manual_seed(1)
    one = train(start, rows, STEPS)
    torch.manual_seed(1)
    again = train(start, rows, STEPS)
    # One step over everyone, no noise: a single patient moves the model by at most rate * norm / expected batch.
    step = replace(STEPS, count=1, sample_rate=1.0, noise_multiplier=0.0, learning_rate=1.0)
    wild = Rows(np.vstack([rows.features, np.full((1, 30), 1.0, np.float32)]), np.append(rows.target, np.float32(0)))
    grown = replace(step, learning_rate=len(wild) / len(rows))
    noise = system_gaussian(40_000, 3.0)
    batches = [len(poisson_batch(1000, 0.25)) for _ in range(200)]
    return {
        "same torch seed, difference": difference(one, again),
        "noise mean": float(noise.mean()),
        "noise std": float(noise.std()),
        "noise beyond two sigma": float((noise.abs() > 6.0).float().mean()),
        "sensitivity": difference(train(start, rows, step), train(start, wild, grown)) * len(rows),
        "empty batches": norm(train(start, rows, replace(STEPS, sample_rate=1e-12, learning_rate=1e-12))),
        "batch mean": float(np.mean(batches)),
        "batch std": float(np.std(batches)),
        "epsilon": rdp_epsilon([(3.0, 0.25, 60)], 1e-5),
        "epsilon in parts": rdp_epsilon([(3.0, 0.25, 20)] * 3, 1e-5),
        "accuracy": measure(one, rows).accuracy,
    }


def main() -> None:
    table = TABLE.read_text()
    with site(table):
        rows = read_table(Path(os.environ["FLOWERBED_DATA"]) / "breast-cancer.csv")
    facts = {"rounds": rounds(table), "refusals": refusals(table), "privacy": privacy(rows.train)}
    print(json.dumps(facts))  # noqa: T201 - this is the answer


if __name__ == "__main__":
    main()
