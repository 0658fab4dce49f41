"""SuperExec's side of the warm parent (`warm.py`): starts it, starts another when it has ended, asks it for supervisors.

Nothing here forks, and no token crosses the socket: a supervisor gets its task's description on its own standard input.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from typing import Protocol

from .supervise import plain_environment
from .warm import READY, START

log = logging.getLogger("flowerbed.executor")

_ANSWER_SECONDS = 20.0
"""How long a fork may take before the warm parent counts as stuck."""
_UNKNOWN = b"-1"
_FIRST_PAUSE, _LONGEST_PAUSE, _STEADY = 1.0, 60.0, 60.0
"""Seconds between a warm parent's end and the next one's start; they double until one has lived for a while."""


class SupervisorProcess(Protocol):
    """What is asked of a supervisor's process: the part of `subprocess.Popen` that is used here."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs, or if nobody can tell."""

    def communicate(self, description: bytes | None = None, timeout: float | None = None) -> tuple[bytes, object]:
        """Send the description and return the report, or raise `subprocess.TimeoutExpired`."""

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended."""


class WarmSupervisor:
    """A supervisor that is the warm parent's child: its end is reported through a pipe, signals go through a pidfd.

    Raises:
        OSError: if the warm parent does not report its process id.
    """

    def __init__(self, stdin: int, stdout: int, status: int) -> None:
        self.returncode: int | None = None
        self._stdin, self._stdout, self._status = stdin, stdout, status
        self._read: dict[int, bytes] = {stdout: b"", status: b""}
        self._unfinished = [stdout, status]
        try:
            self.pid = self._started()
        except OSError:
            # A supervisor that waits for its description then ends by itself.
            for descriptor in (stdin, stdout, status):
                os.close(descriptor)
            raise
        # Before it gets its description it does not end, so this is that process and no later one of the same id.
        self._pidfd = _pidfd(self.pid)

    def communicate(self, description: bytes | None = None, timeout: float | None = None) -> tuple[bytes, object]:
        """See `SupervisorProcess`."""
        if description is not None:
            with suppress(BrokenPipeError), os.fdopen(self._stdin, "wb") as pipe:
                pipe.write(description)
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._unfinished:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = _readable(self._unfinished, left)
            if not ready:
                raise subprocess.TimeoutExpired("supervisor", timeout or 0)
            for descriptor in ready:
                self._take(descriptor)
        self._close()
        return self._read[self._stdout], None

    def send_signal(self, number: int) -> None:
        """See `SupervisorProcess`."""
        with suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._unfinished:
                os.kill(self.pid, number)

    def _started(self) -> int:
        deadline, line = time.monotonic() + _ANSWER_SECONDS, b""
        while not line.endswith(b"\n"):
            if not _readable([self._status], max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"the warm parent did not answer within {_ANSWER_SECONDS:.0f} s")
            # One byte at a time: what follows the line is the exit status.
            if not (part := os.read(self._status, 1)):
                raise ConnectionError("the warm parent ended while it was being started")
            line += part
        if not line.strip().isdigit():
            raise BlockingIOError(f"the warm parent could not fork: {line.decode().strip()}")
        return int(line)

    def _take(self, descriptor: int) -> None:
        part = os.read(descriptor, 65536)
        self._read[descriptor] += part
        if not part:
            self._unfinished.remove(descriptor)

    def _close(self) -> None:
        # Without a status the warm parent ended first; the supervisor's own report still says how its task ended.
        self.returncode = int(self._read[self._status] or _UNKNOWN)
        for descriptor in (self._stdout, self._status, self._pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self._pidfd = -1


class WarmParent:
    """Keeps one warm parent for tasks of ``program`` running."""

    def __init__(self, program: str, threads: int, after: float = 0) -> None:
        self._program, self._threads, self._after = program, threads, after
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int:
        """Process id of the warm parent, 0 if there is none."""
        return self._process.pid if self._process else 0

    @property
    def ready(self) -> bool:
        """Whether it has imported everything and takes requests."""
        return self._control is not None

    def close(self) -> None:
        """End it for good; what it has forked goes on."""
        with self._lock:
            self._closed = True
            if self._process:
                self._process.kill()

    def start(self) -> None:
        """Start it, `after` seconds from now, without waiting until it has imported everything."""
        threading.Thread(target=self._keep, daemon=True).start()

    def spawn(self) -> WarmSupervisor | None:
        """Have a supervisor forked; None if no warm parent is ready, so that the caller starts one cold.

        Raises:
            OSError: if the warm parent failed at it.
        """
        with self._lock:
            control = self._control
            if control is None:
                return None
            theirs, ours = _pipes()
            try:
                socket.send_fds(control, [START], theirs)
            except OSError:
                for descriptor in ours:
                    os.close(descriptor)
                return None
            finally:
                for descriptor in theirs:
                    os.close(descriptor)
        try:
            return WarmSupervisor(*ours)
        except TimeoutError:
            self._kill()
            raise

    def _keep(self) -> None:
        # Its imports take seconds of a core, which a federation that starts needs for what others wait for.
        time.sleep(self._after)
        pause = _FIRST_PAUSE / 2
        while not self._closed:
            started = time.monotonic()
            answer, end = self._live()
            if self._closed:
                return
            if answer not in (READY, b""):
                log.warning("Every task starts a Python of its own: %s.", answer.decode())
                return
            pause = _FIRST_PAUSE if time.monotonic() - started > _STEADY else min(pause * 2, _LONGEST_PAUSE)
            log.error("The warm parent %s; another is started in %.0f s.", end, pause)
            time.sleep(pause)

    def _live(self) -> tuple[bytes, str]:
        """Start one and follow it to its end; return what it said first, and how it ended."""
        started = time.monotonic()
        try:
            process, control = self._launch()
        except OSError as error:
            return b"", f"could not be started: {error}"
        with control:
            answer = control.recv(65536)
            if answer == READY:
                log.info("The warm parent is ready after %.1f s.", time.monotonic() - started)
                with self._lock:
                    self._control = control
            status = process.wait()
            with self._lock:
                self._control = self._process = None
        return answer, f"ended with status {status}"

    def _launch(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "flowerbed_executor.warm", self._program, str(theirs.fileno())]
        with theirs, ExitStack() as if_it_fails:
            if_it_fails.enter_context(ours)
            self._process = subprocess.Popen(
                command,
                env=parent_environment(self._threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
            if_it_fails.pop_all()
        return self._process, ours

    def _kill(self) -> None:
        log.error("The warm parent does not answer; it is replaced.")
        if process := self._process:
            process.kill()


def parent_environment(threads: int) -> dict[str, str]:
    """Return the warm parent's environment, which holds nothing but what every task may see in `/proc`.

    libgomp reads its thread count when it is loaded; OpenBLAS starts its threads then, and a process with threads cannot
    be forked, so it gets one here and each task's number in the task.
    """
    return {**plain_environment(threads), "HOME": "/nonexistent", "OPENBLAS_NUM_THREADS": "1"}


def _pipes() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the supervisor's ends, then ours: standard input, standard output, status."""
    stdin, stdout, status = os.pipe(), os.pipe(), os.pipe()
    return (stdin[0], stdout[1], status[1]), (stdin[1], stdout[0], status[0])


def _readable(descriptors: list[int], seconds: float | None) -> list[int]:
    """Return those of ``descriptors`` that can be read within ``seconds``. Not select(2): their numbers may be large."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(None if seconds is None else seconds * 1000)]


def _pidfd(pid: int) -> int:
    """Return a pidfd, or -1 on a kernel before 5.3 (pidfd_open(2))."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1
