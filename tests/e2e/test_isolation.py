"""What researchers' code can reach: an app that tries, submitted for real, as ServerApp and as ClientApp.

Two tasks overlap at the centre only: a SuperNode hands out one message at a time (tests/integration/test_executor_isolation.py
makes ClientApps overlap).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowerbed_topology import Topology
from flowerbed_topology.policy import reachability

from . import beyond
from .beyond import PORT, Listener
from .federation import CANARY, FEDERATION, Federation

APPS = Path(__file__).parent / "apps"
TOPOLOGY = Topology.model_validate(FEDERATION)
SITES = [site.name for site in TOPOLOGY.sites]
RULES = reachability(TOPOLOGY)
ALL = ["read", "search", "processes", "environment", "connect", "dns", "call", "write", "privileges"]
PATHS = (
    "/secrets/superexec.secret", "/secrets/ca.crt", "/secrets/supernode.key", "/secrets/client.key", "/secrets/tls.key",
    "/secrets/pgpass", "/secrets/edge.token", "/secrets/superlink.password", "/proc/1/environ", "/proc/1/mem",
    "/proc/1/root/secrets/superexec.secret", "/proc/1/cwd/secrets/superexec.secret", "/etc/shadow", "/dev/mem",
    "/run/secrets/superexec.secret", "/config/federation.json", "/var/run/docker.sock",
)  # fmt: skip
FOREIGN = (
    "/data/x",
    "/state/x.jsonl",
    "/results/x",
    "/secrets/x",
    "/tasks/x",
    "/run/flowerbed/alive",
    "/etc/x",
    "/opt/x",
)
FORGED = {"X-Flowerbed-Edge": "0" * 64, "X-Flowerbed-Client-Cert": "-----BEGIN%20CERTIFICATE-----"}
REQUESTS = [
    ("/v1/control/list-runs", {}), ("/v1/control/list-runs", FORGED), ("/v1/control/start-run", FORGED),
    ("/v1/control/start-automation", FORGED), ("/v1/fleet/pull-messages", {}), ("/v1/fleet/pull-messages", FORGED),
    ("/v1/runtime/start-automation", {}), ("/v1/runtime/create-task", {}), ("/v1/runtime/get-connector", {}),
    ("/v1/runtime/push-task-message", {}), ("/v1/runtime/responses", {}), ("/docs", {}), ("/openapi.json", {}),
    ("/v1/runtime/acquire-task", {}),
]  # fmt: skip
WHERE = ["serverapp", *SITES]
Spec = dict[str, Any]
Found = dict[str, Any]


@pytest.fixture(scope="module")
def beyond_reach(
    federation: Federation,  # noqa: ARG001 - for its bridges
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Listener, Listener]]:
    logs = tmp_path_factory.mktemp("beyond")
    with (
        beyond.listener(logs / "host", beyond.host_addresses()) as host,
        beyond.outside(logs / "outside") as outside,
        beyond.trap(),
    ):
        yield host, outside


def submit(federation: Federation, spec: Spec) -> int:
    return federation.submit(APPS / "attack", f'spec="{base64.b64encode(json.dumps(spec).encode()).decode()}"')


def found(federation: Federation, run: int, seconds: float = 240) -> Found:
    """Return what the attacker has reported; it is the run's result."""
    deadline = time.monotonic() + seconds
    while True:
        text = federation.sh("serverapp", f"cat /results/{run}/found.json 2>/dev/null || true")
        if text.strip():
            answer: Found = json.loads(text)
            return answer
        assert time.monotonic() < deadline, federation.run_log(run) + federation.logs("serverapp")[-3000:]
        time.sleep(1)


def full_spec(federation: Federation, host: Listener, outside: Listener) -> Spec:
    secrets = [
        path for path in (federation.root / "secrets").rglob("*") if path.is_file() and path.name != "project-id"
    ]
    private = [
        p for p in secrets if p.suffix != ".json" and p.name not in ("ca.crt", "tls.crt", "client.crt", "crl.pem")
    ]
    private += list((federation.root / "ca" / "pki" / "private").glob("*.key"))
    targets = {(str(rule.address), rule.port) for rule in RULES if rule.address and rule.port}
    targets |= {(str(rule.address), PORT) for rule in RULES if rule.target == "host"}
    targets |= {(address, PORT) for address in (*host.addresses, *outside.addresses)}
    return {
        "do": ALL,
        "paths": PATHS,
        "hashes": [hashlib.sha256(path.read_bytes()).hexdigest() for path in private],
        "rows": [],
        "targets": sorted(targets),
        "names": [f"{beyond.LABEL}.example.test", f"{beyond.LABEL}.{federation.topology.domain}"],
        "servers": [*host.addresses, *outside.addresses],
        "requests": REQUESTS,
        "write": FOREIGN,
    }


@pytest.fixture(scope="module")
def attack(federation: Federation, beyond_reach: tuple[Listener, Listener]) -> Found:
    """One run: every attempt at the centre and at each site, leaving a child behind; then another look."""
    spec = full_spec(federation, *beyond_reach)
    # Each site's canary row: only its own site may find it.
    rows = [f"{CANARY}{number},"[::-1] for number in (1, 2, 3)]
    run = submit(
        federation,
        {
            "serverapp": spec | {"do": [*ALL, "leave"], "rows": rows},
            "turns": [
                spec | {"do": [*ALL, "data", "leave"], "rows": rows},
                {"do": ["look"]},
            ],
        },
    )
    answer = found(federation, run)
    assert set(answer) == {"serverapp", *(f"{site} {turn}" for site in SITES for turn in (0, 1))}
    return (
        {"serverapp": answer["serverapp"]}
        | {site: answer[f"{site} 0"] for site in SITES}
        | {f"{site} later": answer[f"{site} 1"] for site in SITES}
    )


@pytest.mark.parametrize("where", WHERE)
def test_no_key_password_or_secret_can_be_read(attack: Found, where: str) -> None:
    assert {path: got for path, (worked, got) in attack[where]["read"].items() if worked} == {}
    assert attack[where]["uid"] > 100_000


@pytest.mark.parametrize("where", WHERE)
def test_no_readable_file_is_a_secret_or_holds_another_sites_row(attack: Found, where: str) -> None:
    searched = attack[where]["search"]
    assert searched["seen"] > 50
    own = [] if where == "serverapp" else ["/data/breast-cancer.csv"]
    assert searched["hits"] == own


@pytest.mark.parametrize("site", SITES)
def test_a_task_finds_the_rows_of_its_own_site_only(federation: Federation, attack: Found, site: str) -> None:
    assert attack[site]["data"]["files"] == ["breast-cancer.csv"]
    rows = int(federation.sh(f"{site}-clientapp", "wc -l < /data/breast-cancer.csv"))
    assert attack[site]["data"]["rows"] == rows > 100


@pytest.mark.parametrize("where", WHERE)
def test_no_other_process_can_be_read_or_signalled_and_no_command_line_tells_a_secret(
    federation: Federation, attack: Found, where: str
) -> None:
    seen = attack[where]["processes"]
    assert seen["tried"] >= 18
    assert seen["got"] == {}
    assert "flowerbed_executor" in seen["commands"]
    kept = [path.read_text() for path in (federation.root / "secrets" / "kit").glob("*.secret")]
    assert [secret for secret in kept if secret.strip() in seen["commands"]] == []


@pytest.mark.parametrize("where", WHERE)
def test_the_environment_holds_what_a_task_needs_and_no_secret(attack: Found, where: str) -> None:
    given = attack[where]["environment"]
    names = {name for name in given["variables"] if re.search("(?i)secret|password|key|token|proxy", name)}
    assert names == set()
    assert not any(re.fullmatch(r"[0-9a-f]{64}", value) for value in given["variables"].values())
    assert "--token" not in given["arguments"]


@pytest.mark.parametrize("where", WHERE)
def test_only_the_runtime_api_can_be_reached(attack: Found, where: str) -> None:
    source = where if where == "serverapp" else f"clientapp-{where}"
    allowed = {f"{rule.address}:{rule.port}" for rule in RULES if rule.source == source and rule.allowed}
    assert len(allowed) == 1
    assert set(attack[where]["connect"]) == allowed


@pytest.mark.parametrize("where", WHERE)
def test_no_look_up_is_answered_or_leaves(attack: Found, beyond_reach: tuple[Listener, Listener], where: str) -> None:
    looked = attack[where]["dns"]
    assert [name for name, (worked, _) in looked["names"].items() if worked] == []
    assert looked["answer"][0] is False
    assert beyond.caught() == 0
    networks = [str(subnet).rpartition(".")[0] for subnet in TOPOLOGY.all_subnets]
    seen = [line for one in beyond_reach for line in one.seen()]
    assert [line for line in seen if any(line.split()[1].startswith(f"{prefix}.") for prefix in networks)] == []


@pytest.mark.parametrize("where", WHERE)
def test_neither_control_nor_fleet_api_automations_tasks_connectors_or_docs_are_open(attack: Found, where: str) -> None:
    answers = attack[where]["call"]
    assert len(answers) == len(REQUESTS)
    # With a task's token one does not get tasks either: that takes the SuperExec secret.
    assert answers.pop("/v1/runtime/acquire-task") in (401, 403)
    if where == "serverapp":
        closed = {path: status for path, status in answers.items() if status not in (403, 404)}
    else:
        closed = {path: status for path, status in answers.items() if status != 404}
    assert closed == {}


def test_the_superlink_logged_the_attempts(federation: Federation, attack: Found) -> None:
    assert attack
    lines = [json.loads(line) for line in federation.logs("superlink").splitlines() if line.startswith("{")]
    client = str(TOPOLOGY.address("serverapp", "serverapp"))
    refused = {
        (line["path"], line["why"]) for line in lines if line.get("event") == "refused" and line["client"] == client
    }
    assert ("/v1/control/list-runs", "no valid edge token") in refused
    assert ("/v1/fleet/pull-messages", "no valid edge token") in refused
    assert ("/v1/runtime/create-task", "route not allowed") in refused
    assert ("/v1/runtime/start-automation", "route not allowed") in refused


@pytest.mark.parametrize("where", WHERE)
def test_a_task_writes_in_its_own_home_only(attack: Found, where: str) -> None:
    written = attack[where]["write"]
    assert {path: got for path, (worked, got) in written["foreign"].items() if worked} == {}
    assert [worked for worked, _ in written["own"].values()] == [True, True]


@pytest.mark.parametrize("where", WHERE)
def test_no_privilege_can_be_gained(attack: Found, where: str) -> None:
    assert {name: got for name, (worked, got) in attack[where]["privileges"].items() if worked} == {}


@pytest.mark.parametrize("site", SITES)
def test_a_child_that_one_task_left_is_gone_before_the_next(attack: Found, site: str) -> None:
    assert attack[site]["leave"] > 0
    later = attack[f"{site} later"]
    assert later["look"] == {"child": False, "files": []}
    assert later["uid"] != attack[site]["uid"]


@pytest.fixture(scope="module")
def overlap(federation: Federation, attack: Found) -> tuple[Found, Found, Found]:
    """Two ServerApps at once: what the first one kept, what the second found, and what became of the first."""
    assert attack
    victim = submit(federation, {"serverapp": {"do": ["look", "victim"]}, "turns": []})
    facts = told(federation, victim)
    attacker = submit(federation, {"serverapp": {"do": ["overlap"], "victim": facts, "run": victim}, "turns": []})
    try:
        attacked = found(federation, attacker)["serverapp"]["overlap"]
    finally:
        federation.sh("serverapp", "touch /tmp/attack-is-over")
    survived = found(federation, victim)["serverapp"]
    federation.sh("serverapp", "rm -f /tmp/attack-is-over")
    return facts, attacked, survived


def told(federation: Federation, run: int) -> Found:
    deadline = time.monotonic() + 120
    mark = re.compile(rf"run {run} task \d+\] VICTIM (\{{.*\}})")
    while not (line := mark.search(federation.logs("serverapp"))):
        assert time.monotonic() < deadline, federation.logs("serverapp")[-3000:]
        time.sleep(1)
    facts: Found = json.loads(line.group(1))
    return facts


def test_a_server_apps_child_is_gone_before_the_next_run(attack: Found, overlap: tuple[Found, Found, Found]) -> None:
    assert attack["serverapp"]["leave"] > 0
    assert overlap[2]["look"] == {"child": False, "files": []}


def test_two_tasks_that_overlap_cannot_read_or_change_each_other(overlap: tuple[Found, Found, Found]) -> None:
    _, attacked, survived = overlap
    assert {name: got for name, (worked, got) in attacked["tries"].items() if worked} == {}
    assert survived["victim"] == {"unharmed": True, "in time": True}


def test_a_token_and_a_runs_arguments_stand_in_no_command_line(overlap: tuple[Found, Found, Found]) -> None:
    facts, attacked, _ = overlap
    assert len(facts["token"]) > 20
    assert "flowerbed_executor" in attacked["commands"]
    assert facts["token"] not in attacked["commands"]


def test_an_app_with_an_agent_is_refused_in_a_clear_sentence(federation: Federation) -> None:
    answer = federation.flwr("flwr run /app flowerbed", "-v", f"{APPS / 'agent'}:/app:ro", check=False)
    told = " ".join(re.sub(r"[│╭╮╰╯─]|\x1b\[[0-9;]*m", " ", answer).split())
    assert "This federation runs a serverapp and a clientapp only: take agentapp out" in told
    assert '"event": "submission-refused"' in federation.logs("superlink")
