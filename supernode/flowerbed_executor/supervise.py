"""The supervisor of one task: gives it a user of its own, hands it what it may have, cleans up after it.

Started by SuperExec's process (`launch.py`), or forked by the warm parent (`warm.py`), with the task's description on
standard input; one JSON line on standard output says how it ended. One thread, standard library only: it starts in
milliseconds and is safe to fork. Its task is a fresh Python, or a fork of this process if that is warm.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from . import cleanup, privileges
from .pump import LogPump
from .record import LARGEST, Record, used_bytes
from .results import ResultsWriter
from .spec import CLIENT_APP, END_TASK, FIRST_UID, RESULTS_GROUP, SERVER_APP, SWEPT, TaskSpec

EX_CANNOT_START = 70
"""Exit status when the task was never started."""

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_GRACE = 5.0
"""Seconds that a task has after END_TASK."""

_PASSED_ON = (
    *("PATH", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
    "FLOWERBED_HELD_PULLS",
)
"""What a task keeps of the container's environment; the last one says what `waits` leaves out."""

_TURN = 0.2
"""Seconds between looks at the clock and the record; the task's output, its end and signals wake at once."""

RunHere = Callable[[TaskSpec, Mapping[str, str]], NoReturn]
"""Runs a task in the calling process, with the given environment (`forked.Forked`)."""


class Supervisor:
    """Runs one task to its end."""

    def __init__(self, spec: TaskSpec, run_here: RunHere | None = None) -> None:
        self._spec, self._run_here = spec, run_here
        self._uid = FIRST_UID + os.getpid()
        self._tasks = Path(spec.directories.tasks)
        self._task = 0
        self._pump = LogPump(f"[{spec.program} run {spec.run_id} task {spec.task_id}] ".encode())
        self._deadline = time.monotonic() + spec.limits.seconds if spec.limits.seconds else float("inf")
        self._too_late = f"The task was ended after {spec.limits.seconds:.0f} seconds, the limit here."
        self._ending = ""
        self._record: Record | None = None
        self._passed: dict[str, int] = {}
        self._signals: list[int] = []
        self._woken = -1
        self.left = False
        """Whether something of the task could not be ended or removed."""

    def run(self) -> tuple[int, str]:
        """Return the task's exit status, shell style, and a sentence about its end."""
        privileges.prctl(privileges.PR_SET_CHILD_SUBREAPER, 1)
        privileges.prctl(privileges.PR_SET_DUMPABLE, 0)
        try:
            os.setgroups([self._uid, RESULTS_GROUP])
            home = cleanup.ensure_home(self._tasks, self._uid)
            self._start(home)
        except (OSError, ValueError) as error:
            self.left = not self._finish()
            return EX_CANNOT_START, f"The task could not be started: {error}."
        status = self._wait()
        self.left = not self._finish()
        return (status if status >= 0 else 128 - status), self._describe(status)

    def _start(self, home: Path) -> None:
        """Fork the task, and exec it unless this process is warm.

        The token crosses a pipe; only stdio and the named descriptors are inherited.
        """
        environment, passed = self._environment(home), self._passed
        passed.update(self._descriptors())
        passed["FLOWERBED_SPEC_FD"], spec_write = os.pipe()
        environment.update({name: str(descriptor) for name, descriptor in passed.items()})
        self._listen()
        parent = os.getpid()
        self._task = os.fork()
        if self._task == 0:
            self._become_task(home, environment, set(passed.values()), parent)
        self._let_go()
        self._pump.started()
        with os.fdopen(spec_write, "wb") as pipe, suppress(BrokenPipeError):
            pipe.write(self._spec.to_json())

    def _listen(self) -> None:
        """Have signals, and the task's end, wake `_wait` through a pipe."""
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        for number in (*_FORWARDED, END_TASK):
            # Passed on by the loop: whoever signals a task must not be interrupted at that (see `signal_as`).
            signal.signal(number, lambda number, _frame: self._signals.append(number))
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def _become_task(self, home: Path, environment: dict[str, str], passed: set[int], parent: int) -> None:
        """The child: never returns."""
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            Path("/proc/self/oom_score_adj").write_text("900")
            self._pump.attach()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _keep_only({0, 1, 2, *passed})
            for number in (*_FORWARDED, END_TASK, signal.SIGCHLD, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.umask(0o077)
            privileges.become(self._uid)
            if os.getppid() != parent:
                os._exit(EX_CANNOT_START)
            for name in ("home", "flwr", "tmp"):
                (home / name).mkdir(mode=0o700)
            os.chdir(home / "home")
            privileges.limit(self._spec.limits)
            if self._run_here:
                self._run_here(self._spec, environment)
            command = [sys.executable, "-P", "-m", "flowerbed_executor.task"]
            os.execve(sys.executable, command, environment)  # noqa: S606 - no shell is wanted
        except BaseException as error:  # noqa: BLE001 - a child must never run on into its parent's code
            os.write(2, f"The task could not be confined: {error}\n".encode())
        finally:
            os._exit(EX_CANNOT_START)

    def _environment(self, home: Path) -> dict[str, str]:
        environment = plain_environment(self._spec.limits.threads)
        environment.update(HOME=str(home / "home"), FLWR_HOME=str(home / "flwr"), TMPDIR=str(home / "tmp"))
        if self._spec.program == CLIENT_APP:
            environment["FLOWERBED_DATA"] = self._spec.directories.data
        return environment

    def _descriptors(self) -> dict[str, int]:
        """Open what this kind of task may have, by the run that SuperExec acquired."""
        if self._spec.program == CLIENT_APP:
            self._record = Record(Path(self._spec.directories.state), self._spec.run_id, self._spec.limits)
            return {"FLOWERBED_STATE_FD": self._record.descriptor()}
        if self._spec.program == SERVER_APP:
            return {"FLOWERBED_RESULTS_FD": self._start_writer()}
        raise ValueError(f"{self._spec.program} is not run here")

    def _start_writer(self) -> int:
        """Start the writer in a process of its own, because it reads what the task sends; return the task's end."""
        import socket

        used, limit = used_bytes(Path(self._spec.directories.results)), self._spec.limits.all_results_bytes
        if limit and used > limit:
            raise ValueError(f"the results of all runs have {used} bytes, more than the limit of {limit}")
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            try:
                theirs.close()
                # It ends with its connection, after the task: a stop must not cut a result short.
                for number in (*_FORWARDED, END_TASK):
                    signal.signal(number, signal.SIG_IGN)
                self._pump.close()
                directory = Path(self._spec.directories.results) / str(self._spec.run_id)
                ResultsWriter(directory, self._spec.limits).serve(ours.makefile("rwb"))
            except OSError as error:
                sys.stderr.write(f"results of run {self._spec.run_id}: {error}\n")
            finally:
                os._exit(0)
        ours.close()
        return theirs.detach()

    def _wait(self) -> int:
        """Pass the task's output on until its process has ended; return its exit status, negative for a signal."""
        while True:
            self._pump.turn(_TURN, self._woken)
            pid, status = os.waitpid(self._task, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            while self._signals:
                self._pass_on(self._signals.pop(0))
            if not self._ending and time.monotonic() > self._deadline:
                self._end(self._too_late)
            if self._record and not self._ending and self._record.size() > LARGEST:
                self._end(f"The task was ended: its run's record at this site may have {LARGEST} bytes.")

    def _pass_on(self, number: int) -> None:
        if number == END_TASK:
            self._limit_to(_GRACE, "The task was ended: its run, or its own report, had ended before.")
            number = signal.SIGTERM
        privileges.signal_as(self._uid, self._task, number)

    def _limit_to(self, seconds: float, sentence: str) -> None:
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        self._too_late = sentence

    def _end(self, sentence: str) -> None:
        """Not asked to end: it would report a failure without a reason, and only we know the reason."""
        self._ending = sentence
        privileges.signal_as(self._uid, self._task, signal.SIGKILL)

    def _let_go(self) -> None:
        while self._passed:
            os.close(self._passed.popitem()[1])

    def _finish(self) -> bool:
        """End what is left, pass the last output on, let the writer finish, wipe; True if nothing is left."""
        self._let_go()
        ended = cleanup.end_processes(self._uid)
        self._pump.drain()
        with suppress(ChildProcessError):
            while True:
                os.wait()
        if self._record:
            # Nobody holds its descriptor any more.
            self._ending = self._record.settle() or self._ending
            self._record = None
        return cleanup.wipe(self._tasks, self._uid) and ended

    def _describe(self, status: int) -> str:
        if self._ending:
            return self._ending
        if status < 0:
            name = signal.Signals(-status).name
            hint = " (out of memory, or killed)" if name == "SIGKILL" else ""
            return f"The task was ended by {name}{hint}."
        if status == EX_CANNOT_START:
            return "The task could not be started; the executor's log says why."
        return f"The task ended with status {status} without reporting its end."


def plain_environment(threads: int) -> dict[str, str]:
    """Return the part of a task's environment that every task has."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment.update(
        LANG="C.UTF-8",
        PYTHONUNBUFFERED="1",
        PYTHONDONTWRITEBYTECODE="1",
        FLWR_TELEMETRY_ENABLED="0",
        FLWR_DISABLE_UPDATE_CHECK="1",
    )
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


def _keep_only(wanted: set[int]) -> None:
    """Close every other descriptor and let these survive exec."""
    lowest = 0
    for descriptor in sorted(wanted):
        if lowest < descriptor:
            # An empty range from 0 closes everything (CPython hands close_range(2) a last descriptor of -1).
            os.closerange(lowest, descriptor)
        os.set_inheritable(descriptor, True)
        lowest = descriptor + 1
    os.closerange(lowest, os.sysconf("SC_OPEN_MAX"))


def main(arguments: list[str], run_here: RunHere | None = None) -> int:
    """Supervise the task described on standard input, or ``sweep DIRECTORY [UID]``."""
    if arguments and arguments[0] == "sweep":
        tasks = Path(arguments[1])
        if len(arguments) > 2:
            os.setgroups([int(arguments[2])])
            if not cleanup.wipe(tasks, int(arguments[2])):
                return 1
            sys.stdout.write(SWEPT.decode())
            return 0
        cleanup.ensure_root(tasks)
        for uid in cleanup.sweep(tasks):
            sys.stderr.write(f"Removed what task user {uid} had left.\n")
        return 0
    spec = TaskSpec.from_json(sys.stdin.buffer.read())
    supervisor = Supervisor(spec, run_here)
    status, sentence = supervisor.run()
    sys.stdout.write(json.dumps({"status": status, "sentence": sentence, "left": supervisor.left}) + "\n")
    return status
