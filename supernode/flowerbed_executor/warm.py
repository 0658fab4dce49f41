"""``python -m flowerbed_executor.warm PROGRAM CONTROL``: the parent from which tasks of one kind are forked.

Started by SuperExec's process (`parent.py`) as a fresh program, so that it never held the SuperExec secret. It imports once,
then waits on the socket CONTROL: each request carries three descriptors (standard input and output of a supervisor, and
where its process id and exit status are written), and it forks that supervisor. It never sees a task's description.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

from . import preload, privileges, supervise
from .forked import Forked, reset_signals

READY = b"ready"
START = b"start"
"""A request for a supervisor."""

_REASON = 4096


class Parent:
    """Forks supervisors on request and reports their ends."""

    def __init__(self, control: socket.socket, forked: Forked) -> None:
        self._control, self._forked = control, forked
        self._supervisors: dict[int, int] = {}
        """Where the exit status of each supervisor is to be written."""

    def serve(self) -> None:
        """Serve until the other side is gone. Sleeps whenever there is nothing to do."""
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        poll = select.poll()
        for descriptor in (woken, self._control.fileno()):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if woken in ready:
                with suppress(BlockingIOError):
                    os.read(woken, 4096)
                self._reap()
            if self._control.fileno() in ready and not self._answer():
                return

    def _answer(self) -> bool:
        request, descriptors, _, _ = socket.recv_fds(self._control, len(START), 3)
        if request != START or len(descriptors) != 3:
            return False
        stdin, stdout, status = descriptors
        try:
            pid = os.fork()
        except OSError as error:
            _tell(status, f"error: {error}")
            os.close(status)
        else:
            if pid == 0:
                self._supervise(stdin, stdout)
            _tell(status, str(pid))
            self._supervisors[pid] = status
        os.close(stdin)
        os.close(stdout)
        return True

    def _supervise(self, stdin: int, stdout: int) -> NoReturn:
        """The child: never returns."""
        code = 1
        try:
            reset_signals()
            self._control.detach()
            os.dup2(stdin, 0)
            os.dup2(stdout, 1)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            code = supervise.main([], self._forked)
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - a child must never run on into its parent's code
            traceback.print_exc()
        finally:
            os._exit(code & 0xFF)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                where = self._supervisors.pop(pid)
                _tell(where, str(os.waitstatus_to_exitcode(status)))
                os.close(where)


def _tell(descriptor: int, line: str) -> None:
    with suppress(BrokenPipeError):
        os.write(descriptor, line.encode() + b"\n")


def main(arguments: list[str]) -> int:
    """Import, check, serve; 0 once the other side is gone."""
    privileges.prctl(privileges.PR_SET_DUMPABLE, 0)
    program, control = arguments[0], socket.socket(fileno=int(arguments[1]))
    preloaded = preload.preload(program)
    preload.settle()
    if reason := preload.obstacle():
        control.send(reason.encode()[:_REASON])
        return 1
    control.send(READY)
    Parent(control, Forked(preloaded)).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
