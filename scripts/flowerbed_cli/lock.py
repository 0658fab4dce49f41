"""One command at a time changes a project's accounts and containers, by a lock that ends with the process that holds it.

Not for commands that only read, nor for the certificate store, which has a lock of its own.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import FlowerbedError
from .project import Project

# How long a second command waits, and how often it looks.
WAIT_S = 30.0
AGAIN_S = 0.2


@contextmanager
def changing(project: Project, command: str) -> Iterator[None]:
    """Hold the project while `command` changes it; another one is waited for, saying so on standard error.

    Not to be taken twice by one process: it would wait for itself.

    Raises:
        FlowerbedError: the other command has not ended within `WAIT_S` seconds.
    """
    place = path(project)
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor = taken(place)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{command} (process {os.getpid()})".encode(), 0)
        yield
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def path(project: Project) -> Path:
    """Return the file that is locked, which holds the name of the command that locked it."""
    return project.build / "lock"


def taken(place: Path) -> int:
    """Return the descriptor that holds the lock, once no other process does.

    Raises:
        FlowerbedError: as `changing`.
    """
    end, told = time.monotonic() + WAIT_S, False
    while (descriptor := attempt(place)) is None:
        holder = place.read_text() if place.is_file() else ""
        holder = holder or "another flowerbed command"
        if time.monotonic() >= end:
            again = "run this again when it has ended"
            raise FlowerbedError(f"{holder} is changing this federation for longer than {WAIT_S:.0f} s: {again}.")
        if not told:
            sys.stderr.write(f"Waiting for {holder}, which is changing this federation.\n")
            told = True
        time.sleep(AGAIN_S)
    return descriptor


def attempt(place: Path) -> int | None:
    """Return the descriptor that holds the lock, or None where it cannot be had now."""
    # A file that somebody else may open they may hold for ever.
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Removed by `flowerbed clean` between opening and locking: then others lock another file.
        if os.path.samestat(os.fstat(descriptor), place.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
