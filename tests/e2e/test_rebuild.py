"""Keycloak's database is lost and made again, as docs/runbooks/keycloak-rebuild.md says: everybody keeps what is theirs."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from flowerbed_cli import docker as kit_docker

from .browser import Person, chromium, first_password
from .client import Edge
from .federation import KIT, STACK, Federation
from .laptop import Laptop, claims, laptop
from .operating import FLOWERBED
from .running import APP, PATIENCE_S, WAITING, download, finished_run, pull, run_of, superlink_status, wait_for
from .tokens import person_token, pipeline_token

RUNBOOK = KIT / "docs" / "runbooks" / "keycloak-rebuild.md"
# Of the demo people, whose passwords are for good.
DEMO = "researcher-north"
ONE_ROUND = "num-server-rounds=1 noise-multiplier=8.0 local-steps=2 round-timeout=300.0"


@dataclass(frozen=True)
class Before:
    """What there was before the loss."""

    accounts: dict[str, dict[str, Any]]  # claims by name
    ended: dict[str, int]  # a finished run by its owner
    going_on: dict[str, int]  # one that goes on
    nodes: list[str]


@pytest.fixture(scope="module")
def person(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """Somebody whom an operator added, at a browser of their own."""
    name = f"robin{secrets.token_hex(3)}"
    federation.flowerbed(
        "user", "add", name, "--organisation", "west", "--role", "researcher", "--federation", "cancer",
        "--email", f"{name}@example.org", "--first-name", "Robin", "--last-name", "Doe",
    )  # fmt: skip
    with chromium(federation, tmp_path_factory.mktemp("browser")) as page:
        yield Person(page, name, first_password(federation, name), "rebuild")
    federation.flowerbed("user", "disable", name)


@pytest.fixture(scope="module")
def machine(federation: Federation) -> Iterator[Laptop]:
    with laptop(federation) as made:
        yield made


@pytest.fixture(scope="module")
def before(federation: Federation, machine: Laptop, person: Person) -> Before:
    machine.login(person, new_password="correct horse battery staple")
    ended = {person.name: machine.submit(ONE_ROUND), "pipeline-demo": finished_run(federation)}
    wait_for("the run ends", lambda: run_of(federation, ended[person.name]).get("status") == "finished", PATIENCE_S)
    going_on = {person.name: machine.submit(WAITING), "pipeline-demo": federation.submit(APP, WAITING)}
    for run in going_on.values():
        wait_for("the run runs", partial(running, federation, run), PATIENCE_S)
    nodes = [node["id"] for node in superlink_status(federation)["nodes"]]
    return Before(accounts(federation, machine, person), ended, going_on, nodes)


def running(federation: Federation, run: int) -> bool:
    return run_of(federation, run).get("status") == "running"


def accounts(federation: Federation, machine: Laptop, person: Person) -> dict[str, dict[str, Any]]:
    """Return what new tokens say: the added person's as kept by `flwr login`, a demo person's and a pipeline's."""
    return {
        person.name: machine.claims(),
        DEMO: claims(person_token(federation, DEMO, first_password(federation, DEMO))),
        "pipeline-demo": claims(pipeline_token(federation)),
    }


@pytest.fixture(scope="module")
def rebuilt(federation: Federation, before: Before, person: Person, edge: Edge) -> str:
    """Do what the runbook says, the first `make up` killed in the middle of the realm; return what the second printed."""
    assert before.ended
    (script,) = re.findall(r"```\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)
    *commands, last = [line.strip() for line in script.strip().splitlines()]
    assert last == "make up"
    for command in commands:
        assert command.startswith("docker ")
        subprocess.run(
            ["bash", "-c", command.replace("flowerbed-", f"{STACK}-")], check=True, env=kit_docker.environment()
        )
    person.page.context.clear_cookies()
    killed_in_the_realm(federation, edge)
    assert "The realm is as it should be." not in federation.flowerbed("realm", "--dry-run").stdout
    return federation.flowerbed("up").stdout


def killed_in_the_realm(federation: Federation, edge: Edge) -> None:
    """Run `flowerbed up`, and kill it and what it started as soon as Keycloak has the realm, whose content comes after."""

    def there() -> bool:
        return edge.ask("auth", "/realms/flowerbed/", method="GET").status == 200

    with subprocess.Popen(
        [str(FLOWERBED), "--project", str(federation.root), "up"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        wait_for("Keycloak has the realm", there, 400, 0.05)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL


def test_a_rebuilt_keycloak_is_equal_though_killed_half_way(federation: Federation, rebuilt: str) -> None:
    assert "realm: " in rebuilt
    assert "The realm is as it should be." in federation.flowerbed("realm", "--dry-run").stdout
    assert "Nothing changed." in federation.flowerbed("up").stdout


@pytest.mark.usefixtures("rebuilt")
def test_people_and_pipelines_are_who_they_were(
    federation: Federation, machine: Laptop, person: Person, before: Before
) -> None:
    new = first_password(federation, person.name)
    assert new != person.password
    person.password = new
    machine.login(person, new_password="correct horse battery staple 2")
    changing = {"sub", "exp", "iat", "jti", "sid", "auth_time"}
    for name, now in accounts(federation, machine, person).items():
        was = before.accounts[name]
        assert now["sub"] != was["sub"], name
        assert {k: v for k, v in now.items() if k not in changing} == {
            k: v for k, v in was.items() if k not in changing
        }


@pytest.mark.usefixtures("rebuilt")
def test_a_person_sees_pulls_and_stops_earlier_runs(
    federation: Federation, machine: Laptop, person: Person, before: Before
) -> None:
    ended, going_on = before.ended[person.name], before.going_on[person.name]
    listed = {int(item["run-id"]): item["status"] for item in machine.json("ls")["runs"]}
    assert listed == {ended: "finished:completed", going_on: "running"}
    link = re.search(r"https://\S+", machine.flwr("pull", str(ended)).replace("\n", ""))
    assert link
    assert download(federation, link.group(0)).status_code == 200
    machine.flwr("stop", str(going_on))
    assert machine.status(going_on) == "finished:stopped"
    # Others' are as far away as before.
    assert machine.run("flwr", "stop", str(before.going_on["pipeline-demo"])).returncode != 0


@pytest.mark.usefixtures("rebuilt")
def test_a_pipeline_sees_pulls_and_stops_earlier_runs(federation: Federation, before: Before) -> None:
    ended, going_on = before.ended["pipeline-demo"], before.going_on["pipeline-demo"]
    assert federation.run_status(ended) == "finished:completed"
    assert federation.run_status(going_on).startswith("running")
    assert download(federation, pull(federation, ended)).status_code == 200
    federation.flwr(f"flwr stop {going_on} flowerbed")
    assert federation.run_status(going_on) == "finished:stopped"
    assert [node["id"] for node in superlink_status(federation)["nodes"]] == before.nodes
