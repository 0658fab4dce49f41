"""What the real edge, SuperLink and Keycloak refuse: tokens that are not valid, and accounts outside their federations and roles.

Each refusal has its status, and a record in an exported audit trail.
"""

from __future__ import annotations

import io
import secrets
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from flwr.proto import control_pb2 as pb
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from google.protobuf.message import Message

from flowerbed_cli import realm
from flowerbed_cli.project import Project
from flowerbed_superlink.roles import VERBS
from superlink_processes import COMPONENTS, PYPROJECT

from . import tokens
from .browser import first_password
from .client import PROTOBUF, Edge, Reply, identity, new_supernode_key
from .federation import Federation
from .laptop import claims
from .running import APP, PATIENCE_S, WAITING, finished_run, run_of, superlink_status, wait_for
from .trail import recorded, records

# As compose and the CLI name the consortium: it is not the stack.
MAIN, RARE, GONE = "@flowerbed/cancer", "@flowerbed/rare", "@flowerbed/gone"
OUTSIDER = "pipeline-outsider"
PASSWORD = "correct horse battery staple"
# What a stranger repeats within a minute is counted, and recorded at its end.
REPEATED_S = 75


def ask(edge: Edge, verb: str, token: str | None, message: Message | None = None) -> Reply:
    """Send a Control request, or ask for a view, through the edge."""
    said = {} if token is None else {"Authorization": f"Bearer {token}"}
    if verb in ("runs", "sites"):
        return edge.ask("superlink", f"/v1/flowerbed/{verb}", method="GET", **said)
    body = message.SerializeToString() if message is not None else b""
    return edge.ask("superlink", f"/v1/control/{verb}", body=body, **PROTOBUF, **said)


def bundle() -> Fab:
    """Return an app that the SuperLink accepts; nothing of it is ever run to its end."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("pyproject.toml", PYPROJECT.format(components=COMPONENTS))
    return Fab(content=buffer.getvalue())


# --- tokens


def of_another_audience(federation: Federation) -> str:
    return tokens.account_page_token(federation, "researcher-north", first_password(federation, "researcher-north"))


def expired(federation: Federation) -> str:
    """Return a token that the SuperLink took before it ended; clocks may differ by 30 s."""
    with tokens.short_tokens(federation):
        token = tokens.pipeline_token(federation)
    assert claims(token)["exp"] - claims(token)["iat"] == tokens.SHORT_TOKEN_S
    assert ask(Edge(federation), "list-runs", token).status == 200
    time.sleep(max(0.0, claims(token)["exp"] + 32 - time.time()))
    return token


# By what is wrong with it; the sentence is the record's.
INVALID: dict[str, tuple[Callable[[Federation], str | None], str]] = {
    "no token": (lambda _: None, "Nobody is logged in"),
    "expired": (expired, "The access token has expired"),
    "wrong audience": (of_another_audience, "is not for this SuperLink"),
    "wrong issuer": (tokens.renamed_realm_token, "is of another issuer"),
    "realm master's": (tokens.master_token, "a key that the identity provider does not know"),
    "realm master's, with a pipeline's claims": (
        tokens.master_token_with_claims,
        "a key that the identity provider does not know",
    ),
    **{name: (forge, "The access token is not valid") for name, forge in tokens.FORGERIES.items()},
}
# What strangers repeat is recorded once a minute, so that each asks with a verb of its own.
ASKED = dict(zip(INVALID, VERBS, strict=False))


@dataclass(frozen=True)
class Strangers:
    """What was answered to each, and what was recorded of the verb that each asked with."""

    replies: dict[str, Reply]
    records: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def strangers(federation: Federation, edge: Edge) -> Strangers:
    before = len(records(federation))
    replies = {why: ask(edge, ASKED[why], make(federation)) for why, (make, _) in INVALID.items()}
    found: dict[str, dict[str, Any]] = {}

    def all_recorded() -> bool:
        found.update({item["verb"]: item for item in records(federation, before, who="", aid="", outcome="refused")})
        return set(ASKED.values()) <= set(found)

    wait_for("every refusal is recorded", all_recorded, REPEATED_S)
    return Strangers(replies, found)


@pytest.mark.parametrize("why", INVALID)
def test_a_token_that_is_not_valid_is_refused_on_the_real_stack(strangers: Strangers, why: str) -> None:
    reply, record = strangers.replies[why], strangers.records[ASKED[why]]
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer"), reply
    assert record["detail"].startswith("401 ")
    assert INVALID[why][1] in record["detail"]
    assert record["source"].count(".") == 3


def test_a_valid_token_gets_further_with_each_of_these_verbs(federation: Federation, edge: Edge) -> None:
    token = tokens.pipeline_token(federation)
    assert claims(token)["exp"] - claims(token)["iat"] == 300
    assert 401 not in {ask(edge, verb, token).status for verb in ASKED.values()}


# --- accounts


@pytest.fixture(scope="module")
def theirs(federation: Federation) -> Iterator[int]:
    """A run of the demo pipeline's in a federation that outsiders are not in: it goes on until somebody stops it."""
    run = federation.submit(APP, WAITING)
    wait_for("the run runs", lambda: run_of(federation, run).get("status") == "running", PATIENCE_S)
    yield run
    federation.flwr(f"flwr stop {run} flowerbed", check=False)


@pytest.fixture(scope="module")
def finished(federation: Federation) -> int:
    """A run of the same pipeline's that has results."""
    return finished_run(federation)


@pytest.fixture(scope="module")
def stranger(federation: Federation) -> Iterator[str]:
    """The name of a researcher whose organisation is in both federations, and who is in the second alone."""
    name = f"stranger{secrets.token_hex(3)}"
    federation.flowerbed(
        "user", "add", name, "--organisation", "west", "--role", "researcher", "--federation", "rare",
        "--email", f"{name}@example.org", "--first-name", "Sam", "--last-name", "Doe",
    )  # fmt: skip
    realm.set_password(Project(federation.root), federation.topology, name, PASSWORD, temporary=False)
    yield name
    federation.flowerbed("user", "disable", name)


def requests(run: int, finished: int, node: int, federation_id: str) -> dict[str, Message | None]:
    """Return a request of each verb, about these runs, this SuperNode and federation where it names one."""
    key = public_key_to_bytes(new_supernode_key().public_key())
    named: dict[str, Message] = {
        "start-run": pb.StartRunRequest(fab=bundle(), federation=federation_id),
        "stop-run": pb.StopRunRequest(run_id=run),
        "list-runs": pb.ListRunsRequest(run_id=run),
        "stream-logs": pb.StreamLogsRequest(run_id=run),
        "pull-artifacts": pb.PullArtifactsRequest(run_id=finished),
        "register-node": pb.RegisterNodeRequest(public_key=key, name="spare"),
        "unregister-node": pb.UnregisterNodeRequest(node_id=node),
        "show-federation": pb.ShowFederationRequest(federation_name=federation_id),
    }
    return {verb: named.get(verb) for verb in VERBS}


RUN_VERBS = ("stop-run", "list-runs", "stream-logs", "pull-artifacts")
FOREIGN = dict.fromkeys(("start-run", *RUN_VERBS), 404)
UNFITTING = dict.fromkeys(("register-node", "unregister-node", "list-nodes"), 403)
# What a researcher of another federation is answered: what is not theirs like what is not there, the rest without it.
ANSWERS = {
    **FOREIGN,
    **UNFITTING,
    "list-federations": 200,
    "show-federation": 412,
    "runs": 200,
    "sites": 200,
}


@dataclass(frozen=True)
class Outsider:
    """What one was answered for each verb: about what is there, and about what is not; and what was recorded of it."""

    theirs: dict[str, Reply]
    absent: dict[str, Reply]
    records: list[dict[str, Any]]


@pytest.fixture(scope="module")
def outsiders(federation: Federation, edge: Edge, theirs: int, finished: int, stranger: str) -> dict[str, Outsider]:
    """A person and a pipeline of another federation, who ask every verb about others' runs, SuperNode and federation."""
    before, node = len(records(federation)), int(superlink_status(federation)["nodes"][0]["id"])
    there, absent = requests(theirs, finished, node, MAIN), requests(theirs + 1, finished + 1, 1, GONE)
    accounts = {
        "a person": (stranger, tokens.person_token(federation, stranger, PASSWORD)),
        "a pipeline": (OUTSIDER, tokens.pipeline_token(federation, OUTSIDER)),
    }
    answers = {
        (kind, who, sent is there): {verb: ask(edge, verb, token, sent[verb]) for verb in VERBS}
        for kind, (who, token) in accounts.items()
        for sent in (there, absent)
    }
    recorded(federation, 30, before, verb="sites", who=OUTSIDER)
    said = records(federation, before, organisation="west")
    return {
        kind: Outsider(answers[kind, who, True], answers[kind, who, False], [it for it in said if it["who"] == who])
        for kind, (who, _) in accounts.items()
    }


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["a person", "a pipeline"])
def test_a_researcher_of_another_federation_learns_and_changes_nothing(
    outsiders: dict[str, Outsider], theirs: int, finished: int, kind: str, verb: str
) -> None:
    outsider = outsiders[kind]
    reply, absent = outsider.theirs[verb], outsider.absent[verb]
    assert reply.status == ANSWERS[verb], reply
    assert reply.status == absent.status
    if reply.status == 200:
        assert all(word.encode() not in reply.body for word in (f"{theirs}", f"{finished}", "cancer"))
    else:
        assert reply.body == absent.body
    ends = [record for record in outsider.records if record["verb"] == verb and record["outcome"] != "started"]
    assert [record["outcome"] for record in ends] == ["done" if reply.status == 200 else "refused"] * 2
    assert reply.status == 200 or all(str(reply.status) in record["detail"] for record in ends)
    if verb in RUN_VERBS:
        run = finished if verb == "pull-artifacts" else theirs
        assert [record["run"] for record in ends] == [run, run + 1]


@pytest.mark.usefixtures("outsiders")
def test_what_outsiders_asked_about_is_untouched_and_its_owners(
    federation: Federation, edge: Edge, theirs: int, finished: int, stranger: str
) -> None:
    assert run_of(federation, theirs)["status"] == "running"
    assert {node["name"] for node in superlink_status(federation)["nodes"]} >= {"north", "south", "west"}
    token, own = tokens.pipeline_token(federation), requests(theirs, finished, 1, MAIN)
    for verb in ("list-runs", "pull-artifacts", "show-federation"):
        assert ask(edge, verb, token, own[verb]).status == 200, verb
    assert str(theirs).encode() in ask(edge, "runs", token).body
    assert stranger.encode() not in ask(edge, "show-federation", token, own["show-federation"]).body


def test_a_researcher_registers_no_supernode(federation: Federation, edge: Edge) -> None:
    name = "researcher-north"
    token = tokens.person_token(federation, name, first_password(federation, name))
    nodes, before = superlink_status(federation)["nodes"], len(records(federation))
    reply = ask(edge, "register-node", token, requests(1, 1, 1, MAIN)["register-node"])
    assert (reply.status, reply.detail) == (
        403,
        f"`flwr supernode register` needs the role operator, and {name} has researcher: ask an operator.",
    )
    record = recorded(federation, 30, before, verb="register-node", who=name)
    assert (record["outcome"], record["organisation"]) == ("refused", "north")
    assert record["detail"].endswith(f"403 {reply.detail}")
    assert [node["id"] for node in superlink_status(federation)["nodes"]] == [node["id"] for node in nodes]


def test_a_pipeline_outside_its_scope_is_refused(federation: Federation, edge: Edge) -> None:
    """The other way round, too: who is in the first federation is nobody in the second. Nor is it anybody at Keycloak."""
    own, token, before = (
        tokens.pipeline_token(federation, OUTSIDER),
        tokens.pipeline_token(federation),
        len(records(federation)),
    )
    started = ask(edge, "start-run", own, pb.StartRunRequest(fab=bundle(), federation=RARE))
    assert started.status == 200, started
    run = pb.StartRunResponse.FromString(started.body).run_id
    asked = requests(run, run, 1, RARE)
    try:
        answers = {verb: ask(edge, verb, token, asked[verb]) for verb in (*FOREIGN, *UNFITTING)}
        assert {verb: reply.status for verb, reply in answers.items()} == FOREIGN | UNFITTING
        recorded(federation, 30, before, verb=list(answers)[-1], outcome="refused", who=tokens.PIPELINE)
        said = records(federation, before, outcome="refused", who=tokens.PIPELINE, organisation="north")
        for verb, status in (FOREIGN | UNFITTING).items():
            assert [f"{status}" in record["detail"] for record in said if record["verb"] == verb] == [True], verb
        administering = {"Authorization": f"Bearer {token}"}
        operator = identity(federation.root / "ca" / "pki", "operator")
        users = edge.ask("admin", "/admin/realms/flowerbed/users", method="GET", who=operator, **administering)
        assert users.status in (401, 403), users
    finally:
        ask(edge, "stop-run", own, asked["stop-run"])
