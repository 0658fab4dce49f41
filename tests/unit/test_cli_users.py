"""People as the command line takes, shows and keeps them. Docker and Keycloak are replaced by recorders, named as such."""

from __future__ import annotations

import io
import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flowerbed_cli import docker, passwords, people, realm, roster, up, users
from flowerbed_cli.errors import AccountError, DockerError
from flowerbed_cli.project import KIT, Project
from flowerbed_cli.users import Person, checked
from flowerbed_keycloak import IdentityError, Report
from flowerbed_topology import Topology, load

TOPOLOGY = load(KIT / "federation.yaml")
ALEX = Person("alex", "north", ["researcher"], (), "alex@example.org", "Alex", "O'Neill-Ågren")


def listed(account: dict[str, Any], **changes: object) -> dict[str, Any]:
    """An account as the list of people gives it back."""
    return {"aid": "p-" + "0" * 20, "created_at": "2026-01-01T00:00:00+00:00", **account, **changes}


def test_a_person_is_of_all_their_organisations_federations_unless_said() -> None:
    assert checked(TOPOLOGY, ALEX) == {
        "name": "alex",
        "kind": "person",
        "email": "alex@example.org",
        "first_name": "Alex",
        "last_name": "O'Neill-Ågren",
        "organisation": "north",
        "roles": ["researcher"],
        "federations": ["main"],
        "enabled": True,
    }


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"name": "Alex"}, "NAME is 'Alex': give 3 to 63"),
        ({"name": "al"}, "NAME is 'al': give 3 to 63"),
        ({"name": "../alex"}, "NAME is '../alex'"),
        ({"name": "a" * 64}, "give 3 to 63"),
        ({"name": "researcher-north"}, "one of the kit's own accounts"),
        ({"name": "pipeline-demo"}, "one of the kit's own accounts"),
        ({"name": "service-account-kit"}, "one of the kit's own accounts"),
        ({"name": "flowerbed"}, "one of the kit's own accounts"),
        ({"organisation": "nowhere"}, "--organisation is 'nowhere': give one of north, south, west."),
        ({"roles": ["admin"]}, "--role is 'admin': give one of operator, custodian, researcher, auditor."),
        ({"roles": []}, "--role is missing"),
        ({"federations": ["other"]}, "--federation is 'other': give one of main."),
        ({"email": "alex"}, "--email is 'alex': give an address"),
        ({"email": "a@b@c"}, "--email is"),
        ({"email": "a@localhost"}, "--email is"),
        ({"email": "a..b@example.org"}, "--email is"),
        ({"email": "ä@example.org"}, "--email is"),
        ({"first_name": "<b>"}, "--first-name is '<b>'"),
        ({"last_name": "a\x1b[2J"}, "--last-name is"),
    ],
)
def test_bad_input_is_one_sentence_that_names_option_value_and_remedy(wrong: dict[str, Any], sentence: str) -> None:
    person = Person(**({**ALEX.__dict__} | wrong))
    with pytest.raises(AccountError) as caught:
        checked(TOPOLOGY, person)
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@given(st.text(max_size=80))
def test_no_name_leads_out_of_its_directory(name: str) -> None:
    try:
        checked(TOPOLOGY, Person(name, "north", ["auditor"]))
    except AccountError:
        return
    directory = Path("/secrets")
    assert passwords.path(Project(Path("/")), name).parent == directory / "people"


class Recorder:
    """Stands for the SuperLink's list and for Keycloak: keeps accounts, and what was asked in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *accounts: dict[str, Any]) -> None:
        self.accounts = {account["name"]: account for account in accounts}
        self.calls: list[str] = []
        self.runs: list[int] = []
        monkeypatch.setattr(people, "ask", self.ask)
        for name in ("disable", "enable"):
            monkeypatch.setattr(realm, name, self.noting(f"keycloak {name}"))
        monkeypatch.setattr(realm, "set_password", self.set_password)
        monkeypatch.setattr(realm, "reconcile", lambda *_: self.calls.append("reconcile") or [])

    def ask(self, _: Topology, *arguments: str, stdin: str | None = None) -> list[Any]:
        if arguments != ("list",):
            self.calls.append(" ".join(arguments))
        if arguments[0] == "stop":
            return list(self.runs)
        for account in json.loads(stdin or "[]"):
            assert set(account) == set(people.FIELDS)
            self.accounts[account["name"]] = listed(account)
        return list(self.accounts.values())

    def noting(self, what: str) -> Any:
        return lambda _project, _topology, name: self.calls.append(f"{what} {name}")

    def set_password(
        self, _project: Project, _topology: Topology, name: str, password: str, *, temporary: bool
    ) -> None:
        self.calls.append(f"password of {name}, {'temporary' if temporary else 'for good'}")
        self.password = password


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_adding_twice_changes_nothing_the_second_time(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    assert users.add(project, TOPOLOGY, ALEX) == ["added alex"]
    assert users.add(project, TOPOLOGY, ALEX) == []
    assert recorder.calls == ["put", "reconcile", "reconcile"]


def test_adding_a_disabled_person_again_does_not_let_them_in(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch, listed(checked(TOPOLOGY, ALEX), enabled=False))
    changed = Person("alex", "south", ["custodian"])
    assert users.add(project, TOPOLOGY, changed) == ["changed alex"]
    assert recorder.accounts["alex"]["enabled"] is False
    assert recorder.accounts["alex"]["organisation"] == "south"


def test_disabling_shuts_out_first_then_stops_runs_and_ends_sessions_every_time(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch, listed(checked(TOPOLOGY, ALEX)))
    assert users.disable(project, TOPOLOGY, "alex") == ["disabled alex"]
    assert recorder.calls == ["put", "stop alex", "keycloak disable alex"]
    recorder.calls.clear()
    assert users.disable(project, TOPOLOGY, "alex") == []
    assert recorder.calls == ["stop alex", "keycloak disable alex"]
    assert users.enable(project, TOPOLOGY, "alex") == ["enabled alex"]
    assert recorder.accounts["alex"]["enabled"] is True
    assert recorder.calls[-1] == "keycloak enable alex"


def test_stopped_runs_are_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch, listed(checked(TOPOLOGY, ALEX)))
    recorder.runs = [17]
    assert users.disable(project, TOPOLOGY, "alex") == ["disabled alex", "stopped run 17 of alex"]


def test_with_keycloak_away_disabling_says_what_it_did_and_what_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch, listed(checked(TOPOLOGY, ALEX)))

    def away(*_: object) -> None:
        raise AccountError("Keycloak does not answer.")

    monkeypatch.setattr(realm, "disable", away)
    with pytest.raises(AccountError, match=r"^alex is shut out .* do this again later: .*Keycloak does not answer\.$"):
        users.disable(project, TOPOLOGY, "alex")
    assert recorder.accounts["alex"]["enabled"] is False
    assert recorder.calls == ["put", "stop alex"]


def test_with_runs_that_cannot_be_stopped_logins_end_all_the_same(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch, listed(checked(TOPOLOGY, ALEX)))

    def slow(*_: object) -> None:
        raise DockerError("docker exec took longer than 60 s.")

    monkeypatch.setattr(people, "stop", slow)
    with pytest.raises(AccountError, match=r"^alex is shut out .*: runs of alex may go on\. docker exec took longer"):
        users.disable(project, TOPOLOGY, "alex")
    assert recorder.calls == ["put", "keycloak disable alex"]


def test_a_reset_password_is_kept_for_the_operator_and_never_shown(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch, listed(checked(TOPOLOGY, ALEX)))
    (line,) = users.reset(project, TOPOLOGY, "alex")
    path = project.secrets / "people" / "alex.password"
    assert str(path) in line
    assert "to be changed at the first login" in line
    assert recorder.calls == ["password of alex, temporary"]
    assert path.read_text() == recorder.password
    assert recorder.password not in line
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    users.reset(project, TOPOLOGY, "alex")
    assert path.read_text() == recorder.password


def test_a_demo_persons_password_is_for_good(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = next(item for item in roster.wanted(TOPOLOGY) if item["name"] == "researcher-north")
    recorder = Recorder(monkeypatch, listed(demo))
    users.reset(project, TOPOLOGY, "researcher-north")
    assert recorder.calls[-1] == "password of researcher-north, for good"


@pytest.mark.parametrize("verb", [users.disable, users.enable, users.reset])
def test_whom_the_list_does_not_name_nothing_is_done_to(
    verb: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = next(item for item in roster.wanted(TOPOLOGY) if item["kind"] == "pipeline")
    recorder = Recorder(monkeypatch, listed(pipeline))
    with pytest.raises(AccountError, match=r"^There is nobody called 'alex': flowerbed user list shows everybody\.$"):
        verb(project, TOPOLOGY, "alex")
    with pytest.raises(AccountError, match=r"is no person but a pipeline: edit federation\.yaml, then make up\.$"):
        verb(project, TOPOLOGY, pipeline["name"])
    assert recorder.calls == []


def test_a_disabled_demo_person_stays_so_at_the_next_up(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    present = [listed(item, enabled=item["name"] != "researcher-north") for item in roster.wanted(TOPOLOGY)]
    recorder = Recorder(monkeypatch, *present)
    assert roster.ensure_roster(project, TOPOLOGY) == []
    assert recorder.calls == []
    assert recorder.accounts["researcher-north"]["enabled"] is False


def test_first_passwords_are_new_for_people_and_kept_for_demo_people(project: Project) -> None:
    first = realm.FirstPasswords(project, frozenset({"researcher-north"}))
    demo, demo_temporary = first("researcher-north")
    assert (first("researcher-north"), demo_temporary) == ((demo, False), False)
    one, temporary = first("alex")
    assert temporary
    assert first("alex")[0] != one
    assert first.given == ["alex", "alex"]
    assert len(one) >= 12


def test_many_differences_are_counted() -> None:
    assert realm.summary(["client hub: missing"]) == ["realm: client hub: missing"]
    lines = ["realm flowerbed: missing", *[f"person p{number}: missing" for number in range(12)],
             "service account kit: missing", "client flowerbed-kit of realm master: missing"]  # fmt: skip
    (line,) = realm.summary(lines)
    assert line == "realm: 15 differences (realm 1, person 12, service account 1, client 1)"


def with_operator(project: Project) -> None:
    for name in ("issued/operator.crt", "private/operator.key"):
        (project.pki / name).parent.mkdir(parents=True, exist_ok=True)
        (project.pki / name).touch()


def test_a_comparison_that_fails_half_way_says_where_first_passwords_lie(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, password_for: Any, dry_run: bool) -> Report:
        password_for("alex")
        raise IdentityError(f"Keycloak does not answer{'' if dry_run else ' any more'}.")

    monkeypatch.setattr(realm, "keycloak_reconcile", away)
    monkeypatch.setattr(people, "everybody", lambda _: [listed(checked(TOPOLOGY, ALEX))])
    with_operator(project)
    with pytest.raises(AccountError) as caught:
        realm.reconcile(project, TOPOLOGY)
    assert str(caught.value).splitlines() == [
        "Keycloak does not answer any more.",
        f"first password of alex, to be changed at the first login: {project.secrets}/people/alex.password",
    ]


def test_who_is_added_while_keycloak_starts_is_no_stranger_to_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another command's doing, without the lock here: what is compared was asked for after the wait."""
    recorder = Recorder(monkeypatch, *[listed(item) for item in roster.wanted(TOPOLOGY)])
    monkeypatch.undo()
    monkeypatch.setattr(people, "ask", recorder.ask)
    seen: list[str] = []

    def wait(*_: object) -> None:
        recorder.accounts["alex"] = listed(checked(TOPOLOGY, ALEX))
        recorder.accounts["researcher-north"]["enabled"] = False

    def state(_: Topology, accounts: list[dict[str, Any]], __: object) -> None:
        seen.extend(item["name"] for item in accounts if item["enabled"])

    monkeypatch.setattr(up, "wait_healthy", wait)
    monkeypatch.setattr(realm, "desired_state", state)
    monkeypatch.setattr(realm, "keycloak_reconcile", lambda *_, **__: Report((), (), 0))
    with_operator(project)
    assert up.ensure_logins(project, TOPOLOGY) == up.Logins([])
    assert "alex" in seen
    assert "researcher-north" not in seen


def test_a_comparison_says_where_first_passwords_lie(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def reconciled(*_: object, password_for: Any, dry_run: bool) -> Report:
        password_for("alex")
        return Report(("person alex: missing",), (), int(not dry_run))

    monkeypatch.setattr(realm, "keycloak_reconcile", reconciled)
    monkeypatch.setattr(people, "everybody", lambda _: [listed(checked(TOPOLOGY, ALEX))])
    with_operator(project)
    assert realm.reconcile(project, TOPOLOGY) == [
        "realm: person alex: missing",
        f"first password of alex, to be changed at the first login: {project.secrets}/people/alex.password",
    ]


def test_without_an_operators_certificate_the_remedy_is_named(project: Project) -> None:
    with pytest.raises(AccountError, match="run flowerbed ca issue operator, then make up"):
        realm.access(project, TOPOLOGY)


@pytest.mark.parametrize(
    ("stderr", "sentence"),
    [
        (
            "Error: No such container: flowerbed-superlink\n",
            "The federation flowerbed is not running: run make up first.",
        ),
        ("trace\nThere is nobody called 'x' in the list.\n", "There is nobody called 'x' in the list."),
        ("", "The SuperLink's list of people cannot be asked."),
    ],
)
def test_a_list_that_cannot_be_asked_is_one_sentence(
    stderr: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = subprocess.CompletedProcess([], 2, "", stderr)
    monkeypatch.setattr(docker, "call", lambda *_args, **_options: refused)
    with pytest.raises(AccountError) as caught:
        people.everybody(TOPOLOGY)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("stdout", "answer"),
    [
        ("[\n  17,\n  18\n]\n", [17, 18]),
        ("[]\n", []),
    ],
)
def test_the_answer_is_all_of_standard_output(stdout: str, answer: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of the audit trail go to standard error (`flowerbed_superlink.people`)."""
    record = '{"at": "now", "verb": "stop-run", "detail": "[1]"}\n'
    done = subprocess.CompletedProcess([], 0, stdout, record)
    monkeypatch.setattr(docker, "call", lambda *_args, **_options: done)
    assert people.stop(TOPOLOGY, "alex") == answer


@pytest.mark.parametrize("stdout", ["", '{"at": "now"}\n[17]\n'])
def test_an_answer_that_is_none_is_no_empty_list(stdout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "call", lambda *_args, **_options: subprocess.CompletedProcess([], 0, stdout, ""))
    with pytest.raises(AccountError, match=r"gave no answer that can be read: make up updates it\.$"):
        people.stop(TOPOLOGY, "alex")


def test_the_table_fits_80_columns_and_takes_nothing_for_markup() -> None:
    accounts = [listed(item) for item in roster.wanted(TOPOLOGY)]
    accounts.append(listed(checked(TOPOLOGY, ALEX), enabled=False, organisation="[red]x[/]"))
    out = io.StringIO()
    Console(file=out, width=80).print(users.table(accounts))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "custodian-north" in out.getvalue()
    assert "[red]x[/]" in out.getvalue()
