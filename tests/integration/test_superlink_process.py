"""A real SuperLink on a real PostgreSQL, with the real CLI, SuperNode and SuperExecs; only NGINX is stood in for."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import ssl
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.control_pb2 import StreamLogsRequest

from superlink_identity import person
from superlink_processes import COMPONENTS, EdgeStandIn, World, write_app
from superlink_support import (
    EDGE_TOKEN,
    Authority,
    edge_headers,
    new_site,
    replace,
    wait_until,
    write_material,
)

PROTOBUF = {"content-type": "application/protobuf"}


class Federation:
    """One running federation: a site with its SuperNode, and what the tests ask of it."""

    def __init__(self, world: World, fleet: EdgeStandIn, control: EdgeStandIn, node: subprocess.Popen[bytes]) -> None:
        self.world, self.fleet, self.control, self.node = world, fleet, control, node

    def flwr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.world.flwr(self.control.port, *arguments)

    def start(self, app: Path, **config: int) -> int:
        overrides = " ".join(f"{key}={value}" for key, value in config.items())
        done = self.flwr("run", str(app), "--run-config", overrides, "--format", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        return int(json.loads(done.stdout)["run-id"])

    def run(self, run_id: int) -> dict[str, Any]:
        return next(run for run in self.status()["runs"] if run["id"] == run_id)

    def status(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "flowerbed_superlink.status"]
        done = subprocess.run(command, env=self.world.environment, capture_output=True, check=True, timeout=30)
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def wait_for(self, run_id: int, status: str, timeout_s: float = 90) -> None:
        wait_until(lambda: self.run(run_id)["status"] == status, timeout_s, f"run {run_id} {status}")

    def log(self, run_id: int) -> str:
        return self.flwr("log", str(run_id), "--show").stdout

    def node_online(self) -> bool:
        return [node["online"] for node in self.status()["nodes"]] == [True]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("superlink")
    authority = Authority()
    site = new_site(authority, "charite", "Charité")
    world = World(root, authority, [site], *write_material(root, authority, [site]))
    try:
        world.postgres.start()
        world.postgres.create_database()
        world.postgres.create_kit()
        world.add(researcher := person("researcher-north", "researcher"))
        world.logged_in = researcher
        with world.issuer.served(world.issuer_port, world.secrets):
            yield world
    finally:
        world.postgres.remove()


@pytest.fixture(scope="module")
def federation(world: World) -> Iterator[Federation]:
    upstream, site = f"https://localhost:{world.port}", world.sites[0]
    with ExitStack() as stack:
        stack.enter_context(world.superlink())
        fleet = stack.enter_context(EdgeStandIn(upstream, site.headers(), world.secrets))
        control = stack.enter_context(EdgeStandIn(upstream, edge_headers(), world.secrets))
        world.register(control.port, site)
        node = stack.enter_context(world.supernode(site, fleet.port))
        stack.enter_context(world.executor("serverapp", f"localhost:{world.port}"))
        federation = Federation(world, fleet, control, node)
        wait_until(federation.node_online, 40, "the SuperNode online")
        yield federation


@pytest.fixture(scope="module")
def app(world: World) -> Path:
    return write_app(world.root / "app")


def test_a_run_completes_through_the_gate_with_nul_bytes_in_its_log(federation: Federation, app: Path) -> None:
    run_id = federation.start(app, rounds=2)
    federation.wait_for(run_id, "finished")
    assert federation.run(run_id)["sub_status"] == "completed", federation.log(run_id)
    log = federation.log(run_id)
    assert "a log line with a NUL: []" in log
    assert "round 1: [1]" in log
    assert str(run_id) in federation.flwr("list").stdout
    assert federation.world.events("refused") == []


def _recorded(world: World, **wanted: object) -> list[dict[str, Any]]:
    rows = world.postgres.sql("SELECT record FROM audit.trail ORDER BY seq", "audit").splitlines()
    return [record for record in map(json.loads, rows) if wanted.items() <= record.items()]


def test_what_was_done_is_in_the_audit_trail(federation: Federation, app: Path) -> None:
    world = federation.world
    run_id = federation.start(app, rounds=1)
    started, done = _recorded(world, verb="start-run", who="researcher-north")[-2:]
    assert (started["outcome"], started["run"]) == ("started", None)
    assert (done["outcome"], done["run"], done["aid"]) == ("done", run_id, world.logged_in.aid)
    federation.flwr("stop", str(run_id))
    stopped = _recorded(world, verb="stop-run", run=run_id)
    assert stopped[0]["outcome"] == "started"
    site = world.sites[0]
    arrived = _recorded(world, verb="activate-node", who=site.name, organisation=site.organisation)
    assert [record["outcome"] for record in arrived[:2]] == ["started", "done"]
    assert not _recorded(world, verb="pull-messages")
    assert not _recorded(world, verb="send-node-heartbeat")
    told = [json.loads(line) for line in world.log.read_text().splitlines() if '"event":"audit"' in line]
    assert [record["at"] for record in told if record["run"] == run_id] == [
        r["at"] for r in _recorded(world, run=run_id)
    ]


def test_without_an_audit_trail_nothing_is_changed(federation: Federation, app: Path) -> None:
    world = federation.world
    runs = len(federation.status()["runs"])
    world.postgres.sql("REVOKE INSERT (record) ON audit.trail FROM audit", "audit")
    try:
        refused = federation.flwr("run", str(app))
        assert refused.returncode != 0
        assert "The audit trail cannot be written, so nothing was done" in " ".join(
            (refused.stdout + refused.stderr).split()
        )
        assert len(federation.status()["runs"]) == runs
        assert federation.flwr("list").returncode == 0
        assert federation.node_online()
    finally:
        world.postgres.sql("GRANT INSERT (record) ON audit.trail TO audit", "audit")
    federation.flwr("stop", str(federation.start(app, rounds=1)))


def test_status_names_nodes_and_runs_without_importing_flower(federation: Federation) -> None:
    node = federation.status()["nodes"][0]
    assert node["name"] == "charite"
    assert node["last_heartbeat"]
    code = "import sys, flowerbed_superlink.status; assert not {'flwr', 'sqlalchemy', 'fastapi'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def _results(world: World, run_id: int, content: bytes) -> None:
    directory = world.results / str(run_id)
    directory.mkdir()
    (directory / "round-1.npz").write_bytes(content)
    (directory / "SHA256SUMS").write_text(f"{hashlib.sha256(content).hexdigest()}  round-1.npz\n")


def _download(federation: Federation, text: str) -> httpx.Response:
    url = text[text.index("https://") :].split()[0]
    assert url.startswith("https://superlink.flowerbed.test:8443/artifacts/")
    with federation.world.client() as client:
        return client.get(url.removeprefix("https://superlink.flowerbed.test:8443"), headers=edge_headers())


def test_pull_serves_a_finished_run_once(federation: Federation, app: Path) -> None:
    run_id = federation.start(app)
    federation.wait_for(run_id, "finished")
    none = federation.flwr("pull", str(run_id))
    assert none.returncode != 0
    assert f"Run {run_id} has left no results: it finished no round." in none.stdout + none.stderr
    _results(federation.world, run_id, b"arrays" * 1000)
    text = federation.flwr("pull", str(run_id)).stdout
    with tarfile.open(fileobj=io.BytesIO(_download(federation, text).content)) as tar:
        assert tar.getnames() == [f"{run_id}/round-1.npz", f"{run_id}/SHA256SUMS"]
    assert _download(federation, text).status_code == 410


def test_pull_serves_finished_rounds_of_a_run_that_goes_on_or_was_stopped(federation: Federation, app: Path) -> None:
    run_id = federation.start(app, rounds=100, pause=1)
    federation.wait_for(run_id, "running")
    _results(federation.world, run_id, b"first round")
    assert _download(federation, federation.flwr("pull", str(run_id)).stdout).status_code == 200
    assert federation.flwr("stop", str(run_id)).returncode == 0
    federation.wait_for(run_id, "finished")
    assert federation.run(run_id)["sub_status"] == "stopped"
    assert _download(federation, federation.flwr("pull", str(run_id)).stdout).status_code == 200


def test_postgres_restarted_mid_run_is_503_and_the_run_completes(federation: Federation, app: Path) -> None:
    world = federation.world
    run_id = federation.start(app, rounds=4, pause=2)
    wait_until(lambda: "round 0" in federation.log(run_id) or federation.run(run_id)["running_at"], 60, "round 0")
    world.postgres.stop()
    try:
        with world.client() as client:
            headers = world.sites[0].headers() | PROTOBUF
            answers = [client.post("/v1/fleet/pull-messages", headers=headers).status_code for _ in range(3)]
            asked = edge_headers() | PROTOBUF | world.bearer(world.logged_in)
            control = client.post("/v1/control/list-runs", headers=asked)
            assert client.get("/health").status_code == 200
        time.sleep(5)
    finally:
        world.postgres.start()
    assert set(answers) <= {401, 503}, answers
    assert control.status_code == 503
    assert control.json()["detail"] == "The SuperLink's database does not answer, try again."
    federation.wait_for(run_id, "finished", 120)
    assert federation.run(run_id)["sub_status"] == "completed", federation.log(run_id)
    assert federation.node.poll() is None
    wait_until(federation.node_online, 60, "the SuperNode online again")
    fleet = [line for line in world.log.read_text().splitlines() if "/v1/fleet/" in line]
    assert any(line.endswith(" 503") for line in fleet)
    assert not any(line.endswith(" 500") for line in fleet)


def test_a_revoked_sites_open_connection_is_refused_and_the_log_says_who(federation: Federation) -> None:
    world, site = federation.world, federation.world.sites[0]
    before = len(world.events("refused"))
    replace(world.secrets / "crl.pem", world.authority.crl([site.certificate.serial_number]))
    wait_until(lambda: len(world.events("refused")) > before, 10, "the refusal")
    refusal = world.events("refused")[before]
    assert (refusal["why"], refusal["site"], refusal["status"]) == ("revoked", "charite", 403)
    time.sleep(4)
    assert federation.node.poll() is None
    replace(world.secrets / "crl.pem", world.authority.crl([]))
    time.sleep(4)
    after = len(world.events("refused"))
    time.sleep(4)
    assert len(world.events("refused")) == after


def test_many_followed_logs_leave_room_for_other_requests(federation: Federation, app: Path) -> None:
    run_id = federation.start(app, rounds=100, pause=1)
    federation.wait_for(run_id, "running")
    body = StreamLogsRequest(run_id=run_id).SerializeToString()
    headers = edge_headers() | PROTOBUF | federation.world.bearer(federation.world.logged_in)
    with federation.world.client() as client, ExitStack() as stack:
        for _ in range(60):
            answer = stack.enter_context(
                client.stream("POST", "/v1/control/stream-logs", headers=headers, content=body)
            )
            assert answer.status_code == 200
        begin = time.monotonic()
        assert client.post("/v1/control/list-runs", headers=headers).status_code == 200
        assert time.monotonic() - begin < 5
        refused = client.post("/v1/control/stream-logs", headers=headers, content=body)
        assert refused.status_code == 503
        assert "Too many logs are followed" in refused.json()["detail"]
    federation.flwr("stop", str(run_id))


def test_idle_connections_that_announce_bodies_stop_nobody(federation: Federation) -> None:
    """Around the edge and without any token, as a ServerApp could."""
    world = federation.world
    trust = ssl.create_default_context(cafile=str(world.secrets / "ca.crt"))
    head = b"POST /v1/runtime/acquire-task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 67108864\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(8):
            plain = stack.enter_context(socket.create_connection(("localhost", world.port), 10))
            stack.enter_context(trust.wrap_socket(plain, server_hostname="localhost")).sendall(head)
        time.sleep(0.5)
        for path, own in [("control/list-runs", edge_headers()), ("fleet/pull-messages", world.sites[0].headers())]:
            with world.client() as client:
                answer = client.post(f"/v1/{path}", headers=own | PROTOBUF, content=b"")
            assert answer.status_code in (200, 401), path
        assert federation.flwr("list").returncode == 0


def test_an_app_with_an_agent_is_refused_with_a_sentence(federation: Federation) -> None:
    directory = write_app(federation.world.root / "agent", COMPONENTS + '\nagentapp = "probe.server:app"')
    done = federation.flwr("run", str(directory))
    assert done.returncode != 0
    assert "This federation runs a serverapp and a clientapp only: take agentapp out" in done.stdout + done.stderr


def test_hub_apps_are_refused_with_a_sentence(federation: Federation) -> None:
    done = federation.flwr("run", "@flwrlabs/quickstart-numpy")
    assert done.returncode != 0
    assert "Apps from a hub are not started here" in done.stdout + done.stderr


@pytest.mark.parametrize("path", ["create-task", "start-automation", "get-connector", "responses"])
def test_tasks_cannot_start_anything(federation: Federation, path: str) -> None:
    with federation.world.client() as client:
        answer = client.post(f"/v1/runtime/{path}", headers=PROTOBUF)
    assert answer.status_code == 404


def test_the_runtime_api_wants_the_superexec_secret(federation: Federation) -> None:
    with federation.world.client() as client:
        assert client.post("/v1/runtime/acquire-task", headers=PROTOBUF).status_code == 401
        headers = PROTOBUF | {"X-Flowerbed-Edge": EDGE_TOKEN}
        assert client.post("/v1/runtime/acquire-task", headers=headers).status_code == 404


def test_a_bundle_over_the_limit_is_refused_before_it_is_read(federation: Federation) -> None:
    with federation.world.client() as client:
        headers = edge_headers() | PROTOBUF
        answer = client.post("/v1/control/start-run", headers=headers, content=b"\0" * (12 * 1024 * 1024))
    assert answer.status_code == 413
    assert "larger than 11 MiB" in answer.json()["detail"]


def test_the_alive_file_follows_the_database(federation: Federation) -> None:
    alive = federation.world.root / "alive"
    wait_until(lambda: time.time() - alive.stat().st_mtime < 7, 15, "a fresh alive file")
    federation.world.postgres.stop()
    try:
        time.sleep(9)
        assert time.time() - alive.stat().st_mtime > 6
    finally:
        federation.world.postgres.start()
    wait_until(lambda: time.time() - alive.stat().st_mtime < 4, 15, "a fresh alive file")


@pytest.fixture
def other(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """The same world with a second SuperLink's port, log and alive file."""
    from superlink_support import free_port

    monkeypatch.setattr(world, "port", free_port())
    monkeypatch.setattr(world, "log", tmp_path / "superlink.log")
    return world


def test_a_stop_is_bounded_while_a_log_is_followed(federation: Federation, other: World, app: Path) -> None:
    run_id = federation.start(app, rounds=100, pause=1)
    federation.wait_for(run_id, "running")
    with ExitStack() as stack:
        process = stack.enter_context(other.superlink(FLOWERBED_STOP_SECONDS="2"))
        edge = stack.enter_context(EdgeStandIn(f"https://localhost:{other.port}", edge_headers(), other.secrets))
        other.configure_cli(edge.port, "follower")
        stack.enter_context(other.process("follower", "flwr", "log", str(run_id)))
        wait_until(lambda: "stream-logs" in other.log.read_text(), 30, "the log stream")
        begin = time.monotonic()
        process.terminate()
        assert process.wait(20) == 0
        assert time.monotonic() - begin < 8
    federation.flwr("stop", str(run_id))


def test_the_event_log_has_a_line_before_and_after_each_call(other: World) -> None:
    with other.superlink(FLOWERBED_EVENT_LOG="1"), other.client() as client:
        headers = edge_headers() | PROTOBUF | other.bearer(other.logged_in)
        assert client.post("/v1/control/list-runs", headers=headers).status_code == 200
        lines = [json.loads(line) for line in other.log.read_text().splitlines() if '"api-call"' in line]
    assert [line["status"] for line in lines] == ["started", "completed"]
    assert lines[0]["event"]["action"] == "/v1/control/list-runs"
    assert lines[0]["actor"]["description"] == "researcher-north"


def test_start_up_waits_for_the_database(other: World) -> None:
    other.postgres.stop()
    started = False
    try:
        with other.superlink(wait=False) as process:
            wait_until(lambda: other.log.exists() and other.events("database-wait"), 20, "the wait")
            assert process.poll() is None
            other.postgres.start()
            started = True
            wait_until(other.healthy, 40, "the SuperLink's health")
    finally:
        if not started:
            other.postgres.start()


Breakage = Callable[[World, Path], dict[str, str]]


def _wrong_password(_: World, directory: Path) -> dict[str, str]:
    (directory / "pgpass").unlink()
    (directory / "pgpass").write_text("localhost:*:*:superlink:wrong\n")
    (directory / "pgpass").chmod(0o400)
    return {}


def _foreign_authority(_: World, directory: Path) -> dict[str, str]:
    from superlink_support import pem

    (directory / "ca.crt").write_bytes(pem(Authority().certificate))
    return {}


def _no_secret(_: World, directory: Path) -> dict[str, str]:
    (directory / "superexec.secret").unlink()
    return {}


def _foreign_tables(world: World, _: Path) -> dict[str, str]:
    world.postgres.create_database("occupied")
    world.postgres.sql("CREATE TABLE client (id int)", "occupied")
    return {"FLOWERBED_DATABASE": world.postgres.url.removesuffix("superlink") + "occupied"}


@pytest.mark.parametrize(
    ("breakage", "said"),
    [
        (_wrong_password, "The database does not let the SuperLink in: .*password authentication failed"),
        (_foreign_authority, "The database does not let the SuperLink in: .*certificate verify failed"),
        (_no_secret, r"superexec\.secret is missing or not readable"),
        (_foreign_tables, "holds tables that are not Flower's"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_sentence(
    world: World, tmp_path: Path, breakage: Breakage, said: str
) -> None:
    import re
    import shutil

    secrets = tmp_path / "secrets"
    shutil.copytree(world.secrets, secrets)
    changes = breakage(world, secrets)
    environment = world.environment | {"FLOWERBED_SECRETS": str(secrets), "FLOWERBED_DATABASE_WAIT": "0"} | changes
    command = [sys.executable, "-m", "flowerbed_superlink"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 2, done.stderr
    assert re.search(said, done.stderr.splitlines()[-1]), done.stderr
    assert "Traceback" not in done.stderr
