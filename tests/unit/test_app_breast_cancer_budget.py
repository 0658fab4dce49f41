"""The privacy budget: charged before training, continued after a restart, refused where it is not known."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from breast_cancer.budget import Budget, Charge, Stretch
from breast_cancer.errors import BudgetError, SettingsError
from breast_cancer.settings import RunConfig, SitePolicy

APP = Path(__file__).parents[2] / "apps" / "breast-cancer"
DEFAULTS: dict[str, Any] = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]


class RecordInMemory:
    """Stands for the durable record, which needs the executor; keeps what is appended."""

    def __init__(self, *entries: Mapping[str, Any]) -> None:
        self.entries: list[Mapping[str, Any]] = list(entries)

    def read(self) -> list[Mapping[str, Any]]:
        return list(self.entries)

    def append(self, record: Mapping[str, Any]) -> None:
        self.entries.append(record)


def step_counter(stretches: Sequence[Stretch], _delta: float) -> float:
    """Stand for the accountant, which needs Opacus: one epsilon for each 20 steps."""
    return sum(steps for _, _, steps in stretches) / 20


def budget(record: RecordInMemory, site: Mapping[str, Any] | None = None, **run: Any) -> Budget:
    config = RunConfig.of(DEFAULTS | {name.replace("_", "-"): value for name, value in run.items()})
    return Budget(record, config, SitePolicy.of(site or {}), step_counter)


def test_rounds_add_up_and_each_is_on_record() -> None:
    record = RecordInMemory()

    spent = [budget(record).charge(server_round).epsilon for server_round in (1, 2, 3)]

    assert spent == [1.0, 2.0, 3.0]
    assert [Charge.model_validate(entry).round for entry in record.entries] == [1, 2, 3]


def test_a_restarted_site_goes_on_from_its_record() -> None:
    record = RecordInMemory()
    budget(record).charge(1)

    assert budget(RecordInMemory(*record.entries)).charge(2).epsilon == 2.0


def test_a_round_asked_for_twice_is_charged_twice() -> None:
    record = RecordInMemory()

    assert [budget(record).charge(1).epsilon, budget(record).charge(1).epsilon] == [1.0, 2.0]


def test_a_lost_record_in_mid_run_is_refused() -> None:
    record = RecordInMemory()

    with pytest.raises(BudgetError, match="Round 2, and this site has no record of what the run has spent"):
        budget(record).charge(2)
    assert record.entries == []


@pytest.mark.parametrize("entry", [{}, {"round": 1}, {"round": 1, "epsilon": "nan"}])
def test_a_record_that_makes_no_sense_is_refused(entry: Mapping[str, Any]) -> None:
    with pytest.raises(BudgetError, match="not readable"):
        budget(RecordInMemory(entry)).charge(2)


def test_overspending_is_refused_before_the_first_round() -> None:
    record = RecordInMemory()

    with pytest.raises(BudgetError, match=r"would spend epsilon 6\.00 and the limit is 5"):
        budget(record, num_server_rounds=6).charge(1)
    assert record.entries == []


def test_the_sites_own_limit_holds_against_the_run_config() -> None:
    with pytest.raises(BudgetError, match="the limit is 2"):
        budget(RecordInMemory(), site={"max-epsilon": 2.0}, max_epsilon=1000.0).charge(1)


def test_more_rounds_than_announced_meet_the_limit_too() -> None:
    record = RecordInMemory()
    for server_round in range(1, 6):
        budget(record, num_server_rounds=1).charge(server_round)

    with pytest.raises(BudgetError, match="the limit is 5"):
        budget(record, num_server_rounds=1).charge(6)


@pytest.mark.parametrize(
    ("site", "run", "sentence"),
    [
        ({"min-noise-multiplier": 4.0}, {}, "noise-multiplier is 3: this site allows no less than 4"),
        ({"max-delta": 1e-6}, {}, "delta is 1e-05: this site allows no more than 1e-06"),
        ({"max-delta": 0.5}, {"delta": 0.01}, "it must be below 1 / number of rows"),
    ],
)
def test_a_sites_limits_refuse_a_weaker_run(site: dict[str, Any], run: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        SitePolicy.of(site).check(RunConfig.of(DEFAULTS | run), train_rows=150)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("noise-multiplier", 0),
        ("noise-multiplier", float("nan")),
        ("sample-rate", 1.0),
        ("local-steps", 0),
        ("delta", 1.0),
        ("num-server-rounds", 0),
        ("learning-rate", float("inf")),
        ("seed", 1),
    ],
)
def test_a_wrong_run_config_names_the_key(key: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=key):
        RunConfig.of(DEFAULTS | {key: value})


def test_the_shipped_run_config_is_valid_and_takes_no_seed() -> None:
    RunConfig.of(DEFAULTS)

    assert not [key for key in DEFAULTS if "seed" in key]


def test_a_site_without_a_name_is_called_by_its_partition() -> None:
    assert SitePolicy.of({"partition-id": 1, "num-partitions": 3}).organisation_name() == "site-2"
    assert SitePolicy.of({"organisation": "charite", "partition-id": 1}).organisation_name() == "charite"
