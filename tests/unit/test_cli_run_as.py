"""`flowerbed run-as`: what is run in the container, as whom, and what comes out. The container is this host's shell here."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli_edge import Answer, Asked, Edge, edge, project
from flowerbed_cli import accounts, docker, run_as, runs
from flowerbed_cli.errors import AccountError, FlowerbedError
from flowerbed_cli.main import app
from flowerbed_cli.project import Project
from flowerbed_topology import Topology

Made = tuple[Project, Topology]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return project(tmp_path_factory.mktemp("project"))


def granted(_: Asked) -> Answer:
    return 200, {"access_token": "the-token", "expires_in": 300}


@pytest.fixture
def running(made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edge]:
    monkeypatch.setattr(runs, "ensure_running", lambda _: None)
    monkeypatch.setattr(run_as, "ensure_running", lambda _: None)
    with edge(*made, granted) as started:
        yield started


class Shell:
    """Stands for Docker: runs the container's script here, and keeps the arguments."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arguments: list[str] = []
        self.directory = directory
        (directory / "config.toml").write_text("")
        (directory / "bin").mkdir()
        monkeypatch.setattr(docker, "attached", self.attached)
        monkeypatch.setattr(docker, "stream", self.stream)

    def flwr(self, script: str) -> None:
        program = self.directory / "bin" / "flwr"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def start(self, arguments: list[str], stdin: int) -> subprocess.CompletedProcess[str]:
        self.arguments = arguments
        inner = arguments[arguments.index("-euc") :]
        inner[1] = inner[1].replace("/tmp/", f"{self.directory}/").replace("/config/", f"{self.directory}/")
        path = f"{self.directory / 'bin'}:{os.environ['PATH']}"
        environment = {"PATH": path, "FLWR_HOME": str(self.directory / "home")}
        return subprocess.run(
            ["sh", *inner], env=environment, stdin=stdin, capture_output=True, text=True, timeout=60, check=False
        )

    def attached(self, arguments: list[str], *, stdin: int) -> int:
        done = self.start(arguments, stdin)
        sys.stdout.write(done.stdout)
        return done.returncode

    def stream(self, arguments: list[str], *, stdin: int) -> Iterator[str]:
        yield from self.start(arguments, stdin).stdout.splitlines()


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(tmp_path, monkeypatch)


@pytest.mark.usefixtures("running", "shell")
def test_output_and_exit_code_are_the_commands(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sh", "-c", 'echo "$0 [$1]"; exit 7', "a b", "c'd\"$(true)"]
    assert run_as.run_as(*made, "demo", command, Path("/")) == 7
    assert capsys.readouterr().out == "a b [c'd\"$(true)]\n"


@pytest.mark.usefixtures("running")
def test_the_token_stands_in_no_argument_and_no_variable(made: Made, shell: Shell) -> None:
    command = ["sh", "-c", f"env > {shell.directory}/env; cp $FLWR_HOME/credentials.yaml {shell.directory}/kept"]
    assert run_as.run_as(*made, "demo", command, Path("/")) == 0
    stored = (shell.directory / "kept").read_text().strip()
    assert stored == accounts.credentials(made[1], "the-token")
    said = " ".join(shell.arguments) + (shell.directory / "env").read_text()
    secret = (made[0].secrets / "kit" / "client-pipeline-demo.secret").read_text()
    assert [part for part in ("the-token", secret, stored) if part in said] == []


@pytest.mark.usefixtures("running")
def test_the_directory_is_the_callers_and_read_only(made: Made, shell: Shell) -> None:
    run_as.run_as(*made, "demo", ["true"], Path("/usr"))
    assert "/usr:/work:ro" in shell.arguments
    assert shell.arguments[shell.arguments.index("-w") + 1] == "/work"
    assert "--rm" in shell.arguments


@pytest.mark.usefixtures("running")
def test_a_directory_closed_to_others_is_named(made: Made, tmp_path: Path, shell: Shell) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(FlowerbedError, match="closed cannot be read by the container's user: open it with chmod o"):
        run_as.run_as(*made, "demo", ["true"], closed)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert shell.arguments == []


def test_an_unknown_pipeline_runs_nothing(made: Made, shell: Shell) -> None:
    with pytest.raises(AccountError, match="There is no pipeline 'night'"):
        run_as.run_as(*made, "night", ["true"], Path("/"))
    assert shell.arguments == []


# A flwr of 4 calls of ls: running twice, then no answer, then the end.
FLWR = """
count() { n=$(cat "$FLWR_HOME/n" 2>/dev/null || echo 0); echo $((n + 1)) > "$FLWR_HOME/n"; echo "$n"; }
case "$1" in
  run) echo '{"success": true, "run-id": "17"}' ;;
  log) [ "$4" = --show ] && echo "all of it: FLOWERBED_SUMMARY {}" || echo "a first part"; exit 1 ;;
  ls) case $(count) in
        0|1) echo '{"runs": [{"run-id": "17", "status": "running"}]}' ;;
        2) exit 1 ;;
        *) echo '{"runs": [{"run-id": "17", "status": "finished:completed"}]}' ;;
      esac ;;
esac
"""


@pytest.mark.usefixtures("running")
def test_a_log_that_broke_off_is_followed_to_the_runs_end(made: Made, shell: Shell) -> None:
    shell.flwr(FLWR)
    out = io.StringIO()
    ended = runs.run(*made, Path(runs.APP), ["a='b c'"], Console(file=out, width=200), "demo")
    assert (ended.run, ended.ignored) == (17, False)
    assert "a first part" in out.getvalue()
    assert (shell.directory / "home" / "n").read_text().strip() == "4"


@pytest.mark.usefixtures("running")
def test_a_superlink_that_never_answers_again_ends_the_following(
    made: Made, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "TRIES", 2)
    shell.flwr(FLWR.replace("2) exit 1", "2|3|4|5) exit 1"))
    with pytest.raises(runs.RunError, match="could not be asked how run 17 ended"):
        runs.run(*made, Path(runs.APP), [], Console(file=io.StringIO()), "demo")


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("dashes", [[], ["--"]])
def test_dashes_before_the_command_are_not_part_of_it(made: Made, shell: Shell, dashes: list[str]) -> None:
    done = CliRunner().invoke(app, ["--project", str(made[0].root), "run-as", "demo", *dashes, "sh", "-c", "exit 7"])
    assert done.exit_code == 7
    assert shell.arguments[-4:] == ["sh", "sh", "-c", "exit 7"]


def test_a_command_that_is_missing_is_one_sentence(made: Made) -> None:
    done = CliRunner().invoke(app, ["--project", str(made[0].root), "run-as", "demo", "--"])
    assert isinstance(done.exception, FlowerbedError)
    assert "COMMAND is missing" in str(done.exception)
