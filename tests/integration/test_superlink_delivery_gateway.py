"""A site's gateway and the edge restarted and reloaded under a real SuperNode: while it pulls, gets a message, pushes a reply.

Real are the SuperNode's launcher, both NGINX, the SuperLink and PostgreSQL. The test is SuperExec, ClientApp and ServerApp, and
keeps what goes between edge and SuperLink on its way while it restarts something, so that nothing depends on luck.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PushTaskOutputRequest
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

from executor_support import SECRET, bundle, write_secret
from faulty_proxy import FaultyProxy
from gateway_support import SUPERLINK_PORT, Gateways, Server, gateways, network, openssh, superlink_certificate
from held_support import Held, reply_to, surroundings
from rounds_support import PATIENCE_S, App, until
from supernode_support import SuperNode

pytestmark = [
    pytest.mark.docker,
    # Flower's migrations do not say how their paths are separated.
    pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning"),
]

PULL, PUSH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"
LATEST_S = 90.0
"""Within this, a message ends once its node is lost. Flower takes a minute to call it lost."""
WANTED = AcquireTaskRequest(supported_task_types=["flwr-clientapp"])


class Executor:
    """SuperExec and ClientApp of a site: works on what its SuperNode has, from Flower's own pieces."""

    def __init__(self, supernode: SuperNode) -> None:
        self._supernode = supernode
        self.handled: Counter[str] = Counter()
        self.may_reply, self.over = threading.Event(), threading.Event()
        self.may_reply.set()

    def run(self) -> None:
        """Work until it is over."""
        asking = self._supernode.client()
        while not self.over.is_set():
            if token := asking.AcquireTask(WANTED).token:
                self._work(token)

    def _work(self, token: str) -> None:
        app = self._supernode.client(token)
        message, context, _, _ = pull_task_input(app)
        self.handled[message.metadata.message_id] += 1
        assert self.may_reply.wait(PATIENCE_S)
        push_message(app, reply_to(message), context)
        app.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED))

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work in a thread, until the end; it may end with its SuperNode's connection."""
        thread = threading.Thread(target=self._until_closed)
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            self.may_reply.set()
            self._supernode.process.terminate()
            thread.join(PATIENCE_S)

    def _until_closed(self) -> None:
        try:
            self.run()
        except httpx.TransportError:
            assert self.over.is_set()


@dataclass
class Site:
    """One site at work, and the run that has work for it."""

    world: Held
    stack: ExitStack
    way: FaultyProxy
    servers: Gateways
    app: App
    pool: ThreadPoolExecutor
    supernode: SuperNode = field(init=False)
    executor: Executor = field(init=False)
    node_id: int = field(init=False)

    def start(self, root: Path) -> None:
        """Start the SuperNode's launcher, with the gateway as all that it can reach, and its executor."""
        for name in ("ca.crt", "tls.crt", "tls.key"):
            write_secret(root / "secrets" / name, (self.world.secrets / name).read_bytes())
        write_secret(root / "secrets" / "superexec.secret", SECRET.encode())
        write_secret(root / "secrets" / "supernode.key", openssh(self.world.sites[0]))
        self.supernode = SuperNode(root, self.servers.address, FLOWERBED_HELD_PULLS="1")
        self.stack.callback(self.supernode.close)
        until(lambda: self.supernode.alive.exists() and online(self.world), self.ended)
        self.executor = Executor(self.supernode)
        self.stack.enter_context(self.executor.working())
        (self.node_id,) = online(self.world)

    def ended(self) -> str:
        """Return what the SuperNode said if it has ended; it should not have."""
        return self.supernode.text() or "it ended" if self.supernode.process.poll() is not None else ""

    def exchange(self) -> Future[list[str]]:
        """Start a round."""
        return self.pool.submit(self.app.exchange, [self.node_id])

    def begun(self) -> Future[list[str]]:
        """Start a round, and have the ClientApp at work on its message until it may reply."""
        self.executor.may_reply.clear()
        before = len(self.app.sent)
        exchange = self.exchange()
        until(lambda: self.app.sent[before:] and self.executor.handled[self.app.sent[-1]], self.ended)
        return exchange

    def ends(self, exchange: Future[list[str]]) -> None:
        """Check that a round ends, with one reply to its one message, that was worked on once, by the same SuperNode."""
        (message,) = exchange.result(PATIENCE_S)
        assert self.app.ends[message] == self.executor.handled[message] == 1
        assert message not in self.app.errors
        assert not self.ended()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("gateway")
    with surroundings(root, 1) as world, ExitStack() as stack:
        superlink_certificate(world)
        name, subnet = stack.enter_context(network())
        stack.enter_context(world.running())
        stack.enter_context(world.linked())
        world.app_bundle = bundle("pass")
        world.add_node(world.sites[0])
        way = FaultyProxy(world.port, 0, 7, at=(str(subnet[1]), SUPERLINK_PORT))
        stack.enter_context(way.serving())
        servers = stack.enter_context(gateways(world, world.sites[0], root / "nginx", name, subnet))
        app = stack.enter_context(App(world, world.port).at_work())
        pool = stack.enter_context(ThreadPoolExecutor(1))
        site = Site(world, stack, way, servers, app, pool)
        site.start(root / "site")
        yield site


def online(world: Held) -> list[int]:
    """Return the node, once it has signed on."""
    return [
        int(row["node_id"]) % 2**64 for row in world.state.query("SELECT node_id FROM node WHERE status = 'online'")
    ]


@dataclass(frozen=True)
class Disturbance:
    """What is done to one of the servers, and what the other one says of a request that it cut off by that."""

    act: Callable[[Gateways], None]
    witness: Callable[[Gateways], Server] | None = None
    status: int = 0

    def cut(self, servers: Gateways, path: str) -> int:
        """Return how many requests for a path were cut off so far; a reload cuts none."""
        return self.witness(servers).requests(path).count(self.status) if self.witness else 0


DISTURBANCES = {
    "gateway reloaded": Disturbance(lambda servers: servers.gateway.reload()),
    "gateway restarted": Disturbance(lambda servers: servers.gateway.restart(1), lambda servers: servers.edge, 499),
    "gateway killed": Disturbance(lambda servers: servers.gateway.restart(0), lambda servers: servers.edge, 499),
    "edge reloaded": Disturbance(lambda servers: servers.edge.reload()),
    "edge restarted": Disturbance(lambda servers: servers.edge.restart(1), lambda servers: servers.gateway, 502),
    "edge killed": Disturbance(lambda servers: servers.edge.restart(0), lambda servers: servers.gateway, 502),
}
disturbed = pytest.mark.parametrize("disturbance", DISTURBANCES.values(), ids=DISTURBANCES)


@disturbed
def test_a_pull_that_is_held_costs_no_message(site: Site, disturbance: Disturbance) -> None:
    site.ends(site.exchange())
    # With nothing to do, nothing but a pull waits for long.
    until(lambda: site.way.unanswered_s() > 1)
    before = disturbance.cut(site.servers, PULL)
    disturbance.act(site.servers)
    for _ in range(2):
        site.ends(site.exchange())
    assert disturbance.cut(site.servers, PULL) > before or disturbance.witness is None


@disturbed
def test_a_message_that_is_cut_off_on_its_way_is_offered_again(site: Site, disturbance: Disturbance) -> None:
    site.ends(site.exchange())
    until(lambda: site.way.unanswered_s() > 1)
    before = disturbance.cut(site.servers, PULL)
    with site.way.stalling("answers"):
        exchange = site.exchange()
        until(lambda: site.way.waiting)
        disturbance.act(site.servers)
    site.ends(exchange)
    assert disturbance.cut(site.servers, PULL) > before or disturbance.witness is None


@disturbed
@pytest.mark.parametrize("way", ["requests", "answers"])
def test_a_reply_that_is_being_pushed_is_neither_lost_nor_doubled(
    site: Site, way: str, disturbance: Disturbance
) -> None:
    exchange = site.begun()
    before = disturbance.cut(site.servers, PUSH)
    with site.way.stalling(way):
        site.executor.may_reply.set()
        until(lambda: site.way.waiting)
        disturbance.act(site.servers)
    site.ends(exchange)
    site.ends(site.exchange())
    assert disturbance.cut(site.servers, PUSH) > before or disturbance.witness is None


def test_a_supernode_that_is_killed_at_work_fails_its_message_once_and_the_next_one_goes_on(
    site: Site, tmp_path: Path
) -> None:
    exchange = site.begun()
    ended: list[float] = []
    exchange.add_done_callback(lambda _: ended.append(time.monotonic()))
    site.supernode.process.kill()
    killed = time.monotonic()
    site.executor.over.set()
    site.executor.may_reply.set()
    # It is refused until the first one's heartbeat has lapsed.
    site.start(tmp_path)
    (message,) = exchange.result(PATIENCE_S)
    assert ended[0] - killed < LATEST_S
    assert (site.app.ends[message], site.app.errors) == (1, {message: 1})
    for _ in range(2):
        site.ends(site.exchange())
    assert not site.executor.handled[message]
    assert set(site.app.ends) == set(site.app.sent)
