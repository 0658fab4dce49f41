"""A task's directory and what may be left of a task when it has ended: processes, files, System V objects.

Root here may neither signal nor read what is a task's (see privileges), so all of it happens in forks that act for that
user. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .privileges import acting_as, signal_as
from .spec import FIRST_UID

SHARED = ("/dev/shm", "/dev/mqueue", "/tmp", "/var/tmp")  # noqa: S108 - what a task may have left there is removed
"""Directories of the container that any user may write to."""

_PATIENCE = 10.0
"""Seconds within which the processes of a user must be gone."""


def ensure_root(tasks: Path) -> None:
    """Make the tasks' root passable but neither listable nor writable for tasks.

    Its mode is set here because Engine 20.10 forgets a tmpfs's ``mode=`` when a container is restarted.
    """
    tasks.chmod(0o711)


def ensure_store(store: Path, group: int | None) -> None:
    """Let no task list or enter the store of states or results; ``group`` may read it."""
    if group is not None:
        os.setgroups([group])
        os.chown(store, -1, group)
    store.chmod(0o700 if group is None else 0o750)


def ensure_home(tasks: Path, uid: int) -> Path:
    """Create ``tasks/<uid>``, which root owns and only the task's group may enter.

    Root cannot give files away without CAP_CHOWN, but may pass them to a group that it has joined.
    """
    home = tasks / str(uid)
    if home.exists():
        wipe(tasks, uid)
    home.mkdir(mode=0o700)
    os.chown(home, -1, uid)
    home.chmod(0o770)
    return home


def wipe(tasks: Path, uid: int) -> bool:
    """End every process of ``uid`` and remove all that it left; True if nothing is left. Re-runnable."""
    ended = end_processes(uid)
    home = tasks / str(uid)
    removed = acting_as(uid, lambda: _remove_files_of(uid, home))
    return (not home.is_dir() or _rmdir(home)) and removed and ended


def sweep(tasks: Path) -> list[int]:
    """Wipe what supervisors that died have left; returns the users found. Only while no supervisor runs."""
    found = sorted(int(entry.name) for entry in tasks.iterdir() if entry.name.isdigit() and int(entry.name) > FIRST_UID)
    for uid in found:
        os.setgroups([uid])
        wipe(tasks, uid)
    return found


def end_processes(uid: int) -> bool:
    """Kill every process of ``uid`` until none is left, reaping those that became ours; True when none is left."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        signal_as(uid, -1, signal.SIGKILL)
        _reap()
        if not any(processes_of(uid)):
            return True
        time.sleep(0.01)
    return False


def processes_of(uid: int) -> Iterator[int]:
    """Yield the process ids whose real user is ``uid``, zombies left out."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "status").read_text()
        except OSError:
            continue
        if f"\nUid:\t{uid}\t" in status and "\nState:\tZ" not in status:
            yield int(entry.name)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def _remove_files_of(uid: int, home: Path) -> None:
    """Remove what the user has left, going on after each failure.

    Raises:
        OSError: if something is left in the home or at the top of a shared directory.
    """
    whole = [_remove(entry) for entry in _entries(home)]
    whole += [_remove_owned(uid, Path(shared)) for shared in SHARED]
    _remove_ipc(uid)
    if not all(whole):
        raise OSError(f"something of user {uid} is left")


def _remove(path: Path) -> bool:
    """Remove a file or a tree, whatever its depth and the modes of its directories; True if nothing is left.

    Directories are first moved up into the outermost one, so neither paths nor calls grow with the tree's depth.
    """
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return True
        path.chmod(0o700)
    except OSError:
        return False
    # A name that the task cannot have used.
    prefix, number, waiting, whole = f".{os.urandom(8).hex()}-", 0, [path], True
    while waiting:
        directory = waiting.pop()
        for entry in _entries(directory):
            try:
                if entry.is_symlink() or not entry.is_dir():
                    entry.unlink()
                    continue
                entry.chmod(0o700)
                if directory != path:
                    number += 1
                    entry = entry.rename(path / f"{prefix}{number}")
                waiting.append(entry)
            except OSError:
                whole = False
        if directory != path:
            whole = _rmdir(directory) and whole
    return _rmdir(path) and whole


def _entries(directory: Path) -> list[Path]:
    with suppress(OSError):
        return list(directory.iterdir())
    return []


def _rmdir(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


def _remove_owned(uid: int, shared: Path) -> bool:
    """Remove what ``uid`` owns in a directory that others use too; True if nothing of it is left at its top.

    What lies in another user's directory goes with that at the latest.
    """
    whole, waiting = True, [shared]
    while waiting:
        directory = waiting.pop()
        for entry in _entries(directory):
            with suppress(OSError):
                found = entry.lstat()
                if found.st_uid == uid:
                    whole = (_remove(entry) or directory != shared) and whole
                elif stat.S_ISDIR(found.st_mode):
                    waiting.append(entry)
    return whole


def _remove_ipc(uid: int) -> None:
    """Remove System V shared memory, message queues and semaphores of ``uid`` (proc(5), ipc(2))."""
    libc, remove = ctypes.CDLL(None), 0
    for kind in ("shm", "msg", "sem"):
        for number in _ipc_of(uid, kind):
            if kind == "sem":
                libc.semctl(number, 0, remove)
            else:
                getattr(libc, f"{kind}ctl")(number, remove, None)


def _ipc_of(uid: int, kind: str) -> Iterator[int]:
    try:
        heading, *rows = Path("/proc/sysvipc", kind).read_text().splitlines()
    except OSError:
        return
    columns = heading.split()
    for row in rows:
        values = dict(zip(columns, row.split(), strict=True))
        if int(values["uid"]) == uid:
            yield int(values[f"{kind}id"])
