"""What tests of the SuperNode's launcher share: the launcher as a real process, and a SuperLink that does as a test wishes."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
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

from executor_support import SECRET, bundle, certificates, write_secret

ROOT = Path(__file__).resolve().parents[1]
NODE, RUN = 7, 42
PATIENCE = 120


def secrets(directory: Path) -> Path:
    """Write what a SuperNode and its SuperLink need."""
    certificates(directory, "localhost")
    write_secret(directory / "superexec.secret", SECRET.encode())
    key = ec.generate_private_key(ec.SECP384R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    write_secret(directory / "supernode.key", key.private_bytes(*form))
    return directory


class SuperLink:
    """Answers the Fleet API as the test wishes. A stand-in: the real one is met in the end-to-end tests."""

    def __init__(self, secrets: Path) -> None:
        self.seen: list[str] = []
        self.replies: list[Message] = []
        self.message: Message | None = None
        self.objects: dict[str, bytes] = {}
        self.fab = bundle("pass")
        self.status: dict[str, int] = {}
        self.hold_seconds = 0.0
        self.given = threading.Condition()
        self._closing = False
        self.at: list[tuple[float, str]] = []
        self.objects_may_leave = threading.Event()
        self.objects_may_leave.set()
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
        with self.given:
            self.message = remove_content_from_message(message)
            self.given.notify_all()

    def times(self, name: str) -> list[float]:
        """When (monotonic) requests for a route arrived."""
        return [at for at, seen in list(self.at) if seen == name]

    def close(self) -> None:
        with self.given:
            self._closing = True
            self.given.notify_all()
        self.objects_may_leave.set()
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
            self.objects_may_leave.wait(PATIENCE)
            wanted = message_pb2.PullObjectRequest.FromString(body).object_id
            content = self.objects[wanted]
            return message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=content)
        if name == "push-messages":
            request = fleet_pb2.PushMessagesRequest.FromString(body)
            self.replies += [message_from_proto(message) for message in request.messages_list]
            return fleet_pb2.PushMessagesResponse()
        return message_pb2.ConfirmMessageReceivedResponse()

    def _pull(self) -> Any:
        with self.given:
            self.given.wait_for(lambda: self.message is not None or self._closing, self.hold_seconds)
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
            # It writes head and body apart: the second would wait 40 ms for an acknowledgement.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                name = self.path.rsplit("/", 1)[1]
                body = self.rfile.read(int(self.headers["content-length"]))
                link.seen.append(name)
                link.at.append((time.monotonic(), name))
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
    """The launcher as a process; `first` is Python that it runs before anything else."""

    def __init__(self, root: Path, link: SuperLink | str, first: str = "", **settings: str) -> None:
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
            "FLOWERBED_SUPERLINK": link if isinstance(link, str) else f"localhost:{link.port}",
            "FLOWERBED_NODE_CONFIG": "partition-id=0",
            "FLOWERBED_SECRETS": str(self.secrets),
            "FLOWERBED_ALIVE": str(self.alive),
            "FLOWERBED_DRAIN_SECONDS": "30",
            # Would lead Flower away from its gateway.
            "HTTPS_PROXY": "http://127.0.0.1:9",
            **settings,
        }
        program = f"{first}\nimport runpy; runpy.run_module('flowerbed_supernode', run_name='__main__', alter_sys=True)"
        command = [sys.executable, *(("-c", program) if first else ("-m", "flowerbed_supernode"))]
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
