"""Random walks of SuperNodes and ServerApps over a real PostgreSQL: each message ends in exactly one reply or one error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest
from flwr.app import Message
from flwr.supercore.error import FlowerError
from sqlalchemy import text

from delivery_parties import ServerApp, SuperNode
from delivery_support import INTERVAL_S, States, new_node, new_run, reply_to, serving
from flowerbed_superlink import delivering
from flowerbed_superlink.state import PostgresLinkState

# Flower's migrations do not say how their paths are separated.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")

STEPS, MOST_WAITING = 300, 12


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[States]:
    with serving(tmp_path_factory.mktemp("walk")) as found:
        yield found


@dataclass
class Walk:
    """Some nodes and runs, and what may happen to them; `late` holds replies that were never sent, or sent in part."""

    states: States
    state: PostgresLinkState
    nodes: list[SuperNode]
    apps: list[ServerApp]
    random: Random
    late: list[tuple[SuperNode, Message]] = field(default_factory=list)

    def step(self) -> None:
        """Do one thing that a SuperNode, a ServerApp or their surroundings may do."""
        acts = [
            self.send,
            self.send,
            self.pull,
            self.pull,
            self.lose_pull,
            self.finish,
            self.finish,
            self.collect,
            self.lose_collect,
            self.say_late,
        ]
        rare = [self.vanish, self.sign_off, self.drop_confirm, self.push_in_part, self.restart_superlink, self.age]
        act = self.random.choice(acts * 3 + rare)
        act(self.random.choice(self.nodes), self.random.choice(self.apps))

    def send(self, _: SuperNode, app: ServerApp) -> None:
        if len(app.waiting) < MOST_WAITING:
            reached = self.random.sample(self.nodes, self.random.randint(1, len(self.nodes)))
            app.send(*(node.node_id for node in reached), repeat=self.random.random() < 0.3)

    def pull(self, node: SuperNode, _: ServerApp) -> None:
        if node.in_hand is None and (got := node.pull()) is not None:
            node.receive(got, partly=self.random.random() < 0.2, repeat=self.random.random() < 0.2)

    def lose_pull(self, node: SuperNode, _: ServerApp) -> None:
        if node.in_hand is None:
            node.pull(lost=True)

    def finish(self, node: SuperNode, _: ServerApp) -> None:
        if (message := node.in_hand) is not None:
            reply = node.finish(repeat=self.random.random() < 0.3)
            self.late += [(node, reply), (node, reply_to(message, error="once more"))]

    def push_in_part(self, node: SuperNode, _: ServerApp) -> None:
        if node.in_hand is not None:
            self.late.append((node, node.finish(objects=1)))

    def drop_confirm(self, node: SuperNode, _: ServerApp) -> None:
        """Confirm a message and not notice: its reply will never be sent."""
        if node.in_hand is not None:
            self.late.append((node, reply_to(node.in_hand)))
            node.in_hand = None

    def collect(self, _: SuperNode, app: ServerApp) -> None:
        self._collect(app, confirmed=self.random.choice([None, None, 1]))

    def lose_collect(self, _: SuperNode, app: ServerApp) -> None:
        self._collect(app, lost=True)

    def _collect(self, app: ServerApp, **how: object) -> None:
        if app.waiting:
            app.pull(repeat=self.random.random() < 0.2, **how)  # type: ignore[arg-type]  one of two arguments
        assert all(len(outcome) == 1 for outcome in app.outcomes.values())

    def say_late(self, _: SuperNode, __: ServerApp) -> None:
        """Send what is late, or has been sent already."""
        if self.late:
            node, reply = self.late.pop(self.random.randrange(len(self.late)))
            node.push(reply)

    def vanish(self, node: SuperNode, _: ServerApp) -> None:
        """Kill a SuperNode; it comes back after its heartbeat has lapsed."""
        if node.in_hand is not None:
            self.late.append((node, reply_to(node.in_hand)))
        node.in_hand = None
        with self.state.session() as session:
            session.execute(
                text("UPDATE node SET online_until = 1 WHERE node_id = :node"), {"node": _signed(node.node_id)}
            )
        if self.random.random() < 0.3:
            self.collect(node, self.random.choice(self.apps))
        assert self.state.activate_node(node.node_id, INTERVAL_S)

    def sign_off(self, node: SuperNode, _: ServerApp) -> None:
        node.restart()

    def restart_superlink(self, _: SuperNode, __: ServerApp) -> None:
        """Go on with a new LinkState, which knows what is in the database and nothing else."""
        self.states.close(self.state)
        self.state = self.states.new()
        for party in (*self.nodes, *self.apps):
            party.state = self.state

    def age(self, _: SuperNode, app: ServerApp) -> None:
        """Let one message's time to live run out."""
        if app.waiting:
            with self.state.session() as session:
                chosen = {"message": self.random.choice(sorted(app.waiting))}
                session.execute(text("UPDATE message_ins SET ttl = 0 WHERE message_id = :message"), chosen)

    def end(self) -> None:
        """Let everybody finish without losing anything, and collect what is left."""
        while any(app.waiting for app in self.apps):
            for node in self.nodes:
                self.finish(node, self.apps[0])
                self.pull(node, self.apps[0])
            for app in self.apps:
                self._collect(app)
        for node, reply in self.late:
            node.push(reply)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


@pytest.mark.parametrize("seed", range(3))
def test_every_message_ends_once(states: States, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "IDLE_S", 0.0)
    state, random = states.new(), Random(seed)  # noqa: S311  no secret
    nodes = [SuperNode(state, new_node(state, states.site())) for _ in range(3)]
    apps = [ServerApp(state, new_run(state)[0]) for _ in range(2)]
    walk = Walk(states, state, nodes, apps, random)
    for _ in range(STEPS):
        walk.step()
    walk.end()
    outcomes = [outcome for app in apps for outcome in app.outcomes.values()]
    assert len(outcomes) > 40
    assert all(len(outcome) == 1 for outcome in outcomes)
    seen = {outcome[0] for outcome in outcomes}
    # Messages' ids are new each time, and the walk with them: it may end without one of these.
    assert "reply" in seen
    assert seen & {delivering.RESTARTED, delivering.SIGNED_OFF}
    for app in apps:
        assert walk.state.get_message_ids_from_run_id(app.run_id) == set()


def test_the_walk_would_notice(states: States) -> None:
    """The check of the check: a reply that is given twice is seen."""
    state = states.new()
    app = ServerApp(state, new_run(state)[0])
    app.outcomes["a"] = ["reply", "reply"]
    walk = Walk(states, state, [], [app], Random(0))  # noqa: S311  no secret
    with pytest.raises(AssertionError):
        walk._collect(app)


def test_nobody_hears_of_a_stopped_run(states: States) -> None:
    state = states.new()
    app, node = ServerApp(state, new_run(state)[0]), SuperNode(state, new_node(state, states.site()))
    app.send(node.node_id)
    sent = node.take()
    assert state.stop_run(app.run_id)
    assert node.pull() is None
    with pytest.raises(FlowerError):
        node.push(reply_to(sent))
