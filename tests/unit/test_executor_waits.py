"""What a task leaves out with held pulls, against the pinned Flower; each test in a fresh Python, as a task is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowerbed_executor.spec import CLIENT_APP, SERVER_APP
from flowerbed_executor.supervise import plain_environment
from flowerbed_executor.waits import GridTime

ROOT = Path(__file__).resolve().parents[2]

AFTER_INSTALL = """
import json, logging, sys, threading, time
logging.basicConfig(stream=sys.stderr, format="%(message)s")
from flowerbed_executor import waits
{before}
waits.install({program!r})
facts = {{}}
{after}
print(json.dumps(facts))
"""


def task(program: str, after: str, before: str = "", switch: str = "1") -> tuple[dict[str, Any], str]:
    """Run ``after`` where a task's `waits.install` has run; return its `facts` and its log."""
    code = AFTER_INSTALL.format(program=program, before=before, after=after)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "supernode"),
        "FLOWERBED_HELD_PULLS": switch,
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts, done.stderr


class Clock:
    now = 50.0

    def __init__(self) -> None:
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("lasted", "left"), [(0.1, 2.9), (2.0, 1.0), (3.0, None), (20.0, None)])
def test_the_pause_after_a_pull_counts_from_its_start(lasted: float, left: float | None) -> None:
    clock = Clock()
    grid_time = GridTime(clock.slept.append, clock)
    grid_time.pulling()
    clock.now += lasted
    grid_time.sleep(3)
    assert clock.slept == ([] if left is None else [pytest.approx(left)])


GRID = """
from flwr.superlink.grid import http_grid
at = []
http_grid.HttpGrid.push_messages = lambda self, messages: ["a", "b"]
class Reply:
    class metadata:
        reply_to_message_id = ""
def pulled(self, message_ids):
    at.append(time.monotonic())
    time.sleep({lasted})
    Reply.metadata.reply_to_message_id = "ab"[len(at) - 1]
    return [Reply]
http_grid.HttpGrid.pull_messages = pulled
"""
ROUND = """
grid = http_grid.HttpGrid("localhost:1", token="x")
grid.send_and_receive([1, 2])
facts["between"] = at[1] - at[0]
"""


def test_a_grid_whose_pull_was_held_asks_for_what_is_missing_at_once() -> None:
    # Wrapped are the real names; what they ask for stands in for a SuperLink.
    assert 3.2 <= task(SERVER_APP, ROUND, GRID.format(lasted=3.2))[0]["between"] < 3.7


def test_a_grid_whose_pull_was_answered_at_once_asks_once_in_three_seconds() -> None:
    assert 2.9 < task(SERVER_APP, ROUND, GRID.format(lasted=0))[0]["between"] < 3.5


HEARTBEATS = """
from flwr.supercore.heartbeat import HeartbeatSender
beats = []
sender = HeartbeatSender(lambda: beats.append(1) or True)
sender.start()
time.sleep(0.5)
facts["soon"] = len(beats)
begun = time.monotonic()
sender.stop()
facts["stopping"] = time.monotonic() - begun
waits.FIRST_HEARTBEAT = 0.2
sender = HeartbeatSender(lambda: beats.append(1) or True)
sender.start()
time.sleep(1)
facts["later"] = len(beats)
sender.stop()
"""


def test_a_short_task_sends_no_heartbeat_and_a_long_one_does() -> None:
    facts, _ = task(CLIENT_APP, HEARTBEATS)
    assert (facts["soon"], facts["later"]) == (0, 1)
    assert facts["stopping"] < 0.2


TRANSFERS = """
from flwr.supercore.inflatable import inflatable_utils
from flwr.supernode.runtime import run_clientapp
class Whole:
    def deflate(self):
        return b""
def threads(count, transfer):
    used, together = set(), threading.Barrier(2)
    def one(*_):
        used.add(threading.get_ident())
        # Two at once meet here; one alone passes after a moment.
        try:
            together.wait(0.05)
        except threading.BrokenBarrierError:
            pass
        return b""
    transfer([str(n) for n in range(count)], one)
    return len(used)
def push(names, one):
    run_clientapp.push_objects({name: Whole() for name in names}, one, object_ids_to_push=set(names))
def pull(names, one):
    inflatable_utils.pull_objects(names, one, max_concurrent_pulls=2)
for name, transfer in (("pull", pull), ("push", push)):
    facts[name] = [threads(count, transfer) for count in (3, waits.FEW, waits.FEW + 1)]
"""


def test_a_few_objects_travel_one_after_another_and_many_do_not() -> None:
    facts, _ = task(CLIENT_APP, TRANSFERS, "import os; os.cpu_count = lambda: 2")
    assert facts == {"pull": [1, 1, 2], "push": [1, 1, 2]}


UNTOUCHED = """
from flwr.supercore import heartbeat
from flwr.superlink.grid import http_grid
from flwr.supercore.inflatable import inflatable_utils
facts = [heartbeat.HeartbeatSender._run.__module__, http_grid.time is time, inflatable_utils.pull_objects.__module__]
facts += [hasattr(heartbeat.HeartbeatSender._run, "__wrapped__"), hasattr(inflatable_utils.pull_objects, "__wrapped__")]
"""


@pytest.mark.parametrize("program", [CLIENT_APP, SERVER_APP])
def test_switched_off_nothing_is_wrapped(program: str) -> None:
    facts, log = task(program, UNTOUCHED, switch="0")
    assert facts == ["flwr.supercore.heartbeat", True, "flwr.supercore.inflatable.inflatable_utils", False, False]
    assert log == ""


@pytest.mark.parametrize(
    ("program", "change", "name"),
    [
        (
            SERVER_APP,
            "http_grid.HttpGrid.send_and_receive = lambda self, messages: time.sleep(5)",
            "HttpGrid.send_and_receive",
        ),
        (CLIENT_APP, "heartbeat.HeartbeatSender._run = lambda self, other: None", "HeartbeatSender._run"),
        (CLIENT_APP, "inflatable_utils.pull_objects = lambda ids: None", "inflatable_utils.pull_objects"),
    ],
)
def test_what_differs_is_left_as_it_is_with_one_line(program: str, change: str, name: str) -> None:
    before = f"""
from flwr.supercore import heartbeat
from flwr.superlink.grid import http_grid
from flwr.supercore.inflatable import inflatable_utils
{change}
kept = [heartbeat.HeartbeatSender._run, inflatable_utils.pull_objects, http_grid.time]
"""
    position = {"HeartbeatSender._run": 0, "inflatable_utils.pull_objects": 1}.get(name, 2)
    after = (
        "now = [heartbeat.HeartbeatSender._run, inflatable_utils.pull_objects, http_grid.time]\n"
        f"facts = kept[{position}] is now[{position}]"
    )
    kept, log = task(program, after, before)
    assert kept is True
    assert log.count("has no effect") == 1
    assert name in log


def test_a_task_is_told_of_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWERBED_HELD_PULLS", "1")
    assert plain_environment(0)["FLOWERBED_HELD_PULLS"] == "1"
