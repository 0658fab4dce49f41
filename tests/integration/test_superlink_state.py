"""Flower's state on a real PostgreSQL: callers at once, NUL bytes, time zone, and a database that goes away.

Upstream's own state tests are not in the wheel; these are the ones that our overrides exist for.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from threading import Barrier
from types import SimpleNamespace
from typing import TypeVar

import pytest
from flwr.app import RecordDict
from flwr.app.message import Message, make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID, Status, SubStatus
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.date import now
from flwr.supercore.error import EntitlementError
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.sql_mixin import SqlMixin
from flwr.supercore.utils import uint64_to_int64
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from starlette.requests import Request
from starlette.responses import Response

from delivery_support import point_settings_at
from flowerbed_superlink.asking import Asking, ask_as
from flowerbed_superlink.directory import directory, disabled
from flowerbed_superlink.federations import FlowerbedFederationManager
from flowerbed_superlink.hooks import get_ee_federation_manager, get_ee_linkstate_factory, get_ee_objectstore_factory
from flowerbed_superlink.kit import close_all, ensure_schema, open_kit
from flowerbed_superlink.settings import settings
from flowerbed_superlink.sight import ran, runs
from flowerbed_superlink.state import EXPIRY_INTERVAL_S, POOL_SIZE, PostgresLinkState, PostgresObjectStore
from flowerbed_superlink.submissions import check_submission
from flowerbed_superlink.tokens import Claims
from superlink_postgres import Postgres
from superlink_support import Authority, TestSite, federation, new_key, new_site, public_pem, write_material

# Flower's migrations do not say how their paths are separated.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")

T = TypeVar("T")
OPENED: list[PostgresLinkState] = []
SITES: list[TestSite] = []
MAIN, RARE, AID = "@testers/main", "@testers/rare", "p-" + "0" * 20
NUL = "before\x00after"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    authority = Authority()
    server = Postgres(authority)
    try:
        server.start()
        server.create_database()
        server.create_kit()
        sites = [new_site(authority, f"site{number}", "A") for number in range(24)]
        SITES.extend(sites)
        secrets, config = write_material(tmp_path_factory.mktemp("state"), authority, sites)
        topology = federation(sites) | {"federations": {"main": [s.name for s in sites[:20]], "rare": ["site20"]}}
        (config / "federation.json").write_text(json.dumps(topology))
        with pytest.MonkeyPatch.context() as patch:
            point_settings_at(patch, server, secrets, config)
            with open_kit() as connection:
                ensure_schema(connection)
            yield server
    finally:
        while OPENED:
            _close(OPENED.pop())
        close_all()
        server.remove()
        for cached in (settings, ran, directory, disabled):
            cached.cache_clear()


def _close(state: PostgresLinkState) -> None:
    """Close a LinkState's connections, which Flower leaves to the end of the process."""
    for one in (state, state.object_store):
        assert isinstance(one, SqlMixin)
        assert one._engine is not None
        one._engine.dispose()


def _new_state() -> PostgresLinkState:
    url = settings().database
    manager, store = get_ee_federation_manager(), get_ee_objectstore_factory(url)
    state = get_ee_linkstate_factory(url, manager, store).state()
    manager.linkstate = state
    assert isinstance(state, PostgresLinkState)
    assert isinstance(state.object_store, PostgresObjectStore)
    OPENED.append(state)
    return state


@pytest.fixture(scope="module")
def state(postgres: Postgres) -> PostgresLinkState:
    assert postgres.url
    return _new_state()


@pytest.fixture(scope="module")
def second(state: PostgresLinkState) -> PostgresLinkState:
    """A second LinkState on the same database, as another process would have."""
    assert state.database_url
    return _new_state()


def _at_once(calls: list[Callable[[], T]]) -> list[T]:
    """Run all calls at the same moment, each in a thread of its own."""
    barrier = Barrier(len(calls))

    def start(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(start, calls))


def _run(state: PostgresLinkState) -> tuple[int, int]:
    """Create a run; return it and its first task."""
    run_id = state.create_run("a/b", "1.0.0", None, {}, MAIN, None, AID, TaskType.SERVER_APP)
    task_id = state.get_run_info(run_ids=[run_id])[0].primary_task_id
    assert task_id is not None
    return run_id, task_id


def _running(state: PostgresLinkState) -> tuple[int, int]:
    run_id, task_id = _run(state)
    assert state.claim_task(task_id)
    assert state.activate_task(task_id)
    return run_id, task_id


def _node(state: PostgresLinkState, name: str = "a", site: TestSite | None = None) -> int:
    """Register the SuperNode of a site, the next of those in main unless one is given."""
    key = (site or SITES.pop(0)).key
    node_id = state.create_node(AID, "somebody", public_pem(key), 30, name=name)
    assert state.activate_node(node_id, 30)
    return node_id


def _message(run_id: int, node_id: int) -> Message:
    metadata = Metadata(
        run_id=run_id,
        message_id=os.urandom(32).hex(),
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=node_id,
        reply_to_message_id="",
        group_id="",
        created_at=now().timestamp(),
        ttl=3600,
        message_type="train",
    )
    return make_message(content=RecordDict(), metadata=metadata)


def test_a_task_is_claimed_by_one_of_many(state: PostgresLinkState, second: PostgresLinkState) -> None:
    for _ in range(5):
        _, task_id = _run(state)
        tokens = _at_once([partial(one.claim_task, task_id) for one in [state, second] * 4])
        assert len([token for token in tokens if token]) == 1


def test_many_pulls_get_every_message_until_it_is_confirmed(
    state: PostgresLinkState, second: PostgresLinkState
) -> None:
    run_id, _ = _running(state)
    node_id = _node(state)
    sent = {_stored(state, run_id, _identified(_message(run_id, node_id))) for _ in range(24)}

    def pull(one: PostgresLinkState) -> list[str]:
        got: list[str] = []
        while messages := one.get_message_ins(node_id, limit=1):
            got += [message.metadata.message_id for message in messages]
            one.object_store.delete(got[-1])
        return got

    pulled = _at_once([partial(pull, one) for one in [state, second] * 4])
    assert {message_id for got in pulled for message_id in got} == sent


def test_as_many_pulls_as_messages_leave_nobody_empty(state: PostgresLinkState, second: PostgresLinkState) -> None:
    """What FOR UPDATE SKIP LOCKED is for: without it, callers meet on one row and all but one go away with nothing."""
    run_id, _ = _running(state)
    for _ in range(5):
        node_id = _node(state)
        for _ in range(8):
            assert _stored(state, run_id, _identified(_message(run_id, node_id)))
        pulls = [partial(one.get_message_ins, node_id, limit=1) for one in [state, second] * 4]
        assert [len(got) for got in _at_once(pulls)] == [1] * 8


def test_a_nonce_is_spent_once(state: PostgresLinkState, second: PostgresLinkState) -> None:
    expires = now().timestamp() + 60
    spent = _at_once([partial(one.reserve_nonce, "test", "one", expires) for one in [state, second] * 4])
    assert spent.count(True) == 1


def test_one_key_registers_once(state: PostgresLinkState, second: PostgresLinkState) -> None:
    key = public_pem(new_key())

    def register(one: PostgresLinkState) -> int:
        try:
            return one.create_node(AID, "somebody", key, 30)
        except ValueError:
            return 0

    nodes = _at_once([partial(register, one) for one in [state, second] * 4])
    assert len([node for node in nodes if node]) == 1


def test_nul_bytes_are_taken_out_of_logs_details_and_names(state: PostgresLinkState) -> None:
    run_id, task_id = _running(state)
    state.add_task_log(task_id, NUL)
    state.add_task_log(task_id, "\x00")
    assert state.get_task_log(task_id, None)[0] == "beforeafter"
    assert state.finish_task(task_id, SubStatus.FAILED, NUL)
    assert state.get_run_info(run_ids=[run_id])[0].status.details == "beforeafter"
    node_id = _node(state, NUL)
    assert [node.name for node in state.get_node_info(node_ids=[node_id])] == ["beforeafter"]


def test_a_log_can_colour_a_terminal_and_do_nothing_else_to_it(state: PostgresLinkState) -> None:
    _, task_id = _running(state)
    kept = "\x1b[92mINFO\x1b[0m: \t50 %\r100 %\né"
    state.add_task_log(task_id, kept)
    assert state.get_task_log(task_id, None)[0] == kept
    _, other = _running(state)
    state.add_task_log(other, "\x1b[2J\x1b]0;title\x07\x9b31m\x08.")
    assert state.get_task_log(other, None)[0] == "\ufffd[2J\ufffd]0;title\ufffd\ufffd31m\ufffd."


def test_bytes_keep_their_nuls(state: PostgresLinkState) -> None:
    run_id, _ = _running(state)
    fab = b"\x00\x01\x00"
    fab_hash = state.store_fab(Fab("", fab, {}))
    stored = state.get_fab(fab_hash)
    assert stored is not None
    assert stored.content == fab
    assert run_id


def test_only_serverapps_become_runs(state: PostgresLinkState) -> None:
    for task_type in (TaskType.AGENT_APP, TaskType.SIMULATION, TaskType.MODEL, TaskType.CONNECTOR, TaskType.CLIENT_APP):
        with pytest.raises(ValueError, match="this federation runs ServerApps only"):
            state.create_run("a/b", "1.0.0", None, {}, MAIN, None, AID, task_type)


def test_a_run_of_an_account_that_is_disabled_is_stopped_as_it_is_made(state: PostgresLinkState) -> None:
    aid = "p-" + "d" * 20
    with open_kit() as connection:
        connection.execute(
            "INSERT INTO people (aid, name, kind, roles, federations, enabled) VALUES (%s, 'gone', 'person', '{}', '{}', true)",
            [aid],
        )
        values = ("a/b", "1.0.0", None, {}, MAIN, None)
        first = state.create_run(*values, aid, TaskType.SERVER_APP)
        connection.execute("UPDATE people SET enabled = false WHERE aid = %s", [aid])
    for call in (
        lambda: state.create_run(*values, aid, TaskType.SERVER_APP),
        lambda: state.create_run(*values, flwr_aid=aid, primary_task_type=TaskType.SERVER_APP),
    ):
        with pytest.raises(EntitlementError):
            call()
    statuses = {run.run_id: run.status.sub_status for run in state.get_run_info(flwr_aids=[aid])}
    assert statuses.pop(first) == ""
    assert list(statuses.values()) == [SubStatus.STOPPED] * 2


def test_every_run_has_a_series_of_its_own(state: PostgresLinkState) -> None:
    first, second = (state.get_run_info(run_ids=[_run(state)[0]])[0] for _ in range(2))
    assert first.series_id
    assert first.series_id != second.series_id
    values = ("a/b", "1.0.0", None, {}, MAIN, None, AID, TaskType.SERVER_APP)
    with pytest.raises(ValueError, match="cannot join another run's series"):
        state.create_run(*values, first.series_id)
    with pytest.raises(ValueError, match="cannot join another run's series"):
        state.create_run(*values, series_id=first.series_id)


def _stored(state: PostgresLinkState, run_id: int, message: Message) -> str:
    """Send a message as a ServerApp does, with its objects; return its id."""
    session = state.start_session(run_id)
    stored, missing = state.store_message_and_object_tree(message, get_object_tree(message), session)
    assert stored
    objects = get_all_nested_objects(message)
    assert all(state.store_object(run_id, session, each, objects[each].deflate()) for each in missing)
    return message.metadata.message_id


def _identified(message: Message) -> Message:
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def test_an_object_is_its_own_runs_only(state: PostgresLinkState) -> None:
    node_id = _node(state)
    (first, _), (second, _) = _running(state), _running(state)
    messages = [_identified(_message(run_id, node_id)) for run_id in (first, second)]
    mine, others = (_stored(state, run, each) for run, each in zip((first, second), messages, strict=True))
    assert state.get_object(first, mine)
    assert state.get_object(first, others) is None
    assert state.get_object(second, mine) is None
    assert state.get_object(first, "0" * 64) is None
    shared = [each for each in get_all_nested_objects(messages[0]) if each in get_all_nested_objects(messages[1])]
    assert shared
    assert all(state.get_object(run, each) for run in (first, second) for each in shared)


def _confirm(state: PostgresLinkState, path: str, run_id: int, object_id: str, token: str = "", node: int = 0) -> None:
    """Send a confirmation through the check of submissions to Flower's handler."""
    message = ConfirmMessageReceivedRequest(run_id=run_id, message_object_id=object_id, node=Node(node_id=node))
    factory = SimpleNamespace(linkstate_factory=SimpleNamespace(state=lambda: state))
    scope = {"type": "http", "path": path, "headers": [(b"flwr-task-token", token.encode())]}
    scope |= {"state": {"protobuf_request": message}, "app": SimpleNamespace(state=factory)}

    async def handle(_: Request) -> Response:
        if "/fleet/" in path:
            fleet_handlers.confirm_message_received(message, state, state.object_store)
        else:
            runtime_handlers.confirm_message_received(message, state, Task())
        return Response()

    assert asyncio.run(check_submission(Request(scope), handle)).status_code == 200


def test_a_message_is_confirmed_by_its_own_node_or_run_only(state: PostgresLinkState) -> None:
    node_id, other = _node(state), _node(state)
    (mine, _), (others, _) = _running(state), _running(state)
    third, task_id = _run(state)
    token = state.claim_task(task_id)
    assert token
    assert state.activate_task(task_id)
    message_id = _stored(state, mine, _identified(_message(mine, node_id)))
    _confirm(state, "/v1/fleet/confirm-message-received", others, message_id, node=node_id)
    _confirm(state, "/v1/fleet/confirm-message-received", mine, message_id, node=other)
    _confirm(state, "/v1/runtime/confirm-message-received", mine, message_id, token)
    assert state.get_object(mine, message_id)
    _confirm(state, "/v1/fleet/confirm-message-received", mine, message_id, node=node_id)
    assert state.get_object(mine, message_id) is None
    own = _stored(state, third, _identified(_message(third, node_id)))
    _confirm(state, "/v1/runtime/confirm-message-received", 0, own, token)
    assert state.get_object(third, own) is None


def _asks(role: str, organisation: str = "site19", federations: tuple[str, ...] = ("main",), aid: str = AID) -> Claims:
    claims = Claims(aid, role, organisation, frozenset(federations), frozenset({role}), 0.0, "flwr")
    ask_as(Asking("192.0.2.1", claims))
    return claims


def _manager(state: PostgresLinkState) -> FlowerbedFederationManager:
    return state.manager


def test_a_run_reaches_its_federations_nodes_only(state: PostgresLinkState) -> None:
    rare = next(site for site in SITES if site.name == "site20")
    strange = next(site for site in SITES if site.name == "site21")
    mine, theirs, nobodys = _node(state), _node(state, site=rare), _node(state, site=strange)
    unknown = state.create_node(AID, "somebody", public_pem(new_key()), 30)
    run_id, _ = _running(state)
    assert {mine, theirs, nobodys} & state.get_nodes(run_id) == {mine}
    assert state.store_message_ins(_message(run_id, mine))
    for node in (theirs, nobodys, unknown):
        assert state.store_message_ins(_message(run_id, node)) is None
    manager = _manager(state)
    assert manager.filter_nodes({SUPERLINK_NODE_ID, mine, theirs, unknown}, RARE) == {SUPERLINK_NODE_ID, theirs}
    assert manager.filter_nodes({SUPERLINK_NODE_ID, mine}, "@testers/gone") == {SUPERLINK_NODE_ID}
    assert manager.has_node(mine, MAIN)
    assert not manager.has_node(mine, RARE)
    assert not manager.has_node(mine, "@others/main")


def test_a_custodian_sees_what_their_node_was_given_work_of_after_the_messages_are_gone(
    state: PostgresLinkState,
) -> None:
    node_id = _node(state)
    site = _manager(state).site_of(node_id)
    assert site is not None
    (given, _), (other, _) = _running(state), _running(state)
    for run_id in (given, other):
        assert _stored(state, run_id, _identified(_message(run_id, node_id)))
    assert state.get_message_ins(node_id, limit=1, run_id=given)
    assert state.stop_run(given)
    custodian = _asks("custodian", site)
    assert [run.run_id for run in runs(_manager(state), custodian)] == [given]
    assert ran().sites([given, other]) == {given: [site], other: []}
    assert runs(_manager(state), _asks("custodian", "")) == []


def test_views_follow_the_account(state: PostgresLinkState) -> None:
    mine, _ = _run(state)
    theirs = state.create_run("a/b", "1.0.0", None, {}, RARE, None, "p-" + "1" * 20, TaskType.SERVER_APP)

    def seen(claims: Claims) -> set[int]:
        return {run.run_id for run in runs(_manager(state), claims)} & {mine, theirs}

    assert seen(_asks("researcher")) == {mine}
    assert seen(_asks("researcher", federations=("rare",))) == {theirs}
    assert seen(_asks("researcher", federations=())) == set()
    assert seen(_asks("operator", federations=())) == seen(_asks("auditor")) == {mine, theirs}
    assert seen(_asks("custodian")) == set()


def test_every_operator_lists_and_removes_every_node_and_a_custodian_lists_their_own(state: PostgresLinkState) -> None:
    node_id = _node(state)
    site = _manager(state).site_of(node_id) or ""

    def listed(claims: Claims) -> bool:
        found = state.get_node_info(owner_aids=[claims.aid])
        assert {node.owner_aid for node in found} <= {"flowerbed"}
        return node_id in {node.node_id for node in found}

    assert listed(_asks("operator", aid="p-" + "2" * 20))
    assert listed(_asks("auditor"))
    assert listed(_asks("custodian", site))
    assert not listed(_asks("custodian", "site22"))
    assert not listed(_asks("researcher"))
    assert state.get_node_info(owner_aids=["p-" + "3" * 20]) == []
    state.delete_node("p-" + "2" * 20, node_id)
    with pytest.raises(ValueError, match="already deleted"):
        state.delete_node(AID, node_id)


def test_who_is_in_a_federation_follows_the_token_that_asks(state: PostgresLinkState) -> None:
    manager = _manager(state)
    _asks("researcher")
    assert [manager.has_member(AID, each) for each in (MAIN, RARE, "@testers/gone", "main", "")] == [True] + [False] * 4
    assert not manager.has_member("p-" + "9" * 20, MAIN)
    assert [found.id for found in manager.get_federations(AID)] == [MAIN]
    _asks("operator", federations=())
    assert [found.id for found in manager.get_federations(AID)] == [MAIN, RARE]
    assert manager.get_federations("p-" + "9" * 20) == []


def test_what_was_there_before_logins_is_adopted_once(
    state: PostgresLinkState, capfd: pytest.CaptureFixture[str]
) -> None:
    old = state.create_run("a/b", "1.0.0", None, {}, NOOP_FEDERATION_ID, None, "<id:none>", TaskType.SERVER_APP)
    node_id = _node(state)
    state.query("UPDATE node SET owner_aid = '<id:none>', owner_name = 'none'")
    for _ in range(2):
        state.adopt()
    run = state.get_run_info(run_ids=[old])[0]
    assert (run.flwr_aid, run.federation_id) == ("flowerbed", MAIN)
    assert [node.owner_aid for node in state.get_node_info(node_ids=[node_id])] == ["flowerbed"]
    assert capfd.readouterr().err.count('"adopted"') == 1


def test_the_session_is_utc_encrypted_and_shared(state: PostgresLinkState) -> None:
    assert state.query("SHOW timezone") == [{"TimeZone": "UTC"}]
    row = state.query("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")[0]
    assert row["ssl"] is True
    assert row["version"] in ("TLSv1.2", "TLSv1.3")
    store = state.object_store
    assert isinstance(store, PostgresObjectStore)
    with state.session(), store.session() as inner, state.session() as outer:
        assert inner is outer


def test_a_restarted_database_costs_no_request_after_it_is_back(state: PostgresLinkState, postgres: Postgres) -> None:
    state.query("SELECT 1")
    postgres.stop()
    try:
        with pytest.raises(OperationalError):
            state.query("SELECT 1")
    finally:
        postgres.start()
    assert state.query("SELECT 1 AS one") == [{"one": 1}]
    assert len(state.get_node_info()) >= 1


def test_connections_are_kept_until_the_server_ends_one(state: PostgresLinkState) -> None:
    def used() -> set[int]:
        return {state.query("SELECT pg_backend_pid() AS pid")[0]["pid"] for _ in range(2 * POOL_SIZE)}

    before = used()
    assert used() == before
    with _new_state().session() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": min(before)})
    assert min(before) not in used()


def test_what_a_finished_run_left_is_deleted_and_an_empty_one_costs_nothing(
    state: PostgresLinkState, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, task_id = _running(state)
    message = _identified(_message(run_id, _node(state)))
    _stored(state, run_id, message)
    assert state.finish_task(task_id, SubStatus.COMPLETED, "")
    state.cleanup_run(run_id)
    assert not state.get_message_ids_from_run_id(run_id)
    assert not state.has_object(run_id, message.metadata.message_id)
    state.cleanup_run(run_id)  # finds that nothing is left
    asked: list[str] = []
    monkeypatch.setattr(state, "_left_something", lambda _run: bool(asked.append("again")))
    state.cleanup_run(run_id)
    assert asked == []
    state._clean_until[run_id] = time.monotonic()
    state.cleanup_run(run_id)
    assert asked == ["again"]


def test_a_task_whose_heartbeat_stopped_fails(state: PostgresLinkState) -> None:
    run_id, task_id = _running(state)
    assert state.get_run_status({run_id})[run_id].status == Status.RUNNING
    lapsed = {"now": now() - timedelta(seconds=1), "id": uint64_to_int64(task_id)}
    state.query("UPDATE task SET active_until = :now WHERE task_id = :id", lapsed)
    time.sleep(EXPIRY_INTERVAL_S)
    status = state.get_run_status({run_id})[run_id]
    assert (status.status, status.sub_status) == (Status.FINISHED, SubStatus.FAILED)


def test_migrations_run_again_on_a_used_database(state: PostgresLinkState) -> None:
    before = len(state.get_node_info())
    assert len(_new_state().get_node_info()) == before
