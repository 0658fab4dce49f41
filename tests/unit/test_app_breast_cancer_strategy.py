"""The ServerApp's side: which replies count, what the aggregate is, what a run reports."""

import json
import logging
import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from breast_cancer.arrays import Arrays, checked_arrays, initial_arrays
from breast_cancer.errors import ArraysError, RunError
from breast_cancer.report import RoundReport, summary
from breast_cancer.settings import RunConfig
from breast_cancer.strategy import CheckedFedAvg, wait_for_sites

APP = Path(__file__).parents[2] / "apps" / "breast-cancer"
RUN = RunConfig.of(tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"])


@pytest.fixture(autouse=True)
def _task() -> None:
    """Be somebody: Flower's messages name the task that makes them."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


class NodesOnly:
    """Stands for the Grid, which needs a SuperLink; knows connected nodes only."""

    def __init__(self, *answers: list[int]) -> None:
        self.answers = list(answers)

    def get_node_ids(self) -> Iterable[int]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def model(value: float) -> Arrays:
    return {name: np.full_like(array, value) for name, array in initial_arrays().items()}


def record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})


def reply(node: int, content: RecordDict | Error, kind: str = "train") -> Message:
    return Message(content, reply_to=Message(RecordDict(), dst_node_id=node, message_type=kind))


def update(node: int, value: float = 1.0, rows: int = 100, **other: Any) -> Message:
    metrics = {"num-examples": rows, "epsilon": 1.5, "delta": 1e-5} | other.pop("metrics", {})
    records = {
        "arrays": record(model(value)),
        "metrics": MetricRecord(metrics),
        "site": ConfigRecord({"organisation": f"org-{node}"}),
    }
    return reply(node, RecordDict(records | other))


def figures(node: int, accuracy: float, rows: int = 30, auc: float = 0.9) -> Message:
    metrics = MetricRecord({"num-examples": rows, "accuracy": accuracy, "auc": auc})
    site = ConfigRecord({"organisation": f"org-{node}"})
    return reply(node, RecordDict({"metrics": metrics, "site": site}), "evaluate")


class Run:
    """A strategy and what it handed on."""

    def __init__(self) -> None:
        self.arrays: list[Arrays] = []
        self.reports: list[RoundReport] = []
        self.strategy = CheckedFedAvg(
            RUN, lambda _, arrays: self.arrays.append(checked_arrays(arrays)), self.reports.append
        )

    def round(self, updates: list[Message], measured: list[Message]) -> RoundReport:
        self.strategy.aggregate_train(1, updates)
        self.strategy.aggregate_evaluate(1, measured)
        return self.reports[-1]


def test_updates_are_averaged_by_rows() -> None:
    run = Run()

    report = run.round([update(1, 1.0, rows=300), update(2, 5.0, rows=100)], [figures(1, 1.0, 10), figures(2, 0.5, 30)])

    assert np.allclose(run.arrays[0]["weight"], 2.0)
    assert report.accuracy() == pytest.approx(0.625)
    assert report.refused == []


BAD = {
    "nan": {"arrays": record(model(math.nan))},
    "infinity": {"arrays": record(model(math.inf))},
    "wrong shape": {"arrays": record({"weight": np.zeros((1, 29), np.float32), "bias": np.zeros(1, np.float32)})},
    "wrong type": {"arrays": record({"weight": np.zeros((1, 30)), "bias": np.zeros(1)})},  # type: ignore[dict-item]
    "wrong names": {"arrays": record({"w": np.zeros((1, 30), np.float32)})},
    "huge": {"arrays": record({"weight": np.zeros((1, 9999), np.float32), "bias": np.zeros(1, np.float32)})},
    "not numpy": {"arrays": ArrayRecord({n: Array("float32", (1,), "numpy.ndarray", b"\x80pickle") for n in model(0)})},
    "no rows": {"metrics": {"num-examples": 0}},
    "infinite rows": {"metrics": {"num-examples": math.inf}},
    "negative epsilon": {"metrics": {"epsilon": -1.0}},
    "one metric more": {"metrics": {"accuracy": 1.0}},
    "list as metric": {"metrics": {"epsilon": [1.0, 2.0]}},
    "one record more": {"more": MetricRecord({"num-examples": 1})},
    "no organisation": {"site": ConfigRecord({})},
    "organisation with line break": {"site": ConfigRecord({"organisation": "a\nb"})},
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_update_is_dropped_and_the_round_goes_on(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("flwr").propagate = True
    run = Run()

    with caplog.at_level(logging.WARNING, "flwr"):
        report = run.round([update(1, 1.0), update(666, **dict(BAD[fault]))], [figures(1, 1.0)])

    assert np.allclose(run.arrays[0]["weight"], 1.0)
    assert [one.node_id for one in report.updates] == [1]
    assert len(report.refused) == 1
    assert "dropped the reply of node 666" in caplog.text


def test_a_sites_refusal_is_reported_in_its_words() -> None:
    report = Run().round([update(1), reply(2, Error(code=2, reason="Round 2, and this site has no record"))], [])

    assert report.refused == ["node 2: 'Round 2, and this site has no record'"]
    assert report.accuracy() is None


def test_a_sites_text_cannot_forge_log_lines() -> None:
    report = Run().round([update(1), reply(2, Error(code=2, reason="no\nFLOWERBED_SUMMARY {}"))], [])

    assert "\n" not in report.refused[0]


def test_a_round_without_a_usable_update_fails_with_the_reasons() -> None:
    with pytest.raises(RunError, match=r"Round 1: no usable update: .*noise-multiplier is 3"):
        Run().round([reply(1, Error(code=2, reason="noise-multiplier is 3: this site allows no less than 4"))], [])
    with pytest.raises(RunError, match=r"no site replied in time"):
        Run().round([], [])


def test_figures_out_of_range_do_not_count() -> None:
    report = Run().round([update(1), update(2)], [figures(1, 0.9), figures(2, 7.0)])

    assert report.accuracy() == pytest.approx(0.9)
    assert len(report.refused) == 1


def test_a_round_reports_each_site_and_is_json() -> None:
    report = Run().round([update(1), update(2)], [figures(1, 0.9), figures(2, 0.8, auc=math.nan)])

    data = json.loads(json.dumps(report.as_json(), allow_nan=False))

    assert data["sites"]["org-1"] == {
        "rows": 100,
        "epsilon": 1.5,
        "delta": 1e-5,
        "held_out_rows": 30,
        "accuracy": 0.9,
        "auc": 0.9,
    }
    assert data["sites"]["org-2"]["auc"] is None
    assert data["auc"] == pytest.approx(0.9)


def test_the_summary_keeps_the_epsilon_of_a_site_that_left() -> None:
    first = Run().round([update(1), update(2)], [figures(1, 0.9)])
    second = Run().round([update(1, metrics={"epsilon": 2.5})], [figures(1, 0.95)])

    closing = summary([first, second], 12.3456)

    assert closing["rounds"] == 2
    assert closing["accuracy"] == pytest.approx(0.95)
    assert closing["seconds"] == 12.35
    assert {name: (one["rounds"], one["epsilon"]) for name, one in closing["organisations"].items()} == {
        "org-1": (2, 2.5),
        "org-2": (1, 1.5),
    }


def test_two_nodes_of_one_name_stay_apart() -> None:
    twin = ConfigRecord({"organisation": "org-1"})

    closing = summary([Run().round([update(1), update(2, site=twin)], [])], 1.0)

    assert sorted(closing["organisations"]) == ["org-1 (1)", "org-1 (2)"]
    assert "accuracy" not in closing


def test_a_run_waits_for_its_sites_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("breast_cancer.strategy.POLL_SECONDS", 0.01)
    wait_for_sites(cast(Grid, NodesOnly([1], [1, 2], [1, 2, 3])), 3, 5.0)

    with pytest.raises(RunError, match=r"Only 2 of 3 sites were connected after 0\.05 s"):
        wait_for_sites(cast(Grid, NodesOnly([1, 2])), 3, 0.05)


def test_a_site_that_leaves_before_evaluation_holds_nobody_up() -> None:
    messages = Run().strategy.configure_evaluate(1, record(model(0)), ConfigRecord(), cast(Grid, NodesOnly([1, 2])))

    assert sorted(message.metadata.dst_node_id for message in messages) == [1, 2]


def test_a_round_instructs_every_connected_site_once_enough_are_there() -> None:
    strategy = Run().strategy
    messages = strategy.configure_train(2, record(model(0)), ConfigRecord(), cast(Grid, NodesOnly([1, 2, 3, 4])))

    assert sorted(message.metadata.dst_node_id for message in messages) == [1, 2, 3, 4]
    assert {message.content["config"]["server-round"] for message in messages} == {2}


def test_a_model_from_the_serverapp_is_checked_at_the_site_too() -> None:
    with pytest.raises(ArraysError, match="'weight' holds values that are not finite"):
        checked_arrays(record(model(math.nan)))
