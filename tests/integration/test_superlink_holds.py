"""Held pulls against a real SuperLink on a real PostgreSQL, with SuperNodes, ServerApps and SuperExecs as light clients."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future

import httpx
import pytest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.auth import create_superexec_auth_metadata, derive_auth_secret
from flwr.supercore.constant import SUPEREXEC_AUTH_NONCE_HEADER as NONCE
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.utils import uint64_to_int64

from flowerbed_superlink import stopping
from flowerbed_superlink.holds import ACQUIRE
from flowerbed_superlink.verifying import METHOD
from flowerbed_superlink.waiting import LIMIT_S
from held_support import (
    Calls,
    Executor,
    Held,
    Node,
    ServerApp,
    Timed,
    close_clients,
    instruction,
    new_node,
    reply_to,
    surroundings,
)
from superlink_identity import person
from superlink_support import replace

SHORTEST_S = 0.475 * LIMIT_S
"""Seconds that a pull waits at least which nothing ends (`waiting.turn`)."""

# Flower's migrations do not say how their paths are separated.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    with surroundings(tmp_path_factory.mktemp("holds"), sites=30) as world:
        yield world


@pytest.fixture(scope="module")
def superlink(world: Held) -> Iterator[Held]:
    with world.running(), world.linked():
        yield world


@pytest.fixture
def calls() -> Iterator[Calls]:
    calls = Calls()
    yield calls
    close_clients()
    calls.close()


def held(call: Future[Timed], seconds: float = 1.5) -> None:
    """Check that a call waits."""
    with pytest.raises(TimeoutError):
        call.result(seconds)


def received(call: Future[Timed], timeout_s: float = 8) -> list[str]:
    """Return the ids of the messages that a pull ends with."""
    return [message.metadata.message_id for message in call.result(timeout_s).value.messages_list]


def test_a_message_wakes_its_node_and_no_other_at_once(superlink: Held, calls: Calls) -> None:
    node, other = new_node(superlink), new_node(superlink)
    run_id, token = superlink.new_run()
    app, others, late = ServerApp(superlink, token), calls.start(other.pull), []
    for number in range(5):
        pull = calls.start(node.pull)
        held(pull, 0.5)
        message = instruction(run_id, node.node_id, number)
        app.push(message)
        sent = time.monotonic()
        assert received(pull) == [message.metadata.message_id]
        late.append(time.monotonic() - sent)
        node.confirm(message)
        node.push(reply_to(message))
    assert min(late) < 0.2, late  # on a busy host others may be late
    assert not others.done()
    app.push(message := instruction(run_id, other.node_id))
    assert received(others) == [message.metadata.message_id]


def test_replies_are_waited_for_until_all_are_whole(superlink: Held, calls: Calls) -> None:
    nodes = [new_node(superlink) for _ in range(2)]
    run_id, token = superlink.new_run()
    app = ServerApp(superlink, token)
    messages = [instruction(run_id, node.node_id) for node in nodes]
    app.push(*messages)
    assert not calls.timed(app.pull).value.messages_list  # nothing asked for: answered at once
    pull = calls.start(app.pull, *messages)
    for node in nodes:
        assert received(calls.start(node.pull))
    nodes[0].push(first := reply_to(messages[0]))
    held(pull)
    nodes[1].push(second := reply_to(messages[1]), leave_out=1)
    held(pull)
    nodes[1].push(second)
    assert set(received(pull)) == {first.metadata.message_id, second.metadata.message_id}


def test_a_client_that_goes_away_takes_no_message_with_it(superlink: Held, calls: Calls) -> None:
    node = new_node(superlink)
    run_id, token = superlink.new_run()
    gone = Node(superlink, node.site, node_id=node.node_id)
    gone.client._client.timeout = httpx.Timeout(2)
    pull = calls.start(gone.pull)
    assert isinstance(pull.result(8).value, httpx.ReadTimeout)
    ServerApp(superlink, token).push(message := instruction(run_id, node.node_id))
    assert received(calls.start(node.pull)) == [message.metadata.message_id]


def test_a_newer_pull_releases_the_older_one_empty(superlink: Held, calls: Calls) -> None:
    node = new_node(superlink)
    run_id, token = superlink.new_run()
    again = Node(superlink, node.site, node_id=node.node_id)
    older = calls.start(node.pull)
    held(older)
    newer = calls.start(again.pull)
    assert received(older) == []
    held(newer)
    ServerApp(superlink, token).push(message := instruction(run_id, node.node_id))
    assert received(newer) == [message.metadata.message_id]


def test_an_executor_is_woken_by_what_another_process_did(superlink: Held, calls: Calls) -> None:
    executor = Executor(superlink)
    waits = calls.start(executor.acquire)
    held(waits)
    run_id = superlink.pending_run()
    acquired = waits.result(5).value
    assert (acquired.task.run_id, bool(acquired.token)) == (run_id, True)
    superlink.state.stop_run(run_id)
    held(calls.start(executor.acquire))


def test_what_does_not_verify_is_refused_at_once(superlink: Held, calls: Calls) -> None:
    node, other = new_node(superlink), new_node(superlink)
    run_id, token = superlink.new_run()
    message = instruction(run_id, node.node_id)
    ServerApp(superlink, token).push(message)
    node_of_another = Node(superlink, other.site, node_id=node.node_id)
    refused = [
        calls.timed(ServerApp(superlink, "0" * len(token)).pull, message),
        calls.timed(Executor(superlink, b"not the secret").acquire),
        calls.timed(node_of_another.pull),
    ]
    assert [call.status for call in refused] == [401, 401, 401]
    assert all(call.seconds < 5 for call in refused)


def test_a_task_learns_nothing_of_another_runs_messages_by_waiting(superlink: Held, calls: Calls) -> None:
    node = new_node(superlink)
    run_id, token = superlink.new_run()
    ServerApp(superlink, token).push(message := instruction(run_id, node.node_id))
    call = calls.timed(ServerApp(superlink, superlink.new_run()[1]).pull, message)
    assert call.status == 500  # as Flower answers it
    assert call.seconds < 5


def test_a_nonce_is_taken_once_also_while_its_request_waits(superlink: Held, calls: Calls) -> None:
    request = AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
    secret = derive_auth_secret((superlink.secrets / "superexec.secret").read_bytes())
    headers = create_superexec_auth_metadata(auth_secret=secret, method=METHOD, request=request)
    headers |= dict(RuntimeVersionMetadata.from_local_component("flower-superexec").as_metadata())
    headers["content-type"] = "application/protobuf"

    def post() -> int:
        with superlink.client() as client:
            return client.post(
                ACQUIRE, content=request.SerializeToString(deterministic=True), headers=headers
            ).status_code

    first = calls.start(post)
    held(first)
    assert calls.timed(post).value == 401
    newer = calls.start(Executor(superlink).acquire)
    assert first.result(5).value == 200
    assert calls.timed(post).value == 401
    query = "SELECT count(*) AS uses FROM nonce_store WHERE nonce = :nonce"
    assert superlink.state.query(query, {"nonce": headers[NONCE]}) == [{"uses": 1}]
    held(newer, 0.1)


def test_a_run_that_is_stopped_ends_what_waits_for_it(superlink: Held, calls: Calls) -> None:
    node = new_node(superlink)
    run_id, token = superlink.new_run()
    app = ServerApp(superlink, token)
    app.push(message := instruction(run_id, node.node_id), leave_out=1)
    waits, pull = calls.start(app.pull, message), calls.start(node.pull)
    held(waits)
    superlink.state.stop_run(run_id)
    assert waits.result(5).status == 401
    held(pull)


def test_the_runs_of_a_disabled_account_are_stopped_while_their_tasks_wait(
    superlink: Held, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving, staying = person("leaving", "researcher"), person("staying", "researcher")
    superlink.add(leaving, staying)
    node = new_node(superlink)
    (ending, ends), (going_on, goes_on) = (superlink.new_run(account.aid) for account in (leaving, staying))
    superlink.add(leaving, enabled=False)
    pulls = []
    for run_id, token in ((ending, ends), (going_on, goes_on)):
        app = ServerApp(superlink, token)
        app.push(message := instruction(run_id, node.node_id), leave_out=1)
        pulls.append(calls.start(app.pull, message))
    held(pulls[0])  # to be disabled alone stops no run
    # What `people stop` does, but without the seconds of a new Python, in which the pull's own limit could come.
    monkeypatch.setattr(stopping, "_state", lambda: superlink.state)
    assert stopping.stop(leaving.aid, leaving.name) == [ending]
    assert pulls[0].result(30).status == 401
    assert not pulls[1].done()
    superlink.state.stop_run(going_on)
    assert pulls[1].result(30).status == 401


def test_a_revoked_certificate_ends_its_pull_within_5_s_and_gets_nothing(superlink: Held, calls: Calls) -> None:
    node = new_node(superlink)
    run_id, token = superlink.new_run()
    pull = calls.start(node.pull)
    held(pull)
    crl = superlink.secrets / "crl.pem"
    try:
        replace(crl, superlink.authority.crl([node.site.certificate.serial_number]))
        assert pull.result(5).status == 403
        ServerApp(superlink, token).push(instruction(run_id, node.node_id))
        assert calls.timed(node.pull).status == 403
    finally:
        replace(crl, superlink.authority.crl([]))
    records = superlink.trail(verb="pull-messages", who=node.site.name, outcome="refused")
    assert [record["detail"] for record in records][:1] == ["403 revoked"]
    query = "SELECT delivered_at FROM message_ins WHERE run_id = :run"
    assert superlink.state.query(query, {"run": uint64_to_int64(run_id)}) == [{"delivered_at": ""}]


def test_a_node_that_is_removed_is_refused_while_it_waits(superlink: Held, calls: Calls) -> None:
    node = new_node(superlink)
    pull = calls.start(node.pull)
    held(pull)
    superlink.state.delete_node("anybody", node.node_id)
    assert pull.result(5).status == 401


def test_a_restart_of_postgresql_ends_no_pull(superlink: Held, calls: Calls) -> None:
    node = new_node(superlink)
    run_id, token = superlink.new_run()
    pull = calls.start(node.pull)
    held(pull)
    superlink.postgres.stop()
    held(pull)
    superlink.postgres.start()
    app, message = ServerApp(superlink, token), instruction(run_id, node.node_id)
    app.push(message)
    assert received(pull) == [message.metadata.message_id]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_of_the_superlink_loses_nothing(superlink: Held, calls: Calls, signum: signal.Signals) -> None:
    node, other = new_node(superlink), new_node(superlink)
    run_id, token = superlink.new_run()
    app = ServerApp(superlink, token)
    app.push(message := instruction(run_id, other.node_id), leave_out=1)
    pulls = [calls.start(node.pull), calls.start(app.pull, message), calls.start(Executor(superlink).acquire)]
    held(pulls[0])
    ending = calls.start(superlink.restart, signum)
    ended = [pull.result(30) for pull in pulls]
    if signum == signal.SIGTERM:  # killed, it says nothing
        # Answered in full, so by the process itself before its end; and not because a limit of their own had come. How soon
        # depends on the host: 0.02 s with nothing else to do, though the process may end only after FLOWERBED_STOP_SECONDS.
        assert [len(one.value.ListFields()) for one in ended] == [0, 0, 0]
        assert max(one.seconds for one in ended) < SHORTEST_S
    assert ending.result(40).value is None
    close_clients()
    node, app = Node(superlink, node.site, node_id=node.node_id), ServerApp(superlink, token)
    pull = calls.start(node.pull)
    held(pull)
    app.push(message := instruction(run_id, node.node_id))
    assert received(pull) == [message.metadata.message_id]


def test_switched_off_nothing_waits(superlink: Held, calls: Calls) -> None:
    node = new_node(superlink)
    superlink.restart(FLOWERBED_HELD_PULLS="0")
    close_clients()
    node = Node(superlink, node.site, node_id=node.node_id)
    assert received(calls.start(node.pull)) == []
    assert calls.timed(Executor(superlink).acquire).seconds < 5
