"""`flowerbed run` where it does not go well: a run that the SuperLink refuses, an operator who interrupts."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from .federation import STACK, Federation, docker
from .running import wait_for


def commands() -> list[str]:
    """Return the containers that run the `flwr` command at this moment."""
    return docker("ps", "-q", "--filter", f"name={STACK}-cli-run-").split()


def test_a_run_that_is_refused_is_one_sentence_at_once(federation: Federation) -> None:
    done = federation.flowerbed("run", "--run-config", "no-such-key=1", check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("The SuperLink did not accept the run: ")
    assert "Invalid run configuration" in done.stderr
    assert commands() == []


def test_an_interrupted_run_leaves_no_container(federation: Federation) -> None:
    command = [str(Path(sys.executable).parent / "flowerbed"), "--project", str(federation.root), "run"]
    # Whoever starts the tests in the background has them ignore SIGINT, and so would the command.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heeding
    ) as process:
        wait_for("the command's container", commands, 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    wait_for("no container of the command", lambda: not commands(), 30)
