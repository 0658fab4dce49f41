"""Makes a task of a fork of the warm parent: what a fresh Python would have anew, this gives to the child.

Runs in the task's process, as the task's own user, before any app code. What differs from a fresh start all the same (the
hash seed, the layout of memory) is named in docs/decisions/0014-warm-executor-parent.md.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from . import privileges, task
from .preload import Preloaded
from .spec import TaskSpec


class Forked:
    """How tasks run that are forked from this process."""

    def __init__(self, preloaded: Preloaded) -> None:
        self._preloaded = preloaded

    def __call__(self, spec: TaskSpec, environment: Mapping[str, str]) -> NoReturn:
        """Run the task to its end and end the process, in the way and with the status of a fresh Python."""
        code = 1
        try:
            self.renew(environment, spec.limits.threads)
            code = ended(task.main)
        except BaseException:  # noqa: BLE001 - the process ends here; what is in the way is told to the executor's log
            traceback.print_exc()
        finally:
            os._exit(code & 0xFF)

    def renew(self, environment: Mapping[str, str], threads: int) -> None:
        """Give the process an environment, signals, randomness and thread counts of its own."""
        # As exec would: a task may use its own /proc/self. Nothing of another task is in this memory.
        privileges.prctl(privileges.PR_SET_DUMPABLE, 1)
        os.environ.clear()
        os.environ.update({**self._preloaded.variables, **environment})
        reset_signals()
        renew_randomness(self._preloaded)
        renew_modules()
        use_threads(threads, self._preloaded)
        gc.enable()


def reset_signals() -> None:
    """Set every signal's handling to what Python starts with."""
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) not in (None, signal.SIG_DFL):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def renew_randomness(preloaded: Preloaded) -> None:
    """Seed every generator that was made at import from the operating system; without this all tasks draw the same noise.

    torch's CUDA generators are made, and seed themselves, when the task first uses CUDA. uuid, secrets and OpenSSL ask the
    operating system or notice the fork themselves.
    """
    for generator in preloaded.generators:
        generator.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.set_bit_generator(numpy.random.MT19937(int.from_bytes(os.urandom(32))))
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(int.from_bytes(os.urandom(8)))
    if process := sys.modules.get("multiprocessing.process"):
        process.current_process().authkey = os.urandom(32)


def renew_modules() -> None:
    """Forget what modules remember of the process in which they were imported."""
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile:
        tempfile.tempdir = tempfile._name_sequence = None  # noqa: SLF001 - there is no public way
    # torch makes a directory when it is imported and looks for modules there; the parent's is closed to tasks.
    made: Any = sys.modules.get("torch.distributed.nn.jit.instantiator")
    if made:
        own = importlib.import_module("tempfile").mkdtemp()
        sys.path[:] = [own if path == made.INSTANTIATED_TEMPLATE_DIR_PATH else path for path in sys.path]
        made.INSTANTIATED_TEMPLATE_DIR_PATH = own
    # What `python -m` would have made it: processes that a task spawns import it again.
    sys.modules["__main__"] = task
    sys.orig_argv[:] = [sys.executable, "-P", "-m", task.__name__]


def use_threads(threads: int, preloaded: Preloaded) -> None:
    """Let numeric libraries use so many threads, 0 meaning each processor; the parent kept OpenBLAS to one."""
    if threads and (torch := sys.modules.get("torch")) and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if (threads or len(os.sched_getaffinity(0))) > 1 and preloaded.blas:
        preloaded.blas.limit(limits=threads or len(os.sched_getaffinity(0)))


def ended(main: Callable[[], None]) -> int:
    """Call ``main`` and end as the interpreter does: last words, threads, exit functions, streams; return the status."""
    code = 0
    try:
        main()
    except SystemExit as end:
        code = _status_of(end)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - the interpreter's own last resort
        sys.excepthook(*sys.exc_info())
        code = 1
    # As the interpreter does at its end, which a fork does not come to.
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
    atexit._run_exitfuncs()  # noqa: SLF001
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120
    return code


def _status_of(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    sys.stderr.write(f"{end.code}\n")
    return 1
