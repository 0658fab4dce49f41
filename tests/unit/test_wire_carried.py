"""Objects that travel with their message: what goes in comes out, and who knows nothing of it loses nothing."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_wire import carried, client
from flowerbed_wire.carried import FIELD, LARGEST, MOST


def named(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@given(st.lists(st.binary(max_size=400)), st.integers(0, 2**63))
def test_objects_come_out_as_they_went_in_and_the_message_is_as_it_was(contents: list[bytes], node_id: int) -> None:
    message = PullMessagesRequest(node=Node(node_id=node_id))
    before = message.SerializeToString()
    carried.attach(message, contents)
    arrived = PullMessagesRequest.FromString(message.SerializeToString())
    assert arrived.node.node_id == node_id
    assert carried.asks(arrived) is (b"" in contents)
    assert carried.detach(arrived) == {named(content): content for content in contents if content}
    assert arrived.SerializeToString() == before


@given(st.binary(max_size=200))
def test_any_bytes_that_are_a_message_can_be_taken_apart(noise: bytes) -> None:
    message = PullMessagesRequest()
    try:
        message.ParseFromString(noise)
    except Exception:  # noqa: BLE001 - protobuf refuses the rest before anything of ours sees it
        return
    assert all(named(content) == name for name, content in carried.detach(message).items())


@given(st.lists(st.integers(0, 40).map(bytes)), st.integers(0, 100))
def test_no_more_is_carried_than_is_allowed(contents: list[bytes], most: int) -> None:
    chosen = list(carried.within(contents, most))
    assert sum(map(len, chosen)) <= most
    assert chosen == contents[: len(chosen)]
    assert len(chosen) == len(contents) or sum(map(len, contents[: len(chosen) + 1])) > most


def test_what_comes_beyond_the_limit_is_not_taken() -> None:
    message = PullMessagesRequest()
    first, second = b"a" * MOST, b"b"
    carried.attach(message, [first, second])
    assert carried.detach(message) == {named(first): first}


def test_a_message_stuffed_with_fields_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    message = PullMessagesRequest()
    carried.attach(message, [b""] * (LARGEST // 4 + 1))
    monkeypatch.setattr(carried, "UnknownFieldSet", lambda _: pytest.fail("its fields were looked through"))
    assert not carried.asks(message)
    assert carried.detach(message) == {}
    assert message.ByteSize() == 0


def test_a_field_of_the_number_and_another_type_is_no_object() -> None:
    message = PullMessagesRequest.FromString(carried._varint(FIELD << 3) + b"\x01")
    assert not carried.asks(message)
    assert carried.detach(message) == {}


class Fleet:
    """A client of Flower's whose other side carries, or does not, and counts what it is asked for."""

    def __init__(self, carries: bool = True) -> None:
        self.carries, self.asked, self.pushed = carries, [], {}

    def PullMessages(self, request: PullMessagesRequest) -> PullMessagesResponse:  # noqa: N802 - Flower's name
        response = PullMessagesResponse(message_object_trees=[ObjectTree(object_id=named(b"one"))])
        if self.carries and carried.asks(request):
            carried.attach(response, [b"one"])
        return response

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802
        self.asked.append(request.object_id)
        return PullObjectResponse(object_found=True, object_available=True, object_content=b"asked for")

    def PushMessages(self, request: PushMessagesRequest) -> PushMessagesResponse:  # noqa: N802
        self.pushed = carried.detach(request)
        return PushMessagesResponse()


def installed(content: Any = lambda _: None) -> type[Fleet]:
    fleet = type("Carrying", (Fleet,), {})
    assert client.fits(fleet)
    client.install(fleet, content)
    return fleet


@pytest.mark.parametrize(("carries", "content", "asked"), [(True, b"one", []), (False, b"asked for", [named(b"one")])])
def test_what_came_with_a_message_is_not_asked_for(carries: bool, content: bytes, asked: list[str]) -> None:
    fleet = installed()(carries)
    response = fleet.PullMessages(PullMessagesRequest())
    assert carried.detach(response) == {}
    found = fleet.PullObject(PullObjectRequest(object_id=named(b"one")))
    assert (found.object_found, found.object_available, found.object_content) == (True, True, content)
    assert fleet.asked == asked


def test_what_came_with_the_message_before_is_gone() -> None:
    fleet = installed()()
    fleet.PullMessages(PullMessagesRequest())
    fleet.carries = False
    fleet.PullMessages(PullMessagesRequest())
    fleet.PullObject(PullObjectRequest(object_id=named(b"one")))
    assert fleet.asked == [named(b"one")]


def test_a_message_takes_each_of_its_objects_along_once() -> None:
    here = {named(content): content for content in (b"root", b"leaf")}
    fleet = installed(here.get)()
    leaf = ObjectTree(object_id=named(b"leaf"))
    tree = ObjectTree(object_id=named(b"root"), children=[leaf, leaf, ObjectTree(object_id=named(b"elsewhere"))])
    fleet.PushMessages(PushMessagesRequest(message_object_trees=[tree]))
    assert fleet.pushed == here


def test_a_request_that_is_sent_again_has_not_grown() -> None:
    here = {named(content): content for content in (b"root", b"leaf")}
    fleet = installed(here.get)()
    request = PushMessagesRequest(message_object_trees=[ObjectTree(object_id=name) for name in here])
    asking = PullMessagesRequest()
    sizes = request.ByteSize(), asking.ByteSize()
    for _ in range(3):
        fleet.PushMessages(request)
        assert fleet.pushed == here
        fleet.PullMessages(asking)
    assert (request.ByteSize(), asking.ByteSize()) == sizes


def test_a_class_with_other_methods_is_left_alone() -> None:
    class Other(Fleet):
        def PullObject(self, request: PullObjectRequest, more: int) -> PullObjectResponse:  # type: ignore[override]  # noqa: N802
            raise AssertionError(request, more)

    assert not client.fits(Other)
    assert not client.fits(object)
