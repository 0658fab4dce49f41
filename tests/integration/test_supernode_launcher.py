"""The SuperNode's launcher as a real process, against a SuperLink of the test's that misbehaves on demand."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SubStatus
from flwr.common.serde import fab_to_proto, message_from_proto, message_to_proto, run_to_proto
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2, runtime_pb2
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

from executor_support import SECRET, bundle, certificates, write_secret

ROOT = Path(__file__).resolve().parents[2]
NODE, RUN = 7, 42
PATIENCE = 120


class SuperLink:
    """Answers the Fleet API as the test wishes. A stand-in: the real one is met in the end-to-end tests."""

    def __init__(self, secrets: Path) -> None:
        self.seen: list[str] = []
        self.replies: list[Message] = []
        self.message: Message | None = None
        self.objects: dict[str, bytes] = {}
        self.fab = bundle("pass")
        self.status: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        # Their connections end with the SuperNode, which is gone by then.
        self._server.daemon_threads = False
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(secrets / "tls.crt", secrets / "tls.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def give(self) -> None:
        """Have one message for the node."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 1, 1
        message = Message(RecordDict({"config": ConfigRecord({"round": 1})}), dst_node_id=NODE, message_type="train")
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            self.objects = {key: found.deflate() for key, found in get_all_nested_objects(message).items()}
            self.tree = get_object_tree(message)
        self.message = remove_content_from_message(message)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, name: str, body: bytes) -> Any:
        if name == "activate-node":
            return fleet_pb2.ActivateNodeResponse(node_id=NODE)
        if name == "deactivate-node":
            return fleet_pb2.DeactivateNodeResponse()
        if name == "send-node-heartbeat":
            return heartbeat_pb2.SendNodeHeartbeatResponse(success=True)
        if name == "pull-messages":
            return self._pull()
        if name == "get-run":
            run = Run.create_empty(RUN)
            run.fab_id, run.fab_version, run.series_id = "flowerbed/probe", "1.0.0", RUN
            run.fab_hash = hashlib.sha256(self.fab).hexdigest()
            return run_pb2.GetRunResponse(run=run_to_proto(run))
        if name == "get-fab":
            return fab_pb2.GetFabResponse(fab=fab_to_proto(Fab(hashlib.sha256(self.fab).hexdigest(), self.fab, {})))
        return self._answer_objects(name, body)

    def _answer_objects(self, name: str, body: bytes) -> Any:
        if name == "pull-object":
            wanted = message_pb2.PullObjectRequest.FromString(body).object_id
            content = self.objects[wanted]
            return message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=content)
        if name == "push-messages":
            request = fleet_pb2.PushMessagesRequest.FromString(body)
            self.replies += [message_from_proto(message) for message in request.messages_list]
            return fleet_pb2.PushMessagesResponse()
        return message_pb2.ConfirmMessageReceivedResponse()

    def _pull(self) -> Any:
        message, self.message = self.message, None
        if message is None:
            return fleet_pb2.PullMessagesResponse()
        return fleet_pb2.PullMessagesResponse(
            messages_list=[message_to_proto(message)], message_object_trees=[self.tree]
        )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        link = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                name = self.path.rsplit("/", 1)[1]
                body = self.rfile.read(int(self.headers["content-length"]))
                link.seen.append(name)
                status = link.status.get(name, 200)
                content = link.answer(name, body).SerializeToString() if status == 200 else b"broken"
                self.send_response(status)
                self.send_header("content-type", "application/protobuf")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                return

        return Handler


class SuperNode:
    def __init__(self, root: Path, link: SuperLink) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._clients: list[RuntimeHttpClient] = []
        self.alive, self.secrets = root / "alive", root / "secrets"
        self.log = (root / "log").open("w+")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "PYTHONPATH": str(ROOT / "supernode"),
            "FLOWERBED_RUNTIME_HOST": "127.0.0.1",
            "FLOWERBED_RUNTIME_PORT": str(self.port),
            "FLOWERBED_SUPERLINK": f"localhost:{link.port}",
            "FLOWERBED_NODE_CONFIG": "partition-id=0",
            "FLOWERBED_SECRETS": str(self.secrets),
            "FLOWERBED_ALIVE": str(self.alive),
            "FLOWERBED_DRAIN_SECONDS": "30",
            # Would lead Flower away from its gateway.
            "HTTPS_PROXY": "http://127.0.0.1:9",
        }
        command = [sys.executable, "-m", "flowerbed_supernode"]
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=subprocess.STDOUT)

    def client(self, token: str = "") -> RuntimeHttpClient:
        """Flower's own Runtime client: SuperExec's without a token, a ClientApp's with one."""
        methods = frozenset({"/flwr.proto.Runtime/AcquireTask"})
        identity = (
            RuntimeTokenHttpInterceptor(token)
            if token
            else SuperExecAuthHttpInterceptor(master_secret=SECRET.encode(), protected_methods=methods)
        )
        client = RuntimeHttpClient.from_server_address(
            f"localhost:{self.port}",
            insecure=False,
            root_certificates=(self.secrets / "ca.crt").read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), identity],
        )
        self._clients.append(client)
        return client

    def acquire(self) -> str:
        """Wait for the task that the SuperLink's message becomes; return its token."""
        until(self.alive.exists, "the file that shows life")
        client = self.client()
        request = runtime_pb2.AcquireTaskRequest(supported_task_types=["flwr-clientapp"])
        token: str = until(lambda: client.AcquireTask(request).token, "a task")
        return token

    def ended(self) -> int:
        return self.process.wait(PATIENCE)

    def text(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {what}")


@pytest.fixture
def link(tmp_path: Path) -> Iterator[SuperLink]:
    secrets = tmp_path / "secrets"
    certificates(secrets, "localhost")
    write_secret(secrets / "superexec.secret", SECRET.encode())
    key = ec.generate_private_key(ec.SECP384R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    write_secret(secrets / "supernode.key", key.private_bytes(*form))
    link = SuperLink(secrets)
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
