"""SuperExec's side: hands each acquired task to a supervisor and sees to it that its end is known.

Runs inside Flower's own `flower-superexec` process in place of its subprocess executor; it replaces two names there
(`install`) and changes nothing else. It holds the SuperExec secret, so it never forks: supervisors, and the warm parent that may
fork them, are fresh programs.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult
from flwr.supercore.superexec.plugin import AutoExecPlugin

from .pace import Pace
from .parent import SupervisorProcess, WarmParent
from .report import Reporter
from .settings import Settings
from .spec import END_TASK, FIRST_UID, SWEPT, TaskSpec

log = logging.getLogger("flowerbed.executor")

_PACKAGES = str(Path(__file__).resolve().parent.parent)
_PROGRAM = (
    f"import sys; sys.path.insert(0, {_PACKAGES!r}); "
    "from flowerbed_executor import supervise; sys.exit(supervise.main(sys.argv[1:]))"
)

_HEARTBEAT_SECONDS, _REFUSALS = 10.0, 2
"""How often a heartbeat is sent for a task, and after how many refusals in a row the task is ended."""

_LOOK_SECONDS = 1.0
"""How often a full executor looks after itself."""

_STOP_SECONDS, _REPORT_SECONDS = 6.0, 1.0
"""How long tasks may take to end after SIGTERM (Flower allows a task 5 s), and what is waited for their report."""


def supervisor_command(*arguments: str) -> list[str]:
    """Return the command of a supervisor: without `site`, which it does not need, it starts in milliseconds."""
    return [sys.executable, "-S", "-E", "-P", "-c", _PROGRAM, *arguments]


def _warm_parent(settings: Settings) -> WarmParent:
    return WarmParent(settings.role.program, settings.limits.threads, settings.warm_after)


@dataclass(frozen=True)
class _Running:
    """One supervisor, the thread that follows it, and its task's token."""

    process: SupervisorProcess
    watcher: threading.Thread
    token: str


class SupervisedExecutor:
    """Flower's Executor protocol, with a supervisor and a user of its own for each task."""

    def __init__(self, settings: Settings, reporter: Reporter) -> None:
        self._settings, self._reporter = settings, reporter
        self._root_certificates = settings.ca.read_text()
        self._running: dict[int, _Running] = {}
        # Signal handlers run in the main thread, which may hold it.
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._pace = Pace()
        self._warm = _warm_parent(settings) if settings.warm else None
        self._stopping = self._unclean = False

    def start(self) -> None:
        """Start the warm parent, if there shall be one; until it is ready, tasks start cold."""
        if self._warm:
            self._warm.start()

    def get_eligible_capacity(
        self,
        supported_task_types: set[TaskType],
        *,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> tuple[set[TaskType], set[str]]:
        """Offer every type while there is room: what may not run here is acquired too, to fail with a reason."""
        del insecure, root_certificates_path
        with self._room:
            # Flower would ask on and on for nothing: here it sleeps as long as it likes, without knowing it.
            while self._settings.held_pulls and self._full() and not self._stopping:
                self._room.wait(_LOOK_SECONDS)
                self._look_after()
            self._pace.asks()
            return (set() if self._stopping or self._full() else supported_task_types), set()

    def _full(self) -> bool:
        return self._unclean or 0 < self._settings.tasks_at_once <= len(self._running)

    def wait_for_capacity(
        self,
        task_type: TaskType | None = None,
        *,
        fab_hash: str | None = None,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> None:
        """Return at once: capacity is offered by `get_eligible_capacity`."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Refuse: Flower's description lacks the run, which must not come from the task (see `launch_task`)."""
        return LaunchResult.failed(f"task {spec.task_id} did not come with its run")

    def launch_task(self, token: str, task: Task) -> LaunchResult:
        """Start the task's supervisor, or fail the task with a reason."""
        role = self._settings.role
        self._pace.got_one()
        if self._unclean:
            # Acquired by a question that was held since before; without heartbeats Flower gives it out again.
            return LaunchResult.capacity_rejected("the executor ends, to be started again with empty directories")
        if task.type != role.program:
            return self._refuse(token, task, f"{task.type} may not run here, only {role.program}.")
        try:
            self._start(token, task)
        except OSError as error:
            return self._refuse(token, task, f"The task could not be started: {error}.")
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Before each look for a task: show that SuperExec is alive, reap orphans of lost supervisors, keep the pace."""
        self._look_after()
        if self._settings.held_pulls and (pause := self._pace.pause()):
            time.sleep(pause)

    def _look_after(self) -> None:
        with suppress(OSError):
            self._settings.alive.touch()
        while self._reap_orphan():
            pass
        self._end_if_unclean()

    def _end_if_unclean(self) -> None:
        with self._lock:
            over = self._unclean and not self._running
        if over:
            log.error("The executor ends, to be started again with empty directories.")
            sys.stderr.flush()
            os._exit(1)

    def close(self) -> None:
        """Nothing: `drain` runs first."""

    def drain(self) -> None:
        """On a stop: take no more tasks, let those that run finish in time, then end them so that they can say so."""
        self._stopping = True
        self._join(self._settings.drain_seconds)
        with self._lock:
            left = list(self._running.values())
        # Reported here first, because only here the reason is known; Flower's own report is then refused.
        reports = [self._report(one.token, "The executor was stopped before the task had ended.") for one in left]
        for report in reports:
            report.join(_REPORT_SECONDS)
        for running in left:
            with suppress(ProcessLookupError):
                running.process.send_signal(signal.SIGTERM)
        self._join(_STOP_SECONDS)

    def _refuse(self, token: str, task: Task, reason: str) -> LaunchResult:
        self._report(token, reason)
        return LaunchResult.failed(f"run {task.run_id}: {reason}")

    def _report(self, token: str, reason: str) -> threading.Thread:
        thread = threading.Thread(target=self._reporter.failed, args=(token, reason), daemon=True)
        thread.start()
        return thread

    def _start(self, token: str, task: Task) -> None:
        spec = TaskSpec(
            program=task.type,
            run_id=task.run_id,
            task_id=task.task_id,
            token=token,
            runtime_api=self._settings.runtime_api,
            root_certificates=self._root_certificates,
            limits=self._settings.limits,
            directories=self._settings.directories,
        )
        process: SupervisorProcess | None = self._warm.spawn() if self._warm else None
        log.info("run %d task %d starts %s", task.run_id, task.task_id, "warm" if process else "cold")
        if process is None:
            process = subprocess.Popen(supervisor_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        watcher = threading.Thread(target=self._watch, args=(process, spec), daemon=True)
        with self._lock:
            self._running[process.pid] = _Running(process, watcher, token)
        watcher.start()

    def _watch(self, process: SupervisorProcess, spec: TaskSpec) -> None:
        """Follow one supervisor to its end; a task that did not report its end itself is failed with the reason."""
        started = time.monotonic()
        try:
            output = self._follow(process, spec)
            sentence = self._ended(process, output)
            took, status = time.monotonic() - started, process.returncode
            log.info("run %d task %d ended with status %d after %.1f s", spec.run_id, spec.task_id, status, took)
            # A task that has reported its end has no token any more, so this then changes nothing.
            self._reporter.failed(spec.token, sentence)
        finally:
            with self._room:
                del self._running[process.pid]
                self._room.notify_all()
        self._end_if_unclean()

    def _follow(self, process: SupervisorProcess, spec: TaskSpec) -> bytes:
        """Hand over the description, keep the token alive, return the supervisor's report.

        Flower takes a task back 30 s after it was acquired, to give it out again; on a busy host imports take longer. And
        Flower asks a task to stop by refusing its heartbeats, which a task may ignore: then it is ended from here.
        """
        description: bytes | None = spec.to_json()
        refusals = 0
        while True:
            try:
                return process.communicate(description, timeout=_HEARTBEAT_SECONDS)[0]
            except subprocess.TimeoutExpired:
                description = None
            refusals = 0 if self._reporter.heartbeat(spec.token) else refusals + 1
            if refusals == _REFUSALS:
                log.warning("run %d task %d has outlived its run or its report; it is ended", spec.run_id, spec.task_id)
                process.send_signal(END_TASK)

    def _ended(self, process: SupervisorProcess, output: bytes) -> str:
        uid = str(FIRST_UID + process.pid)
        try:
            report = json.loads(output)
            sentence, left = str(report["sentence"]), bool(report["left"])
        except (ValueError, KeyError):
            sweep = supervisor_command("sweep", self._settings.directories.tasks, uid)
            left = not _swept(sweep)
            sentence = f"The task's supervisor ended with status {process.returncode}."
        if left:
            # Another task must not find it, and the next start has a new tmpfs: no more tasks until then.
            log.error("Something of task user %s could not be ended or removed; no more tasks are taken.", uid)
            self._unclean = True
        return sentence

    def _reap_orphan(self) -> bool:
        """Reap one zombie that is no supervisor, True if there was one: process 1 inherits what lost its parent."""
        with self._lock:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if found is None or found.si_pid in self._running or (self._warm and found.si_pid == self._warm.pid):
                return False
            with suppress(ChildProcessError):
                os.waitpid(found.si_pid, os.WNOHANG)
            return True

    def _join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._lock:
            watchers = [running.watcher for running in self._running.values()]
        for watcher in watchers:
            watcher.join(max(0.0, deadline - time.monotonic()))


def _swept(sweep: list[str]) -> bool:
    """Sweep; True if nothing is left. It says so itself: the main loop may have reaped it, and with it its status."""
    try:
        return subprocess.run(sweep, stdout=subprocess.PIPE, check=False).stdout == SWEPT
    except OSError:
        return False


class SupervisedPlugin(AutoExecPlugin):
    """Flower's plugin, but the executor gets the task itself, with its run."""

    def launch_task(self, token: str, task: Task) -> LaunchResult:
        """Launch the acquired task."""
        assert isinstance(self.executor, SupervisedExecutor)  # noqa: S101 - `install` sets both
        return self.executor.launch_task(token, task)


def install(executor: SupervisedExecutor) -> None:
    """Put our plugin and executor where `run_superexec` looks for Flower's, in this process only (see `pinned`)."""
    module = import_module("flwr.supercore.superexec.run_superexec")
    module.AutoExecPlugin = SupervisedPlugin  # type: ignore[attr-defined]  # replaced on purpose
    module.get_executor = lambda *_args, **_kwargs: executor  # type: ignore[attr-defined]  # replaced on purpose
