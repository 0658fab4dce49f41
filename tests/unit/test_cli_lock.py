"""One command at a time changes a project: real processes hold the lock, wait for it, give up, and are killed."""

from __future__ import annotations

import io
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flowerbed_cli import lock, main, people, preflight, realm, up, users
from flowerbed_cli.errors import AccountError, FlowerbedError
from flowerbed_cli.project import KIT, Project
from flowerbed_keycloak import Report
from flowerbed_topology import load

TOPOLOGY = load(KIT / "federation.yaml")
HOLD = """
import sys, time
from pathlib import Path
from flowerbed_cli.lock import changing
from flowerbed_cli.project import Project
with changing(Project(Path(sys.argv[1])), "flowerbed up"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "federation.yaml").write_text((KIT / "federation.yaml").read_text())
    return Project(tmp_path)


@contextmanager
def holding(project: Project, seconds: float = 60) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(project.root), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_command_waits_and_says_for_what(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    with holding(project, 1) as other:
        begun = time.monotonic()
        with lock.changing(project, "flowerbed realm"):
            assert 0.5 < time.monotonic() - begun < 10
            assert other.wait(5) == 0
        said = f"Waiting for flowerbed up (process {other.pid}), which is changing this federation.\n"
        assert capsys.readouterr().err == said


def test_who_waits_too_long_is_told_in_one_sentence(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.5)
    with holding(project) as other:
        with pytest.raises(FlowerbedError) as caught, lock.changing(project, "flowerbed realm"):
            pytest.fail("two hold it")
        assert re.fullmatch(
            rf"flowerbed up \(process {other.pid}\) is changing .*: run this again when it has ended\.",
            str(caught.value),
        )


def test_a_killed_command_holds_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.5)
    with holding(project) as other:
        other.send_signal(signal.SIGKILL)
        other.wait(5)
        with lock.changing(project, "flowerbed realm"):
            pass


def test_an_error_gives_the_lock_back(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.5)
    with pytest.raises(ZeroDivisionError), lock.changing(project, "flowerbed realm"):
        raise ZeroDivisionError
    with lock.changing(project, "flowerbed realm"):
        pass


def test_a_lock_that_was_removed_is_none(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """`flowerbed clean` removes the file while somebody waits: who comes then has another one."""
    opened = lock.os.open

    def removed(place: Path, *arguments: Any) -> int:
        descriptor: int = opened(place, *arguments)
        monkeypatch.undo()
        place.unlink()
        return descriptor

    monkeypatch.setattr(lock.os, "open", removed)
    with lock.changing(project, "flowerbed realm"):
        assert lock.path(project).is_file()
        assert lock.attempt(lock.path(project)) is None


def test_nobody_else_on_the_host_can_hold_it(project: Project) -> None:
    with lock.changing(project, "flowerbed realm"):
        pass
    assert stat.S_IMODE(lock.path(project).stat().st_mode) == 0o600
    assert lock.path(project).read_bytes() == b""


@pytest.mark.parametrize("arguments", [["realm"], ["user", "enable", "alex"],
    ["user", "reset", "alex"], ["user", "add", "alex", "--organisation", "north", "--role", "auditor"], ["up"],
])  # fmt: skip
def test_what_changes_accounts_waits_and_changes_nothing_meanwhile(
    arguments: list[str], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker is replaced by a test that fails."""
    monkeypatch.setattr(lock, "WAIT_S", 0.3)
    monkeypatch.setattr(preflight, "check", lambda *_: None)
    monkeypatch.setattr(people, "ask", lambda *_, **__: pytest.fail("asked for the list of people"))
    monkeypatch.setattr(up, "make", lambda *_: pytest.fail("began"))
    with holding(project):
        done = CliRunner().invoke(main.app, ["--project", str(project.root), *arguments])
    assert isinstance(done.exception, FlowerbedError)  # which `main` shows as it is, with exit code 2
    assert "run this again when it has ended" in str(done.exception)


def test_whoever_is_to_be_shut_out_is_so_while_another_command_waits(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.3)
    done: list[str] = []
    monkeypatch.setattr(users, "enabling", lambda *_, enabled: done.append(f"enabled {enabled}") or ["disabled alex"])
    monkeypatch.setattr(people, "stop", lambda *_: done.append("stopped") or [])
    monkeypatch.setattr(realm, "disable", lambda *_: done.append("realm"))
    with holding(project), pytest.raises(AccountError, match=r"^alex is shut out of the SuperLink, but do this again"):
        users.disable(project, TOPOLOGY, "alex")
    assert done == ["enabled False", "stopped"]


def test_looking_at_the_realm_waits_for_nobody(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.3)
    monkeypatch.setattr(realm, "compare", lambda *_, **__: (Report((), (), 0), []))
    with holding(project):
        done = CliRunner().invoke(main.app, ["--project", str(project.root), "realm", "--dry-run"])
    assert done.exit_code == 0, done.exception


def test_up_reconciles_while_it_holds_the_lock_itself(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so `demo`, which calls it: nothing that `up` uses takes the lock again."""
    monkeypatch.setattr(lock, "WAIT_S", 0.3)
    for module, name in ((preflight, "check"), (up, "wait_healthy"), (realm, "access")):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(people, "ask", lambda *_, **__: [])
    monkeypatch.setattr(realm, "keycloak_reconcile", lambda *_, **__: Report((), (), 0))
    (project.pki / "issued").mkdir(parents=True)
    (project.pki / "issued" / "operator.crt").touch()
    held: list[bool] = []

    def make(project: Project, *_: object) -> None:
        held.append(lock.attempt(lock.path(project)) is None)
        up.ensure_logins(project, TOPOLOGY)

    monkeypatch.setattr(up, "make", make)
    assert up.up(project, TOPOLOGY, Console(file=io.StringIO())) == []
    assert held == [True]


def test_wrong_values_are_refused_without_waiting(project: Project) -> None:
    with holding(project), pytest.raises(FlowerbedError, match=r"^NAME is 'X'"):
        users.add(project, TOPOLOGY, users.Person("X", "north", ["auditor"]))
