"""How a run's lines are read: summary, refusal, and the reason of a failure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_cli.errors import RunError
from flowerbed_cli.runs import conclude

SUMMARY = {"rounds": 3, "accuracy": 0.95, "seconds": 20.1, "organisations": {"north": {"epsilon": 3.1, "rounds": 3}}}


def status(outcome: str, details: str = "") -> str:
    runs = [{"run-id": "17", "status": outcome, "status-details": details}]
    return "FLOWERBED_STATUS " + json.dumps({"success": True, "runs": runs})


def test_a_completed_run_gives_its_summary() -> None:
    lines = ["FLOWERBED_RUN 17", "INFO :  FLOWERBED_SUMMARY " + json.dumps(SUMMARY), status("finished:completed")]
    assert conclude(lines) == SUMMARY | {"run_id": 17}


def test_an_app_without_a_summary_gives_its_run_only() -> None:
    assert conclude(["FLOWERBED_RUN 17", "hello", status("finished:completed")]) == {"run_id": 17}


def test_a_log_that_was_shown_twice_is_read_once() -> None:
    line = "INFO :  FLOWERBED_SUMMARY " + json.dumps(SUMMARY)
    assert conclude(["FLOWERBED_RUN 17", line, line, status("finished:completed")])["accuracy"] == 0.95


def test_a_failed_run_says_why() -> None:
    with pytest.raises(RunError, match=r"Run 17 ended as finished:failed: Round 1: no usable update\.$"):
        conclude(["FLOWERBED_RUN 17", status("finished:failed", "Round 1:\n no usable update.")])


def test_a_failed_run_without_a_reason_says_where_to_look() -> None:
    with pytest.raises(RunError, match="ended as finished:stopped: make logs shows why"):
        conclude(["FLOWERBED_RUN 17", status("finished:stopped")])


def test_a_refused_run_gives_flower_s_reason() -> None:
    answer = json.dumps({"success": False, "error-message": "Components other than\nServerApp are refused."}, indent=2)
    with pytest.raises(RunError, match=r"did not accept the run: Components other than ServerApp are refused\.$"):
        conclude([*answer.splitlines(), "docker compose ended with exit code 1."])


def test_a_lost_superlink_is_named() -> None:
    with pytest.raises(RunError, match="could not be asked how run 17 ended"):
        conclude(["FLOWERBED_RUN 17", "FLOWERBED_STATUS "])


def test_no_output_at_all_is_one_sentence() -> None:
    with pytest.raises(RunError, match="did not accept the run: it gave no answer"):
        conclude([])


def test_an_app_cannot_speak_for_the_superlink() -> None:
    lines = ["FLOWERBED_RUN 17", "FLOWERBED_RUN 18", status("finished:completed"), status("finished:failed", "no rows")]
    with pytest.raises(RunError, match="Run 17 ended as finished:failed: no rows"):
        conclude(lines)


@given(st.lists(st.text(max_size=200)))
def test_any_output_is_refused_in_one_line(lines: list[str]) -> None:
    with pytest.raises(RunError) as caught:
        conclude(lines)
    assert len(str(caught.value).splitlines()) == 1
