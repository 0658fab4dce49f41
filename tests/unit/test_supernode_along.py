"""Objects that come with a task's reply, and go with its message: the SuperNode's handlers on Flower's own node state."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest, PushObjectResponse
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from test_wire_carried import named

from flowerbed_supernode.carrying import along, with_objects
from flowerbed_wire import carried

TASK: Any = SimpleNamespace(run_id=7)


class Node:
    """What the handlers ask of a SuperNode: which objects are awaited, and what is stored."""

    def __init__(self, *awaited: str) -> None:
        self.awaited, self.stored = list(awaited), {}
        self.object_store = SimpleNamespace(get=lambda object_id: self.stored.get(object_id))

    def push_messages(self, _request: Any, _state: Any, _task: Any) -> PushAppMessagesResponse:
        return PushAppMessagesResponse(objects_to_push=self.awaited, session_id="session")

    def push_object(self, request: PushObjectRequest, _state: Any, task: Any) -> PushObjectResponse:
        assert (request.session_id, task) == ("session", TASK)
        takes = request.object_id in self.awaited and request.object_content != b"refused"
        if takes:
            self.stored[request.object_id] = request.object_content
        return PushObjectResponse(stored=takes)

    def pull_messages(self, _request: Any, _state: Any, _task: Any) -> PullAppMessagesResponse:
        leaf = ObjectTree(object_id=named(b"leaf"))
        tree = ObjectTree(object_id=named(b"root"), children=[leaf, leaf, ObjectTree(object_id=named(b"missing"))])
        return PullAppMessagesResponse(message_object_trees=[tree])


def pushed(node: Node, *contents: bytes) -> PushAppMessagesResponse:
    request = PushAppMessagesRequest()
    carried.attach(request, contents)
    response: PushAppMessagesResponse = with_objects(node.push_messages, node.push_object)(request, node, TASK)
    return response


def test_what_came_along_is_stored_and_only_the_rest_is_asked_for() -> None:
    node = Node(named(b"one"), named(b"two"), named(b"three"))
    response = pushed(node, b"one", b"three", b"not awaited")
    assert list(response.objects_to_push) == [named(b"two")]
    assert node.stored == {named(b"one"): b"one", named(b"three"): b"three"}
    assert response.session_id == "session"


def test_what_the_store_refuses_is_asked_for_and_refused_again() -> None:
    node = Node(named(b"refused"))
    assert list(pushed(node, b"refused").objects_to_push) == [named(b"refused")]


def test_a_task_that_sends_nothing_along_is_asked_for_everything() -> None:
    node = Node(named(b"one"), named(b"two"))
    assert list(pushed(node).objects_to_push) == node.awaited
    assert node.stored == {}


@pytest.mark.parametrize("asking", [True, False])
def test_a_task_that_can_take_its_messages_objects_gets_those_that_are_there(asking: bool) -> None:
    node = Node()
    node.stored = {named(content): content for content in (b"root", b"leaf", b"of another message")}
    request = PullAppMessagesRequest()
    if asking:
        carried.ask(request)
    response = along(node.pull_messages)(request, node, TASK)
    wanted = {named(content): content for content in (b"root", b"leaf")}
    assert carried.detach(response) == (wanted if asking else {})
