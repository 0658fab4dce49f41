"""Messages and replies on a real PostgreSQL: nothing is lost or doubled, whatever answer is lost and whoever vanishes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from delivery_support import States, instruction, new_node, new_run, push, reply_to, serving
from flowerbed_superlink.delivery import nodes_with_messages, settled
from flowerbed_superlink.state import PostgresLinkState

# Flower's migrations do not say how their paths are separated.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[States]:
    with serving(tmp_path_factory.mktemp("delivery")) as found:
        yield found


@pytest.fixture(scope="module")
def state(states: States) -> PostgresLinkState:
    return states.new()


def _waiting(state: PostgresLinkState, *nodes: int) -> set[int]:
    with state.session() as session:
        return nodes_with_messages(session, nodes)


def _settled(state: PostgresLinkState, *messages: str) -> set[str]:
    with state.session() as session:
        return settled(session, messages)


def test_a_node_has_a_message_once_all_its_objects_are_there(state: PostgresLinkState, states: States) -> None:
    run_id, task_id = new_run(state)
    first, second, third = (new_node(state, states.site()) for _ in range(3))
    assert _waiting(state) == set()
    assert _waiting(state, first, second, third) == set()
    whole, partly, other = (instruction(run_id, node) for node in (first, second, third))
    assert push(state, whole)
    assert push(state, partly, leave_out=1)
    assert push(state, other)
    assert _waiting(state, first, second, third) == {first, third}
    assert _waiting(state, second, third) == {third}
    states.postgres.sql("UPDATE objects SET is_available = 1")
    assert _waiting(state, first, second) == {first, second}
    assert push(state, reply_to(whole))
    assert _waiting(state, first, second) == {second}
    state.object_store.delete(partly.metadata.message_id)
    assert _waiting(state, first, second, third) == {third}
    assert state.finish_task(task_id, "completed", "")
    assert _waiting(state, third) == set()


def test_a_message_is_settled_by_a_whole_reply_or_once_there_can_be_none(
    state: PostgresLinkState, states: States
) -> None:
    run_id, _ = new_run(state)
    nodes = [new_node(state, states.site()) for _ in range(3)]
    messages = [instruction(run_id, node, number) for number, node in enumerate([*nodes, nodes[0]])]
    ids = [message.metadata.message_id for message in messages]
    for message in messages:
        assert push(state, message)
    states.postgres.sql(f"UPDATE message_ins SET ttl = 0 WHERE message_id = '{ids[3]}'")  # noqa: S608
    assert _settled(state) == set()
    assert _settled(state, *ids) == {ids[3]}
    assert _settled(state, ids[0], "f" * 64) == {"f" * 64}
    assert push(state, reply_to(messages[0]))
    assert push(state, reply_to(messages[1], error="no"), leave_out=1)
    assert _settled(state, *ids) == {ids[0], ids[3]}
    assert state.deactivate_node(nodes[2])
    assert _settled(state, *ids) == {ids[0], ids[2], ids[3]}
