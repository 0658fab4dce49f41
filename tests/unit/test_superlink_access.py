"""Access control in front of Flower: who is refused, with which status, what is recorded, and what a stranger cannot learn."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx
import pytest
from flwr.proto.control_pb2 import (
    ListRunsRequest,
    RegisterNodeRequest,
    RegisterNodeResponse,
    ShowFederationRequest,
    StartRunRequest,
    StartRunResponse,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_superlink import access, asking
from flowerbed_superlink.access import CHECKS, Access
from flowerbed_superlink.directory import MAX_AGE_S, Directory
from flowerbed_superlink.errors import ProviderError, Refused
from flowerbed_superlink.named import named
from flowerbed_superlink.provider import Provider
from flowerbed_superlink.recording import Recording, Request
from flowerbed_superlink.roles import LOGIN_VERBS, VERBS, Scope, allows_run, table
from flowerbed_superlink.routes import CONTROL_ROUTES, OUR_ROUTES
from flowerbed_superlink.tokens import ROLES, Claims, Tokens
from flowerbed_superlink.trail import UNRECORDED, Trail, TrailUnavailable
from superlink_identity import Issuer, Person, person
from superlink_support import wait_until

NORTH = person("researcher-north", "researcher")
OTHER = person("researcher-rare", "researcher", federations=["rare"])
OPERATOR = person("operator-north", "operator")
AUDITOR = person("auditor-north", "auditor")
CUSTODIAN = person("custodian-north", "custodian")


class TrailMock(Trail):
    """A mock: remembers records, and is away when told so. The real trail has tests of its own."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.away = False

    async def record_async(self, **values: Any) -> None:
        if self.away:
            raise TrailUnavailable("away")
        self.records.append(values)

    def note(self, **values: Any) -> None:
        self.records.append(values)


class Inner:
    """What stands behind: remembers who asked, and answers as it is told."""

    def __init__(self) -> None:
        self.reached: list[tuple[str, str | None]] = []
        self.status, self.response, self.body = 200, object(), b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        claims = asking.claims()
        self.reached.append((scope["path"], claims.name if claims else None))
        self.body = (await receive())["body"] if scope["method"] == "POST" else b""
        scope.setdefault("state", {})["answered"] = self.response
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"inner"})


class World:
    """Access control between an issuer's tokens and an application."""

    def __init__(self) -> None:
        self.issuer, self.trail, self.inner, self.disabled = Issuer(), TrailMock(), Inner(), set[str]()
        self.now, self.away = 0.0, False
        provider = Provider(
            self.issuer.issuer, Path("ca.crt"), lambda: self.now, httpx.Client(transport=httpx.MockTransport(self._ask))
        )
        directory = Directory(self._people, lambda: self.now)
        self.access = Access(self.inner, Tokens(provider), directory, self.trail)
        run = SimpleNamespace(run_id=7, flwr_aid=NORTH.aid, federation_id="@flowerbed/main")
        manager = SimpleNamespace(name_of=lambda federation: federation.removeprefix("@flowerbed/"))
        state = SimpleNamespace(get_run_info=lambda run_ids: [run] if run_ids == [7] else [], manager=manager)
        self.app = SimpleNamespace(state=SimpleNamespace(linkstate_factory=SimpleNamespace(state=lambda: state)))

    def _ask(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("away", request=request)
        status, content = self.issuer.answer(urlsplit(str(request.url)).path, {})
        return httpx.Response(status, json=content)

    def _people(self) -> list[tuple[Any, ...]]:
        accounts = (NORTH, OTHER, OPERATOR, AUDITOR, CUSTODIAN)
        return [(a.aid, a.name, a.name not in self.disabled, a.federations) for a in accounts]

    def call(
        self, verb: str, account: Person | str | None, content: bytes = b"", method: str = "POST"
    ) -> httpx.Response:
        token = self.issuer.token(account) if isinstance(account, Person) else account
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        path = f"/v1/control/{verb}" if method == "POST" else f"/v1/flowerbed/{verb}"

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope["app"] = self.app
            await self.access(scope, receive, send)

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app, client=("192.0.2.9", 1))
            async with httpx.AsyncClient(transport=transport, base_url="https://superlink") as client:
                return await client.request(method, path, headers=headers, content=content)

        return asyncio.run(send())

    def said(self) -> list[tuple[Any, ...]]:
        return [(r["who"], r["verb"], r["object"], r["outcome"], r["run"]) for r in self.trail.records]


@pytest.fixture
def world() -> World:
    return World()


async def _nothing(*_: Any) -> Any:
    """Take what is sent, and send nothing."""


RUN = StopRunRequest(run_id=7).SerializeToString()


@pytest.mark.parametrize("token", [None, "", "garbage", "a.b.c"])
def test_without_a_valid_token_nothing_is_reached_and_the_refusal_is_recorded(world: World, token: str | None) -> None:
    answer = world.call("list-runs", token)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"  # exactly, or `flwr` does not refresh
    assert answer.json()["code"] == 36
    assert "run `flwr login`" in answer.json()["extra"]
    assert world.inner.reached == []
    assert world.said() == [("", "list-runs", "", "refused", None)]
    assert world.trail.records[0]["source"] == "192.0.2.9"
    assert world.trail.records[0]["detail"].startswith("401 ")


def test_a_role_that_does_not_allow_it_is_403_with_a_sentence(world: World) -> None:
    answer = world.call("register-node", NORTH, RegisterNodeRequest(name="north").SerializeToString())
    assert answer.status_code == 403
    assert "www-authenticate" not in answer.headers
    assert answer.json()["detail"] == (
        "`flwr supernode register` needs the role operator, and researcher-north has researcher: ask an operator."
    )
    assert world.inner.reached == []
    assert world.said() == [("researcher-north", "register-node", "supernode north", "refused", None)]


def test_a_refusal_says_of_what_also_to_who_is_disabled_and_for_what_is_no_message(world: World) -> None:
    assert world.call("stop-run", CUSTODIAN, RUN).status_code == 403
    assert world.call("register-node", NORTH, b"\xff").status_code == 403
    world.disabled.add(NORTH.name)
    world.now += 10
    assert world.call("stop-run", NORTH, RUN).status_code == 403
    assert world.said() == [
        (CUSTODIAN.name, "stop-run", "run 7", "refused", 7),
        (NORTH.name, "register-node", "", "refused", None),
        (NORTH.name, "stop-run", "run 7", "refused", 7),
    ]
    assert world.inner.reached == []


def test_a_disabled_account_is_shut_out_within_two_seconds_with_a_valid_token(world: World) -> None:
    assert world.call("list-runs", NORTH).status_code == 200
    world.disabled.add(NORTH.name)
    world.now += 2
    answer = world.call("list-runs", NORTH)
    assert (answer.status_code, answer.json()["detail"]) == (403, "This account is disabled: ask an operator.")
    assert world.said()[-1] == ("researcher-north", "list-runs", "", "refused", None)


def test_a_person_who_is_not_in_the_list_is_nobody(world: World) -> None:
    answer = world.call("list-runs", person("invented", "operator"))
    assert (answer.status_code, "list of people" in answer.text) == (403, True)


def test_machines_may_act_before_they_are_in_the_list(world: World) -> None:
    assert world.call("list-nodes", Person("kit", "flowerbed", ["operator"], client="kit")).status_code == 200
    pipeline = Person("demo", "pipeline-demo", ["researcher"], client="pipeline-demo")
    assert world.call("list-runs", pipeline).status_code == 200
    assert world.call("list-nodes", pipeline).status_code == 403


def test_with_the_identity_provider_never_seen_it_is_503_and_nobodys_fault(world: World) -> None:
    world.away = True
    answer = world.call("list-runs", NORTH)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert "identity provider cannot be reached" in answer.json()["detail"]


def test_a_change_is_recorded_before_and_after_with_what_it_made(world: World) -> None:
    world.inner.response = StartRunResponse(run_id=12, federation="@flowerbed/main")
    content = StartRunRequest(fab=Fab(content=b"bundle")).SerializeToString()
    assert world.call("start-run", NORTH, content).status_code == 200
    assert world.inner.body == content
    assert world.said() == [
        ("researcher-north", "start-run", "", "started", None),
        ("researcher-north", "start-run", "federation @flowerbed/main", "done", 12),
    ]
    assert {r["detail"] for r in world.trail.records} == {f"app {hashlib.sha256(b'bundle').hexdigest()}"}
    assert {(r["aid"], r["organisation"]) for r in world.trail.records} == {(NORTH.aid, "north")}


def test_a_node_that_was_registered_is_named_in_the_record(world: World) -> None:
    world.inner.response = RegisterNodeResponse(node_id=99)
    world.call("register-node", OPERATOR, RegisterNodeRequest(name="north", public_key=b"x").SerializeToString())
    assert [record["detail"] for record in world.trail.records] == ["key unreadable", "key unreadable node 99"]


@pytest.mark.parametrize(("status", "outcome"), [(200, "done"), (412, "refused"), (500, "failed"), (503, "failed")])
@pytest.mark.parametrize("verb", ["stop-run", "list-runs"])
def test_how_flower_ended_it_is_recorded(world: World, verb: str, status: int, outcome: str) -> None:
    world.inner.status = status
    assert world.call(verb, NORTH, RUN).status_code == status
    assert world.trail.records[-1]["outcome"] == outcome
    assert len(world.trail.records) == (2 if verb == "stop-run" else 1)
    assert world.trail.records[-1]["run"] == 7


def test_a_change_is_not_done_unrecorded_and_a_read_is(world: World) -> None:
    world.trail.away = True
    answer = world.call("stop-run", NORTH, RUN)
    assert (answer.status_code, answer.json()["detail"]) == (503, UNRECORDED)
    assert world.inner.reached == []
    assert world.call("list-runs", NORTH).status_code == 200


def test_a_run_that_is_nobodys_business_answers_like_one_that_does_not_exist(world: World) -> None:
    for verb in ("stop-run", "stream-logs", "pull-artifacts", "list-runs"):
        theirs = world.call(verb, OTHER, ListRunsRequest(run_id=7).SerializeToString() if verb == "list-runs" else RUN)
        absent = world.call(verb, OTHER, StopRunRequest(run_id=8).SerializeToString())
        if verb == "list-runs":
            absent = world.call(verb, OTHER, ListRunsRequest(run_id=8).SerializeToString())
        assert theirs.status_code == absent.status_code == 404
        assert (theirs.content, theirs.headers) == (absent.content, absent.headers)
    assert world.inner.reached == []
    assert {(r["outcome"], r["run"]) for r in world.trail.records} == {("refused", 7), ("refused", 8)}


def test_operators_stop_any_run_and_read_no_logs_or_results(world: World) -> None:
    assert world.call("stop-run", OPERATOR, RUN).status_code == 200
    assert world.call("stream-logs", OPERATOR, RUN).status_code == 403
    assert world.call("pull-artifacts", OPERATOR, RUN).status_code == 403


def test_who_asks_is_known_behind_and_forgotten_after(world: World) -> None:
    world.call("list-runs", NORTH)
    world.call("runs", AUDITOR, method="GET")
    assert world.inner.reached == [("/v1/control/list-runs", NORTH.name), ("/v1/flowerbed/runs", AUDITOR.name)]

    async def one_after_the_other() -> None:
        """In one context, as pipelined requests are."""
        asking.ask_as(asking.Asking("192.0.2.9", Claims(NORTH.aid, "n", "", frozenset(), frozenset(), 0.0, "flwr")))
        scope = {"type": "http", "method": "GET", "path": "/health", "headers": [], "client": None}
        await world.access(scope, _nothing, _nothing)

    asyncio.run(one_after_the_other())
    assert world.inner.reached[-1] == ("/health", None)


def test_login_routes_and_other_apis_pass(world: World) -> None:
    for verb in LOGIN_VERBS:
        assert world.call(verb, None).status_code == 200
    assert world.trail.records == []


def test_a_followed_log_ends_for_a_reader_who_is_disabled(world: World) -> None:
    async def follow(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        world.disabled.add(NORTH.name)
        world.now += 2
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"two", "more_body": True})
        assert scope["path"]
        assert receive

    world.access._app = follow
    assert world.call("stream-logs", NORTH, RUN).content == b"one"


def test_a_flood_of_strangers_is_counted_and_not_written() -> None:
    trail = TrailMock()
    recording = Recording(trail, 0.3)
    request = Request("list-runs", "192.0.2.9", {"path": "/v1/control/list-runs"})
    other = Request("list-runs", "192.0.2.10", {"path": "/v1/control/list-runs"})
    for _ in range(60):
        recording.refused(request, Refused(HTTPStatus.UNAUTHORIZED, "Nobody is logged in."))
    recording.refused(other, Refused(HTTPStatus.UNAUTHORIZED, "Nobody is logged in."))
    said = [(record["source"], record["detail"]) for record in trail.records]
    assert said == [(source, "401 Nobody is logged in.") for source in ("192.0.2.9", "192.0.2.10")]
    wait_until(lambda: len(trail.records) > 2, 5, "the count")
    assert trail.records[2]["source"] == "192.0.2.9"
    assert trail.records[2]["detail"] == "401 Nobody is logged in.; 59 times more in 0 s"


def test_what_somebody_who_is_known_repeats_is_recorded_each_time(world: World) -> None:
    for _ in range(3):
        assert world.call("register-node", NORTH, RegisterNodeRequest(name="a").SerializeToString()).status_code == 403
    assert [record["outcome"] for record in world.trail.records] == ["refused"] * 3


def test_strangers_whose_tokens_wait_for_a_provider_that_hangs_stop_nobody_who_is_known(world: World) -> None:
    token = world.issuer.token(NORTH)
    assert world.call("list-runs", token).status_code == 200
    hangs, waiting = threading.Event(), []

    def validate(_: str) -> Claims:
        waiting.append(1)
        hangs.wait(20)
        raise ProviderError("away")

    async def call(bearer: str, verb: str) -> int:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": RUN}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", b"Bearer " + bearer.encode())]
        scope = {"type": "http", "method": "POST", "path": f"/v1/control/{verb}", "headers": headers, "client": None}
        await world.access(scope | {"app": world.app}, receive, send)
        return int(sent[0]["status"])

    async def crowd() -> int:
        strangers = [asyncio.create_task(call(f"garbage-{number}", "list-runs")) for number in range(CHECKS)]
        try:
            while len(waiting) < CHECKS:
                await asyncio.sleep(0.01)
            world.now += MAX_AGE_S  # the list of people is read again, too
            return await asyncio.wait_for(call(token, "stop-run"), 5)
        finally:
            hangs.set()
            await asyncio.gather(*strangers)

    tokens = world.access._tokens
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "validate", validate)
        assert asyncio.run(crowd()) == 200


def test_two_tokens_or_another_scheme_are_refused(world: World) -> None:
    token = world.issuer.token(NORTH)
    for headers in (
        [(b"authorization", b"Basic " + token.encode())],
        [(b"authorization", b"Bearer " + token.encode())] * 2,
    ):
        sent: list[Any] = []

        async def collect(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/control/list-runs", "headers": headers, "client": None}
        asyncio.run(world.access(scope, collect, collect))  # type: ignore[arg-type]  # the body is never read
        assert sent[0]["status"] == 401


@given(st.sampled_from(sorted(VERBS)), st.binary(max_size=200))
def test_bodies_of_every_kind_are_read_or_refused(verb: str, body: bytes) -> None:
    with suppress(Refused):
        found = named(verb, body)
        assert found.run is None or 0 <= found.run < 2**64


def test_a_fault_before_the_decision_is_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_verb: str, _body: bytes) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(access, "named", fail)
    with pytest.raises(ZeroDivisionError):
        world.call("stop-run", OPERATOR, RUN)
    assert world.said() == [("operator-north", "stop-run", "", "failed", None)]


def test_what_is_no_message_of_a_route_is_400(world: World) -> None:
    assert world.call("stop-run", NORTH, b"\xff\xff\xff").status_code == 400
    assert world.inner.reached == []


def test_what_requests_name() -> None:
    assert named("list-runs", b"").run is None
    assert named("unregister-node", UnregisterNodeRequest(node_id=5).SerializeToString()).object == "node 5"
    shown = ShowFederationRequest(federation_name="@flowerbed/main").SerializeToString()
    assert named("show-federation", shown).object == "federation @flowerbed/main"


def test_every_open_route_has_its_verb_and_no_verb_is_without_a_route() -> None:
    names = {path.rsplit("/", 1)[1] for path in CONTROL_ROUTES | OUR_ROUTES}
    assert names == set(VERBS) | LOGIN_VERBS
    assert {role for verb in VERBS.values() for role in verb.scopes} == set(ROLES)


def test_scopes_widen_with_roles_and_never_without_membership() -> None:
    claims = Claims("p-1", "n", "north", frozenset({"main"}), frozenset({"researcher", "operator"}), 0.0, "flwr")
    assert VERBS["stop-run"].scopes_of(claims) == {Scope.OWN, Scope.ALL}
    assert allows_run([Scope.OWN], claims, "p-1", "main")
    assert not allows_run([Scope.OWN], claims, "p-1", "rare")
    assert not allows_run([Scope.OWN], claims, "p-2", "main")
    assert allows_run([Scope.FEDERATIONS], claims, "p-2", "main")
    assert not allows_run([Scope.FEDERATIONS, Scope.SITE], claims, "p-2", "rare")
    assert not allows_run([], claims, "p-1", "main")


def test_the_table_in_the_documentation_is_the_one_in_force() -> None:
    text = (Path(__file__).parents[2] / "docs" / "roles.md").read_text()
    assert table() in text, f"put this into docs/roles.md:\n{table()}"
