"""How a run's lines are read: summary, refusal, and the reason of a failure."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flowerbed_cli import runs
from flowerbed_cli.errors import RunError
from flowerbed_cli.project import KIT, Project
from flowerbed_cli.runs import conclude
from flowerbed_cli.summary import Finished, Summary, finished, show
from flowerbed_topology import load

SUMMARY = {"rounds": 3, "accuracy": 0.95, "seconds": 20.1, "organisations": {"north": {"epsilon": 3.1, "rounds": 3}}}


def status(outcome: str, details: str = "") -> str:
    runs = [{"run-id": "17", "status": outcome, "status-details": details}]
    return "FLOWERBED_STATUS " + json.dumps({"success": True, "runs": runs})


def test_a_completed_run_gives_its_summary() -> None:
    lines = ["FLOWERBED_RUN 17", "INFO :  FLOWERBED_SUMMARY " + json.dumps(SUMMARY), status("finished:completed")]
    assert conclude(lines) == Finished(17, Summary.model_validate(SUMMARY))


def test_an_app_without_a_summary_gives_its_run_only() -> None:
    assert conclude(["FLOWERBED_RUN 17", "hello", status("finished:completed")]) == Finished(17)


def test_a_log_that_was_shown_twice_is_read_once() -> None:
    line = "INFO :  FLOWERBED_SUMMARY " + json.dumps(SUMMARY)
    summary = conclude(["FLOWERBED_RUN 17", line, line, status("finished:completed")]).summary
    assert summary
    assert summary.accuracy == 0.95


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


def shown(ended: Finished) -> str:
    out = io.StringIO()
    show(ended, Console(file=out, width=200))
    return out.getvalue()


def test_the_table_has_a_line_for_each_organisation() -> None:
    text = shown(finished(17, "FLOWERBED_SUMMARY " + json.dumps(SUMMARY)))
    assert "Run 17" in text
    assert "north" in text
    assert "3.10" in text
    assert "accuracy 0.950 after 3 rounds in 20 s" in text


@pytest.mark.parametrize(
    "wrong",
    [
        "{not json}",
        '{"organisations": ["north"]}',
        '{"organisations": {"north": 3}}',
        '{"organisations": {"north": {"epsilon": "much"}}}',
        '{"organisations": {"\\u001b[2Jnorth": {}}}',
        '{"accuracy": {}}',
        '{"rounds": -1}',
        '{"rounds": ' + "9" * 5000 + "}",
        '{"a":' * 2000 + "1" + "}" * 2000,
    ],
)
def test_a_summary_that_is_none_is_left_out_and_said(wrong: str) -> None:
    ended = conclude(["FLOWERBED_RUN 17", f"FLOWERBED_SUMMARY {wrong}", status("finished:completed")])
    text = shown(ended)
    assert "Run 17" in text
    assert ended.summary is None or wrong.startswith('{"a"')
    assert ended.summary or "so run 17 is shown without" in text


def test_markup_in_names_is_inert() -> None:
    text = shown(finished(1, 'FLOWERBED_SUMMARY {"organisations": {"[red]north[/red][/]": {"rounds": 1}}}'))
    assert "[red]north[/red][/]" in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(sorted(SUMMARY)), inner),
)


@given(st.dictionaries(st.sampled_from([*SUMMARY, "else"]), JSON))
def test_any_summary_is_shown_or_left_out(content: dict[str, object]) -> None:
    assert "Run 1" in shown(finished(1, f"FLOWERBED_SUMMARY {json.dumps(content)}"))


@pytest.mark.parametrize("answer", ['{"runs": [5]}', '{"runs": [{}]}', '{"runs": {"0": 1}}', "[" * 100_000])
def test_an_answer_that_is_none_is_one_sentence(answer: str) -> None:
    with pytest.raises(RunError, match="could not be asked how run 17 ended"):
        conclude(["FLOWERBED_RUN 17", f"FLOWERBED_STATUS {answer}"])


def test_a_run_before_up_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "started", lambda _topology: {})
    topology = load(KIT / "federation.yaml")
    with pytest.raises(RunError, match=r"^The federation flowerbed is not running: run make up first\.$"):
        runs.run(Project(KIT), topology, runs.APP, [], Console(file=io.StringIO()))
