"""The SuperNode's launcher as a real process, against a SuperLink of the test's that misbehaves on demand."""

from __future__ import annotations

import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SubStatus
from flwr.common.serde import message_to_proto
from flwr.proto import message_pb2, runtime_pb2
from flwr.supercore.inflatable.inflatable_object import get_object_tree, no_object_id_recompute
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

from supernode_support import NODE, RUN, SuperLink, SuperNode, secrets, until


@pytest.fixture
def link(tmp_path: Path) -> Iterator[SuperLink]:
    link = SuperLink(secrets(tmp_path / "secrets"))
    yield link
    link.close()


@pytest.fixture
def start(tmp_path: Path, link: SuperLink) -> Iterator[Callable[[], SuperNode]]:
    started: list[SuperNode] = []

    def start() -> SuperNode:
        started.append(SuperNode(tmp_path, link))
        return started[-1]

    yield start
    for supernode in started:
        supernode.close()


@pytest.mark.parametrize("route", ["activate-node", "pull-messages", "send-node-heartbeat"])
def test_a_superlink_that_answers_500_ends_the_process(
    link: SuperLink, start: Callable[[], SuperNode], route: str
) -> None:
    link.status[route] = 500
    supernode = start()
    assert supernode.ended() == 1, supernode.text()
    assert route in link.seen


def test_a_superlink_that_is_away_does_not_end_the_process(link: SuperLink, start: Callable[[], SuperNode]) -> None:
    supernode = start()
    until(supernode.alive.exists, "the file that shows life")
    link.status = {"pull-messages": 503, "send-node-heartbeat": 503}
    pulls = link.seen.count("pull-messages")
    until(lambda: link.seen.count("pull-messages") > pulls + 1, "more pulls")
    assert supernode.process.poll() is None
    link.status = {}
    pulls = link.seen.count("pull-messages")
    until(lambda: link.seen.count("pull-messages") > pulls + 2, "pulls after the SuperLink's return")
    supernode.process.send_signal(signal.SIGTERM)
    assert supernode.ended() == 0, supernode.text()
    assert link.seen[-1] == "deactivate-node"


def test_a_stop_answers_the_message_in_hand_first(link: SuperLink, start: Callable[[], SuperNode]) -> None:
    link.give()
    supernode = start()
    app = supernode.client(supernode.acquire())
    message, context, _, _ = pull_task_input(app)
    supernode.process.send_signal(signal.SIGTERM)
    time.sleep(2)
    assert supernode.process.poll() is None
    push_message(app, Message(RecordDict({"answer": ConfigRecord({"n": 1})}), reply_to=message), context)
    app.PushTaskOutput(runtime_pb2.PushTaskOutputRequest(sub_status=SubStatus.COMPLETED))
    assert supernode.ended() == 0, supernode.text()
    assert [reply.has_error() for reply in link.replies] == [False]
    assert link.seen[-1] == "deactivate-node"


@pytest.mark.parametrize("read_first", [False, True])
def test_a_task_that_ends_without_a_reply_does_not_hold_up_the_site(
    link: SuperLink, start: Callable[[], SuperNode], read_first: bool
) -> None:
    link.give()
    supernode = start()
    app = supernode.client(supernode.acquire())
    if read_first:
        pull_task_input(app)
    app.PushTaskOutput(runtime_pb2.PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="it was killed"))
    reply = until(lambda: link.replies, "the error reply")[0]
    assert reply.has_error()
    assert reply.error.reason == "it was killed"
    pulls = link.seen.count("pull-messages")
    until(lambda: link.seen.count("pull-messages") > pulls, "the next pull")
    assert len(link.replies) == 1


def test_a_task_can_push_nothing_but_a_reply_of_its_own_run(link: SuperLink, start: Callable[[], SuperNode]) -> None:
    link.give()
    supernode = start()
    app = supernode.client(supernode.acquire())
    message, context, _, _ = pull_task_input(app)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, NODE, 1
    forged = Message(RecordDict(), dst_node_id=NODE, message_type="train")
    with pytest.raises(httpx.HTTPStatusError):
        push_message(app, forged, context)
    push_message(app, Message(RecordDict(), reply_to=message), context)
    app.PushTaskOutput(runtime_pb2.PushTaskOutputRequest(sub_status=SubStatus.COMPLETED))
    until(lambda: link.replies, "the reply")
    assert [reply.metadata.reply_to_message_id for reply in link.replies] == [message.metadata.message_id]


def pushed(message: Message, root: str = "") -> runtime_pb2.PushAppMessagesRequest:
    """A ClientApp's request to store ``message``, its tree under a root of the test's choosing."""
    with no_object_id_recompute():
        message.metadata.__dict__["_message_id"] = message.object_id
        tree = get_object_tree(message)
    tree.object_id = root or tree.object_id
    return runtime_pb2.PushAppMessagesRequest(
        messages_list=[message_to_proto(remove_content_from_message(message))], message_object_trees=[tree]
    )


def answered_with_an_error(link: SuperLink, app: RuntimeHttpClient) -> None:
    """Report the task's end; the site answers in its place and looks for the next message."""
    app.PushTaskOutput(runtime_pb2.PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="it was killed"))
    reply = until(lambda: link.replies, "the error reply")[0]
    assert reply.has_error()
    assert reply.error.reason == "it was killed"
    pulls = link.seen.count("pull-messages")
    until(lambda: link.seen.count("pull-messages") > pulls, "the next pull")
    assert len(link.replies) == 1


def test_a_reply_whose_objects_never_come_does_not_hold_up_the_site(
    link: SuperLink, start: Callable[[], SuperNode]
) -> None:
    link.give()
    supernode = start()
    app = supernode.client(supernode.acquire())
    message, _, _, _ = pull_task_input(app)
    reply = Message(RecordDict({"answer": ConfigRecord({"n": 1})}), reply_to=message)
    assert app.PushMessages(pushed(reply)).objects_to_push
    # The main loop looks twice a second.
    time.sleep(2)
    assert link.replies == []
    answered_with_an_error(link, app)


def test_a_reply_under_another_name_is_refused_and_the_site_goes_on(
    link: SuperLink, start: Callable[[], SuperNode]
) -> None:
    link.give()
    supernode = start()
    app = supernode.client(supernode.acquire())
    message, context, _, _ = pull_task_input(app)
    reply = Message(RecordDict({"answer": ConfigRecord({"n": 1})}), reply_to=message)
    with pytest.raises(httpx.HTTPStatusError):
        app.PushMessages(pushed(reply, "ab" * 32))
    # The name of the message that it answers.
    same = pushed(reply, message.metadata.message_id)
    same.messages_list[0].metadata.message_id = message.metadata.message_id
    with pytest.raises(httpx.HTTPStatusError):
        app.PushMessages(same)
    push_message(app, reply, context)
    until(lambda: link.replies, "the reply")
    assert supernode.process.poll() is None


def test_a_task_cannot_remove_its_reply_nor_give_a_second(link: SuperLink, start: Callable[[], SuperNode]) -> None:
    link.give()
    supernode = start()
    app = supernode.client(supernode.acquire())
    message, _, _, _ = pull_task_input(app)
    request = pushed(Message(RecordDict({"answer": ConfigRecord({"n": 1})}), reply_to=message))
    app.PushMessages(request)
    own = message_pb2.ConfirmMessageReceivedRequest(
        run_id=RUN, message_object_id=request.messages_list[0].metadata.message_id
    )
    with pytest.raises(httpx.HTTPStatusError):
        app.ConfirmMessageReceived(own)
    with pytest.raises(httpx.HTTPStatusError):
        app.PushMessages(pushed(Message(RecordDict({"answer": ConfigRecord({"n": 2})}), reply_to=message)))
    answered_with_an_error(link, app)


def test_the_runtime_api_serves_its_routes_on_its_address_only(link: SuperLink, start: Callable[[], SuperNode]) -> None:
    supernode = start()
    until(supernode.alive.exists, "the file that shows life")
    trusted = ssl.create_default_context(cafile=str(supernode.secrets / "ca.crt"))
    trusted.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with httpx.Client(base_url=f"https://localhost:{supernode.port}", verify=trusted) as http:
        assert http.get("/health").status_code == 200
        assert http.get("/docs").status_code == 404
        assert http.post("/v1/runtime/create-task").status_code == 404
        assert http.post("/v1/responses").status_code == 404
        assert http.post("/v1/runtime/acquire-task").status_code in (400, 401, 415)
        for route in ("acquire-task", "push-object"):
            assert http.post(f"/v1/runtime/{route}", content=iter([b"x"])).status_code == 411
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", supernode.port), timeout=5)
    stranger = supernode.client("no token")
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        stranger.AcquireTask(runtime_pb2.AcquireTaskRequest(supported_task_types=["flwr-clientapp"]))
    assert "pull-messages" in link.seen


def test_a_supernode_that_cannot_start_says_why(
    link: SuperLink, start: Callable[[], SuperNode], tmp_path: Path
) -> None:
    del link
    (tmp_path / "secrets" / "supernode.key").unlink()
    supernode = start()
    assert supernode.ended() == 2
    assert "supernode.key cannot be read" in supernode.text()
    assert "Traceback" not in supernode.text()
