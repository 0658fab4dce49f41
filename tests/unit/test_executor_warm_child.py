"""What a forked task has anew, and how it ends: as a fresh Python. Tried in processes of their own, without privileges."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

FORK = """
import os, random, sys
from flowerbed_executor import preload, forked
from flowerbed_executor.preload import Preloaded

def in_a_fork(work):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    return eval(os.fdopen(read).read())

def preloaded():
    import gc
    return Preloaded(tuple(o for o in gc.get_objects() if type(o) is random.Random), {})
"""


def python(source: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    program = FORK + textwrap.dedent(source)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=check, timeout=120)


def test_two_forks_draw_different_numbers_from_every_generator() -> None:
    done = python(
        """
        import multiprocessing, numpy, ssl, tempfile, uuid
        library = random.Random(1)
        random.seed(1); numpy.random.seed(1); numpy.random.standard_normal(); tempfile.gettempdir(); ssl.RAND_bytes(8)
        next(tempfile._get_candidate_names())
        known = preloaded()
        def draw():
            forked.renew_randomness(known)
            forked.renew_modules()
            return [random.random(), library.random(), random.gauss(0, 1), float(numpy.random.standard_normal()),
                    numpy.random.mtrand._rand.bytes(8), numpy.random.permutation(10**6)[:3].tolist(),
                    bytes(multiprocessing.current_process().authkey), ssl.RAND_bytes(8), str(uuid.uuid4()),
                    next(tempfile._get_candidate_names())]
        draws = [in_a_fork(draw) for _ in range(3)]
        same = [place for place, drawn in enumerate(zip(*draws)) if len(set(map(str, drawn))) != 3]
        print(same)
        # Without it the parent's state is drawn from again and again, so this test can fail.
        print(len({in_a_fork(lambda: float(numpy.random.standard_normal())) for _ in range(3)}))
        """
    )
    assert done.stdout.split("\n")[:2] == ["[]", "1"], done


@pytest.mark.parametrize(
    "program",
    [
        "pass",
        "sys.exit()",
        "sys.exit(3)",
        "sys.exit(259)",
        "sys.exit('a last word')",
        "raise ValueError('a mistake')",
        "raise KeyboardInterrupt",
        "os.kill(os.getpid(), 15)",
        "import threading; threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()",
        "import atexit; atexit.register(print, 'exit function')",
        "sys.stdout.write('no newline')",
        "import threading; threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); sys.exit(4)",
    ],
)
def test_it_ends_as_a_fresh_python_does(program: str) -> None:
    main = f"import os, sys, time\ndef main():\n    {program}\n"
    fresh = subprocess.run([sys.executable, "-c", main + "main()"], capture_output=True, text=True, timeout=60)
    child = "forked.reset_signals(); code = forked.ended(main); os._exit(code & 255)"
    parent = "pid = os.fork()\nif pid == 0:\n    try:\n        {}\n    finally:\n        os._exit(99)\n"
    tell = "print('STATUS', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=sys.stderr)"
    done = python(main + parent.format(child) + tell)
    *errors, status = done.stderr.splitlines()
    assert (done.stdout, status) == (fresh.stdout, f"STATUS {fresh.returncode}")
    assert errors[-1:] == fresh.stderr.splitlines()[-1:]


@pytest.mark.parametrize("wrong", ["OSError(28, 'No space left on device')", "SystemExit('a generator refused')"])
def test_what_keeps_a_task_from_being_made_anew_is_told(wrong: str) -> None:
    done = python(
        f"""
        from flowerbed_executor.spec import Directories, Limits, TaskSpec
        def fail():
            raise {wrong}
        forked.renew_modules = fail
        spec = TaskSpec("flwr-clientapp", 1, 2, "token", "supernode:9094", "", Limits(), Directories())
        pid = os.fork()
        if pid == 0:
            forked.Forked(preloaded())(spec, dict(os.environ))
        print("STATUS", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert done.stdout == "STATUS 1\n"
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].split(": ")[0] == wrong.split("(")[0]


def test_signals_are_handled_as_python_starts_with() -> None:
    done = python(
        """
        import signal
        def handled():
            return {int(s): str(signal.getsignal(s)) for s in signal.valid_signals() if s not in (9, 19)}
        # Whoever started these tests may have had some ignored, which Python then keeps.
        for number, usual in ((1, signal.SIG_DFL), (2, signal.default_int_handler), (3, signal.SIG_DFL)):
            signal.signal(number, usual)
        fresh = handled()
        for number in (2, 10, 13, 15, 17, 25):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, [15])
        def renewed():
            forked.reset_signals()
            return {s: h for s, h in handled().items() if "function" not in h}, list(signal.pthread_sigmask(0, []))
        found, blocked = in_a_fork(renewed)
        print({s: (h, found.get(s)) for s, h in fresh.items() if "function" not in h and found.get(s) != h}, blocked)
        """
    )
    assert done.stdout == "{} []\n", done


def test_a_process_with_threads_is_not_forked_from() -> None:
    done = python(
        """
        import threading
        print(preload.obstacle())
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        print(preload.obstacle())
        """
    )
    first, second = done.stdout.splitlines()
    assert first == ""
    assert second.startswith("2 threads run")


def test_memory_that_tasks_would_share_is_found() -> None:
    done = python("import mmap; kept = mmap.mmap(-1, 4096); print(preload.obstacle())")
    assert done.stdout.startswith("tasks would share writable memory: ")


def test_clean_pages_are_let_go_of_and_come_back() -> None:
    done = python(
        """
        import hashlib, ssl, json
        def files():
            return [int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssFile")][0]
        before = files()
        preload.release_clean_pages()
        print(files() < before, hashlib.sha256(b"").hexdigest()[:8], bool(ssl.create_default_context()))
        """
    )
    assert done.stdout == "True e3b0c442 True\n"


@pytest.mark.parametrize("program", ["flwr-clientapp", "flwr-serverapp"])
def test_flowers_program_is_the_one_its_console_script_calls(program: str) -> None:
    done = python(
        f"""
        import importlib, sys
        from flowerbed_executor.task import ENTRY_POINTS
        package, function = ENTRY_POINTS["{program}"]
        preload.import_program(package, function)
        found = getattr(importlib.import_module(package), function)
        print(found.__module__, found.__name__, "flwr.supernode.cli.flower_supernode" in sys.modules)
        """
    )
    module = {
        "flwr-clientapp": "flwr.supernode.cli.flwr_clientapp",
        "flwr-serverapp": "flwr.superlink.cli.flwr_serverapp",
    }
    assert done.stdout.split() == [module[program], program.replace("-", "_"), "False"]
