"""Whose end the executor takes notice of: it reaps what nobody waits for, and nothing else. In processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXECUTOR = """
import subprocess, sys, threading, time
from pathlib import Path
from flowerbed_executor import launch
from flowerbed_executor.report import Reporter
from flowerbed_executor.settings import Settings, load

secrets = Path(sys.argv[1])
(secrets / "ca.crt").write_text("PEM")
role = load("clientapp", {}).role
executor = launch.SupervisedExecutor(Settings(role, "localhost:1", secrets, secrets / "alive"), Reporter("localhost:1", b""))

class Lost:
    pid, returncode = 4_000_000, -9

def ended(pid):
    "Whether it has ended, reaped or not."
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True

looks = 0

class LookedAtFirst(subprocess.Popen):
    "A sweep that is waited for only after the main loop has looked for orphans, as it may happen."

    def wait(self, timeout=None):
        while not ended(self.pid):
            time.sleep(0.01)
        seen = looks
        while looks < seen + 3:
            time.sleep(0.01)
        return super().wait(timeout)

subprocess.Popen = LookedAtFirst

def sweep_ends(with_status):
    "Have a supervisor's end looked into while the main loop reaps orphans; return whether more tasks are taken."
    global looks
    said = "nothing is left" if with_status == 0 else ""
    launch.supervisor_command = lambda *_: ["sh", "-c", f"test -z '{said}' || echo '{said}'; exit {with_status}"]
    watcher = threading.Thread(target=executor._ended, args=(Lost, b""))
    watcher.start()
    while watcher.is_alive():
        executor._reap_orphan()
        looks += 1
        time.sleep(0.01)
    return not executor._unclean
"""


def python(source: str, secrets: Path) -> str:
    command = [sys.executable, "-c", EXECUTOR + textwrap.dedent(source), str(secrets)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize(("status", "more"), [(0, "True\n"), (1, "False\n")])
def test_what_a_sweep_found_is_known_though_the_main_loop_reaps(tmp_path: Path, status: int, more: str) -> None:
    assert python(f"print(sweep_ends({status}))", tmp_path) == more


def test_a_sweep_that_cannot_be_started_counts_as_something_left(tmp_path: Path) -> None:
    source = """
    launch.supervisor_command = lambda *_: ["/nonexistent/python"]
    print("ended with status -9" in executor._ended(Lost, b""), executor._unclean)
    """
    assert python(source, tmp_path) == "True True\n"


def test_orphans_are_reaped(tmp_path: Path) -> None:
    source = """
    orphan = subprocess.Popen(["true"])
    while not ended(orphan.pid):
        time.sleep(0.01)
    print(executor._reap_orphan(), executor._reap_orphan(), Path(f"/proc/{orphan.pid}").exists())
    """
    assert python(source, tmp_path) == "True False False\n"
