"""Runs one change of a certificate store again and again, each time killed one step later. Started by its test.

A step is a call that changes the file system; a write is cut off half way. Every child is a process of its own, killed
by SIGKILL from inside, and leaves its store in WORK/<step>. The last one runs to its end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ca_support import EDGE, PLAN, SITE
from flowerbed_ca.authority import Authority

SCENARIOS: dict[str, Callable[[Authority], object]] = {
    "init": lambda ca: ca.ensure_root("Consortium"),
    "issue": lambda ca: ca.ensure_leaves(PLAN),
    "renew": lambda ca: ca.renew(EDGE),
    "revoke": lambda ca: ca.revoke("charite", "keyCompromise"),
    "issue-again": lambda ca: ca.issue(SITE),
}
_CHANGING = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.link", "ctypes.dlopen"}


class Killer:
    """Ends this process at the given step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def step(self) -> bool:
        self.left -= 1
        return self.left == 0

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in _CHANGING or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        )
        if changes and self.step():
            _die()

    def cut(self, write: Callable[[int, memoryview], int]) -> Callable[[int, memoryview], int]:
        def half(descriptor: int, content: memoryview) -> int:
            if self.step():
                write(descriptor, content[: len(content) // 2])
                _die()
            return write(descriptor, content)

        return half


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _child(scenario: str, pki: Path, step: int) -> int:
    child = os.fork()
    if child == 0:
        killer = Killer(step)
        os.write = killer.cut(os.write)  # type: ignore[assignment,arg-type]  # the same, but for its end
        sys.addaudithook(killer.audit)
        SCENARIOS[scenario](Authority(pki))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(scenario: str, template: Path, work: Path) -> None:
    """Steps 1, 2, … until a child survives."""
    for step in range(1, 1000):
        pki = work / f"{step:03d}"
        if template.exists():
            shutil.copytree(template, pki)
        code = _child(scenario, pki, step)
        if code == 0:
            return
        if code != -signal.SIGKILL:
            sys.exit(f"step {step} ended with {code}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
