"""One run's record at a site, as the supervisor keeps it: a task may add to it, and take nothing away.

The task holds a descriptor for writing, so it could cut the file short. What was there when the task began is copied
beside it first (``<run id>.jsonl.before``, durable) and compared when the task has ended, or, after a crash, when the
next one begins. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

from .spec import MIB, Limits

LARGEST = MIB
"""Bytes of one run's record; a round takes some hundred."""

_PATIENCE = 30.0
"""Seconds to wait for the run's task before this one, which has replied and is being cleaned up after."""


class RecordError(ValueError):
    """No task may start with this record; the message is the reason, without its full stop."""


class Record:
    """The record of one run while one task holds it."""

    def __init__(self, directory: Path, run_id: int, limits: Limits) -> None:
        self._path = directory / f"{run_id}.jsonl"
        self._before = directory / f"{run_id}.jsonl.before"
        self._check_total(directory, limits.state_bytes)
        self._lock = self._locked()
        try:
            self._keep()
        except BaseException:
            os.close(self._lock)
            raise

    def _keep(self) -> None:
        if self.size() > LARGEST:
            raise RecordError(f"its run's record at this site has {self.size()} bytes; {LARGEST} are allowed")
        os.close(_write(self._before, self._path.read_bytes()))

    def descriptor(self) -> int:
        """Open what the task inherits; the caller closes it."""
        return self._open(os.O_RDWR | os.O_APPEND)

    def size(self) -> int:
        """Return the record's bytes now."""
        return self._path.stat().st_size

    def settle(self) -> str:
        """When the task is gone: put back what it has removed and cut off what is too much; return what was wrong."""
        try:
            return self._compare()
        finally:
            os.close(self._lock)

    def _open(self, flags: int) -> int:
        return os.open(self._path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def _locked(self) -> int:
        """Wait until this run's last task has let go, make good what a killed supervisor left, return the lock."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            handle = self._open(os.O_RDONLY)
            if _lock(handle) and os.fstat(handle).st_ino == self._path.stat().st_ino:
                if not self._before.exists():
                    return handle
                # Makes a new file, which is to be locked in turn.
                self._compare()
            os.close(handle)
            time.sleep(0.02)
        raise RecordError("another task of its run has not ended here")

    def _compare(self) -> str:
        before, wrong = self._before.read_bytes(), ""
        with self._path.open("rb") as record:
            content = record.read(LARGEST + 2)
        if not content.startswith(before):
            wrong = "The task changed its run's record at this site; what it held before was put back."
            content = before
        elif len(content) > LARGEST:
            wrong = f"The task's record at this site grew beyond {LARGEST} bytes."
            # One byte too many, so that this run goes on here no more.
            content = content[: LARGEST + 1]
        if wrong:
            sys.stderr.write(f"{self._path.name}: {wrong}\n")
        # A new file: the task may have passed its descriptor on to one that lives. Nobody else's before `.before` is gone.
        lock = _write(self._path, content)
        try:
            self._before.unlink()
        finally:
            os.close(lock)
        return wrong

    @staticmethod
    def _check_total(directory: Path, limit: int) -> None:
        # A task that is at work may have stretched its record, which is cut when it ends: that is not others' to pay for.
        used = used_bytes(directory, LARGEST + 1)
        if limit and used > limit:
            raise RecordError(f"the records at this site have {used} bytes, more than the limit of {limit}")


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def used_bytes(directory: Path, each: int | None = None) -> int:
    """Return the bytes of all files below ``directory``, at most ``each``; other tasks' ends remove some meanwhile."""
    used = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            found = path.lstat()
            size = found.st_size if stat.S_ISREG(found.st_mode) else 0
            used += size if each is None else min(size, each)
    return used


def _write(path: Path, content: bytes) -> int:
    """Write a file that is there whole or not at all, durably; return its lock, held since before it had its name."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        lock = os.dup(target.fileno())
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
            part.replace(path)
            _make_durable(path.parent)
        except BaseException:
            os.close(lock)
            raise
    return lock


def _make_durable(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
