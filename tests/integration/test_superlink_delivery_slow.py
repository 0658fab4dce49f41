"""Sites of different speed, and two runs at once on the same sites, through a real SuperLink with held pulls.

What is slow waits for what the test has seen of the others, besides its ten times longer work: nothing is timed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.supercore.utils import uint64_to_int64

from held_support import Held
from rounds_support import PATIENCE_S, App, LoopedNode, rounds_world, until, working

# Flower's migrations do not say how their paths are separated.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")

SLOWER = 10
SHORT_S, LONG_S = 0.1, 2.2
"""A fast site's work on a message. The slow site's long one outlasts a held pull, which ends after 19 s at the latest."""

MOST_EMPTY = 20
"""Pulls that may come back empty in one exchange; one that is not held is repeated after 0.02 s, hundreds of times."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Held]:
    with rounds_world(tmp_path, 4) as world:
        yield world


@contextmanager
def seeing() -> Iterator[threading.Event]:
    """Return what the slow site waits for; it is set at the end, so that a failed test ends too."""
    seen = threading.Event()
    try:
        yield seen
    finally:
        seen.set()


def after(seconds: float, seen: threading.Event | None = None) -> Callable[[Message], None]:
    """Return work that takes so long, and until something has been seen."""

    def work(_: Message) -> None:
        time.sleep(seconds)
        assert seen is None or seen.wait(PATIENCE_S)

    return work


def stored(world: Held, app: App) -> int:
    """Return how many replies of a run the SuperLink has, with all their objects."""
    query = (
        "SELECT count(*) AS replies FROM message_res WHERE run_id = :run AND NOT EXISTS "
        "(SELECT 1 FROM objects WHERE objects.object_id = message_res.message_id AND is_available = 0)"
    )
    return int(world.state.query(query, {"run": uint64_to_int64(app.run_id)})[0]["replies"])


def test_a_site_ten_times_slower_than_the_others_costs_nobody_a_reply(world: Held) -> None:
    slow, *fast = nodes = [LoopedNode(world, site, world.port) for site in world.sites]
    with working(nodes), App(world, world.port).at_work() as app, ThreadPoolExecutor(1) as pool, seeing() as seen:
        ids = [node.node_id for node in nodes]
        pace(nodes, SHORT_S)
        for _ in range(5):
            app.exchange(ids)
        pace(nodes, LONG_S, seen)
        before = [node.empty for node in fast], app.pulls, set(slow.replied)
        exchange = pool.submit(app.exchange, ids)
        until(lambda: stored(world, app) == len(fast), exchange.done)
        assert slow.replied == before[2]
        # The Grid's pull and one of each fast site's have been held as long as any is. The Grid has what there is; it asks again.
        until(lambda: len(app.ends) == 6 * len(nodes) - 1, exchange.done)
        until(lambda: all(n.empty > e for n, e in zip(fast, before[0], strict=True)), exchange.done)
        assert slow.replied == before[2]
        assert not exchange.done()
        seen.set()
        sent = exchange.result(PATIENCE_S)
        assert all(n.empty - e < MOST_EMPTY for n, e in zip(fast, before[0], strict=True))
        assert 2 <= app.pulls - before[1] < MOST_EMPTY
    assert len(app.ends) == 6 * len(nodes)
    assert {app.ends[message] for message in [*sent, *app.ends]} == {1}
    assert not app.errors
    assert all(set(node.handled.values()) == {1} and len(node.handled) == 6 for node in nodes)


def pace(nodes: list[LoopedNode], seconds: float, seen: threading.Event | None = None) -> None:
    """Have each site take so long for a message, and the first ten times as long."""
    slow, *fast = nodes
    slow.work = after(SLOWER * seconds, seen)
    for node in fast:
        node.work = after(seconds)


def test_a_run_without_the_slow_site_is_not_held_up_by_one_with_it(world: Held) -> None:
    slow, *fast = nodes = [LoopedNode(world, site, world.port) for site in world.sites]
    with ExitStack() as stack:
        stack.enter_context(working(nodes))
        both, quick = (stack.enter_context(App(world, world.port).at_work()) for _ in range(2))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        seen = stack.enter_context(seeing())
        slow.work = after(0, seen)
        waits = pool.submit(both.exchange, [node.node_id for node in nodes])
        until(lambda: slow.handled, waits.done)
        for _ in range(20):
            quick.exchange([node.node_id for node in fast])
        assert not waits.done()
        seen.set()
        waits.result(PATIENCE_S)
    assert (len(both.ends), len(quick.ends)) == (len(nodes), 20 * len(fast))
    assert {times for app in (both, quick) for times in app.ends.values()} == {1}
    assert not both.errors | quick.errors


def test_two_runs_at_once_end_every_message_of_theirs_once(world: Held) -> None:
    nodes = [LoopedNode(world, site, world.port) for site in world.sites]
    pace(nodes, SHORT_S / SLOWER)
    with ExitStack() as stack:
        stack.enter_context(working(nodes))
        apps = [stack.enter_context(App(world, world.port).at_work()) for _ in range(2)]
        pool = stack.enter_context(ThreadPoolExecutor(2))
        ids = [node.node_id for node in nodes]
        for run in [pool.submit(lambda app=app: [app.exchange(ids) for _ in range(10)]) for app in apps]:  # type: ignore[misc]
            run.result(PATIENCE_S)
    for app in apps:
        assert (len(app.ends), set(app.ends.values()), app.errors) == (10 * len(nodes), {1}, {})
    # Neither got what was the other's: each message that was worked on is one of theirs, once.
    handled = [message for node in nodes for message in node.handled.elements()]
    assert sorted(handled) == sorted([*apps[0].ends, *apps[1].ends])
