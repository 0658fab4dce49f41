"""Light clients of a real SuperLink, from Flower's own pieces: SuperNodes, ServerApps and SuperExecs without their processes.

They speak to the SuperLink directly; a SuperNode's sends what the edge would add. Not for what an edge does.
"""

from __future__ import annotations

import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import pytest
from flwr.app.message import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, RegisterNodeResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node as NodeProto
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    AcquireTaskResponse,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClient, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from delivery_support import AID, MAIN, identified, instruction, reply_to
from flowerbed_superlink.directory import directory, disabled
from flowerbed_superlink.hooks import get_ee_federation_manager, get_ee_linkstate_factory, get_ee_objectstore_factory
from flowerbed_superlink.kit import close_all
from flowerbed_superlink.settings import settings
from flowerbed_superlink.sight import ran
from flowerbed_superlink.state import PostgresLinkState
from flowerbed_superlink.verifying import METHOD
from superlink_processes import KIT, World
from superlink_support import Authority, TestSite, edge_headers, new_site, public_pem, write_material

__all__ = ["AID", "MAIN", "identified", "instruction", "reply_to"]
T = TypeVar("T")
INTERVAL_S = 30.0
_opened: list[ProtobufClient] = []


def close_clients() -> None:
    """Close what has been opened."""
    while _opened:
        _opened.pop().close()


class Edge:
    """Adds what the edge would."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers.update(self._headers)
        return call_next(context)


class Node:
    """A SuperNode's Fleet connection."""

    def __init__(self, world: World, site: TestSite, trust: ssl.SSLContext | None = None, node_id: int = 0) -> None:
        headers = {k: v for k, v in site.headers().items() if k != "flwr-public-key"}
        chain = [
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(site.key, site.key.public_key()),
            Edge(headers),
        ]
        trust = trust or ssl.create_default_context(cafile=str(world.secrets / "ca.crt"))
        self.client = FleetHttpClient(f"https://localhost:{world.port}", interceptors=chain, verify=trust)
        _opened.append(self.client)
        self.site = site
        self.node_id = node_id

    def activate(self) -> int:
        request = ActivateNodeRequest(public_key=public_pem(self.site.key), heartbeat_interval=INTERVAL_S)
        self.node_id = self.client.ActivateNode(request).node_id
        return self.node_id

    def deactivate(self) -> None:
        self.client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))

    def pull(self) -> PullMessagesResponse:
        return self.client.PullMessages(PullMessagesRequest(node=NodeProto(node_id=self.node_id)))

    def confirm(self, message: Message) -> None:
        """Say that a message has arrived."""
        metadata = message.metadata
        self.client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=NodeProto(node_id=self.node_id), run_id=metadata.run_id, message_object_id=metadata.message_id
            )
        )

    def push(self, reply: Message, leave_out: int = 0) -> None:
        """Send a reply and its objects, but for so many of them."""
        node, run = NodeProto(node_id=self.node_id), reply.metadata.run_id
        done = self.client.PushMessages(
            PushMessagesRequest(
                node=node,
                messages_list=[_bare(reply)],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[0.0],
            )
        )
        for content in _objects(reply, done.objects_to_push, leave_out, run, done.session_id):
            content.node.node_id = self.node_id
            self.client.PushObject(content)


def new_node(world: Held) -> Node:
    """Register and sign on the SuperNode of a site that has none yet."""
    site = world.sites.pop()
    world.add_node(site)
    node = Node(world, site)
    node.activate()
    return node


class ServerApp:
    """A task's Runtime connection."""

    def __init__(self, world: World, token: str) -> None:
        chain = [
            RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
            RuntimeTokenHttpInterceptor(token=token),
        ]
        self.client = _runtime(world, chain)

    def push(self, *messages: Message, leave_out: int = 0) -> None:
        """Send instructions and their objects, but for so many of each."""
        request = PushAppMessagesRequest(
            messages_list=[_bare(message) for message in messages],
            message_object_trees=[get_object_tree(message) for message in messages],
        )
        done = self.client.PushMessages(request)
        for message in messages:
            wanted = [one for one in get_all_nested_objects(message) if one in set(done.objects_to_push)]
            for content in _objects(message, wanted, leave_out, message.metadata.run_id, done.session_id):
                content.node.node_id = SUPERLINK_NODE_ID
                self.client.PushObject(content)

    def pull(self, *messages: Message) -> PullAppMessagesResponse:
        ids = [message.metadata.message_id for message in messages]
        return self.client.PullMessages(PullAppMessagesRequest(message_ids=ids))


class Executor:
    """A SuperExec's Runtime connection."""

    def __init__(self, world: World, secret: bytes | None = None) -> None:
        secret = secret or (world.secrets / "superexec.secret").read_bytes()
        self.client = _runtime(
            world,
            [
                RuntimeVersionHttpInterceptor(component_name="flower-superexec"),
                SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=[METHOD]),
            ],
        )

    def acquire(self, *types: str) -> AcquireTaskResponse:
        return self.client.AcquireTask(AcquireTaskRequest(supported_task_types=types or [TaskType.SERVER_APP]))


def _runtime(world: World, chain: list[Any]) -> RuntimeHttpClient:
    trust = ssl.create_default_context(cafile=str(world.secrets / "ca.crt"))
    client = RuntimeHttpClient(f"https://localhost:{world.port}", interceptors=chain, verify=trust)
    _opened.append(client)
    return client


def _bare(message: Message) -> Any:
    from flwr.app.message import remove_content_from_message

    return message_to_proto(remove_content_from_message(message) if message.has_content() else message)


def _objects(message: Message, wanted: Any, leave_out: int, run_id: int, session: str) -> Iterator[PushObjectRequest]:
    objects, wanted = get_all_nested_objects(message), list(wanted)
    for name in wanted[: len(wanted) - leave_out]:
        content = objects[name].deflate()
        yield PushObjectRequest(object_id=name, object_content=content, run_id=run_id, session_id=session)


@dataclass
class Timed:
    """What a call returned or raised, and how long it took."""

    value: Any
    seconds: float

    @property
    def status(self) -> int:
        """The HTTP status of a call that was refused."""
        assert isinstance(self.value, httpx.HTTPStatusError), self.value
        return self.value.response.status_code


class Calls:
    """Calls at work in threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(32)

    def close(self) -> None:
        """Wait for the calls that are still at work; their clients have been closed."""
        self._pool.shutdown()

    def start(self, call: Any, *arguments: Any) -> Future[Timed]:
        return self._pool.submit(self.timed, call, *arguments)

    @staticmethod
    def timed(call: Any, *arguments: Any) -> Timed:
        started = time.monotonic()
        try:
            value = call(*arguments)
        except Exception as error:  # noqa: BLE001  it is the test's to judge
            value = error
        return Timed(value, time.monotonic() - started)


class Held(World):
    """A SuperLink's surroundings, and a LinkState of the test's own on its database."""

    state: PostgresLinkState
    app_bundle: bytes | None = None  # what runs are of; nothing that could be run unless a test says so
    process: subprocess.Popen[bytes]

    @contextmanager
    def running(self, **changes: str) -> Iterator[None]:
        """Run a SuperLink, which `restart` may replace, with these changes of its environment."""
        with ExitStack() as self._stack:
            self.process = self._stack.enter_context(self.superlink(**changes))
            yield

    def restart(self, signum: signal.Signals = signal.SIGTERM, **changes: str) -> None:
        """End the SuperLink with a signal, and start another, with these changes of its environment."""
        self.process.send_signal(signum)
        self.process.wait(20)
        self.process = self._stack.enter_context(self.superlink(**changes))

    def add_node(self, site: TestSite) -> None:
        """Register a site's SuperNode through the Control API, without `flwr`."""
        request = RegisterNodeRequest(public_key=public_pem(site.key), name=site.name)
        headers = {"content-type": "application/protobuf", **edge_headers(), **self.bearer(KIT)}
        with self.client() as client:
            done = client.post("/v1/control/register-node", content=request.SerializeToString(), headers=headers)
        assert done.status_code == 200, done.text
        RegisterNodeResponse.FromString(done.content)

    def pending_run(self, aid: str = AID) -> int:
        """Create a run of this account's, straight in the database, whose ServerApp nobody has claimed."""
        digest = self.state.store_fab(Fab("", self.app_bundle, {})) if self.app_bundle else None
        return self.state.create_run("a/b", "1.0.0", digest, {}, MAIN, None, aid, TaskType.SERVER_APP)

    def new_run(self, aid: str = AID) -> tuple[int, str]:
        """Create a run whose ServerApp is at work; return it and its task's token."""
        run_id = self.pending_run(aid)
        task_id = self.state.get_run_info(run_ids=[run_id])[0].primary_task_id
        assert task_id is not None
        token = self.state.claim_task(task_id)
        assert token is not None
        assert self.state.activate_task(task_id)
        return run_id, token

    @contextmanager
    def linked(self) -> Iterator[None]:
        """Open the LinkState; at its end no variable of the environment is changed."""
        caches = (settings, ran, directory, disabled)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                if name.startswith("FLOWERBED_"):
                    patch.setenv(name, value)
            for cached in caches:
                cached.cache_clear()
            url = settings().database
            manager, store = get_ee_federation_manager(), get_ee_objectstore_factory(url)
            state = get_ee_linkstate_factory(url, manager, store).state()
            assert isinstance(state, PostgresLinkState)
            self.state = state
            try:
                yield
            finally:
                for one in (state, state.object_store):
                    one._engine.dispose()  # type: ignore[attr-defined]
                close_all()
        for cached in caches:
            cached.cache_clear()


@contextmanager
def surroundings(root: Any, sites: int) -> Iterator[Held]:
    """Run a PostgreSQL and an issuer with everything that a SuperLink needs; it is not started."""
    authority = Authority()
    made = [new_site(authority, f"site{number}", "A") for number in range(sites)]
    world = Held(root, authority, made, *write_material(root, authority, made))
    try:
        world.postgres.start()
        world.postgres.create_database()
        world.postgres.create_kit()
        with ExitStack() as stack:
            stack.enter_context(world.issuer.served(world.issuer_port, world.secrets))
            yield world
    finally:
        world.postgres.remove()
