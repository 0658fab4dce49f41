"""1,000 small rounds through the real SuperLink while answers are lost, SuperNodes vanish and SuperLink and PostgreSQL restart.

SuperNodes and ServerApps are Flower's own connection and Grid, without the processes around them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient

from faulty_proxy import FaultyProxy
from held_support import Edge, Held, surroundings
from superlink_support import TestSite

# Flower's migrations do not say how their paths are separated.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")

LOG = logging.getLogger(__name__)
SITES, RUNS, PAUSE_S = 2, 2, 0.02


_here = threading.local()  # `site` is whose SuperNode a thread is


class SiteClient(FleetHttpClient):
    """Flower's client, with what the edge adds."""

    def __init__(self, base_url: str, *, interceptors: Any, **other: Any) -> None:
        headers = {k: v for k, v in _here.site.headers().items() if k != "flwr-public-key"}
        super().__init__(base_url, interceptors=[*interceptors, Edge(headers)], **other)


class LoopedNode:
    """A SuperNode's main loop, which now and then forgets what it works on and starts anew."""

    def __init__(self, world: Held, site: TestSite, port: int, forget_every: int) -> None:
        self._world, self._site, self._port, self._forget_every = world, site, port, forget_every
        self.handled: Counter[str] = Counter()
        self.forgotten = 0
        self.node_id = 0
        self.known, self.over = threading.Event(), threading.Event()

    def run(self) -> None:
        """Work until it is over."""
        _here.site = self._site
        while not self.over.is_set():
            connection = fleet_http_connection.http_request_response(
                f"localhost:{self._port}",
                insecure=False,
                root_certificates=(self._world.secrets / "ca.crt").read_bytes(),
                authentication_keys=(self._site.key, self._site.key.public_key()),
            )
            with connection as callbacks:
                self._loop(*callbacks)

    def _loop(
        self,
        node_id: int,
        receive: Any,
        send: Any,
        _run: Any,
        _fab: Any,
        pull_object: Any,
        push_object: Any,
        confirm: Any,
    ) -> None:
        self.node_id = node_id
        self.known.set()
        while not self.over.is_set():
            got = receive()
            if got is None:
                time.sleep(PAUSE_S)
                continue
            message, tree = got
            run_id = message.metadata.run_id
            ids = [each.object_id for each in iterate_object_tree(tree)]
            pull_objects(ids, lambda each, run_id=run_id: pull_object(run_id, each))  # type: ignore[misc]
            confirm(run_id, message.metadata.message_id)
            self.handled[message.metadata.message_id] += 1
            if len(self.handled) % self._forget_every == 0:
                self.forgotten += 1
                return
            reply = _message(message.metadata.dst_node_id, SUPERLINK_NODE_ID, run_id, message)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            wanted, session = send(reply, get_object_tree(reply), 0.01)
            objects = get_all_nested_objects(reply)
            for each in wanted:
                push_object(run_id, session, each, objects[each].deflate())


def _message(source: int, target: int, run_id: int, replied: Message | None = None) -> Message:
    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=source,
        dst_node_id=target,
        reply_to_message_id=replied.metadata.message_id if replied else "",
        group_id="",
        created_at=now().timestamp(),
        ttl=replied.metadata.created_at + replied.metadata.ttl - now().timestamp() if replied else 3600,
        message_type="train",
    )
    return make_message(content=RecordDict(), metadata=metadata)


def rounds(world: Held, port: int, nodes: list[LoopedNode], count: int, done: list[int]) -> Counter[str]:
    """Run a ServerApp of so many rounds; return how often each message ended in a reply, and in an error."""
    run_id, token = world.new_run()
    # Nobody sends this task's heartbeats.
    world.postgres.sql("UPDATE task SET active_until = now() + interval '1 hour' WHERE active_until IS NOT NULL")
    grid = HttpGrid(f"localhost:{port}", root_certificates=(world.secrets / "ca.crt").read_bytes(), token=token)
    grid.set_run(Run.create_empty(run_id))
    ends: Counter[str] = Counter()
    try:
        for number in range(count):
            reached = nodes if number % 10 == 0 else [nodes[number % len(nodes)]]
            sent = list(grid.push_messages([_message(SUPERLINK_NODE_ID, each.node_id, run_id) for each in reached]))
            waiting = set(sent)
            while waiting:
                got = [(reply.metadata.reply_to_message_id, reply.has_error()) for reply in grid.pull_messages(waiting)]
                waiting -= {message for message, _ in got}
                ends.update(message for message, _ in got)
                ends.update("error" for _, failed in got if failed)
                if waiting:
                    time.sleep(PAUSE_S)
            assert {ends[message] for message in sent} == {1}
            done[0] += 1
    finally:
        grid.close()
    return ends


@contextmanager
def working(nodes: list[LoopedNode]) -> Iterator[None]:
    """Have the nodes work until the end."""
    threads = [threading.Thread(target=node.run) for node in nodes]
    for thread in threads:
        thread.start()
    try:
        assert all(node.known.wait(30) for node in nodes)
        yield
    finally:
        for node in nodes:
            node.over.set()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize(("held", "count", "restarts"), [("1", 350, True), ("0", 150, False)])
def test_rounds_end_once_whatever_is_lost(
    tmp_path: Path, held: str, count: int, restarts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_http_connection, "FleetHttpClient", SiteClient)
    done = [0]
    with surroundings(tmp_path, SITES) as world, ExitStack() as stack:
        link = stack.enter_context(ExitStack())
        link.enter_context(world.superlink(FLOWERBED_HELD_PULLS=held))
        stack.enter_context(world.linked())
        for site in world.sites:
            world.add_node(site)
        proxy = stack.enter_context(FaultyProxy(world.port, 0.004, 7).serving())
        nodes = [LoopedNode(world, site, proxy.port, 97) for site in world.sites]
        pool = stack.enter_context(ThreadPoolExecutor(RUNS))
        with working(nodes):
            began = time.monotonic()
            runs = [pool.submit(rounds, world, proxy.port, nodes, count, done) for _ in range(RUNS)]
            if restarts:
                _await(lambda: done[0] > count * RUNS // 3, runs)
                link.close()
                link.enter_context(world.superlink(FLOWERBED_HELD_PULLS=held))
                _await(lambda: done[0] > count * RUNS * 2 // 3, runs)
                world.postgres.stop()
                world.postgres.start()
            ends = [run.result(400) for run in runs]
        errors = sum(end.pop("error", 0) for end in ends)
        handled = Counter(message for node in nodes for message in node.handled.elements())
        forgotten = sum(node.forgotten for node in nodes)
        LOG.info(
            "%d rounds in %.0f s, %d answers lost, %d errors", done[0], time.monotonic() - began, proxy.lost, errors
        )
    assert {count for end in ends for count in end.values()} == {1}
    assert sum(len(end) for end in ends) >= RUNS * count == done[0]
    assert set(handled.values()) == {1}
    assert proxy.lost > 5
    # Whoever asks while a node is away gets an error for what it waits for: what is forgotten, and another run's message.
    assert 0 < forgotten <= errors <= RUNS * forgotten


def _await(condition: Any, runs: list[Any]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        assert not any(run.done() and run.exception() for run in runs), [run.exception() for run in runs if run.done()]
        time.sleep(0.1)
