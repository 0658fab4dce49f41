"""Held pulls against a real SuperLink on a real PostgreSQL, with SuperNodes, ServerApps and SuperExecs as light clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from held_support import Calls, Held, Node, ServerApp, close_clients, instruction, surroundings

# Flower's migrations do not say how their paths are separated.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    with surroundings(tmp_path_factory.mktemp("holds"), sites=12) as world:
        yield world


@pytest.fixture(scope="module")
def superlink(world: Held) -> Iterator[Held]:
    with world.superlink(), world.linked():
        yield world


@pytest.fixture
def calls() -> Iterator[Calls]:
    yield Calls()
    close_clients()


def new_node(world: Held) -> Node:
    site = world.sites.pop()
    world.add_node(site)
    node = Node(world, site)
    node.activate()
    return node


def test_a_message_wakes_its_node_at_once(superlink: Held, calls: Calls) -> None:
    node, other = new_node(superlink), new_node(superlink)
    run_id, token = superlink.new_run()
    app = ServerApp(superlink, token)
    waits, others = calls.start(node.pull), calls.start(other.pull)
    with pytest.raises(TimeoutError):
        waits.result(2)
    message = instruction(run_id, node.node_id)
    sent = calls.timed(app.push, message)
    got = waits.result(5)
    assert got.value.messages_list[0].metadata.message_id == message.metadata.message_id
    assert got.seconds < 2 + sent.seconds + 0.5
    with pytest.raises(TimeoutError):
        others.result(1)
    app.push(instruction(run_id, other.node_id))
    assert len(others.result(5).value.messages_list) == 1
