"""Objects that travel with messages through a site: the SuperNode's launcher as a real process, Flower's own ClientApp code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.proto import fleet_pb2, message_pb2, runtime_pb2
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

from flowerbed_executor import outgoing
from flowerbed_executor.spec import CLIENT_APP
from flowerbed_wire import carried
from supernode_support import SuperLink, SuperNode, secrets, until


class Carrying(SuperLink):
    """A SuperLink that sends objects along and takes those that come; one that `knows` nothing of it moves each alone."""

    knows = True

    def __init__(self, secrets: Path) -> None:
        self.came: dict[str, bytes] = {}
        self.pushed: dict[str, bytes] = {}
        super().__init__(secrets)

    def answer(self, name: str, body: bytes) -> Any:
        response = super().answer(name, body)
        if name == "pull-messages" and self.knows and carried.asks(fleet_pb2.PullMessagesRequest.FromString(body)):
            carried.attach(response, self.objects.values() if response.messages_list else [])
        if name == "push-messages":
            request = fleet_pb2.PushMessagesRequest.FromString(body)
            self.came = carried.detach(request) if self.knows else {}
            ids = [request.message_object_trees[0].object_id]
            ids += [child.object_id for child in request.message_object_trees[0].children]
            response.objects_to_push.extend(each for each in ids if each not in self.came)
        if name == "push-object":
            request = message_pb2.PushObjectRequest.FromString(body)
            self.pushed[request.object_id] = request.object_content
            return message_pb2.PushObjectResponse(stored=True)
        return response


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Carrying]:
    link = Carrying(secrets(tmp_path / "secrets"))
    link.hold_seconds = 20
    yield link
    link.close()


@pytest.fixture
def supernode(tmp_path: Path, link: Carrying, request: pytest.FixtureRequest) -> Iterator[SuperNode]:
    supernode = SuperNode(tmp_path, link, FLOWERBED_HELD_PULLS=getattr(request, "param", "1"))
    yield supernode
    supernode.close()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the ClientApp's code carry objects as the executor has it; return what it moves alone all the same."""
    moved: list[str] = []

    class Task(RuntimeHttpClient):
        def PullObject(self, request: Any) -> Any:  # noqa: N802 - Flower's name
            moved.append("pull")
            return super().PullObject(request)

        def PushObject(self, request: Any) -> Any:  # noqa: N802
            moved.append("push")
            return super().PushObject(request)

    monkeypatch.setattr(run_clientapp, "get_object_tree", run_clientapp.get_object_tree)
    monkeypatch.setattr(run_clientapp, "RuntimeHttpClient", Task)
    assert outgoing.install(CLIENT_APP) == ""
    return moved


def handle(supernode: SuperNode) -> None:
    """Do what a ClientApp's process does with one message."""
    app = supernode.client(supernode.acquire())
    app.__class__ = run_clientapp.RuntimeHttpClient
    message, context, _, _ = pull_task_input(app)
    assert message.content["config"]["round"] == 1
    push_message(app, Message(RecordDict({"answer": ConfigRecord({"n": 1})}), reply_to=message), context)
    app.PushTaskOutput(runtime_pb2.PushTaskOutputRequest(sub_status=SubStatus.COMPLETED))


def test_no_object_of_a_message_or_its_reply_travels_alone(
    link: Carrying, supernode: SuperNode, alone: list[str]
) -> None:
    link.give()
    handle(supernode)
    until(lambda: link.came, "the reply")
    assert link.replies[0].metadata.message_id in link.came
    assert len(link.came) > 1
    assert {"pull-object", "push-object"} & set(link.seen) == set()
    assert alone == []


def test_a_superlink_that_knows_nothing_of_it_moves_each_object(
    link: Carrying, supernode: SuperNode, alone: list[str]
) -> None:
    link.knows = False
    link.give()
    handle(supernode)
    until(lambda: len(link.pushed) > 1, "the reply's objects")
    assert link.replies[0].metadata.message_id in link.pushed
    assert link.seen.count("pull-object") == len(link.objects)
    assert alone == []


@pytest.mark.parametrize("supernode", ["0"], indirect=True)
def test_switched_off_every_object_travels_alone(link: Carrying, supernode: SuperNode, alone: list[str]) -> None:
    link.hold_seconds = 0
    link.give()
    handle(supernode)
    until(lambda: len(link.pushed) > 1, "the reply's objects")
    assert link.came == {}
    assert link.seen.count("pull-object") == len(link.objects)
    assert "pull" in alone
    assert "push" in alone
