"""Requests that wait, and Flower's pulls that are kept waiting: in one process, with a database that is stood in for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse, PullAppMessagesRequest
from flwr.supercore.auth import create_superexec_auth_metadata, derive_auth_secret
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.error import FlowerError
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from flowerbed_superlink import holds, verifying
from flowerbed_superlink.errors import Refused
from flowerbed_superlink.holds import ACQUIRE, CHANGES, EMPTY, FLEET_PULL, LONGEST, RUNTIME_PULL, Holds
from flowerbed_superlink.looking import Answer, Question
from flowerbed_superlink.routes import ALLOWED, RUNTIME
from flowerbed_superlink.visit import Visit, announce
from flowerbed_superlink.waiting import Kind, Waiting, turn

SECRET = b"s" * 32
NEVER = 60.0
Send = Callable[[Any], Coroutine[Any, Any, None]]


class DatabaseInMemory:
    """What `look` would find; counts how often it is asked, and can be away."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.away = False
        self.fails: list[Exception] = []
        self.answer = Answer(registered=frozenset(range(10_000)), valid=frozenset({"token"}))

    def __call__(self, question: Question) -> Answer:
        self.asked.append(question)
        if self.fails:
            raise self.fails.pop()
        if self.away:
            raise OperationalError("SELECT 1", {}, Exception("gone"))
        return self.answer

    def say(self, **found: object) -> None:
        self.answer = Answer(**(vars(self.answer) | found))  # type: ignore[arg-type]


class Stage:
    """The middleware around a route that remembers who reached it, and requests to it."""

    def __init__(self, limit_s: float = NEVER, look_s: float = NEVER, most: int = 100) -> None:
        self.database = DatabaseInMemory()
        self.waiting = Waiting(self.database, limit_s=limit_s, look_s=look_s, most=most)
        self.reached: list[Any] = []
        self.reserved: list[str] = []
        self.app = FastAPI()
        self.app.state.superexec_auth_secret = SECRET
        self.app.state.linkstate_factory = self
        self.holds = Holds(self.route, self.waiting)

    def state(self) -> Stage:
        """Stand for Flower's LinkState."""
        return self

    def reserve_nonce(self, namespace: str, nonce: str, expires_at: float) -> bool:
        assert (namespace, expires_at > time.time()) == (verifying.NAMESPACE, True)
        self.reserved.append(nonce)
        return True

    async def route(self, scope: Any, _receive: Any, send: Send) -> None:
        self.reached.append(scope["state"].get("protobuf_request"))
        scope["state"]["protobuf_response"] = "the route's"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def request(self, path: str, message: Any = None, **changes: Any) -> Request:
        return Request(self, path, message, **changes)

    def pull(self, node: int, **changes: Any) -> Request:
        return self.request(FLEET_PULL, PullMessagesRequest(node=Node(node_id=node)), **changes)


class Request:
    """One request at work."""

    def __init__(
        self, stage: Stage, path: str, message: Any, headers: dict[str, str] | None = None, length: int = 10
    ) -> None:
        self.gone, self.given_back = asyncio.Event(), 0
        self.problem: Refused | Exception | None = None
        self.state: dict[str, Any] = {"protobuf_request": message}
        self.statuses: list[int] = []
        listed = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        scope: dict[str, Any] = {"type": "http", "path": path, "headers": listed, "app": stage.app, "state": self.state}
        scope |= {"method": "POST", "client": ("172.26.0.3", 4711)}
        self.visit = Visit(length, self.disconnected, self.check, self.give_back)
        announce(scope, self.visit)
        self.task = asyncio.create_task(stage.holds(scope, self.disconnected, self.send))

    async def disconnected(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    def check(self) -> None:
        if self.problem is not None:
            raise self.problem

    def give_back(self) -> None:
        self.given_back += 1

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])

    @property
    def answer(self) -> Any:
        return self.state.get("protobuf_response")

    async def holds_on(self) -> None:
        """Check that it waits: nothing has been answered after everybody else had their turn."""
        await asyncio.sleep(0.1)
        assert not self.task.done()

    async def ends(self) -> Any:
        await asyncio.wait_for(self.task, 5)
        return self.answer


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_a_pull_waits_until_its_node_has_a_message() -> None:
    async def test() -> None:
        stage = Stage()
        one, two = stage.pull(1), stage.pull(2)
        await one.holds_on()
        stage.database.say(with_messages=frozenset({1}))
        await one.holds_on()  # nobody has said that anything changed
        await stage.request(RUNTIME + "push-object").ends()
        assert await one.ends() == "the route's"
        await two.holds_on()
        assert [message.node.node_id for message in stage.reached if message] == [1]
        assert (one.given_back, one.statuses) == (1, [200])
        stage.waiting.stop()
        await two.ends()

    run(test)


def test_what_has_a_message_already_is_not_kept() -> None:
    async def test() -> None:
        stage = Stage()
        stage.database.say(with_messages=frozenset({1}))
        assert await stage.pull(1).ends() == "the route's"
        assert len(stage.waiting) == 0

    run(test)


def test_the_route_is_asked_at_the_limit() -> None:
    async def test() -> None:
        stage = Stage(limit_s=0.3)
        started = time.monotonic()
        assert await stage.pull(1).ends() == "the route's"
        assert time.monotonic() - started < 2
        assert len(stage.reached) == 1

    run(test)


def test_a_change_that_nobody_saw_is_found_by_the_slow_look() -> None:
    async def test() -> None:
        stage = Stage(look_s=0.2)
        pull = stage.pull(1)
        await pull.holds_on()
        stage.database.say(with_messages=frozenset({1}))
        assert await pull.ends() == "the route's"

    run(test)


def test_one_question_is_asked_for_all_who_wait() -> None:
    async def test() -> None:
        stage = Stage(look_s=0.5)
        pulls = [stage.pull(node) for node in range(50)]
        await pulls[0].holds_on()
        stage.database.asked.clear()
        await asyncio.sleep(1)
        assert 1 <= len(stage.database.asked) <= 3
        assert all(question.nodes == frozenset(range(50)) for question in stage.database.asked)
        stage.waiting.stop()
        assert {type(await pull.ends()) for pull in pulls} == {PullMessagesResponse}

    run(test)


def test_changes_in_a_burst_are_asked_about_together() -> None:
    async def test() -> None:
        stage = Stage()
        pull = stage.pull(1)
        await pull.holds_on()
        stage.database.asked.clear()
        await asyncio.gather(*(stage.request(RUNTIME + "push-object").ends() for _ in range(100)))
        await pull.holds_on()
        assert 1 <= len(stage.database.asked) < 20
        stage.waiting.stop()
        await pull.ends()

    run(test)


def test_a_newer_pull_takes_the_older_ones_place_which_claims_nothing() -> None:
    async def test() -> None:
        stage = Stage()
        older = stage.pull(1)
        await older.holds_on()
        newer = stage.pull(1)
        assert await older.ends() == PullMessagesResponse()
        await newer.holds_on()
        assert len(stage.waiting) == 1
        assert not stage.reached
        stage.database.say(with_messages=frozenset({1}))
        stage.waiting.changed([Kind.NODE])
        assert await newer.ends() == "the route's"

    run(test)


def test_a_client_that_goes_away_claims_nothing() -> None:
    async def test() -> None:
        stage = Stage()
        pull = stage.pull(1)
        await pull.holds_on()
        pull.gone.set()
        assert await pull.ends() == PullMessagesResponse()
        assert not stage.reached
        assert len(stage.waiting) == 0

    run(test)


def test_a_stop_lets_everybody_go_and_nobody_wait() -> None:
    async def test() -> None:
        stage = Stage()
        pulls = [stage.pull(node) for node in range(20)]
        await pulls[0].holds_on()
        stage.waiting.stop()
        assert [await pull.ends() for pull in pulls] == [PullMessagesResponse()] * 20
        assert not stage.reached
        assert await stage.pull(1).ends() == "the route's"

    run(test)


def test_whoever_comes_when_there_is_no_room_is_not_kept() -> None:
    async def test() -> None:
        stage = Stage(most=2)
        kept = [stage.pull(1), stage.pull(2)]
        await kept[0].holds_on()
        assert await stage.pull(3).ends() == "the route's"
        assert len(stage.waiting) == 2
        stage.waiting.stop()
        assert [await pull.ends() for pull in kept] == [PullMessagesResponse()] * 2

    run(test)


def test_a_large_body_is_not_kept_since_it_no_longer_counts() -> None:
    async def test() -> None:
        stage = Stage()
        pull = stage.pull(1, length=LONGEST[FLEET_PULL] + 1)
        assert await pull.ends() == "the route's"
        assert pull.given_back == 0

    run(test)


def test_a_pull_that_the_gate_would_not_let_in_any_more_ends_with_its_refusal() -> None:
    async def test() -> None:
        stage = Stage(look_s=0.1)
        pull = stage.pull(1)
        await pull.holds_on()
        pull.problem = Refused(HTTPStatus.FORBIDDEN, "The client certificate is revoked.", "revoked")
        with pytest.raises(HTTPException, match=r"403.*revoked"):
            await pull.ends()
        assert not stage.reached
        assert pull.visit.refused is pull.problem

    run(test)


def test_the_gate_decides_again_before_the_route_is_asked() -> None:
    async def test() -> None:
        stage = Stage()
        pull = stage.pull(1)
        await pull.holds_on()
        pull.problem = Refused(HTTPStatus.SERVICE_UNAVAILABLE, "The SuperLink is not ready, try again.")
        stage.database.say(with_messages=frozenset({1}))
        stage.waiting.changed([Kind.NODE])
        with pytest.raises(HTTPException, match="503"):
            await pull.ends()
        assert not stage.reached

    run(test)


def test_a_node_that_was_removed_is_refused_as_flower_does() -> None:
    async def test() -> None:
        stage = Stage()
        pull = stage.pull(1)
        await pull.holds_on()
        stage.database.say(registered=frozenset(), with_messages=frozenset({1}))
        stage.waiting.changed([Kind.NODE])
        with pytest.raises(HTTPException, match="401: Invalid SuperNode authentication"):
            await pull.ends()
        assert not stage.reached

    run(test)


def test_without_a_database_everybody_waits_until_the_limit_and_it_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def test() -> None:
        stage = Stage(limit_s=1.5, look_s=0.1)
        stage.database.away = True
        pull = stage.pull(1)
        await pull.holds_on()
        assert await pull.ends() == "the route's"
        assert len(stage.database.asked) > 3

    run(test)
    assert capsys.readouterr().err.count("holds-blind") == 1


def test_an_error_that_nobody_thought_of_is_told_and_the_next_look_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        stage = Stage(look_s=0.1)
        pull = stage.pull(1)
        await pull.holds_on()
        stage.database.fails = [RuntimeError("can't start new thread")]
        stage.waiting.changed([Kind.NODE])
        await until(lambda: not stage.database.fails)
        stage.database.say(with_messages=frozenset({1}))
        assert await pull.ends() == "the route's"

    run(test)
    said = [line for line in capsys.readouterr().err.splitlines() if "holds-failed" in line]
    assert len(said) == 1
    assert "RuntimeError: can't start new thread" in said[0]


def test_a_decision_that_fails_keeps_nobody_else_from_being_refused_or_woken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def test() -> None:
        stage = Stage(look_s=0.1)
        faulty, refused, woken = stage.pull(1), stage.pull(2), stage.pull(3)
        await woken.holds_on()
        faulty.problem = LookupError("a mistake in the gate")
        refused.problem = Refused(HTTPStatus.FORBIDDEN, "The client certificate is revoked.", "revoked")
        with pytest.raises(HTTPException, match=r"403.*revoked"):
            await refused.ends()
        assert not faulty.task.done()
        stage.database.say(with_messages=frozenset({3}))
        assert await woken.ends() == "the route's"
        stage.waiting.stop()
        assert await faulty.ends() == PullMessagesResponse()

    run(test)
    assert "LookupError: a mistake in the gate" in capsys.readouterr().err


def test_a_database_that_hangs_keeps_nobody_over_the_limit() -> None:
    async def test() -> None:
        stage, release = Stage(limit_s=0.5), threading.Event()
        stage.waiting._look = lambda _: release.wait(5) and Answer()  # type: ignore[assignment,func-returns-value]
        started = time.monotonic()
        assert await stage.pull(1).ends() == "the route's"
        assert time.monotonic() - started < 2
        release.set()

    run(test)


def test_replies_are_waited_for_until_all_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "foreign", lambda _state, token, _messages: token != "token")

    async def test() -> None:
        stage = Stage()
        headers = {TASK_TOKEN_HEADER: "token"}
        pull = stage.request(RUNTIME_PULL, PullAppMessagesRequest(message_ids=["a", "b"]), headers=headers)
        await pull.holds_on()
        stage.database.say(settled=frozenset({"a"}))
        stage.waiting.changed([Kind.TASK])
        await pull.holds_on()
        stage.database.say(settled=frozenset({"a", "b", "c"}))
        stage.waiting.changed([Kind.TASK])
        assert await pull.ends() == "the route's"

    run(test)


@pytest.mark.parametrize(
    ("token", "messages"),
    [("token", []), ("another", ["a"]), ("", ["a"])],
    ids=["nothing asked for", "a token of no task", "no token"],
)
def test_a_pull_of_replies_that_must_not_wait(monkeypatch: pytest.MonkeyPatch, token: str, messages: list[str]) -> None:
    monkeypatch.setattr(holds, "foreign", lambda _state, token, _messages: token != "token")

    async def test() -> None:
        stage = Stage()
        headers = {TASK_TOKEN_HEADER: token}
        pull = stage.request(RUNTIME_PULL, PullAppMessagesRequest(message_ids=messages), headers=headers)
        assert await pull.ends() == "the route's"
        assert not stage.database.asked

    run(test)


def test_a_task_that_has_ended_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "foreign", lambda *_: False)

    async def test() -> None:
        stage = Stage()
        headers = {TASK_TOKEN_HEADER: "token"}
        pull = stage.request(RUNTIME_PULL, PullAppMessagesRequest(message_ids=["a"]), headers=headers)
        await pull.holds_on()
        stage.database.say(valid=frozenset())
        stage.waiting.changed([Kind.TASK])
        assert await pull.ends() == "the route's"  # which refuses it

    run(test)


def _acquire(
    stage: Stage, headers: dict[str, str] | None = None, types: tuple[str, ...] = ("flwr-serverapp",)
) -> Request:
    message = AcquireTaskRequest(supported_task_types=types)
    return stage.request(ACQUIRE, message, headers=headers or _signed(message))


def _signed(message: AcquireTaskRequest, secret: bytes = SECRET) -> dict[str, str]:
    return create_superexec_auth_metadata(
        auth_secret=derive_auth_secret(secret), method=verifying.METHOD, request=message
    )


def test_an_executor_waits_for_a_task_of_its_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "nonce_used", lambda *_: False)

    async def test() -> None:
        stage = Stage()
        executor = _acquire(stage)
        await executor.holds_on()
        stage.database.say(types=frozenset({"flwr-agentapp"}))
        stage.waiting.changed([Kind.EXECUTOR])
        await executor.holds_on()
        stage.database.say(types=frozenset({"flwr-agentapp", "flwr-serverapp"}))
        stage.waiting.changed([Kind.EXECUTOR])
        assert await executor.ends() == "the route's"
        assert not stage.reserved  # Flower's route does that

    run(test)


def test_a_claim_that_has_run_out_lets_the_executor_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "nonce_used", lambda *_: False)

    async def test() -> None:
        stage = Stage()
        executor = _acquire(stage)
        await executor.holds_on()
        stage.database.say(lapsed=True)
        stage.waiting.changed([Kind.EXECUTOR])
        assert await executor.ends() == "the route's"

    run(test)


def test_an_executors_nonce_is_good_for_one_request_even_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "nonce_used", lambda *_: False)

    async def test() -> None:
        stage = Stage()
        headers = _signed(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
        executor = _acquire(stage, headers)
        await executor.holds_on()
        with pytest.raises(FlowerError):
            await _acquire(stage, headers).ends()
        await executor.holds_on()
        assert not stage.reached
        newer = _acquire(stage)
        assert await executor.ends() == AcquireTaskResponse()
        assert stage.reserved == [headers["flwr-superexec-nonce"]]
        stage.waiting.stop()
        await newer.ends()
        assert len(stage.reserved) == 2

    run(test)


def _changed(headers: dict[str, str], **changes: str) -> dict[str, str]:
    return headers | {f"flwr-superexec-{name.replace('_', '-')}": value for name, value in changes.items()}


@pytest.mark.parametrize(
    "change", [{"signature": "0" * 64}, {"ts": "1000000000"}, {"ts": "soon"}, {"nonce": ""}, {"body_sha256": "0" * 64}]
)
def test_a_signature_that_does_not_verify_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    monkeypatch.setattr(verifying, "nonce_used", lambda *_: False)

    async def test() -> None:
        stage = Stage()
        message = AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
        assert await _acquire(stage, _changed(_signed(message), **change)).ends() == "the route's"
        assert await _acquire(stage, _signed(message, b"another")).ends() == "the route's"
        assert not stage.database.asked

    run(test)


def test_a_nonce_that_was_used_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "nonce_used", lambda *_: True)

    async def test() -> None:
        stage = Stage()
        assert await _acquire(stage).ends() == "the route's"

    run(test)


def test_a_timestamp_that_would_be_stale_after_the_wait_is_not_waited_for() -> None:
    edge = int(time.time()) - verifying.MAX_TIMESTAMP_DIFF_SECONDS
    assert verifying._stays_fresh(str(edge + 30), 20)
    assert not verifying._stays_fresh(str(edge + 10), 20)


def test_a_request_that_did_not_pass_the_gate_is_not_kept() -> None:
    async def test() -> None:
        stage, sent = Stage(), []

        async def send(message: Any) -> None:
            sent.append(message)

        scope: dict[str, Any] = {"type": "http", "path": FLEET_PULL, "headers": [], "state": {}, "app": stage.app}
        await asyncio.wait_for(stage.holds(scope, send, send), 5)
        assert sent[0]["status"] == 200

    run(test)


def test_every_path_is_one_that_the_gate_lets_in_or_knows() -> None:
    from flowerbed_superlink.routes import REFUSED

    assert set(EMPTY) == set(LONGEST) <= ALLOWED
    assert set(CHANGES) <= ALLOWED | REFUSED


@given(key=st.integers(), now=st.floats(0, 1e9), limit_s=st.floats(1, 60))
def test_everybody_has_a_turn_of_their_own_within_the_limit(key: int, now: float, limit_s: float) -> None:
    wait = turn(key, limit_s, now)
    assert 0.47 * limit_s < wait < 0.96 * limit_s
    later = turn(key, limit_s, now + wait + 0.001)
    assert later > 0.9 * limit_s


def test_a_pull_that_comes_back_is_asked_about_only_once_something_changed() -> None:
    async def test() -> None:
        stage = Stage(look_s=3)
        older = stage.pull(1)
        await older.holds_on()
        assert len(stage.database.asked) == 1
        async with asyncio.timeout(10):
            while len(stage.database.asked) < 2:  # the slow look, which finds nothing
                await asyncio.sleep(0.01)
        newer = stage.pull(1)
        await newer.holds_on()
        assert len(stage.database.asked) == 2
        await stage.request(RUNTIME + "push-object").ends()
        await newer.holds_on()
        assert len(stage.database.asked) == 3
        again = stage.pull(1)
        await again.holds_on()
        assert len(stage.database.asked) == 4
        stage.waiting.stop()
        await again.ends()

    run(test)
