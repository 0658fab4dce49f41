"""Becoming a task's user, for good, and acting for that user from outside.

The container holds CAP_SETUID and CAP_SETGID and no other capability: root here cannot signal, read or delete what
belongs to a task, so whatever must be done to a task is done as the task's user (`signal_as`, `acting_as`).
Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from .spec import Limits

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38

_BYSTANDER = 99_999
"""Real user of a process while it acts for a task. Nobody else's, so the task cannot signal it (kill(2): a sender must
match the target's real or saved user), and its `kill(-1)` reaches the task's user alone."""

_libc = ctypes.CDLL(None, use_errno=True)


class PrivilegeError(Exception):
    """The process could not be confined, so no app code may run in it."""


def prctl(option: int, value: int) -> None:
    """Call prctl(2); raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become(uid: int) -> None:
    """Take on user and group ``uid`` irrevocably, and die with the parent.

    Raises:
        PrivilegeError: if anything of root is left.
    """
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    # Only now: a change of user clears it.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    assert_powerless(uid)


def assert_powerless(uid: int) -> None:
    """Raise `PrivilegeError` unless this process is ``uid`` alone, without capabilities or a way to gain any."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    if status["Uid"].split() != [str(uid)] * 4 or status["Gid"].split() != [str(uid)] * 4 or os.getgroups():
        raise PrivilegeError(f"user or groups are not {uid} alone")
    if any(int(status[field], 16) for field in ("CapInh", "CapPrm", "CapEff", "CapAmb")):
        raise PrivilegeError("capabilities are left")
    if status["NoNewPrivs"].strip() != "1":
        raise PrivilegeError("new privileges could be gained")


def limit(limits: Limits) -> None:
    """Set this process's resource limits, soft and hard; never core dumps, which would hold rows."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: limits.processes or resource.RLIM_INFINITY,
        resource.RLIMIT_NOFILE: limits.open_files or resource.RLIM_INFINITY,
        resource.RLIMIT_FSIZE: limits.file_bytes or resource.RLIM_INFINITY,
        resource.RLIMIT_DATA: limits.data_bytes or resource.RLIM_INFINITY,
    }
    for which, value in wanted.items():
        _, hard = resource.getrlimit(which)
        lowest = (
            value if hard == resource.RLIM_INFINITY else hard if value == resource.RLIM_INFINITY else min(value, hard)
        )
        resource.setrlimit(which, (lowest, lowest))


def signal_as(uid: int, pid: int, number: int) -> None:
    """Send a signal to a process of ``uid``; pid -1 means every process of that user. Gone ones are no error.

    Needs no fork, which a task that has used up the container's processes could prevent. Not for signal handlers: two
    of these must never nest.
    """
    os.setresuid(_BYSTANDER, uid, 0)
    try:
        if os.getresuid() == (_BYSTANDER, uid, 0):
            os.kill(pid, number)
    except ProcessLookupError:
        pass
    finally:
        os.setresuid(0, 0, 0)


def acting_as(uid: int, action: Callable[[], None]) -> bool:
    """Run ``action`` with the rights of ``uid``, out of that user's reach; True if it succeeded.

    Needs no fork, which costs a process that is warm some 10 ms. Not for signal handlers, as `signal_as`.
    """
    groups = os.getgroups()
    try:
        os.setgroups([])
        os.setresgid(uid, uid, 0)
        os.setresuid(_BYSTANDER, uid, 0)
        # A change of user may set it (proc(5), suid_dumpable).
        prctl(PR_SET_DUMPABLE, 0)
        if os.getresuid() != (_BYSTANDER, uid, 0) or os.getresgid() != (uid, uid, 0):
            return False
        action()
    except Exception:  # noqa: BLE001 - whatever it is, something may be left
        return False
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
    return True
