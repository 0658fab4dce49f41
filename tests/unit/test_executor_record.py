"""A run's record at a site survives the tasks that hold it. No privileges needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowerbed_executor import record
from flowerbed_executor.record import LARGEST, Record, RecordError
from flowerbed_executor.spec import Limits

SPENT = b'{"epsilon":1}\n'


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    (tmp_path / "7.jsonl").write_bytes(SPENT)
    return tmp_path / "7.jsonl"


def test_what_a_task_adds_stays(kept: Path) -> None:
    held = Record(kept.parent, 7, Limits())
    task = held.descriptor()
    os.write(task, SPENT)
    assert held.settle() == ""
    # Whoever was given the descriptor meanwhile holds another file.
    os.ftruncate(task, 0)
    os.close(task)
    assert kept.read_bytes() == SPENT * 2
    assert kept.stat().st_mode & 0o777 == 0o600
    assert list(kept.parent.iterdir()) == [kept]


@pytest.mark.parametrize("instead", [b"", SPENT[:5], b'{"epsilon":0}\n', b'{"epsilon":0}\n' * 100])
def test_what_a_task_removes_is_put_back(kept: Path, instead: bytes) -> None:
    held = Record(kept.parent, 7, Limits())
    task = held.descriptor()
    os.ftruncate(task, 0)
    os.write(task, instead)
    assert "put back" in held.settle()
    assert kept.read_bytes() == SPENT
    assert list(kept.parent.iterdir()) == [kept]


def test_a_supervisor_that_was_killed_in_between_changes_nothing(kept: Path) -> None:
    killed = Record(kept.parent, 7, Limits())
    os.truncate(kept, 0)
    os.close(killed._lock)
    following = Record(kept.parent, 7, Limits())
    assert kept.read_bytes() == SPENT
    assert following.settle() == ""


def test_two_tasks_of_a_run_do_not_hold_its_record_at_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_PATIENCE", 0.1)
    first = Record(kept.parent, 7, Limits())
    with pytest.raises(RecordError, match="another task of its run"):
        Record(kept.parent, 7, Limits())
    Record(kept.parent, 8, Limits()).settle()
    first.settle()
    Record(kept.parent, 7, Limits()).settle()


def test_a_record_that_grows_too_large_ends_its_run_here(kept: Path) -> None:
    held = Record(kept.parent, 7, Limits())
    with kept.open("ab") as task:
        task.write(bytes(5 * LARGEST))
    assert "grew beyond" in held.settle()
    assert kept.stat().st_size == LARGEST + 1
    assert kept.read_bytes().startswith(SPENT)
    with pytest.raises(RecordError, match=f"has {LARGEST + 1} bytes; {LARGEST} are allowed"):
        Record(kept.parent, 7, Limits())


def test_records_together_are_limited(kept: Path) -> None:
    Record(kept.parent, 8, Limits(state_bytes=100)).settle()
    kept.write_bytes(SPENT * 100)
    with pytest.raises(RecordError, match=r"records at this site have \d+ bytes, more than the limit of 100"):
        Record(kept.parent, 8, Limits(state_bytes=100))
    Record(kept.parent, 8, Limits(state_bytes=0)).settle()


def test_what_other_tasks_remove_meanwhile_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of all records is looked at without their locks, while another task's copy goes."""
    (tmp_path / "1.jsonl").write_bytes(b"12345")
    gone = tmp_path / "2.jsonl.before"
    monkeypatch.setattr(Path, "rglob", lambda *_: iter([tmp_path / "1.jsonl", gone, tmp_path]))
    assert record.used_bytes(tmp_path) == 5


_TASKS = """
import os, sys
from pathlib import Path
from flowerbed_executor.record import Record
from flowerbed_executor.spec import Limits
for _ in range(150):
    record = Record(Path(sys.argv[1]), 7, Limits())
    handle = record.descriptor()
    os.write(handle, b"round\\n")
    os.close(handle)
    assert record.settle() == ""
"""


def test_tasks_of_one_run_that_follow_each_other_at_once_take_turns(tmp_path: Path) -> None:
    tasks = [
        subprocess.Popen([sys.executable, "-c", _TASKS, str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [task.communicate(timeout=120)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0] * 4, said
    assert (tmp_path / "7.jsonl").read_text() == "round\n" * 600
