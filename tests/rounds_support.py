"""Rounds through a real SuperLink: SuperNodes and ServerApps made of Flower's own connection and Grid, and their messages' ends.

Not the processes around them, which `superlink_processes` runs. Nothing here is timed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import DeactivateNodeRequest, DeactivateNodeResponse
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.utils import uint64_to_int64
from flwr.superlink.grid import http_grid
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient

from delivery_support import contents_of
from flowerbed_supernode.connecting import repeated
from flowerbed_wire import client
from held_support import Edge, Held, Node, surroundings
from superlink_support import TestSite

PATIENCE_S = 600.0
"""How long anything may take on a busy host. It bounds a test that hangs and proves nothing."""

_here = threading.local()  # `site` is whose SuperNode a thread is


class SiteClient(FleetHttpClient):
    """Flower's client, with what the edge adds, and our SuperNode's patience with a lapsing activation."""

    def __init__(self, base_url: str, *, interceptors: Any, **other: Any) -> None:
        headers = {k: v for k, v in _here.site.headers().items() if k != "flwr-public-key"}
        super().__init__(base_url, interceptors=[*interceptors, Edge(headers)], **other)

    ActivateNode = repeated(FleetHttpClient.ActivateNode)

    def _sign_off(self, request: DeactivateNodeRequest) -> DeactivateNodeResponse:
        """Sign off, also from a SuperLink that is away for a moment: who does not is refused for the next minute."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return FleetHttpClient.DeactivateNode(self, request)
            except httpx.TransportError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    DeactivateNode = _sign_off


class TaskClient(RuntimeHttpClient):
    """Flower's client, whose messages take their objects along as our executor's do."""


def _along(object_id: str) -> bytes | None:
    """Return an object of what this thread is about to send."""
    contents: dict[str, bytes] = getattr(_here, "contents", {})
    return contents.get(object_id)


for _client in (SiteClient, TaskClient):
    assert client.fits(_client)
    client.install(_client, _along)


def use_clients(patch: pytest.MonkeyPatch) -> None:
    """Have Flower's connection and Grid use these clients."""
    patch.setattr(fleet_http_connection, "FleetHttpClient", SiteClient)
    patch.setattr(http_grid, "RuntimeHttpClient", TaskClient)


@contextmanager
def rounds_world(root: Path, sites: int) -> Iterator[Held]:
    """Run a SuperLink that knows a SuperNode for each of so many sites, with these clients in use."""
    with pytest.MonkeyPatch.context() as patch, surroundings(root, sites) as world, world.running(), world.linked():
        use_clients(patch)
        for site in world.sites:
            world.add_node(site)
        yield world


class LoopedNode:
    """A SuperNode's main loop, which now and then forgets what it works on and starts anew.

    `work` is called with each message once it is confirmed and before it is replied to. `handled` counts messages that were
    confirmed, `replied` are those whose reply was sent, `empty` counts pulls that brought none.
    """

    def __init__(
        self,
        world: Held,
        site: TestSite,
        port: int,
        forget_every: int = 0,
        work: Callable[[Message], None] | None = None,
        pause_s: float = 0.02,
    ) -> None:
        self._world, self._site, self._port, self._forget_every = world, site, port, forget_every
        self.work: Callable[[Message], None] = work or (lambda _: None)
        self.handled: Counter[str] = Counter()
        self.replied: set[str] = set()
        self.forgotten = self.empty = 0
        self.pause_s = pause_s
        self.node_id = 0
        self.known, self.over = threading.Event(), threading.Event()

    def run(self) -> None:
        """Work until it is over."""
        _here.site = self._site
        while not self.over.is_set():
            connection = fleet_http_connection.http_request_response(
                f"localhost:{self._port}",
                insecure=False,
                root_certificates=(self._world.secrets / "ca.crt").read_bytes(),
                authentication_keys=(self._site.key, self._site.key.public_key()),
            )
            with connection as callbacks:
                self._loop(*callbacks)

    def stop(self) -> None:
        """Say that it is over, and end a pull that is held, as a newer one of the same node does."""
        self.over.set()
        newer = Node(self._world, self._site, node_id=self.node_id)
        newer.client._client.timeout = httpx.Timeout(0.5)
        with closing(newer.client), suppress(httpx.HTTPError):
            newer.pull()

    def _loop(
        self,
        node_id: int,
        receive: Any,
        send: Any,
        _run: Any,
        _fab: Any,
        pull_object: Any,
        push_object: Any,
        confirm: Any,
    ) -> None:
        self.node_id = node_id
        self.known.set()
        while not self.over.is_set():
            got = receive()
            if got is None:
                self.empty += 1
                time.sleep(self.pause_s)
                continue
            message, tree = got
            run_id = message.metadata.run_id
            ids = [each.object_id for each in iterate_object_tree(tree)]
            pull_objects(ids, lambda each, run_id=run_id: pull_object(run_id, each))  # type: ignore[misc]
            confirm(run_id, message.metadata.message_id)
            self.handled[message.metadata.message_id] += 1
            self.work(message)
            if self._forget_every and len(self.handled) % self._forget_every == 0:
                self.forgotten += 1
                return
            with suppress(RunNotRunningException):  # as Flower's main loop, which drops the reply
                self._reply(message, send, push_object)

    def _reply(self, message: Message, send: Any, push_object: Any) -> None:
        run_id = message.metadata.run_id
        reply = small(message.metadata.dst_node_id, SUPERLINK_NODE_ID, run_id, message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        _here.contents = contents = contents_of(reply)
        wanted, session = send(reply, get_object_tree(reply), 0.01)
        for each in wanted:
            push_object(run_id, session, each, contents[each])
        self.replied.add(message.metadata.message_id)


def small(source: int, target: int, run_id: int, replied: Message | None = None) -> Message:
    """Return the smallest message, or the smallest reply to one."""
    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=source,
        dst_node_id=target,
        reply_to_message_id=replied.metadata.message_id if replied else "",
        group_id="",
        created_at=now().timestamp(),
        ttl=replied.metadata.created_at + replied.metadata.ttl - now().timestamp() if replied else 3600,
        message_type="train",
    )
    return make_message(content=RecordDict(), metadata=metadata)


@dataclass
class App:
    """One run's ServerApp: how often each of its messages ended, which ended in an error, how many pulls it took."""

    world: Held
    port: int
    pause_s: float = 0.02
    done: int = 0
    pulls: int = 0
    sent: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def at_work(self) -> Iterator[App]:
        """Have a run of its own, and a Grid."""
        self.run_id, token = self.world.new_run()
        # Nobody sends this task's heartbeats.
        signed = uint64_to_int64(self.run_id)
        self.world.postgres.sql(f"UPDATE task SET active_until = now() + interval '1 day' WHERE run_id = {signed}")  # noqa: S608
        trust = (self.world.secrets / "ca.crt").read_bytes()
        self._grid = HttpGrid(f"localhost:{self.port}", root_certificates=trust, token=token)
        self._grid.set_run(Run.create_empty(self.run_id))
        try:
            yield self
        finally:
            self._grid.close()

    def send(self, node_ids: Iterable[int]) -> list[str]:
        """Push a message to each of these nodes."""
        messages = [small(SUPERLINK_NODE_ID, each, self.run_id) for each in node_ids]
        _here.contents = {name: content for message in messages for name, content in contents_of(message).items()}
        sent = list(self._grid.push_messages(messages))
        self.sent += sent
        return sent

    def collect(self, waiting: set[str]) -> set[str]:
        """Ask once for what has come; return what has not."""
        replies = list(self._grid.pull_messages(waiting))
        self.pulls += 1
        for reply in replies:
            answered = reply.metadata.reply_to_message_id
            self.ends[answered] += 1
            self.errors.update([answered] if reply.has_error() else [])
        return {each for each in waiting if each not in self.ends}

    def exchange(self, node_ids: Iterable[int]) -> list[str]:
        """Do one round: a message to each node, and its end from each."""
        sent, end = self.send(node_ids), time.monotonic() + PATIENCE_S
        waiting = set(sent)
        while waiting := self.collect(waiting):
            assert time.monotonic() < end, f"no end of {waiting}"
            time.sleep(self.pause_s)
        self.done += 1
        return sent


@contextmanager
def working(nodes: list[LoopedNode]) -> Iterator[None]:
    """Have the nodes work until the end."""
    threads = [threading.Thread(target=node.run) for node in nodes]
    for thread in threads:
        thread.start()
    try:
        assert all(node.known.wait(PATIENCE_S) for node in nodes)
        yield
    finally:
        for node in nodes:
            node.stop()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in threads)


def until(condition: Callable[[], object], unless: Callable[[], object] = lambda: None) -> None:
    """Poll until a condition holds; whatever `unless` returns ends it in vain."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "the patience for a hang is over"
        assert not (why := unless()), why
        time.sleep(0.05)
