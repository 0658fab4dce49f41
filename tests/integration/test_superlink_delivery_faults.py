"""1,000 small rounds through the real SuperLink while answers get lost, SuperNodes start anew, SuperLink and PostgreSQL restart.

SuperNodes and ServerApps are Flower's own connection and Grid, without the processes around them. What is lost and doubled is
counted in messages, replies and errors; how long it takes is the host's affair.
"""

from __future__ import annotations

import logging
import signal
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flwr.supercore.retry import http_retry

from faulty_proxy import FaultyProxy
from held_support import Held, surroundings
from rounds_support import PATIENCE_S, App, LoopedNode, until, use_clients, working

# Flower's migrations do not say how their paths are separated.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")

LOG = logging.getLogger(__name__)
SITES, RUNS, ALL_EVERY = 4, 5, 40
FORGET_EVERY = 37
"""So many messages after another, a SuperNode forgets what it works on."""


def rounds(app: App, nodes: list[LoopedNode], first: int, count: int) -> None:
    """Run a ServerApp of so many rounds, each of which must end exactly once; one in `ALL_EVERY` reaches all sites.

    The others reach one site after another, from the given one on: runs that go in step would wait for each other at each.
    """
    with app.at_work():
        for number in range(count):
            reached = nodes if number % ALL_EVERY == 0 else [nodes[(first + number) % len(nodes)]]
            sent = app.exchange([each.node_id for each in reached])
            assert {app.ends[message] for message in sent} == {1}


def restarts(world: Held, proxy: FaultyProxy, apps: list[App], total: int, signum: signal.Signals, **how: str) -> Any:
    """Return what restarts the SuperLink after a third of the rounds and PostgreSQL after two thirds."""

    def done() -> int:
        return sum(app.done for app in apps)

    def restart(unless: Any) -> None:
        until(lambda: done() > total // 3, unless)
        with proxy.refusing():
            world.restart(signum, **how)
        until(lambda: done() > total * 2 // 3, unless)
        world.postgres.stop()
        world.postgres.start()

    return restart


@pytest.mark.parametrize(("held", "count", "signum"), [("1", 140, signal.SIGKILL), ("0", 60, signal.SIGTERM)])
def test_rounds_end_once_whatever_is_lost(
    tmp_path: Path, held: str, count: int, signum: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_clients(monkeypatch)
    # Flower's clients would wait up to 20 s after some failures in a row, for a SuperLink that has long returned.
    monkeypatch.setattr(http_retry, "MAX_RETRY_DELAY", 1)
    how = {"FLOWERBED_HELD_PULLS": held}
    with surroundings(tmp_path, SITES) as world, ExitStack() as stack:
        stack.enter_context(world.running(**how))
        stack.enter_context(world.linked())
        for site in world.sites:
            world.add_node(site)
        proxy = stack.enter_context(FaultyProxy(world.port, 0.004, 7).serving())
        # Without holds, each pull that finds nothing costs the SuperLink what a useful one does.
        pause_s = 0.02 if held == "1" else 0.25
        nodes = [LoopedNode(world, site, proxy.port, FORGET_EVERY, pause_s=pause_s) for site in world.sites]
        apps = [App(world, proxy.port, pause_s) for _ in range(RUNS)]
        pool = stack.enter_context(ThreadPoolExecutor(RUNS))
        with working(nodes):
            runs = [pool.submit(rounds, app, nodes, first, count) for first, app in enumerate(apps)]
            restarts(world, proxy, apps, RUNS * count, signum, **how)(lambda: failed(runs))
            for run in runs:
                run.result(PATIENCE_S)
        lost = proxy.lost
    check(apps, nodes, RUNS * count)
    assert lost > 5
    LOG.info("%d answers lost, %d errors", lost, sum(len(app.errors) for app in apps))


def failed(runs: list[Future[None]]) -> list[BaseException]:
    """Return what runs have failed with."""
    return [error for run in runs if run.done() and (error := run.exception()) is not None]


def check(apps: list[App], nodes: list[LoopedNode], count: int) -> None:
    """Check that every message ended once, that none was worked on twice, and that errors have a reason."""
    assert sum(app.done for app in apps) == count
    assert {times for app in apps for times in app.ends.values()} == {1}
    handled = Counter(message for node in nodes for message in node.handled.elements())
    assert set(handled.values()) == {1}
    replied = {message for node in nodes for message in node.replied}
    errors = {message for app in apps for message in app.errors}
    ended = {message for app in apps for message in app.ends}
    assert ended - errors <= replied
    # Whoever asks while a node is away gets an error for what it waits for: what is forgotten, and other runs' messages.
    forgotten = sum(node.forgotten for node in nodes)
    assert 0 < forgotten <= len(errors) <= RUNS * forgotten
