"""Tasks forked from the warm parent, in the real image with real flags: as separate, and as fresh, as cold ones.

That they can do no more than cold ones is tried by the same attacks in test_executor_isolation.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from executor_support import Bench, docker, is_root

pytestmark = pytest.mark.docker

COMPLETED = {"status": "finished", "sub_status": "completed", "details": "", "reply": {"error": None}}
MIB = 1024 * 1024
POLL = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    assert is_root(), "the secrets and stores of this test must belong to root"
    bench = Bench(tmp_path_factory.mktemp("executor") / "warm", "clientapp", FLOWERBED_WARM="1", **POLL)
    try:
        bench.warmed()
        yield bench
    finally:
        bench.close()


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("executor") / "cold", "clientapp", FLOWERBED_WARM="0", **POLL)
    yield bench
    bench.close()


def told(bench: Bench, work: str) -> dict[str, Any]:
    run = bench.submit(work)
    assert bench.finished(run) == COMPLETED, bench.logs()[-3000:]
    bench.settled()
    start = "warm" if "ready" in bench.logs() else "cold"
    assert re.search(rf"run {run} task \d+ starts {start}", bench.logs())
    return bench.facts(run)


def parent_of(bench: Bench) -> int:
    """Return the process id of the warm parent."""
    found = bench.inside("grep -lz flowerbed_executor.warm /proc/[0-9]*/cmdline | cut -d/ -f3 | sort -n | head -1")
    return int(found)


NOISE = """
import base64, multiprocessing, random, ssl, tempfile, uuid
import numpy, torch, opacus, scipy.stats, sympy.core.random
from opacus.optimizers import DPOptimizer
model = opacus.GradSampleModule(torch.nn.Linear(4, 1))
plain = torch.optim.SGD(model.parameters(), lr=1.0)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.zero_()
optimizer = DPOptimizer(plain, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=2)
torch.nn.functional.mse_loss(model(torch.ones(2, 4)), torch.zeros(2, 1)).backward()
optimizer.step()
loader = torch.utils.data.DataLoader(range(1000), shuffle=True, batch_size=1000)
tell(noise={
    "opacus step": model._module.weight.tolist(),
    "torch": torch.randn(3).tolist(), "torch seed": torch.initial_seed(), "shuffle": next(iter(loader))[:8].tolist(),
    "numpy": numpy.random.standard_normal(3).tolist(), "numpy permutation": numpy.random.permutation(10**6)[:3].tolist(),
    "default_rng": numpy.random.default_rng().standard_normal(),
    "scipy": float(scipy.stats.norm.rvs()), "random": random.random(), "sympy": sympy.core.random.rng.random(),
    "authkey": bytes(multiprocessing.current_process().authkey).hex(), "ssl": ssl.RAND_bytes(8).hex(),
    "temporary": tempfile.mktemp(), "uuid1": str(uuid.uuid1()), "uuid4": str(uuid.uuid4()),
})
"""


def test_no_two_tasks_draw_the_same_noise(warm: Bench) -> None:
    drawn = [told(warm, NOISE)["noise"] for _ in range(3)]
    assert len(drawn[0]) == 15
    assert [name for name in drawn[0] if len({str(noise[name]) for noise in drawn}) != 3] == []


def test_what_a_task_changes_in_its_memory_the_next_one_does_not_see(warm: Bench) -> None:
    work = """
        import builtins, decimal, importlib, json, logging, numpy, torch, flwr.common.logger
        import flwr.supercore.task_identity as identity
        seen = [getattr(place, "marked", None) for place in (builtins, json, numpy, torch, flwr.common.logger)]
        tell(seen=seen, modules="left_by_a_task" in sys.modules, variable=os.environ.get("LEFT"), path="/left" in sys.path,
             level=logging.getLogger("flwr").level, dtype=str(torch.get_default_dtype()), loads=json.loads("[1]"),
             precision=decimal.getcontext().prec, threads=torch.get_num_threads())
        for place in (builtins, json, numpy, torch, flwr.common.logger):
            place.marked = "LEFT"
        sys.modules["left_by_a_task"] = json
        os.environ["LEFT"] = "LEFT"; os.putenv("LEFT", "LEFT"); sys.path.insert(0, "/left")
        logging.getLogger("flwr").setLevel(1); torch.set_default_dtype(torch.float64); torch.set_num_threads(1)
        torch.manual_seed(1); numpy.random.seed(1); decimal.getcontext().prec = 3
        json.loads = lambda text: "LEFT"
        import atexit; atexit.register(print, "LEFT")
        bytearray(b"LEFT-IN-MEMORY" * 100000)
        """
    first, second = told(warm, work), told(warm, work)
    assert first == second
    assert first["seen"] == [None] * 5
    assert (first["modules"], first["variable"], first["path"], first["loads"]) == (False, None, False, [1])


SELF = r"""
import ctypes, gc, multiprocessing, resource, signal, socket, stat, tempfile, threading, torch, __main__
import numpy, scipy.linalg, sklearn.metrics, threadpoolctl
def links():
    # How many connections are open at a moment differs.
    return sorted({os.readlink(f"/proc/self/fd/{fd}").split(":")[0].replace(str(context.run_id), "RUN")
                   for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")})
libc = ctypes.CDLL(None); libc.getenv.restype = ctypes.c_char_p
GLIBC = 3 << 31  # signals 32 and 33 are its own
def pooled(method):
    # Not terminated: workers inherit Flower's handling of SIGTERM, which fails the task.
    pool = multiprocessing.get_context(method).Pool(1)
    found = pool.map(abs, [-3])
    pool.close()
    pool.join()
    return found
def mine(text):
    return str(text).replace(str(os.getuid()), "UID").replace(sys.argv[4], "TOKEN")
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
environment = {name: mine(value) for name, value in sorted(os.environ.items())}
environment.pop("FLOWERBED_STATE_FD")
signals = {int(s): str(signal.getsignal(s)).split(" at ")[0] for s in signal.valid_signals()}
probe = tempfile.mkdtemp()
tell(
    environment=environment, c_getenv=[mine(libc.getenv(name)) for name in (b"HOME", b"FLWR_HOME", b"TMPDIR", b"OMP_NUM_THREADS",
         b"OPENBLAS_NUM_THREADS", b"FLOWERBED_SPEC_FD")],
    argv=[mine(word) for word in sys.argv], cwd=mine(os.getcwd()), umask=os.umask(0o077), links=links(),
    temporary=mine(os.path.dirname(probe)), path=[mine(entry) for entry in sys.path if "/tmp" not in entry][1:],
    limits={name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")},
    signals=signals, blocked=[status[f"Sig{kind}"] for kind in ("Blk", "Pnd")], ignored=int(status["SigIgn"], 16) & ~GLIBC,
    ids=[mine(status[name]) for name in ("Uid", "Gid", "Groups")],
    powers=[status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")],
    session=os.getsid(0) == os.getpid(), oom=open("/proc/self/oom_score_adj").read(),
    death=[libc.prctl(2, ctypes.byref(number := ctypes.c_int()), 0, 0, 0), number.value], dumpable=libc.prctl(3, 0, 0, 0, 0),
    own={name: type(open(f"/proc/self/{name}", "rb").read(64)).__name__ for name in ("environ", "maps", "auxv", "cmdline")},
    owner=os.stat("/proc/self/environ").st_uid == os.getuid(),
    threads=[torch.get_num_threads(), sorted(pool["num_threads"] for pool in threadpoolctl.threadpool_info())],
    bad_fork=torch.cuda._is_in_bad_fork(), initialised=torch.cuda.is_initialized(), main=__main__.__spec__.name,
    streams=[sys.stdout.line_buffering, sys.stdout.write_through, sys.stdout.encoding, sys.stdin.read()],
    collector=gc.isenabled(), flags=str(sys.flags), bytecode=sys.dont_write_bytecode,
    children=[pooled("spawn"), pooled("fork")],
    computed=float(torch.ones(600, 600).matmul(torch.ones(600, 600)).sum()),
)
"""


def test_a_warm_task_finds_itself_as_a_cold_one_does(warm: Bench, cold: Bench) -> None:
    mine, fresh = told(warm, SELF), told(cold, SELF)
    assert len(fresh) == 30
    assert {name: (mine.get(name), value) for name, value in fresh.items() if mine.get(name) != value} == {}
    assert fresh["dumpable"] == 1
    assert fresh["bad_fork"] is False
    assert fresh["death"] == [0, 9]


def test_what_it_shows_of_itself_in_proc_holds_nothing(warm: Bench) -> None:
    facts = told(
        warm,
        """
        tell(token=sys.argv[4], shown=[open(f"/proc/self/{name}").read() for name in ("cmdline", "environ")],
             mapped=[line for line in open("/proc/self/maps") if line.split()[1].startswith("rw") and "s " in line[:60]])
        """,
    )
    assert facts["token"] not in str(facts["shown"])
    assert "SECRET" not in str(facts["shown"])
    assert facts["mapped"] == []


def test_the_parent_rests_small_and_still(warm: Bench) -> None:
    told(warm, "tell(ran=True)")
    pid = parent_of(warm)

    def status() -> dict[str, int]:
        lines = warm.inside(f"cat /proc/{pid}/status").splitlines()
        return {line.split(":")[0]: int(line.split()[1]) for line in lines if re.search(r":\s+\d+( kB)?$", line)}

    before = status()
    time.sleep(3)
    after = status()
    assert before["Threads"] == 1
    assert before["VmRSS"] * 1024 <= 320 * MIB
    for kind in ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"):
        assert after[kind] == before[kind]


def test_a_parent_that_dies_takes_no_task_along_and_is_replaced(warm: Bench) -> None:
    run = warm.submit(
        'tell(started=True)\nwhile not os.path.exists("/dev/shm/go"): time.sleep(0.1)\ntell(went_on=True)'
    )
    warm.told(run, "started")
    dead = parent_of(warm)
    warm.inside(f"kill -9 {dead}")
    deadline = time.monotonic() + 180
    while warm.logs().count("The warm parent is ready") < 2:
        assert time.monotonic() < deadline, warm.logs()
        time.sleep(0.2)
    assert "The warm parent ended with status -9; another is started" in warm.logs()
    assert parent_of(warm) != dead
    warm.inside("touch /dev/shm/go")
    assert warm.finished(run) == COMPLETED
    assert warm.facts(run) == {"started": True, "went_on": True}
    warm.inside("rm /dev/shm/go")
    assert told(warm, "tell(ran=True)") == {"ran": True}


def test_a_task_that_it_was_starting_fails_with_a_reason(warm: Bench) -> None:
    pid, ready = parent_of(warm), warm.logs().count("The warm parent is ready")
    warm.inside(f"kill -STOP {pid}")
    run = warm.submit("tell(ran=True)")
    # It waits for the fork; what SuperExec cannot hear from a stopped parent it gives up after 20 s.
    standing = warm.finished(run)
    assert "The task could not be started: the warm parent did not answer" in standing["reply"]["error"]
    deadline = time.monotonic() + 180
    while warm.logs().count("The warm parent is ready") == ready:
        assert time.monotonic() < deadline, warm.logs()
        time.sleep(0.2)
    assert told(warm, "tell(ran=True)") == {"ran": True}
    assert warm.facts(run) == {}


def test_a_serverapp_is_forked_too_and_hands_over_results(tmp_path_factory: pytest.TempPathFactory) -> None:
    bench = Bench(tmp_path_factory.mktemp("executor") / "server", "serverapp", FLOWERBED_WARM="1", **POLL)
    try:
        bench.warmed()
        work = 'from flowerbed_app import Results\nResults().save("model.bin", b"kept"); tell(put=True)'
        run = bench.submit(work)
        standing = bench.finished(run)
        bench.settled()
        assert bench.facts(run) == {"put": True}, standing
        assert (bench.root / "results" / str(run) / "model.bin").read_bytes() == b"kept"
        assert " starts cold" not in bench.logs()
        status = bench.inside(f"cat /proc/{parent_of(bench)}/status")
        assert int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024 <= 320 * MIB
    finally:
        bench.close()


def test_a_stop_lets_a_warm_task_finish_and_ends_with_0(tmp_path_factory: pytest.TempPathFactory) -> None:
    bench = Bench(tmp_path_factory.mktemp("executor") / "stop", "clientapp", FLOWERBED_WARM="1", **POLL)
    try:
        bench.warmed()
        run = bench.submit("tell(started=True); time.sleep(3); tell(finished=True)")
        bench.told(run, "started")
        docker("stop", "-t", "30", bench.name)
        assert bench.finished(run) == COMPLETED
        assert bench.facts(run) == {"started": True, "finished": True}
        assert docker("inspect", "-f", "{{.State.ExitCode}}", bench.name).strip() == "0"
    finally:
        bench.close()
