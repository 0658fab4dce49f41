"""`flowerbed_app.SiteState`: nothing that `append` returned for is ever lost, whatever a crash tears off."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_app import SiteState, StateCorruptError, StateMissingError

RECORDS = st.lists(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=4,
    ),
    max_size=6,
)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FLOWERBED_STATE_FD", raising=False)
    monkeypatch.setenv("FLOWERBED_SIMULATION_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The descriptor that a task inherits, as the executor opens it."""
    handle = os.open(tmp_path / "1.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    monkeypatch.setenv("FLOWERBED_STATE_FD", str(handle))
    yield handle
    os.close(handle)


@given(before=RECORDS, torn=st.data(), after=RECORDS)
def test_a_torn_line_hides_neither_what_was_before_nor_what_comes_after(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[dict[str, object]],
    torn: st.DataObject,
    after: list[dict[str, object]],
) -> None:
    path = tmp_path_factory.mktemp("state") / "1.jsonl"
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWERBED_STATE_FD", str(handle))
        state = SiteState(1)
        for record in before:
            state.append(record)
        state.append({"lost": {"nested": [1, {"deep": "}"}]}})
        whole = path.read_bytes()
        start = whole[:-1].rfind(b"\n") + 1
        os.truncate(path, torn.draw(st.integers(start, len(whole) - 1)))
        assert SiteState(1).read() == before
        for record in after:
            SiteState(1).append(record)
        assert SiteState(1).read() == before + after
        assert SiteState(1).last() == (before + after)[-1] if before + after else SiteState(1).last() is None
    os.close(handle)


@given(tears=st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_crash_after_crash_keeps_what_was_whole(tmp_path_factory: pytest.TempPathFactory, tears: list[int]) -> None:
    path = tmp_path_factory.mktemp("state") / "1.jsonl"
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWERBED_STATE_FD", str(handle))
        for number, tear in enumerate(tears):
            SiteState(1).append({"kept": number})
            kept.append({"kept": number})
            whole = path.stat().st_size
            SiteState(1).append({"lost": {"deep": [number] * 5}})
            os.truncate(path, min(whole + tear, path.stat().st_size - 1))
            assert SiteState(1).read() == kept
    os.close(handle)


def test_a_whole_line_that_is_no_record_is_an_error(inherited: int) -> None:
    SiteState(1).append({"epsilon": 1})
    os.write(inherited, b"[1]\n")
    with pytest.raises(StateCorruptError, match="line 2"):
        SiteState(1).read()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_json_does_not_have_are_refused(inherited: int, bad: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        SiteState(1).append({"epsilon": bad})
    assert os.fstat(inherited).st_size == 0


def test_a_run_in_the_middle_needs_its_record(inherited: int) -> None:
    del inherited
    assert SiteState(1).require(started=False) is None
    with pytest.raises(StateMissingError, match="start a new run"):
        SiteState(1).require(started=True)
    SiteState(1).append({"round": 1})
    assert SiteState(1).require(started=True) == {"round": 1}


def test_simulated_sites_and_runs_have_records_of_their_own(directory: Path) -> None:
    SiteState(1, "north").append({"of": "north"})
    assert SiteState(1, "south").read() == []
    assert SiteState(2, "north").read() == []
    assert SiteState(1, "north").read() == [{"of": "north"}]
    assert [path.name for path in (directory / "state").iterdir()].count("1-north.jsonl") == 1
