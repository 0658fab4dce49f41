"""SuperNodes and a ServerApp that vanish without a word, at a real SuperLink with Flower's real intervals, all in one minute.

Whoever waits for them hears it once, in time; who comes back goes on. Simulated ones: what is left of a process that was killed
is silence, and connections that have ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.common.serde import message_from_proto
from flwr.supercore.utils import uint64_to_int64

from held_support import Held, Node, ServerApp, close_clients, instruction, reply_to
from rounds_support import PATIENCE_S, App, LoopedNode, rounds_world, until, working

# Flower's migrations do not say how their paths are separated.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")

LATEST_S = 90.0
"""Within this, a message ends once its node or run is lost. Flower takes a minute to call either lost."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Held]:
    with rounds_world(tmp_path, 6) as world:
        yield world
        close_clients()


def signed_on(world: Held) -> list[Node]:
    """Return SuperNodes that are never heard of again unless they ask for something."""
    nodes = [Node(world, site) for site in world.sites[:5]]
    for node in nodes:
        node.activate()
    return nodes


def get(node: Node, sent: str, *, confirmed: bool) -> Message:
    """Have a node receive its only message, and confirm it or not; return it."""
    (answer,) = node.pull().messages_list
    assert answer.metadata.message_id == sent
    message = message_from_proto(answer)
    if confirmed:
        node.confirm(message)
    return message


def test_what_nodes_leave_behind_that_vanish_ends_once_and_in_time(world: Held) -> None:
    worked, offered, unasked, half, whole = nodes = signed_on(world)
    signed_on_at = time.monotonic()
    with App(world, world.port).at_work() as app, ThreadPoolExecutor(1) as pool:
        sent = app.send([node.node_id for node in nodes])
        get(worked, sent[0], confirmed=True)
        get(offered, sent[1], confirmed=False)
        half.push(reply_to(get(half, sent[3], confirmed=True)), leave_out=1)
        whole.push(reply_to(get(whole, sent[4], confirmed=True)))
        close_clients()
        ended = pool.submit(collected, app, set(sent)).result(PATIENCE_S) - signed_on_at
        assert ended < LATEST_S
        assert app.ends == dict.fromkeys(sent, 1)
        assert set(app.errors) == set(sent[:4])
        back = [LoopedNode(world, node.site, world.port) for node in nodes]
        with working(back):
            new = app.exchange([node.node_id for node in nodes])
    # Who comes back gets nothing that has ended, and everything that is new.
    assert [list(node.handled.elements()) for node in back] == [[message] for message in new]
    assert app.ends == dict.fromkeys([*sent, *new], 1)
    assert not set(app.errors) & set(new)
    assert unasked.node_id == back[2].node_id


def collected(app: App, waiting: set[str]) -> float:
    """Wait until everything has ended; return when."""
    while waiting := app.collect(waiting):
        time.sleep(app.pause_s)
    return time.monotonic()


def test_a_run_whose_serverapp_vanishes_fails_in_time_and_its_node_goes_on(world: Held) -> None:
    working_on, go_on = threading.Event(), threading.Event()

    def wait(_: Message) -> None:
        working_on.set()
        assert go_on.wait(PATIENCE_S)

    node = LoopedNode(world, world.sites[5], world.port, work=wait)
    with ExitStack() as stack:
        stack.enter_context(working([node]))
        stack.callback(go_on.set)
        lost, token = world.new_run()
        lost_at = time.monotonic()
        gone = ServerApp(world, token)
        message, never = instruction(lost, node.node_id, 1), instruction(lost, node.node_id, 2)
        gone.push(message)
        until(working_on.is_set)
        gone.push(never)
        gone.client.close()
        until(lambda: outcome(world, lost) != ("", ""))
        assert time.monotonic() - lost_at < LATEST_S
        assert outcome(world, lost) == ("finished", "failed")
        assert (
            world.state.query("SELECT message_id FROM message_ins WHERE run_id = :r", {"r": uint64_to_int64(lost)})
            == []
        )
        go_on.set()
        app = stack.enter_context(App(world, world.port).at_work())
        (new,) = app.exchange([node.node_id])
    assert list(node.handled.elements()) == [message.metadata.message_id, new]
    assert (dict(app.ends), dict(app.errors)) == ({new: 1}, {})
    assert world.state.query("SELECT message_id FROM message_res WHERE run_id = :r", {"r": uint64_to_int64(lost)}) == []


def outcome(world: Held, run_id: int) -> tuple[str, str]:
    """Return how a run has ended; nothing yet while it goes on."""
    task = world.state.get_tasks(run_ids=[run_id])[0]
    return (task.status.status, task.status.sub_status) if task.status.sub_status else ("", "")
