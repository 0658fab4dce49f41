"""Messages and replies on a real PostgreSQL: nothing is lost or doubled, whatever answer is lost and whoever vanishes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from sqlalchemy import text

from delivery_parties import ServerApp, SuperNode
from delivery_support import INTERVAL_S, States, instruction, new_node, new_run, push, reply_to, serving
from flowerbed_superlink import delivering
from flowerbed_superlink.delivering import GIVEN_UP, REMOVED, RESTARTED, SIGNED_OFF
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


@pytest.fixture
def app(state: PostgresLinkState) -> ServerApp:
    return ServerApp(state, new_run(state)[0])


@pytest.fixture
def node(state: PostgresLinkState, states: States) -> SuperNode:
    return SuperNode(state, new_node(state, states.site()))


def test_a_message_is_offered_until_it_is_confirmed(app: ServerApp, node: SuperNode) -> None:
    first, second = (app.send(node.node_id)[0] for _ in range(2))
    node.pull(lost=True)
    offered = [got[0].metadata.message_id for _ in range(3) if (got := node.pull())]
    assert offered == [second, first, second]
    assert node.take().metadata.message_id == first
    node.finish()
    assert node.take().metadata.message_id == second
    assert node.pull() is None
    node.finish()
    assert app.pull() == {first: "reply", second: "reply"}


def test_a_message_received_in_part_is_offered_again(app: ServerApp, node: SuperNode) -> None:
    (message,) = app.send(node.node_id)
    got = node.pull()
    assert got is not None
    node.receive(got, partly=True)
    assert node.take().metadata.message_id == message


def test_what_has_not_arrived_holds_nothing_up(app: ServerApp, node: SuperNode, states: States) -> None:
    (partly,) = app.send(node.node_id, objects=1)
    (whole,) = app.send(node.node_id)
    assert node.take().metadata.message_id == whole
    node.finish()
    assert node.pull() is None
    assert app.pull() == {whole: "reply"}
    states.postgres.sql(f"UPDATE message_ins SET ttl = 0 WHERE message_id = '{partly}'")  # noqa: S608
    assert "Message Unavailable" in app.pull()[partly]


def test_the_first_of_two_replies_counts(app: ServerApp, node: SuperNode) -> None:
    (message,) = app.send(node.node_id)
    sent = node.take()
    first, second = reply_to(sent), reply_to(sent, error="twice")
    assert node.push(first, repeat=True)
    assert node.push(second, repeat=True) == []
    assert app.pull() == {message: "reply"}
    assert node.push(second) == []
    assert app.pull() == {}


def test_a_reply_is_given_until_it_is_confirmed(app: ServerApp, node: SuperNode, states: States) -> None:
    messages = app.send(node.node_id, repeat=True)
    node.take()
    node.finish()
    for _ in range(3):
        assert app.pull(lost=True) == {}
    assert app.pull(repeat=True) == {messages[0]: "reply"}
    app.waiting = set(messages)
    assert "Message Unavailable" in app.pull()[messages[0]]
    for table in ("message_ins", "message_res"):
        query = f"SELECT count(*) FROM {table} WHERE run_id = {_signed(app.run_id)}"  # noqa: S608
        assert int(states.postgres.sql(query)) == 0


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def test_a_reply_is_given_once_it_is_whole(app: ServerApp, node: SuperNode) -> None:
    (message,) = app.send(node.node_id)
    sent = node.take()
    reply = reply_to(sent)
    node.push(reply, objects=1)
    assert app.pull() == {}
    node.push(reply)
    assert app.pull() == {message: "reply"}


@pytest.mark.parametrize("in_part", [False, True])
def test_what_a_node_worked_on_ends_when_it_comes_back_without_it(
    app: ServerApp, node: SuperNode, in_part: bool
) -> None:
    first, second = (app.send(node.node_id)[0] for _ in range(2))
    sent = node.take()
    node.pull(lost=True)
    if in_part:
        node.push(reply_to(sent), objects=1)
    _away(node)
    assert node.state.activate_node(node.node_id, INTERVAL_S)
    assert node.push(reply_to(sent)) == []
    assert app.pull(lost=True) == {}
    assert app.pull() == {first: RESTARTED}
    assert node.take().metadata.message_id == second
    node.finish()
    assert app.pull() == {second: "reply"}
    assert node.push(reply_to(sent)) == []
    assert app.pull() == {}


def _away(node: SuperNode) -> None:
    """Let a node's heartbeat lapse."""
    with node.state.session() as session:
        session.execute(text("UPDATE node SET online_until = 1 WHERE node_id = :node"), {"node": _signed(node.node_id)})


def test_what_a_node_worked_on_ends_when_it_signs_off(app: ServerApp, node: SuperNode) -> None:
    first, second = (app.send(node.node_id)[0] for _ in range(2))
    node.take()
    node.restart()
    assert app.pull() == {first: SIGNED_OFF}
    assert node.take().metadata.message_id == second


def test_everything_ends_when_a_node_is_removed(app: ServerApp, node: SuperNode) -> None:
    first, second, third = (app.send(node.node_id)[0] for _ in range(3))
    assert node.take().metadata.message_id == first
    node.finish()
    assert node.take().metadata.message_id == second
    node.state.delete_node("flowerbed", node.node_id)
    assert app.pull() == {first: "reply", second: REMOVED, third: REMOVED}


def test_messages_end_in_one_error_when_their_node_is_away(app: ServerApp, node: SuperNode) -> None:
    first, second = (app.send(node.node_id)[0] for _ in range(2))
    sent = node.take()
    _away(node)
    app.pull(lost=True)
    node.state.acknowledge_node_heartbeat(node.node_id, 30)
    assert node.push(reply_to(sent)) == []
    got = app.pull()
    assert set(got) == {first, second}
    assert all("Node Unavailable" in reason for reason in got.values())
    assert node.pull() is None


def test_a_message_that_its_node_has_given_up_ends(
    app: ServerApp, node: SuperNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    (message,) = app.send(node.node_id)
    sent = node.take()
    assert node.pull() is None
    assert node.pull() is None
    assert app.pull() == {}
    monkeypatch.setattr(delivering, "IDLE_S", 0.0)
    assert node.pull() is None
    assert app.pull() == {message: GIVEN_UP}
    assert node.push(reply_to(sent)) == []


def test_a_lost_runs_messages_are_gone(
    app: ServerApp, node: SuperNode, state: PostgresLinkState, states: States
) -> None:
    app.send(node.node_id)
    sent = node.take()
    app.send(node.node_id)
    with state.session() as session:
        session.execute(
            text("UPDATE task SET active_until = '2020-01-01' WHERE run_id = :run"), {"run": _signed(app.run_id)}
        )
    state._expiry_due = 0.0
    assert [task.status.sub_status for task in state.get_tasks(run_ids=[app.run_id])] == ["failed"]
    assert node.pull() is None
    with pytest.raises(FlowerError):
        node.push(reply_to(sent))
    assert state.get_message_ids_from_run_id(app.run_id) == set()
    run = _signed(app.run_id)
    assert int(states.postgres.sql(f"SELECT count(*) FROM run_objects WHERE run_id = {run}")) == 0  # noqa: S608


def test_a_finished_runs_messages_are_gone(app: ServerApp, node: SuperNode, state: PostgresLinkState) -> None:
    app.send(node.node_id)
    (task,) = state.get_tasks(run_ids=[app.run_id])
    assert state.finish_task(task.task_id, "completed", "")
    assert state.get_message_ids_from_run_id(app.run_id) == set()
    assert node.pull() is None


def test_a_run_that_is_started_twice_runs(state: PostgresLinkState) -> None:
    _, task_id = new_run(state)
    assert state.activate_task(task_id)
    assert state.finish_task(task_id, "completed", "")
    assert not state.activate_task(task_id)


def test_two_runs_share_nodes_and_a_slow_one_holds_nobody_up(state: PostgresLinkState, states: States) -> None:
    apps = [ServerApp(state, new_run(state)[0]) for _ in range(2)]
    slow, *fast = [SuperNode(state, new_node(state, states.site())) for _ in range(3)]
    sent = [app.send(*(each.node_id for each in (slow, *fast))) for app in apps]
    slow.take()
    for each in fast:
        for _ in apps:
            each.take()
            each.finish()
    for app, (_, *others) in zip(apps, sent, strict=True):
        assert app.pull() == dict.fromkeys(others, "reply")
    slow.finish()
    slow.take()
    slow.finish()
    for app, (last, *_) in zip(apps, sent, strict=True):
        assert app.pull() == {last: "reply"}


def test_an_object_is_stored_however_often_it_is_sent(app: ServerApp, node: SuperNode) -> None:
    state, message = node.state, instruction(app.run_id, node.node_id)
    session = state.start_session(app.run_id)
    _, missing = state.store_message_and_object_tree(message, get_object_tree(message), session)
    contents = {each: found.deflate() for each, found in get_all_nested_objects(message).items()}
    assert not state.store_object(app.run_id, session, missing[0], contents[missing[1]])
    assert not state.store_object(app.run_id + 1, session, missing[0], contents[missing[0]])
    for each in missing:
        assert state.store_object(app.run_id, session, each, contents[each])
    assert node.take().metadata.message_id == message.metadata.message_id
    assert state.store_object(app.run_id, session, missing[0], contents[missing[0]])
    assert not state.store_object(app.run_id, "", missing[0], contents[missing[0]])
    assert missing[0] not in state.object_store
