"""The SuperNode's launcher with FLOWERBED_HELD_PULLS=1, as a real process, against a SuperLink of the test's."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.proto import runtime_pb2
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

from supernode_support import SuperLink, SuperNode, secrets, until

SLOW = """
from flowerbed_supernode import holds, waits
holds.LOOK_SECONDS = 40
wait = waits.LoopTime.sleep
waits.LoopTime.sleep = lambda self, seconds: wait(self, seconds if seconds == waits.PAUSE else 40)
"""
"""Nothing looks by itself within a test: what is not told to go on is late, on however busy a host."""

SOON = 15.0
"""Seconds within which what was told to go on has done so; a question that nobody releases is held for 20 s."""

WANTED = runtime_pb2.AcquireTaskRequest(supported_task_types=["flwr-clientapp"])


@pytest.fixture
def link(tmp_path: Path) -> Iterator[SuperLink]:
    link = SuperLink(secrets(tmp_path / "secrets"))
    link.hold_seconds = 20
    yield link
    link.close()


@pytest.fixture
def start(tmp_path: Path, link: SuperLink) -> Iterator[Callable[..., SuperNode]]:
    started: list[SuperNode] = []

    def start(held_pulls: str = "1") -> SuperNode:
        first = SLOW if held_pulls == "1" else ""
        started.append(SuperNode(tmp_path, link, first, FLOWERBED_HELD_PULLS=held_pulls))
        # The link holds its first pull, so the loop has not stepped yet.
        until(lambda: "pull-messages" in link.seen, "the first pull")
        return started[-1]

    yield start
    for supernode in started:
        supernode.close()


class Asking:
    """Questions for a task, each in a thread of its own, as SuperExec would ask."""

    def __init__(self, supernode: SuperNode) -> None:
        self._supernode = supernode
        self._threads = ThreadPoolExecutor(8)
        self.answered: list[float] = []

    def ask(self, request: runtime_pb2.AcquireTaskRequest = WANTED) -> Future[Any]:
        return self._threads.submit(self._ask, self._supernode.client(), request)

    def _ask(self, client: Any, request: runtime_pb2.AcquireTaskRequest) -> Any:
        try:
            return client.AcquireTask(request)
        finally:
            self.answered.append(time.monotonic())


@pytest.fixture
def asking() -> Iterator[Callable[[SuperNode], Asking]]:
    made: list[Asking] = []

    def make(supernode: SuperNode) -> Asking:
        made.append(Asking(supernode))
        return made[-1]

    yield make
    for one in made:
        one._threads.shutdown(wait=False)


def reply_to(message: Message) -> Message:
    return Message(RecordDict({"answer": ConfigRecord({"n": 1})}), reply_to=message)


def counted(app: Any) -> list[str]:
    """Return the ids of the objects that this client asks for from now on."""
    asked: list[str] = []
    pull = app.PullObject

    def pull_and_count(request: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(request.object_id)
        return pull(request, *args, **kwargs)

    app.PullObject = pull_and_count
    return asked


def test_a_question_is_answered_when_the_message_is_whole_and_never_before(
    link: SuperLink, start: Callable[..., SuperNode], asking: Callable[[SuperNode], Asking]
) -> None:
    supernode = start()
    questions = asking(supernode)
    held = questions.ask()
    time.sleep(1)
    assert not held.done()
    link.objects_may_leave.clear()
    link.give()
    until(lambda: "pull-object" in link.seen, "the first object")
    # Its task exists by now: neither who waits nor who comes gets it.
    newer = questions.ask()
    assert not held.result(SOON).token
    time.sleep(1)
    assert not newer.done()
    link.objects_may_leave.set()
    token = newer.result(SOON).token
    assert token
    app = supernode.client(token)
    objects = counted(app)
    message, context, _, _ = pull_task_input(app)
    # No object is missing: it would be asked for again, a second later.
    assert objects
    assert len(objects) == len(set(objects))
    push_message(app, reply_to(message), context)
    stored = time.monotonic()
    until(lambda: link.times("push-messages"), "the reply")
    assert link.times("push-messages")[0] - stored < SOON


def test_tasks_replies_and_the_next_pull_follow_at_once(link: SuperLink, start: Callable[..., SuperNode]) -> None:
    supernode = start()
    client = supernode.client()
    waits: dict[str, list[float]] = {"task": [], "reply": [], "pull": []}
    for round_number in range(1, 5):
        link.give()
        token = client.AcquireTask(WANTED).token
        waits["task"].append(time.monotonic() - link.times("confirm-message-received")[-1])
        app = supernode.client(token)
        message, context, _, _ = pull_task_input(app)
        push_message(app, reply_to(message), context)
        stored = time.monotonic()
        app.PushTaskOutput(runtime_pb2.PushTaskOutputRequest(sub_status=SubStatus.COMPLETED))
        until(lambda n=round_number: len(link.replies) == n, "the reply")  # type: ignore[misc]
        until(lambda n=round_number: len(link.times("pull-messages")) == n + 1, "the next pull")  # type: ignore[misc]
        waits["reply"].append(link.times("push-messages")[-1] - stored)
        waits["pull"].append(link.times("pull-messages")[-1] - link.times("push-messages")[-1])
    assert {name: took for name, took in waits.items() if max(took) >= SOON} == {}


def test_a_task_that_ends_without_a_reply_is_answered_at_once(link: SuperLink, start: Callable[..., SuperNode]) -> None:
    supernode = start()
    link.give()
    app = supernode.client(supernode.client().AcquireTask(WANTED).token)
    pull_task_input(app)
    app.PushTaskOutput(runtime_pb2.PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="it was killed"))
    ended = time.monotonic()
    until(lambda: link.replies, "the error reply")
    assert link.replies[0].error.reason == "it was killed"
    assert link.times("push-messages")[0] - ended < SOON


def test_a_newer_question_releases_the_older_one_empty(
    link: SuperLink, start: Callable[..., SuperNode], asking: Callable[[SuperNode], Asking]
) -> None:
    supernode = start()
    questions = asking(supernode)
    older = questions.ask()
    time.sleep(0.5)
    newer = questions.ask()
    assert not older.result(SOON).token
    assert not newer.done()
    link.give()
    assert newer.result(SOON).token


def test_a_client_that_goes_away_takes_no_task(
    link: SuperLink, start: Callable[..., SuperNode], asking: Callable[[SuperNode], Asking]
) -> None:
    supernode = start()
    gone = supernode.client()
    # It hangs up after half a second.
    gone._client.timeout = httpx.Timeout(0.5)
    with pytest.raises(httpx.ReadTimeout):
        gone.AcquireTask(WANTED)
    link.give()
    until(lambda: "confirm-message-received" in link.seen, "the message")
    time.sleep(0.5)
    assert asking(supernode).ask().result(SOON).token


def test_a_stop_releases_what_is_held(
    link: SuperLink, start: Callable[..., SuperNode], asking: Callable[[SuperNode], Asking]
) -> None:
    supernode = start()
    questions = asking(supernode)
    held = questions.ask()
    time.sleep(1)
    supernode.process.send_signal(signal.SIGTERM)
    # Answered, not cut off, which Flower's server does 3 s later.
    assert not held.result(SOON).token
    assert supernode.ended() == 0, supernode.text()
    assert link.seen[-1] == "deactivate-node"


def test_a_stop_lets_the_message_in_hand_be_taken_and_answered(
    link: SuperLink, start: Callable[..., SuperNode]
) -> None:
    supernode = start()
    client = supernode.client()
    link.give()
    until(lambda: "confirm-message-received" in link.seen, "the message")
    time.sleep(0.2)
    supernode.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    app = supernode.client(client.AcquireTask(WANTED).token)
    message, context, _, _ = pull_task_input(app)
    push_message(app, reply_to(message), context)
    assert supernode.ended() == 0, supernode.text()
    assert [reply.has_error() for reply in link.replies] == [False]
    assert link.seen[-1] == "deactivate-node"


def test_only_who_has_the_secret_and_asks_for_something_is_held(
    link: SuperLink, start: Callable[..., SuperNode]
) -> None:
    del link
    supernode = start()
    begun = time.monotonic()
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        supernode.client("no token").AcquireTask(WANTED)
    assert not supernode.client().AcquireTask(runtime_pb2.AcquireTaskRequest()).token
    assert time.monotonic() - begun < SOON


def test_a_hold_ends_empty_before_the_client_gives_up(link: SuperLink, start: Callable[..., SuperNode]) -> None:
    del link
    supernode = start()
    client = supernode.client()
    begun = time.monotonic()
    # Given up, after 30 s, it would raise.
    assert not client.AcquireTask(WANTED).token
    assert time.monotonic() - begun > 19


def gaps(link: SuperLink, count: int) -> list[float]:
    """Return the times between so many pulls and the next ones, from the next pull on."""
    link.at.clear()
    until(lambda: len(link.times("pull-messages")) > count, "the pulls")
    return [later - earlier for earlier, later in pairwise(link.times("pull-messages"))][:count]


@pytest.mark.parametrize("hold_seconds", [0, 0.7, 2])
def test_a_superlink_that_does_not_hold_long_is_asked_once_in_three_seconds(
    link: SuperLink, start: Callable[..., SuperNode], hold_seconds: float
) -> None:
    link.hold_seconds = hold_seconds
    start()
    found = gaps(link, 4)
    # At once would be after the hold, stock Flower's 3 s after it; a single pull may be late.
    assert min(found) > 2.4, found
    assert min(found) < 4, found


def test_a_superlink_that_held_a_pull_is_asked_again_at_once(link: SuperLink, start: Callable[..., SuperNode]) -> None:
    link.hold_seconds = 4
    start()
    until(lambda: len(link.times("pull-messages")) > 1, "the second pull")
    found = gaps(link, 3)
    # Stock Flower's would be 7.
    assert 3 < min(found) < 6, found


def test_a_superlink_that_refuses_the_run_is_not_hammered(link: SuperLink, start: Callable[..., SuperNode]) -> None:
    # Every message's run has ended: 403.
    link.status["get-run"] = 403
    giving = threading.Event()

    def give() -> None:
        while not giving.wait(0.2):
            link.give()

    thread = threading.Thread(target=give)
    thread.start()
    try:
        start()
        found = gaps(link, 3)
    finally:
        giving.set()
        thread.join()
    assert len(link.times("get-run")) <= len(link.times("pull-messages"))
    assert min(found) > 2.4, found


def test_switched_off_it_waits_as_stock_flower_does(
    link: SuperLink, start: Callable[..., SuperNode], asking: Callable[[SuperNode], Asking]
) -> None:
    link.hold_seconds = 4
    supernode = start("0")
    questions = asking(supernode)
    # Held, it would be so for 20 s.
    assert not questions.ask().result(SOON).token
    until(lambda: len(link.times("pull-messages")) > 1, "the second pull")
    found = gaps(link, 2)
    assert min(found) > 5.5, found
