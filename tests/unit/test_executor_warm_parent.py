"""The warm parent as SuperExec's process sees it: forks, ends, signals, replacement. The real program, without privileges."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowerbed_executor import parent
from flowerbed_executor.parent import WarmParent, WarmSupervisor, parent_environment
from flowerbed_executor.spec import CLIENT_APP


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def spawned(warm: WarmParent) -> WarmSupervisor:
    until(lambda: warm.ready)
    supervisor = warm.spawn()
    assert supervisor is not None
    return supervisor


@pytest.fixture(scope="module")
def shared() -> Iterator[WarmParent]:
    warm = WarmParent(CLIENT_APP, threads=1)
    warm.start()
    yield warm
    warm.close()


def test_before_it_is_ready_tasks_start_cold() -> None:
    assert WarmParent(CLIENT_APP, threads=1).spawn() is None


def test_a_supervisors_exit_status_arrives(shared: WarmParent) -> None:
    supervisor = spawned(shared)
    with pytest.raises(subprocess.TimeoutExpired):
        supervisor.communicate(timeout=0.1)
    # No description: the supervisor cannot go on.
    output, _ = supervisor.communicate(b"{}", timeout=60)
    assert (output, supervisor.returncode) == (b"", 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_supervisor_and_is_told(shared: WarmParent, number: int) -> None:
    supervisor = spawned(shared)
    supervisor.send_signal(number)
    supervisor.communicate(timeout=60)
    assert supervisor.returncode == -number
    supervisor.send_signal(number)


def test_several_at_once_are_told_apart(shared: WarmParent) -> None:
    supervisors = [spawned(shared) for _ in range(8)]
    assert len({supervisor.pid for supervisor in supervisors}) == 8
    for number, supervisor in zip(range(1, 9), reversed(supervisors), strict=True):
        supervisor.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
    for number, supervisor in zip(range(1, 9), reversed(supervisors), strict=True):
        supervisor.communicate(timeout=60)
        assert supervisor.returncode == (-signal.SIGKILL if number % 2 else -signal.SIGTERM)


def test_a_supervisor_holds_nothing_but_its_own_streams(shared: WarmParent) -> None:
    first, second = spawned(shared), spawned(shared)
    for supervisor in (first, second):
        until(lambda pid=supervisor.pid: sorted(descriptors(pid)) == [0, 1, 2])  # type: ignore[misc]
        supervisor.send_signal(signal.SIGKILL)
        supervisor.communicate(timeout=60)


def descriptors(pid: int) -> list[int]:
    return [int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()]


def test_tasks_leave_no_descriptor_behind(shared: WarmParent) -> None:
    spawned(shared).communicate(b"{}", timeout=60)
    ours, theirs = len(descriptors(os.getpid())), len(descriptors(shared.pid))
    for _ in range(10):
        spawned(shared).communicate(b"{}", timeout=60)
    assert (len(descriptors(os.getpid())), len(descriptors(shared.pid))) == (ours, theirs)


def test_it_sleeps_while_there_is_nothing_to_do(shared: WarmParent) -> None:
    spawned(shared).communicate(b"{}", timeout=60)

    def turns() -> int:
        status = Path(f"/proc/{shared.pid}/status").read_text()
        return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)

    until(lambda: "S (sleeping)" in Path(f"/proc/{shared.pid}/status").read_text())
    before = turns()
    time.sleep(2)
    assert turns() == before


def test_its_environment_holds_nothing_of_superexecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWERBED_SECRETS", "/secrets")
    monkeypatch.setenv("SOME_SECRET", "5ecre7")
    environment = parent_environment(3)
    assert "5ecre7" not in str(environment)
    assert not any("SECRET" in name for name in environment)
    assert (environment["OMP_NUM_THREADS"], environment["OPENBLAS_NUM_THREADS"]) == ("3", "1")


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmParent]:
    monkeypatch.setattr(parent, "_FIRST_PAUSE", 0.05)
    warm = WarmParent(CLIENT_APP, threads=1)
    warm.start()
    yield warm
    warm.close()


def test_one_that_dies_is_replaced_and_its_tasks_live_on(own: WarmParent) -> None:
    supervisor, dead = spawned(own), own.pid
    os.kill(dead, signal.SIGKILL)
    until(lambda: own.pid not in (0, dead) and own.ready)
    spawned(own).communicate(b"{}", timeout=60)
    # Its end is still noticed, its signals still arrive; only the status went with the parent.
    with pytest.raises(subprocess.TimeoutExpired):
        supervisor.communicate(timeout=0.2)
    supervisor.send_signal(signal.SIGTERM)
    supervisor.communicate(timeout=60)
    assert supervisor.returncode == -1


def test_a_task_that_it_was_starting_when_it_died_fails_with_a_reason(own: WarmParent) -> None:
    until(lambda: own.ready)
    os.kill(own.pid, signal.SIGSTOP)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {own.pid}"])
    with pytest.raises(OSError, match="the warm parent ended while it was being started"):
        own.spawn()
    killer.wait()


def test_one_that_does_not_answer_is_replaced(own: WarmParent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "_ANSWER_SECONDS", 0.3)
    until(lambda: own.ready)
    stuck = own.pid
    os.kill(stuck, signal.SIGSTOP)
    with pytest.raises(OSError, match="did not answer"):
        own.spawn()
    until(lambda: own.pid not in (0, stuck) and own.ready)


def test_one_that_cannot_be_started_is_tried_again_and_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parent, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(parent, "_LONGEST_PAUSE", 0.05)
    before = len(descriptors(os.getpid()))
    warm = WarmParent(CLIENT_APP, threads=1)
    try:
        with monkeypatch.context() as without_a_program:
            without_a_program.setattr(sys, "executable", "/nonexistent/python")
            warm.start()
            until(lambda: len(caplog.records) > 8)
            assert len(descriptors(os.getpid())) <= before + 6  # of the start that is under way
        until(lambda: warm.ready)
    finally:
        warm.close()
    assert "could not be started: [Errno 2]" in caplog.text
