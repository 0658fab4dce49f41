"""How SuperExec asks for tasks with held pulls: at once, but never in a spin."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import cast

import pytest
from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.types import LaunchResultStatus

from flowerbed_executor import launch, pace
from flowerbed_executor.__main__ import POLL_INTERVAL, set_poll_interval
from flowerbed_executor.launch import SupervisedExecutor
from flowerbed_executor.report import Reporter
from flowerbed_executor.settings import Settings, SettingsError, load


@pytest.mark.parametrize(("held", "expected"), [("1", {POLL_INTERVAL: "0.02"}), ("0", {}), ("", {})])
def test_the_interval_is_flowers_own_unless_pulls_are_held(held: str, expected: dict[str, str]) -> None:
    environment: dict[str, str] = {}
    set_poll_interval(load("clientapp", {"FLOWERBED_HELD_PULLS": held}), environment)
    assert environment == expected


def test_an_interval_that_the_operator_has_set_stays() -> None:
    environment = {POLL_INTERVAL: "5"}
    set_poll_interval(load("clientapp", {"FLOWERBED_HELD_PULLS": "1"}), environment)
    assert environment == {POLL_INTERVAL: "5"}


@pytest.mark.parametrize("name", ["FLOWERBED_WARM", "FLOWERBED_HELD_PULLS"])
def test_a_switch_is_1_or_0(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is 'yes'; it must be 1 or 0"):
        load("clientapp", {name: "yes"})


def test_warm_is_the_default() -> None:
    assert load("clientapp", {}).warm
    assert not load("clientapp", {"FLOWERBED_WARM": "0"}).warm


def test_answers_that_are_not_held_bring_flowers_pace_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    kept, pauses = pace.Pace(), []
    for answered_after in (20.0, 0.01, 0.01, 0.01, 0.01, 0.01, 20.0, 0.01):
        pauses.append(kept.pause())
        kept.asks()
        now[0] += answered_after
    assert pauses == [0, 0, 0, 0, 0, 1, 1, 0]


def test_tasks_one_after_another_do_not_count_as_such() -> None:
    kept = pace.Pace()
    for _ in range(20):
        assert kept.pause() == 0
        kept.asks()
        kept.got_one()


@pytest.fixture
def executor(tmp_path: Path) -> SupervisedExecutor:
    (tmp_path / "ca.crt").write_text("PEM\n")
    settings = Settings(
        role=load("clientapp", {}).role,
        runtime_api="localhost:1",
        secrets=tmp_path,
        alive=tmp_path / "alive",
        tasks_at_once=1,
        held_pulls=True,
    )
    return SupervisedExecutor(settings, Reporter("localhost:1", b""))


TYPES = {TaskType.CLIENT_APP}


def test_a_full_executor_waits_for_room_and_stays_alive(executor: SupervisedExecutor, tmp_path: Path) -> None:
    running = launch._Running(cast("launch.SupervisorProcess", None), threading.current_thread(), "token")
    executor._running[1] = running

    def end() -> None:
        time.sleep(1.5)
        with executor._room:
            del executor._running[1]
            executor._room.notify_all()

    ender = threading.Thread(target=end)
    ender.start()
    started, used = time.monotonic(), time.thread_time()
    assert executor.get_eligible_capacity(TYPES) == (TYPES, set())
    assert 1.4 < time.monotonic() - started < 30
    assert time.thread_time() - used < 0.2
    assert (tmp_path / "alive").exists()
    ender.join()


def test_with_stock_pulls_a_full_executor_answers_at_once(executor: SupervisedExecutor) -> None:
    object.__setattr__(executor._settings, "held_pulls", False)
    executor._running[1] = launch._Running(cast("launch.SupervisorProcess", None), threading.current_thread(), "token")
    started = time.monotonic()
    assert executor.get_eligible_capacity(TYPES) == (set(), set())
    assert time.monotonic() - started < 0.5


def test_a_task_acquired_when_something_was_left_is_for_the_next_start(executor: SupervisedExecutor) -> None:
    executor._unclean = True
    result = executor.launch_task("token", Task(type=TaskType.CLIENT_APP, task_id=1, run_id=1))
    # Nothing is reported, so that Flower gives it out again.
    assert result.status == LaunchResultStatus.CAPACITY_REJECTED
