"""What the Makefile's targets with parameters call, and what the command line says of wrong ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flowerbed_cli import main
from flowerbed_cli.project import KIT


def called(*arguments: str) -> str:
    # Not as a part of the make that runs the tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-n", "--no-print-directory", *arguments]
    done = subprocess.run(command, cwd=KIT, capture_output=True, text=True, check=True, env=environment)
    return " ".join(done.stdout.split())


def test_make_run_hands_over_what_was_given_and_nothing_else() -> None:
    assert called("run").endswith("flowerbed run")
    asked = called("run", "APP=apps/x", "CONFIG=a=1 b=2", "PIPELINE=nightly")
    assert asked.endswith("flowerbed run --app 'apps/x' --run-config 'a=1 b=2' --as 'nightly'")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["user", "add", "alex", "--organisation", "north"],
            "Missing option '--role'. See flowerbed user add --help.\n",
        ),
        (["up", "--now"], "No such option: --now See flowerbed up --help.\n"),
        (
            ["logs", "--lines", "0"],
            "Invalid value for '--lines': 0 is not in the range x>=1. See flowerbed logs --help.\n",
        ),
    ],
)
def test_wrong_usage_is_one_sentence(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["flowerbed", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == said


def test_help_explains_arguments_without_backslashes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["flowerbed", "user", "disable", "--help"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "NAME  The name that the person logs in with.  [required]" in shown
    assert "\\" not in shown
