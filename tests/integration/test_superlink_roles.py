"""Every role with every verb over HTTP, on a real SuperLink and PostgreSQL; only NGINX and Keycloak are stood in for.

The table of `roles` is the parameter list: a cell that it allows must work, and one that it does not must be refused.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace as changed
from functools import partial

import httpx
import pytest
from flwr.proto import control_pb2 as pb
from flwr.proto.fab_pb2 import Fab
from google.protobuf.message import Message

from flowerbed_superlink.roles import VERBS
from flowerbed_superlink.tokens import ROLES
from superlink_identity import FORGERIES, Issuer, Person, person
from superlink_processes import COMPONENTS, KIT, PYPROJECT, EdgeStandIn, World
from superlink_support import (
    Authority,
    edge_headers,
    federation,
    new_key,
    new_site,
    public_pem,
    replace,
    wait_until,
    write_material,
)

PROTOBUF = {"content-type": "application/protobuf"}
MAIN, RARE = "@testers/main", "@testers/rare"
# north is in main alone, west in rare alone.
PEOPLE = {role: person(f"{role}-north", role) for role in ROLES}
WEST = {role: person(f"{role}-west", role, organisation="west", federations=["rare"]) for role in ROLES}
COLLEAGUE = person("colleague-north", "researcher")
BOTH = person("researcher-both", "researcher", federations=["main", "rare"])
NONE = person("researcher-none", "researcher", federations=[])
NOBODY = person("no-role-north")
LEAVER = person("leaver-north", "researcher")


def _bundle() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("pyproject.toml", PYPROJECT.format(components=COMPONENTS))
    return buffer.getvalue()


BUNDLE = _bundle()


class Control:
    """One SuperLink, and requests to it as an edge hands them on."""

    def __init__(self, world: World, client: httpx.Client) -> None:
        self.world, self.client = world, client

    def call(self, verb: str, account: Person | str | None, message: Message | None = None) -> httpx.Response:
        headers = edge_headers() | PROTOBUF
        if account is not None:
            token = account if isinstance(account, str) else self.world.issuer.token(account)
            headers["authorization"] = f"Bearer {token}"
        if verb in ("runs", "sites"):
            return self.client.get(f"/v1/flowerbed/{verb}", headers=headers)
        content = message.SerializeToString() if message is not None else b""
        return self.client.post(f"/v1/control/{verb}", headers=headers, content=content)

    def start(self, account: Person, federation_id: str = MAIN) -> int:
        answer = self.call("start-run", account, pb.StartRunRequest(fab=Fab(content=BUNDLE), federation=federation_id))
        assert answer.status_code == 200, answer.text
        return pb.StartRunResponse.FromString(answer.content).run_id

    def register(self, account: Person, name: str = "spare") -> int:
        request = pb.RegisterNodeRequest(public_key=public_pem(new_key()), name=name)
        answer = self.call("register-node", account, request)
        assert answer.status_code == 200, answer.text
        return pb.RegisterNodeResponse.FromString(answer.content).node_id

    def nodes(self, account: Person) -> set[int]:
        answer = self.call("list-nodes", account)
        assert answer.status_code == 200, answer.text
        return {node.node_id for node in pb.ListNodesResponse.FromString(answer.content).nodes_info}

    def view(self, name: str, account: Person) -> list[dict[str, object]]:
        answer = self.call(name, account)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, object]] = answer.json()[name]
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("roles")
    authority = Authority()
    sites = [new_site(authority, "north", "North Clinic"), new_site(authority, "west", "West Clinic")]
    secrets, config = write_material(root, authority, sites)
    topology = federation(sites) | {"federations": {"main": ["north"], "rare": ["west"]}}
    (config / "federation.json").write_text(json.dumps(topology))
    world = World(root, authority, sites, secrets, config)
    try:
        world.postgres.start()
        world.postgres.create_database()
        world.postgres.create_kit()
        world.add(*PEOPLE.values(), *WEST.values(), COLLEAGUE, BOTH, NONE, NOBODY, LEAVER)
        with world.issuer.served(world.issuer_port, secrets):
            yield world
    finally:
        world.postgres.remove()


@pytest.fixture(scope="module")
def control(world: World) -> Iterator[Control]:
    with world.superlink(), world.client() as client:
        yield Control(world, client)


@pytest.fixture(scope="module")
def site_nodes(control: Control) -> dict[str, int]:
    """The SuperNodes of both sites, registered by two operators."""
    nodes = {}
    for site, operator in zip(control.world.sites, (PEOPLE["operator"], WEST["operator"]), strict=True):
        request = pb.RegisterNodeRequest(public_key=public_pem(site.key), name=site.name)
        answer = control.call("register-node", operator, request)
        assert answer.status_code == 200, answer.text
        nodes[site.name] = pb.RegisterNodeResponse.FromString(answer.content).node_id
    return nodes


def _request(control: Control, verb: str, account: Person) -> Message | None:
    """Return a request that works for whoever may send it at all: about a run of one's own, for those who have some."""
    owner = account if "researcher" in account.roles else COLLEAGUE
    if verb == "start-run":
        return pb.StartRunRequest(fab=Fab(content=BUNDLE), federation=MAIN)
    if verb == "stop-run":
        return pb.StopRunRequest(run_id=control.start(owner))
    if verb == "list-runs":
        return pb.ListRunsRequest(run_id=control.start(owner))
    if verb == "stream-logs":
        run_id = control.start(owner)
        control.call("stop-run", PEOPLE["operator"], pb.StopRunRequest(run_id=run_id))
        return pb.StreamLogsRequest(run_id=run_id)
    if verb == "pull-artifacts":
        return pb.PullArtifactsRequest(run_id=_with_results(control, owner))
    if verb == "register-node":
        return pb.RegisterNodeRequest(public_key=public_pem(new_key()), name="spare")
    if verb == "unregister-node":
        return pb.UnregisterNodeRequest(node_id=control.register(KIT))
    return pb.ShowFederationRequest(federation_name=MAIN) if verb == "show-federation" else None


def _with_results(control: Control, owner: Person) -> int:
    run_id = control.start(owner)
    directory = control.world.results / str(run_id)
    directory.mkdir()
    (directory / "round-1.npz").write_bytes(b"arrays")
    (directory / "SHA256SUMS").write_text(f"{hashlib.sha256(b'arrays').hexdigest()}  round-1.npz\n")
    return run_id


@pytest.mark.parametrize(("verb", "role"), list(itertools.product(VERBS, ROLES)))
def test_a_cell_of_the_table(control: Control, site_nodes: dict[str, int], verb: str, role: str) -> None:
    account, allowed = PEOPLE[role], role in VERBS[verb].scopes
    answer = control.call(verb, account, _request(control, verb, account))
    assert answer.status_code == (200 if allowed else 403), answer.text
    if not allowed:
        assert answer.json()["detail"].startswith(f"`{VERBS[verb].command}` needs the role ")
    found: list[dict[str, object]] = []
    wait_until(lambda: found.extend(_records(control, account, verb)) or found, 10, "the record")
    outcomes = ["started", "done"] if VERBS[verb].changes else ["done"]
    wait_until(lambda: _outcomes(control, account, verb)[-1:] == (["done"] if allowed else ["refused"]), 10, "its end")
    expected = outcomes if allowed else ["refused"]
    assert _outcomes(control, account, verb)[-len(expected) :] == expected
    assert site_nodes


def _records(control: Control, account: Person, verb: str) -> list[dict[str, object]]:
    return control.world.trail(aid=account.aid, verb=verb, source="127.0.0.1")


def _outcomes(control: Control, account: Person, verb: str) -> list[object]:
    return [record["outcome"] for record in _records(control, account, verb)]


RUN_VERBS = {
    "stop-run": pb.StopRunRequest,
    "stream-logs": pb.StreamLogsRequest,
    "pull-artifacts": pb.PullArtifactsRequest,
    "list-runs": pb.ListRunsRequest,
}


@pytest.mark.parametrize("verb", RUN_VERBS)
def test_a_run_of_another_federation_is_like_one_that_does_not_exist(control: Control, verb: str) -> None:
    run_id = _with_results(control, PEOPLE["researcher"])
    make = RUN_VERBS[verb]
    theirs = control.call(verb, WEST["researcher"], make(run_id=run_id))
    absent = control.call(verb, WEST["researcher"], make(run_id=run_id + 1))
    assert theirs.status_code == absent.status_code == 404
    assert theirs.content == absent.content
    wait_until(lambda: control.world.trail(aid=WEST["researcher"].aid, verb=verb, run=run_id), 10, "the record")
    assert control.world.trail(aid=WEST["researcher"].aid, verb=verb, run=run_id)[0]["outcome"] == "refused"


def test_a_colleagues_run_is_seen_and_neither_stopped_nor_pulled(control: Control) -> None:
    run_id = _with_results(control, PEOPLE["researcher"])
    assert control.call("list-runs", COLLEAGUE, pb.ListRunsRequest(run_id=run_id)).status_code == 200
    for verb in ("stop-run", "pull-artifacts"):
        assert control.call(verb, COLLEAGUE, RUN_VERBS[verb](run_id=run_id)).status_code == 404
    stopped = control.call("stop-run", WEST["operator"], pb.StopRunRequest(run_id=run_id))
    assert stopped.status_code == 200
    log = control.call("stream-logs", COLLEAGUE, pb.StreamLogsRequest(run_id=run_id))
    assert log.status_code == 200


def test_whoever_left_a_federation_left_their_runs_there(control: Control) -> None:
    run_id = _with_results(control, LEAVER)
    elsewhere = changed(LEAVER, federations=["rare"])
    for verb, make in RUN_VERBS.items():
        assert control.call(verb, elsewhere, make(run_id=run_id)).status_code == 404


def test_a_run_starts_in_the_only_federation_and_in_no_other(control: Control) -> None:
    def start(account: Person, federation_id: str = "") -> httpx.Response:
        request = pb.StartRunRequest(fab=Fab(content=BUNDLE), federation=federation_id)
        return control.call("start-run", account, request)

    answer = start(PEOPLE["researcher"])
    assert pb.StartRunResponse.FromString(answer.content).federation == MAIN
    several = start(BOTH)
    assert several.status_code == 400
    assert several.json()["detail"] == (
        f"Your account is in several federations, so name one: --federation {MAIN} or {RARE}."
    )
    assert start(BOTH, RARE).status_code == 200
    assert start(NONE).json()["detail"] == "Your account is in no federation."
    for federation_id in (RARE, "@testers/gone", "@none/default", "@researcher-north/workspace"):
        refused = start(PEOPLE["researcher"], federation_id)
        assert refused.status_code == 404, federation_id
    assert start(PEOPLE["researcher"], RARE).content == start(PEOPLE["researcher"], "@testers/gone").content


def test_an_account_without_a_role_may_nothing(control: Control) -> None:
    for verb in VERBS:
        assert control.call(verb, NOBODY).status_code == 403, verb


def test_every_operator_sees_and_removes_every_node(control: Control, site_nodes: dict[str, int]) -> None:
    spare = control.register(PEOPLE["operator"])
    everything = set(site_nodes.values()) | {spare}
    assert everything <= control.nodes(WEST["operator"]) & control.nodes(KIT) & control.nodes(WEST["auditor"])
    assert control.nodes(PEOPLE["custodian"]) == {site_nodes["north"]}
    assert control.nodes(WEST["custodian"]) == {site_nodes["west"]}
    answer = control.call("unregister-node", WEST["operator"], pb.UnregisterNodeRequest(node_id=spare))
    assert answer.status_code == 200
    owners = control.world.postgres.sql("SELECT DISTINCT owner_aid, owner_name FROM node")
    assert owners.split() == ["flowerbed|flowerbed"]


def test_federations_that_one_sees(control: Control, site_nodes: dict[str, int]) -> None:
    seen = partial(_federations, control)
    assert seen(PEOPLE["researcher"]) == seen(PEOPLE["custodian"]) == {MAIN}
    assert seen(WEST["researcher"]) == {RARE}
    assert seen(PEOPLE["operator"]) == seen(PEOPLE["auditor"]) == {MAIN, RARE}
    theirs = control.call("show-federation", WEST["researcher"], pb.ShowFederationRequest(federation_name=MAIN))
    gone = control.call(
        "show-federation", WEST["researcher"], pb.ShowFederationRequest(federation_name="@testers/gone")
    )
    assert theirs.status_code == gone.status_code == 412
    assert theirs.content == gone.content
    answer = control.call("show-federation", PEOPLE["researcher"], pb.ShowFederationRequest(federation_name=MAIN))
    shown = pb.ShowFederationResponse.FromString(answer.content).federation
    assert [node.node_id for node in shown.nodes] == [site_nodes["north"]]
    assert {run.federation for run in shown.runs} <= {MAIN}
    assert "researcher-west" not in {member.account.name for member in shown.members}
    assert "researcher-north" in {member.account.name for member in shown.members}


def test_views_are_cut_to_the_account(control: Control, site_nodes: dict[str, int]) -> None:
    mine, theirs = control.start(PEOPLE["researcher"]), control.start(WEST["researcher"], RARE)

    def runs(account: Person) -> set[object]:
        return {run["id"] for run in control.view("runs", account)} & {mine, theirs}

    def sites(account: Person) -> list[object]:
        return [site["name"] for site in control.view("sites", account)]

    assert runs(COLLEAGUE) == {mine}
    assert runs(WEST["researcher"]) == {theirs}
    assert runs(PEOPLE["operator"]) == runs(WEST["auditor"]) == runs(KIT) == {mine, theirs}
    assert runs(PEOPLE["custodian"]) == set()
    assert sites(PEOPLE["researcher"]) == sites(PEOPLE["custodian"]) == ["north"]
    assert sites(WEST["custodian"]) == ["west"]
    assert sites(KIT) == ["north", "west"]
    run = next(run for run in control.view("runs", KIT) if run["id"] == mine)
    assert (run["account"], run["federation"], run["status"], run["sites"]) == ("researcher-north", MAIN, "pending", [])
    north = control.view("sites", PEOPLE["custodian"])[0]
    assert (north["node"], north["organisation"], north["online"]) == (site_nodes["north"], "North Clinic", False)
    for path in ("/v1/flowerbed/runs", "/v1/flowerbed/sites"):
        assert control.client.get(path, headers=edge_headers()).status_code == 401
        assert control.client.get(path).status_code == 403
        assert control.client.post(path, headers=edge_headers() | PROTOBUF, content=b"").status_code == 404


INVALID: dict[str, Callable[[Issuer, Person], str | None]] = {
    "no token": lambda *_: None,
    "expired": lambda issuer, account: issuer.token(account, exp=int(time.time()) - 600),
    "wrong audience": lambda issuer, account: issuer.token(account, aud="account"),
    "wrong issuer": lambda issuer, account: issuer.token(account, iss=f"{issuer.issuer}-other"),
    "unknown key": lambda issuer, account: issuer.token(account, headers={"kid": "unknown"}),
    **FORGERIES,
}


@pytest.mark.parametrize("why", INVALID)
def test_a_token_that_is_not_valid_is_401_with_a_record(control: Control, why: str) -> None:
    world = control.world
    here = f"127.0.1.{list(INVALID).index(why) + 1}"  # a source of its own: what one repeats is only counted
    token = INVALID[why](world.issuer, PEOPLE["researcher"])
    headers = edge_headers() | PROTOBUF | ({} if token is None else {"authorization": f"Bearer {token}"})
    with world.client(here) as client:
        answers = [client.post("/v1/control/list-runs", headers=headers, content=b"") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [401] * 3
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    wait_until(lambda: world.trail(source=here), 10, "the record")
    assert [(r["who"], r["verb"], r["outcome"]) for r in world.trail(source=here)] == [("", "list-runs", "refused")]
    assert str(world.trail(source=here)[0]["detail"]).startswith("401 ")


def test_a_pipeline_stays_within_its_scope(control: Control) -> None:
    pipeline = Person("pipeline-demo", "pipeline-demo", ["researcher"], client="pipeline-demo")
    run_id = control.start(pipeline)
    assert control.call("stop-run", pipeline, pb.StopRunRequest(run_id=run_id)).status_code == 200
    request = pb.RegisterNodeRequest(public_key=public_pem(new_key()))
    assert control.call("register-node", pipeline, request).status_code == 403
    request_elsewhere = pb.StartRunRequest(fab=Fab(content=BUNDLE), federation=RARE)
    assert control.call("start-run", pipeline, request_elsewhere).status_code == 404

    def said(verb: str) -> list[tuple[object, ...]]:
        found = _records(control, pipeline, verb)
        return [(record["who"], record["outcome"], record["detail"]) for record in found]

    wait_until(lambda: said("register-node") and len(said("start-run")) == 4, 10, "the records")
    assert [(who, outcome) for who, outcome, _ in said("register-node")] == [("pipeline-demo", "refused")]
    detail = str(said("register-node")[0][2])
    assert detail.startswith("key ")
    assert "403 `flwr supernode register` needs the role" in detail
    who, outcome, detail = said("start-run")[-1]
    assert (who, outcome, str(detail).endswith(" 404")) == ("pipeline-demo", "refused", True)


def test_an_operator_stops_runs_of_a_federation_that_is_no_more(control: Control) -> None:
    world, operator = control.world, PEOPLE["operator"]
    run_id, file = control.start(WEST["researcher"], RARE), world.config / "federation.json"
    before = file.read_text()
    topology = json.loads(before)
    del topology["federations"]["rare"]
    try:
        replace(file, json.dumps(topology).encode())
        wait_until(lambda: _federations(control, operator) == {MAIN}, 10, "the change")
        assert control.call("stop-run", WEST["researcher"], pb.StopRunRequest(run_id=run_id)).status_code == 404
        assert control.call("stop-run", operator, pb.StopRunRequest(run_id=run_id)).status_code == 200
        run = next(run for run in control.view("runs", operator) if run["id"] == run_id)
        assert (run["status"], run["sub_status"]) == ("finished", "stopped")
        gone = pb.ShowFederationRequest(federation_name=RARE)
        assert control.call("show-federation", operator, gone).status_code == 412
    finally:
        replace(file, before.encode())
        wait_until(lambda: _federations(control, operator) == {MAIN, RARE}, 10, "the change back")


def _federations(control: Control, account: Person) -> set[str]:
    answer = pb.ListFederationsResponse.FromString(control.call("list-federations", account).content)
    return {found.name for found in answer.federations}


def test_disabling_bites_at_once_and_stop_stops_their_runs(control: Control) -> None:
    world, account = control.world, person("leaving-soon", "researcher")
    world.add(account)
    run_id = control.start(account)
    stopped = world.people("stop", account.name)
    assert (stopped.returncode, json.loads(stopped.stdout)) == (0, [run_id]), stopped.stderr
    assert json.loads(world.people("stop", account.name).stdout) == []
    entry = {"name": account.name, "kind": "person", "organisation": "north", "roles": ["researcher"], "enabled": False}
    assert world.people("put", given=[entry]).returncode == 0
    begin = time.monotonic()
    wait_until(lambda: control.call("list-runs", account).status_code == 403, 10, "the refusal")
    assert time.monotonic() - begin < 4
    run = next(run for run in control.view("runs", KIT) if run["id"] == run_id)
    assert (run["status"], run["sub_status"]) == ("finished", "stopped")
    assert [record["outcome"] for record in world.trail(run=run_id, source="local")] == ["started", "done"]


def test_no_run_outlives_the_disabling_of_its_account(control: Control) -> None:
    """Requests are checked with a list that is two seconds old: a run that passes then is stopped after all."""
    world, account = control.world, person("leaving-now", "researcher")
    world.add(account)
    control.start(account)
    disable = f"UPDATE people SET enabled = false WHERE aid = '{account.aid}'"  # noqa: S608  an id of our own
    ended = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        starting = [pool.submit(_start_until, control, account, ended) for _ in range(2)]
        try:
            control.call("list-runs", person("nobody-knows-me"))  # has the list read again
            world.postgres.sql(disable, "flowerbed")
            _stop_all(control, account)
            time.sleep(2.5)
        finally:
            ended.set()
        assert {status for one in starting for status in one.result(20)} <= {200, 403}
    theirs = [run for run in control.view("runs", KIT) if run["account"] == account.name]
    assert theirs
    assert {(run["status"], run["sub_status"]) for run in theirs} == {("finished", "stopped")}


def _start_until(control: Control, account: Person, ended: threading.Event) -> set[int]:
    request, answers = pb.StartRunRequest(fab=Fab(content=BUNDLE), federation=MAIN), set()
    while not ended.is_set():
        answers.add(control.call("start-run", account, request).status_code)
    return answers


def _stop_all(control: Control, account: Person) -> None:
    for run in control.view("runs", KIT):
        if run["account"] == account.name and run["status"] != "finished":
            control.call("stop-run", KIT, pb.StopRunRequest(run_id=int(str(run["id"]))))


def test_without_the_audit_trail_nothing_is_changed(control: Control) -> None:
    sql = control.world.postgres.sql
    sql("REVOKE INSERT ON audit.trail FROM audit; REVOKE INSERT (record) ON audit.trail FROM audit", "audit")
    try:
        before = sql("SELECT count(*) FROM run")
        answer = control.call("start-run", PEOPLE["researcher"], _request(control, "start-run", PEOPLE["researcher"]))
        assert (answer.status_code, answer.json()["detail"]) == (
            503,
            "The audit trail cannot be written, so nothing was done: try again.",
        )
        assert sql("SELECT count(*) FROM run") == before
        assert control.call("list-runs", PEOPLE["researcher"]).status_code == 200
    finally:
        sql("GRANT INSERT (record) ON audit.trail TO audit", "audit")
    assert control.start(PEOPLE["researcher"])


def test_a_login_by_hand_and_processes_that_share_an_expired_token(control: Control) -> None:
    world = control.world
    upstream = f"https://localhost:{world.port}"
    with ExitStack() as stack:
        edge = stack.enter_context(EdgeStandIn(upstream, edge_headers(), world.secrets))
        world.logged_in = PEOPLE["researcher"]
        world.configure_cli(edge.port)
        login = stack.enter_context(world.process("cli", "flwr", "login"))
        wait_until(lambda: world.issuer.logins, 30, "the login")
        world.issuer.approve(COLLEAGUE)
        assert login.wait(30) == 0, (world.root / "cli.log").read_text()
        wait_until(lambda: world.trail(verb="login", outcome="done", who=COLLEAGUE.name), 10, "the record")
        world.issuer.lifetime_s = -60
        world.configure_cli(edge.port)
        world.issuer.lifetime_s = 300
        before = world.issuer.exchanges()
        crowd = [stack.enter_context(world.process("cli", "flwr", "list")) for _ in range(4)]
        assert [process.wait(120) for process in crowd] == [0] * 4, (world.root / "cli.log").read_text()
        assert world.issuer.exchanges() - before == 1


def test_with_the_identity_provider_away_tokens_go_on_and_the_superlink_starts(
    control: Control, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from superlink_support import free_port

    world = control.world
    monkeypatch.setattr(world, "port", free_port())
    monkeypatch.setattr(world, "log", tmp_path_factory.mktemp("away") / "superlink.log")
    nowhere = f"https://localhost:{free_port()}/realms/flowerbed"
    with world.superlink(FLOWERBED_ISSUER=nowhere), world.client() as client:
        headers = edge_headers() | PROTOBUF | world.bearer(PEOPLE["researcher"])
        answer = client.post("/v1/control/list-runs", headers=headers, content=b"")
        assert (answer.status_code, "cannot be reached" in answer.json()["detail"]) == (503, True)
        answer = client.post("/v1/control/get-login-details", headers=edge_headers() | PROTOBUF, content=b"")
        assert (answer.status_code, "cannot be reached" in answer.json()["detail"]) == (503, True)
        assert client.get("/health").status_code == 200


def test_the_gate_holds_login_bodies_small(control: Control) -> None:
    headers = edge_headers() | PROTOBUF
    answer = control.client.post("/v1/control/get-auth-tokens", headers=headers, content=b"x" * 40_000)
    assert answer.status_code == 413
