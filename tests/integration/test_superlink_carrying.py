"""Objects that travel with their messages, against a real SuperLink on a real PostgreSQL: nothing more is taken or given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict
from flwr.app.message import Message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest
from flwr.proto.node_pb2 import Node as NodeProto
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.utils import uint64_to_int64

from delivery_support import contents_of
from flowerbed_wire import carried, client
from held_support import Held, Node, ServerApp, close_clients, identified, instruction, new_node, reply_to, surroundings

# Flower's migrations do not say how their paths are separated.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    with surroundings(tmp_path_factory.mktemp("carrying"), sites=24) as world, world.running(), world.linked():
        yield world
        close_clients()


class Carrying:
    """Makes a client of the tests' carry the objects of messages; counts what travels by itself all the same."""

    def __init__(self, party: Any) -> None:
        self.objects: dict[str, bytes] = {}
        self.alone: list[str] = []
        of: Any = type("Carrying", (type(party.client),), {})
        for name in ("PullObject", "PushObject"):
            setattr(of, name, self._counted(getattr(of, name)))
        client.install(of, self.objects.get)
        party.client.__class__ = of

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(this: Any, request: Any) -> Any:
            self.alone.append(request.object_id)
            return call(this, request)

        return counted

    def take(self, message: Message) -> dict[str, bytes]:
        """Have the objects of this message sent with it; return them."""
        contents = contents_of(message)
        self.objects.update(contents)
        return contents


def object_of(party: Any, run_id: int, object_id: str, node_id: int) -> bytes:
    request = PullObjectRequest(node=NodeProto(node_id=node_id), run_id=run_id, object_id=object_id)
    return bytes(party.client.PullObject(request).object_content)


def test_an_exchange_in_which_no_object_travels_by_itself(superlink: Held) -> None:
    node, (run_id, token) = new_node(superlink), superlink.new_run()
    app = ServerApp(superlink, token)
    at_node, at_app = Carrying(node), Carrying(app)
    message = instruction(run_id, node.node_id)
    sent = at_app.take(message)
    app.push(message)
    assert [found.metadata.message_id for found in node.pull().messages_list] == [message.metadata.message_id]
    assert {name: object_of(node, run_id, name, node.node_id) for name in sent} == sent
    node.confirm(message)
    reply = reply_to(message)
    answered = at_node.take(reply)
    node.push(reply)
    assert [found.metadata.message_id for found in app.pull(message).messages_list] == [reply.metadata.message_id]
    assert {name: object_of(app, run_id, name, 1) for name in answered} == answered
    assert at_node.alone == at_app.alone == []
    assert traffic(superlink, run_id) >= sum(map(len, sent.values()))


def traffic(superlink: Held, run_id: int) -> int:
    run = superlink.state.get_run_info(run_ids=[run_id])[0]
    return int(run.bytes_sent)


def test_who_does_not_ask_for_objects_is_sent_none(superlink: Held) -> None:
    node, (run_id, token) = new_node(superlink), superlink.new_run()
    app = ServerApp(superlink, token)
    app.push(message := instruction(run_id, node.node_id))
    pulled = node.pull()
    assert [found.metadata.message_id for found in pulled.messages_list] == [message.metadata.message_id]
    assert carried.detach(pulled) == {}
    node.confirm(message)
    node.push(reply_to(message))
    assert carried.detach(app.pull(message)) == {}


def test_a_push_that_is_repeated_is_one_message_with_one_reply(superlink: Held) -> None:
    node, (run_id, token) = new_node(superlink), superlink.new_run()
    app = ServerApp(superlink, token)
    at_node, at_app = Carrying(node), Carrying(app)
    message = instruction(run_id, node.node_id)
    at_app.take(message)
    app.push(message)
    app.push(message)
    node.pull()
    node.confirm(message)
    app.push(message)
    reply = reply_to(message)
    at_node.take(reply)
    node.push(reply)
    node.push(reply)
    assert [found.metadata.message_id for found in app.pull(message).messages_list] == [reply.metadata.message_id]
    rows = f"SELECT count(*) FROM message_ins WHERE run_id = {uint64_to_int64(run_id)}"  # noqa: S608
    assert superlink.postgres.sql(rows).strip() == "1"


@pytest.mark.parametrize("wrong", ["other", "shape"])
def test_what_is_not_awaited_or_no_object_is_not_stored(superlink: Held, wrong: str) -> None:
    node, (run_id, token) = new_node(superlink), superlink.new_run()
    app = ServerApp(superlink, token)
    at_app = Carrying(app)
    message = instruction(run_id, node.node_id)
    names = list(at_app.take(message))
    odd = b"anything" if wrong == "shape" else contents_of(instruction(run_id, node.node_id)).popitem()[1]
    at_app.objects[names[0]] = odd
    app.push(message)
    assert at_app.alone == [names[0]], "the one object that was not stored is the one that is asked for"
    assert carried.hashlib.sha256(odd).hexdigest() not in stored(superlink)
    assert set(names) <= stored(superlink)


def stored(superlink: Held) -> set[str]:
    return set(superlink.postgres.sql("SELECT object_id FROM objects WHERE is_available = 1").split())


def test_a_large_object_travels_by_itself_and_the_small_ones_do_not(superlink: Held) -> None:
    node, (run_id, token) = new_node(superlink), superlink.new_run()
    app = ServerApp(superlink, token)
    at_node, at_app = Carrying(node), Carrying(app)
    message = instruction(run_id, node.node_id)
    message.content["a"] = ArrayRecord([np.zeros(carried.MOST, dtype=np.float32)])
    message = identified(message)
    contents = at_app.take(message)
    large = {name for name, content in contents.items() if len(content) > carried.MOST}
    assert len(large) == 1
    app.push(message)
    assert set(at_app.alone) >= large
    node.pull()
    assert {name: object_of(node, run_id, name, node.node_id) for name in contents} == contents
    assert set(at_node.alone) == large


GRAPHS: dict[str, Callable[[list[ObjectTree]], list[ObjectTree]]] = {
    "a graph of two ways to each object": lambda pair: [
        *pair,
        *(ObjectTree(object_id=one.object_id, children=pair) for one in pair),
    ],
    "a cycle": lambda pair: [
        ObjectTree(object_id=pair[0].object_id, children=[ObjectTree(object_id=pair[1].object_id, children=pair[:1])])
    ],
}


@pytest.mark.parametrize("shape", GRAPHS)
def test_a_tree_without_an_end_is_refused_and_what_others_send_arrives(superlink: Held, shape: str) -> None:
    (node, other), (run_id, token) = [new_node(superlink), new_node(superlink)], superlink.new_run()
    app = ServerApp(superlink, token)
    at_app = Carrying(app)
    bad, good, fine = (instruction(run_id, to.node_id, number) for number, to in enumerate((node, node, other)))
    at_app.objects.update(contents_of(good) | contents_of(fine))
    with pytest.raises(httpx.HTTPStatusError) as refused:
        app.client.PushMessages(with_tree(PushAppMessagesRequest, bad, GRAPHS[shape]))
    assert refused.value.response.status_code == 400
    app.push(good, fine)
    for one, message in ((node, good), (other, fine)):
        assert [found.metadata.message_id for found in one.pull().messages_list] == [message.metadata.message_id]
        one.confirm(message)
    push = with_tree(PushMessagesRequest, reply_to(good), GRAPHS[shape])
    push.node.node_id = node.node_id
    with pytest.raises(httpx.HTTPStatusError) as refused:
        node.client.PushMessages(push)
    assert refused.value.response.status_code == 403
    for one, message in ((node, good), (other, fine)):
        one.push(reply_to(message))
    assert len(app.pull(good, fine).messages_list) == 2


def with_tree(kind: Any, message: Message, graph: Callable[[list[ObjectTree]], list[ObjectTree]]) -> Any:
    """Return a push whose objects all come along, with a tree that has something else below it too."""
    pair = [identified(instruction(1, 1, number)) for number in range(2)]
    tree = get_object_tree(message)
    tree.children.extend(graph([ObjectTree(object_id=one.object_id) for one in pair]))
    request = kind(messages_list=[message_to_proto(remove_content_from_message(message))], message_object_trees=[tree])
    carried.attach(request, contents_of(message).values())
    return request


def test_sites_that_send_the_same_objects_at_once_do_not_stop_each_other(superlink: Held) -> None:
    nodes, (run_id, token) = [new_node(superlink) for _ in range(4)], superlink.new_run()
    app = ServerApp(superlink, token)
    at_nodes, at_app = [Carrying(node) for node in nodes], Carrying(app)

    def answer(node: Node, at_node: Carrying, message: Message, number: int) -> None:
        node.pull()
        node.confirm(message)
        reply = reply_to(message)
        same = {f"a{each}": ArrayRecord([np.full(3, number * 10 + each, dtype=np.float32)]) for each in range(5)}
        reply.content = RecordDict(dict(same))
        at_node.take(identified(reply))
        node.push(reply)

    with ThreadPoolExecutor(len(nodes)) as pool:
        for number in range(10):
            messages = [instruction(run_id, node.node_id, number) for node in nodes]
            for message in messages:
                at_app.take(message)
            app.push(*messages)
            list(pool.map(answer, nodes, at_nodes, messages, [number] * len(nodes)))
            assert len(app.pull(*messages).messages_list) == len(nodes)
    assert [at_node.alone for at_node in at_nodes] == [[]] * len(nodes)
