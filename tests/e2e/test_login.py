"""Logging in as a person does: `flwr login`, a real Chromium at Keycloak's pages, runs, refresh, logout, being shut out."""

from __future__ import annotations

import secrets
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .browser import PATIENCE_MS, Person, chromium, first_password
from .federation import Federation
from .laptop import Laptop, laptop
from .running import PATIENCE_S, SHORT_ROUNDS, wait_for
from .tokens import administrator, short_tokens

# A round has time on a busy host too, and costs little epsilon.
ONE_ROUND = "num-server-rounds=1 noise-multiplier=8.0 local-steps=2 round-timeout=300.0"
LONG_RUN = f"num-server-rounds=200 {SHORT_ROUNDS}"


@pytest.fixture
def machine(federation: Federation) -> Iterator[Laptop]:
    with laptop(federation) as made:
        yield made


@pytest.fixture
def browser(
    federation: Federation, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Person]]:
    """Somebody at a browser of their own: give the name."""
    with chromium(federation, tmp_path) as page:
        test = request.node.name.removeprefix("test_")
        yield lambda name: Person(page, name, first_password(federation, name), test)


def test_a_person_logs_in_with_a_browser_and_runs_an_app_to_its_end(
    machine: Laptop, browser: Callable[[str], Person]
) -> None:
    person = browser("researcher-north")
    machine.login(person)
    mode = machine.run("stat", "-c", "%a", "/tmp/flwr/credentials.yaml").stdout.strip()
    assert mode == "600"
    claims = machine.claims()
    assert (claims["preferred_username"], claims["flowerbed_roles"]) == ("researcher-north", ["researcher"])
    assert sorted(claims["flowerbed_groups"]) == ["/federations/cancer", "/organisations/north"]
    run = machine.submit(ONE_ROUND)
    wait_for("the run ends", lambda: machine.status(run).startswith("finished"), PATIENCE_S)
    assert machine.status(run) == "finished:completed"
    listed = {int(item["run-id"]): item for item in machine.json("ls")["runs"]}
    assert listed[run]["status"] == "finished:completed"
    assert "https://" in machine.flwr("pull", str(run))


def test_a_wrong_password_logs_nobody_in(machine: Laptop, browser: Callable[[str], Person]) -> None:
    person = browser("researcher-north")
    person.password = "not the password"

    with machine.logging_in() as (link, _):
        person.page.goto(link)
        person.sign_in()
        person.page.get_by_text("Invalid username or password").wait_for()
        person.keep("refused")
    done = machine.run("flwr", "ls")
    assert done.returncode != 0, done.stdout
    assert machine.run("test", "-e", "/tmp/flwr/credentials.yaml").returncode != 0


def test_expired_tokens_are_refreshed_without_a_login_by_ten_processes_at_once(
    federation: Federation, machine: Laptop, browser: Callable[[str], Person]
) -> None:
    with short_tokens(federation):
        machine.login(browser("researcher-south"))
        first = machine.store()
        machine.expire()
        with ThreadPoolExecutor(10) as pool:
            ended = list(pool.map(lambda _: machine.run("flwr", "ls", timeout=300), range(10)))
        assert [done.stdout for done in ended if done.returncode != 0] == []
        second = machine.store()
        assert second["oidc-access-token"] != first["oidc-access-token"]
        assert second["oidc-refresh-token"] != first["oidc-refresh-token"]
        # What they left is whole: the next refresh works too.
        machine.expire()
        machine.flwr("ls")
        assert machine.store()["oidc-refresh-token"] != second["oidc-refresh-token"]


def test_signing_out_all_devices_bites_within_an_access_tokens_life(
    federation: Federation, machine: Laptop, browser: Callable[[str], Person]
) -> None:
    person = browser("researcher-west")
    with short_tokens(federation):
        machine.login(person)
        # At another browser, as after a machine was lost.
        person.page.context.clear_cookies()
        person.page.goto(f"{federation.topology.issuer}/account/account-security/device-activity")
        person.sign_in()
        person.page.get_by_role("button", name="Sign out all devices").click()
        person.keep("sign-out")
        person.page.get_by_role("button", name="Confirm").click()
        signed_out = time.time()
        person.page.locator("#kc-login").wait_for()
        person.keep("signed-out")
        ends = float(machine.claims()["exp"])
        wait_for("flwr is refused", lambda: machine.run("flwr", "ls").returncode != 0, 120)
        bitten = time.time() - signed_out
        # The life of an access token, the 30 s that clocks may differ by, and one call of the CLI on a busy host.
        assert bitten <= max(ends - signed_out, 0) + 30 + 30, bitten
    done = machine.run("flwr", "ls")
    assert done.returncode != 0
    assert "Traceback" not in done.stdout


def test_whoever_is_disabled_is_shut_out_at_once_and_their_runs_are_stopped(
    federation: Federation, machine: Laptop, browser: Callable[[str], Person]
) -> None:
    person = browser("researcher-south")
    machine.login(person)
    run = machine.submit(LONG_RUN)
    wait_for("the run runs", lambda: machine.status(run) == "running", PATIENCE_S)
    try:
        printed = federation.flowerbed("user", "disable", "researcher-south").stdout
        assert "disabled researcher-south" in printed
        # The SuperLink reads the list every two seconds, and the command took longer than that after writing it.
        refused = machine.run("flwr", "ls")
        assert refused.returncode != 0
        assert "disabled" in refused.stdout
        assert f"{run}" in federation.flowerbed("runs").stdout
        wait_for("the run is stopped", lambda: federation.run_status(run) == "finished:stopped", 60)
        assert "is disabled already" in federation.flowerbed("user", "disable", "researcher-south").stdout
        with machine.logging_in() as (link, _):
            no_longer(person, link)
        # Nor does the next `make up` let them in again.
        federation.flowerbed("up")
        assert machine.run("flwr", "ls").returncode != 0
    finally:
        federation.flowerbed("user", "enable", "researcher-south")
    person.page.context.clear_cookies()
    machine.login(person)
    machine.flwr("ls")


def no_longer(person: Person, link: str) -> None:
    """Try to log in where Keycloak lets nobody in."""
    person.page.context.clear_cookies()
    person.page.goto(link)
    person.sign_in()
    person.page.get_by_text("Account is disabled").wait_for()
    person.keep("disabled")


def test_a_new_person_changes_the_first_password_and_a_reset_ends_the_login(
    federation: Federation, machine: Laptop, browser: Callable[[str], Person]
) -> None:
    name = f"alex{secrets.token_hex(3)}"
    add = ["user", "add", name, "--organisation", "west", "--role", "researcher", "--role", "custodian",
           "--email", "alex@example.org", "--first-name", "Alex", "--last-name", "Doe"]  # fmt: skip
    printed = federation.flowerbed(*add).stdout
    path = federation.root / "secrets" / "people" / f"{name}.password"
    assert str(path) in printed.replace("\n", "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() not in printed
    assert "as given already" in federation.flowerbed(*add).stdout
    person = browser(name)
    machine.login(person, new_password="correct horse battery staple")
    assert sorted(machine.claims()["flowerbed_roles"]) == ["custodian", "researcher"]
    listed = federation.flowerbed("user", "list").stdout
    assert name in listed
    assert max(map(len, listed.splitlines())) <= 80
    before, refresh = path.read_text(), machine.store()["oidc-refresh-token"]
    assert str(path) in federation.flowerbed("user", "reset", name).stdout.replace("\n", "")
    assert path.read_text() != before
    assert path.read_text() not in federation.logs("keycloak")
    # The old login cannot be continued, and the new password must be changed again.
    with short_tokens(federation):
        person.page.context.clear_cookies()
        person.password = path.read_text()
        machine.login(person, new_password="correct horse battery staple 2")
        assert machine.store()["oidc-refresh-token"] != refresh
        federation.flowerbed("user", "reset", name)
        machine.expire()
        assert machine.run("flwr", "ls").returncode != 0
    federation.flowerbed("user", "disable", name)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["user", "add", "Alex", "--organisation", "north", "--role", "researcher"], "NAME is 'Alex'"),
        (["user", "add", "sam", "--organisation", "nowhere", "--role", "researcher"], "give one of north, south, west"),
        (["user", "disable", "sam"], "There is nobody called 'sam'"),
        (["user", "reset", "pipeline-demo"], "is no person but a pipeline"),
        (["run-as", "nightly", "--", "flwr", "ls"], "There is no pipeline 'nightly'"),
        (["runs", "--as", "nightly"], "There is no pipeline 'nightly'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(federation: Federation, arguments: list[str], sentence: str) -> None:
    done = federation.flowerbed(*arguments, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_pipeline_runs_commands_with_a_store_of_its_own(federation: Federation) -> None:
    listed = federation.flowerbed("run-as", "demo", "--", "flwr", "ls", "--format", "json")
    assert '"success": true' in listed.stdout
    failed = federation.flowerbed("run-as", "demo", "--", "sh", "-c", "echo to stdout; exit 7", check=False)
    assert (failed.returncode, failed.stdout) == (7, "to stdout\n")
    refused = federation.flowerbed("run-as", "demo", "--", "flwr", "supernode", "list", check=False)
    assert refused.returncode == 1, refused.stdout
    seen = federation.flowerbed("run-as", "demo", "--", "sh", "-c", "env; cat /proc/*/cmdline | tr '\\0' ' '").stdout
    secret = (federation.root / "secrets" / "kit" / "client-pipeline-demo.secret").read_text()
    assert "eyJ" not in seen
    assert secret not in seen


def test_what_a_pipeline_that_ran_is_seen_in_views(federation: Federation) -> None:
    with ThreadPoolExecutor(2) as pool:
        sites, runs = pool.map(lambda verb: federation.flowerbed(verb).stdout, ("sites", "runs"))
    for site in federation.topology.sites:
        assert site.name in sites
    assert "yes" in sites
    assert max(map(len, (sites + runs).splitlines())) <= 80


def test_drift_in_the_realm_is_shown_and_taken_back(federation: Federation) -> None:
    assert "The realm is as it should be." in federation.flowerbed("realm", "--dry-run").stdout
    administrator(federation).update_realm("flowerbed", {"bruteForceProtected": False})
    for arguments in (["realm", "--dry-run"], ["realm"]):
        assert "bruteForceProtected" in federation.flowerbed(*arguments).stdout
    assert "The realm is as it should be." in federation.flowerbed("realm").stdout


def test_another_authority_is_not_trusted_by_the_browser(federation: Federation, tmp_path: Path) -> None:
    """What shows that the browser of these tests checks certificates at all."""
    empty = Federation(tmp_path)
    (tmp_path / "federation.yaml").write_text((federation.root / "federation.yaml").read_text())
    pki = tmp_path / "ca" / "pki"
    pki.mkdir(parents=True)
    (pki / "ca.crt").write_bytes(other_root(tmp_path))
    with chromium(empty, tmp_path / "home") as page, pytest.raises(Exception, match="ERR_CERT_AUTHORITY_INVALID"):
        page.goto(federation.topology.issuer)


def other_root(directory: Path) -> bytes:
    from ca_support import authority

    authority(directory / "other")
    return (directory / "other" / "ca.crt").read_bytes()


def test_the_account_page_lets_nobody_change_what_tokens_are_made_of(
    federation: Federation, browser: Callable[[str], Person]
) -> None:
    person = browser("researcher-north")
    person.page.goto(f"{federation.topology.issuer}/account/")
    person.sign_in()
    expect(person.page.get_by_text("Personal info").first).to_be_visible(timeout=PATIENCE_MS)
    person.keep("account")
    # What the form holds says that it is there, so that what is missing is not just late.
    expect(person.page.locator("input[name=username]")).to_have_value("researcher-north", timeout=PATIENCE_MS)
    fields = person.page.locator("form input:visible").all()
    assert {field.get_attribute("name") for field in fields} == {"username", "email", "firstName", "lastName"}
    for field in fields:
        expect(field).not_to_be_editable()
