"""When the SuperNode's waits end: the main loop's, and SuperExec's held question for a task. Flower's own app, no process."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.auth import create_superexec_auth_metadata, derive_auth_secret
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from flowerbed_supernode import holds, waits
from flowerbed_supernode.holds import Held, HeldAcquires
from flowerbed_supernode.incoming import Incoming
from flowerbed_supernode.settings import SettingsError, load
from flowerbed_supernode.waits import PAUSE, LoopTime

ROOT = Path(__file__).resolve().parents[2]
SECRET = b"s" * 32
WANTED = AcquireTaskRequest(supported_task_types=["flwr-clientapp"])
NEVER = 60.0
"""Seconds of waits that something must end: a test does not last as long."""
METHOD = "/flwr.proto.Runtime/AcquireTask"


class Clock:
    now = 100.0

    def __init__(self) -> None:
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("lasted", "left"), [(0.0, 3.0), (0.4, 2.6), (2.9, 0.1), (3.0, None), (20.0, None)])
def test_the_pause_after_an_empty_pull_counts_from_its_start(lasted: float, left: float | None) -> None:
    clock = Clock()
    loop_time = LoopTime(clock.slept.append, clock)
    loop_time.pulling()
    clock.now += lasted
    loop_time.sleep(PAUSE)
    assert clock.slept == ([] if left is None else [pytest.approx(left)])


def test_the_wait_for_a_reply_ends_with_the_reply() -> None:
    loop_time = LoopTime()
    begun = time.monotonic()
    threading.Timer(0.05, loop_time.replied).start()
    loop_time.sleep(NEVER)
    assert 0.04 < time.monotonic() - begun < NEVER / 2


def test_a_reply_that_came_before_the_wait_ends_it_and_only_it() -> None:
    loop_time = LoopTime()
    loop_time.replied()
    begun = time.monotonic()
    loop_time.sleep(NEVER)
    assert time.monotonic() - begun < NEVER / 2
    begun = time.monotonic()
    loop_time.sleep(0.5)
    assert time.monotonic() - begun >= 0.5


def test_the_installed_flower_waits_where_this_package_thinks(caplog: pytest.LogCaptureFixture) -> None:
    assert waits.fits()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("flowerbed_supernode.waits._LITERAL_WAITS", [("start_client_internal", "sleep", 5)]),
        ("flwr.supernode.nodestate.in_memory_nodestate.InMemoryNodeState.claim_task", lambda _self, _task: None),
        ("inspect.getsource", lambda _module: "import time\ndef start_client_internal():\n    wait = time.sleep\n"),
    ],
)
def test_other_waits_are_told_of_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, other: Any
) -> None:
    monkeypatch.setattr(name, other)
    with caplog.at_level(logging.WARNING, "flowerbed"):
        assert not waits.fits()
    assert len(caplog.records) == 1
    assert "waits as stock Flower does" in caplog.text


INSTALLED = """
import time
from pathlib import Path
from flowerbed_supernode import __main__, waits
from flowerbed_supernode.settings import Settings
__main__.show_log()
{change}
__main__.install(Settings("127.0.0.1", held_pulls={held}, alive=Path("unused")))
from flwr.supernode import start_client_internal as loop
from flwr.supernode.main import create_app
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState
from flwr.supernode import main
names = [one.cls.__name__ for one in main.create_app().user_middleware]
print(loop.time is time, hasattr(InMemoryNodeState.claim_task, "__wrapped__"), "HeldAcquires" in names)
"""


@pytest.mark.parametrize(
    ("held", "change", "stock", "lines"),
    [(True, "", False, 0), (False, "", True, 0), (True, "waits._LITERAL_WAITS = []", True, 1)],
)
def test_it_falls_back_to_stock_flower_where_it_must_or_is_told_to(
    tmp_path: Path, held: bool, change: str, stock: bool, lines: int
) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "supernode"), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", INSTALLED.format(held=held, change=change)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(stock), str(not stock), str(not stock)]
    assert done.stderr.count("\n") == lines, done.stderr


@pytest.mark.parametrize(("raw", "held"), [("1", True), ("0", False), ("", False)])
def test_the_switch_is_one_or_nought(raw: str, held: bool) -> None:
    assert load({"FLOWERBED_RUNTIME_HOST": "10.0.0.1", "FLOWERBED_HELD_PULLS": raw}).held_pulls is held


def test_another_value_of_the_switch_is_refused() -> None:
    with pytest.raises(SettingsError, match="FLOWERBED_HELD_PULLS is 'yes'"):
        load({"FLOWERBED_RUNTIME_HOST": "10.0.0.1", "FLOWERBED_HELD_PULLS": "yes"})


class Api:
    """Flower's Runtime API behind the middleware, asked through ASGI; `inner` counts what reached Flower's app."""

    def __init__(self) -> None:
        factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
        state = factory.state()
        assert isinstance(state, InMemoryNodeState)
        self.state, self.incoming, self.held = state, Incoming(), Held()
        self.incoming.install()
        self.looks, ready = 0, self.incoming.ready

        def count(wanted: AcquireTaskRequest) -> bool:
            self.looks += 1
            return ready(wanted)

        self.incoming.ready = count  # type: ignore[method-assign]  # on this one alone
        self.inner: list[str] = []
        self.app = create_app(factory, SECRET)
        self.app.add_middleware(self._counting)
        self.app.add_middleware(HeldAcquires, incoming=self.incoming, held=self.held)

    def _counting(self, app: Any) -> Any:
        async def count(scope: Any, receive: Any, send: Any) -> None:
            self.inner.append(scope["path"])
            await app(scope, receive, send)

        return count

    async def look(self, times: int = 3) -> None:
        """Wait until those held have looked so many times more."""
        before = self.looks
        await until(lambda: self.looks >= before + times)

    async def hold(self, count: int = 1) -> None:
        """Wait until so many questions are held."""
        await until(lambda: len(self.held._holds) == count)

    def create(self) -> int:
        task_id = self.state.create_task(task_type="flwr-clientapp", run_id=1, fab_hash="f")
        assert task_id is not None
        return task_id

    async def ask(
        self, request: AcquireTaskRequest = WANTED, *, address: str = "10.0.0.2", **headers: str
    ) -> tuple[int, AcquireTaskResponse]:
        return await self.asked(asyncio.Event(), request, address=address, **headers)

    async def asked(
        self, gone: asyncio.Event, request: AcquireTaskRequest = WANTED, *, address: str = "10.0.0.2", **headers: str
    ) -> tuple[int, AcquireTaskResponse]:
        """Ask for a task; the client hangs up when ``gone`` is set. Status 0 means that it got no answer."""
        signed = create_superexec_auth_metadata(auth_secret=derive_auth_secret(SECRET), method=METHOD, request=request)
        fields = (
            {"content-type": "application/protobuf"}
            | signed
            | {key.replace("_", "-"): value for key, value in headers.items()}
        )
        body = [{"type": "http.request", "body": request.SerializeToString(deterministic=True), "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            if body:
                return body.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "scheme": "https", "path": holds.PATH,
            "raw_path": holds.PATH.encode(), "query_string": b"", "root_path": "", "server": ("10.0.0.1", 9094),
            "client": (address, 4000), "headers": [(key.encode(), value.encode()) for key, value in fields.items()],
        }  # fmt: skip
        await self.app(scope, receive, send)
        if not sent:
            return 0, AcquireTaskResponse()
        content = b"".join(message.get("body", b"") for message in sent[1:])
        status: int = sent[0]["status"]
        return status, AcquireTaskResponse.FromString(content) if status == 200 else AcquireTaskResponse()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    """Holds that neither look by themselves nor end within a test."""
    monkeypatch.setattr(holds, "HOLD_SECONDS", NEVER)
    monkeypatch.setattr(holds, "LOOK_SECONDS", NEVER)
    for name in ("create_task", "claim_task"):
        # Put back at the end what `Incoming.install` wraps.
        monkeypatch.setattr(InMemoryNodeState, name, getattr(InMemoryNodeState, name))
    return Api()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), NEVER / 2)

    asyncio.run(bounded())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_task_that_is_there_is_given_at_once(api: Api) -> None:
    async def test() -> None:
        task_id = api.create()
        status, answer = await api.ask()
        assert (status, answer.task.task_id) == (200, task_id)

    run(test)
    assert api.inner == [holds.PATH]


def test_a_task_cannot_be_claimed_until_its_pull_has_ended(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    async def test() -> None:
        monkeypatch.setattr(holds, "LOOK_SECONDS", 0.02)
        held = asyncio.create_task(api.ask())
        await api.hold()
        with api.incoming.pull():
            task_id = api.create()
            await api.look()
            monkeypatch.setattr(holds, "LOOK_SECONDS", NEVER)
            await asyncio.sleep(0.1)
            assert not held.done()
            assert api.state.claim_task(task_id) is None
        assert (await held)[1].task.task_id == task_id

    run(test)
    assert api.inner == [holds.PATH]


def test_a_pull_that_fails_leaves_no_task_locked(api: Api) -> None:
    def pull() -> None:
        with api.incoming.pull():
            made.append(api.create())
            raise RuntimeError

    made: list[int] = []
    with pytest.raises(RuntimeError):
        pull()
    assert api.state.claim_task(made[0])


def test_the_pull_ends_in_another_thread(api: Api) -> None:
    def pull() -> None:
        with api.incoming.pull():
            api.create()
            time.sleep(0.3)

    async def test() -> None:
        held = asyncio.create_task(api.ask())
        await asyncio.to_thread(pull)
        assert (await held)[1].token

    run(test)


def test_a_task_whose_token_has_expired_is_seen(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    monkeypatch.setattr(holds, "LOOK_SECONDS", 0.02)

    async def test() -> None:
        task_id = api.create()
        token = (await api.ask())[1].token
        assert token
        held = asyncio.create_task(api.ask())
        await api.look()
        assert not held.done()
        # What Flower does to a task that was acquired and not started for 30 s.
        api.state.task_token_store[task_id].active_until = api.state.task_token_store[task_id].active_until.min.replace(
            tzinfo=api.state.task_token_store[task_id].active_until.tzinfo
        )
        assert api.state.get_task_by_token(token) is None
        assert (await held)[1].task.task_id == task_id

    run(test)


def test_a_task_of_another_kind_does_not_end_the_hold(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    monkeypatch.setattr(holds, "LOOK_SECONDS", 0.02)

    async def test() -> None:
        held = asyncio.create_task(api.ask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"])))
        api.create()
        await api.look()
        assert not held.done()
        held.cancel()

    run(test)


def test_a_hold_ends_at_its_time_with_one_question_to_flower(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    monkeypatch.setattr(holds, "HOLD_SECONDS", 0.3)

    async def test() -> None:
        begun = time.monotonic()
        status, answer = await api.ask()
        assert (status, answer.token) == (200, "")
        assert time.monotonic() - begun >= 0.3

    run(test)
    assert api.inner == [holds.PATH]


def test_a_newer_question_of_the_same_address_releases_the_older_and_another_address_does_not(api: Api) -> None:
    async def test() -> None:
        older = asyncio.create_task(api.ask())
        other = asyncio.create_task(api.ask(address="10.0.0.3"))
        await api.hold(2)
        newer = asyncio.create_task(api.ask())
        status, answer = await older
        assert (status, answer.token) == (200, "")
        assert not other.done()
        assert api.inner == []
        api.create()
        api.create()
        api.incoming.tell()
        assert (await newer)[1].token
        assert (await other)[1].token

    run(test)
    assert len(api.inner) == 2


def test_who_hangs_up_claims_nothing(api: Api) -> None:
    async def test() -> None:
        gone = asyncio.Event()
        held = asyncio.create_task(api.asked(gone))
        await api.hold()
        gone.set()
        assert (await held)[0] == 0
        api.create()
        assert (await api.ask())[1].token

    run(test)
    assert len(api.inner) == 1


def test_who_hangs_up_at_the_moment_of_the_task_claims_nothing(api: Api) -> None:
    async def test() -> None:
        gone = asyncio.Event()
        held = asyncio.create_task(api.asked(gone))
        await api.hold()
        api.create()
        gone.set()
        api.incoming.tell()
        assert (await held)[0] == 0

    run(test)
    assert api.inner == []


def test_a_stop_releases_every_hold_and_lets_none_begin(api: Api) -> None:
    async def test() -> None:
        held = [asyncio.create_task(api.ask(address=address)) for address in ("10.0.0.2", "10.0.0.3")]
        await api.hold(2)
        await asyncio.to_thread(api.held.stop)
        assert [(await one)[1].token for one in held] == ["", ""]
        api.create()
        assert (await api.ask())[1].token == ""

    run(test)
    assert api.inner == []


def test_a_stop_while_a_hold_begins_releases_it_too() -> None:
    class StopsBetween(dict[str, Any]):
        """The holds, with the other thread's stop exactly before the new one is among them."""

        def __setitem__(self, address: str, hold: Any) -> None:
            thread = threading.Thread(target=held.stop)
            thread.start()
            thread.join()
            super().__setitem__(address, hold)

    held = Held()
    held._holds = StopsBetween()

    async def test() -> None:
        hold = holds._Hold()
        with held.by("10.0.0.2", hold):
            assert hold.ended is not None

    run(test)


@pytest.mark.parametrize(
    "forged",
    [
        {"flwr_superexec_signature": "0" * 64},
        {"flwr_superexec_ts": "1"},
        {"flwr_superexec_body_sha256": "0" * 64},
        {"flwr_superexec_nonce": ""},
    ],
)
def test_who_does_not_verify_is_refused_by_flower_at_once(api: Api, forged: dict[str, str]) -> None:
    names = create_superexec_auth_metadata(auth_secret=b"", method=METHOD, request=WANTED)
    assert {key.replace("_", "-") for key in forged} <= set(names)

    async def test() -> None:
        assert (await api.ask(**forged))[0] == 401

    run(test)
    assert api.inner == [holds.PATH]


def test_who_asks_for_nothing_is_answered_at_once(api: Api) -> None:
    async def test() -> None:
        assert (await api.ask(AcquireTaskRequest()))[0] == 200

    run(test)


def test_a_nonce_counts_once_while_it_is_held_and_after_it_was_released(api: Api) -> None:
    nonce = create_superexec_auth_metadata(auth_secret=derive_auth_secret(SECRET), method=METHOD, request=WANTED)
    same = {key.replace("-", "_"): value for key, value in nonce.items()}

    async def test() -> None:
        held = asyncio.create_task(api.ask(**same))
        await api.hold()
        assert (await api.ask(**same))[0] == 401
        assert not held.done()
        newer = asyncio.create_task(api.ask())
        # Released empty, without a question to Flower.
        assert (await held)[0] == 200
        assert api.inner == []
        assert (await api.ask(**same))[0] == 401
        api.create()
        api.incoming.tell()
        assert (await newer)[1].token

    run(test)


def test_a_held_question_costs_no_thread(api: Api) -> None:
    async def test() -> None:
        before = threading.active_count()
        held = [asyncio.create_task(api.ask(address=f"10.0.1.{number}")) for number in range(50)]
        await api.hold(50)
        assert threading.active_count() == before
        assert not any(one.done() for one in held)
        api.held.stop()
        await asyncio.gather(*held)

    run(test)
