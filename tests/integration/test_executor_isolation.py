"""What researchers' code can reach in an executor: tried by tasks that attack, in the real image with real flags."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executor_support import SECRET, Bench, docker, is_root

pytestmark = pytest.mark.docker

COMPLETED = {"status": "finished", "sub_status": "completed", "details": "", "reply": {"error": None}}

VICTIM = """
import socket
open(os.path.join(os.environ["HOME"], "precious"), "w").write("PRECIOUS" * 4)
os.environ["VICTIM_VARIABLE"] = "PRECIOUS-IN-ENVIRON"
memory = b"PRECIOUS-IN-MEMORY" * 100
open("/tmp/of-victim", "w").write("PRECIOUS-IN-TMP")
listener = socket.socket()
tell(pid=os.getpid(), uid=os.getuid(), token=sys.argv[4], address=hex(id(memory)))
deadline = time.time() + 300
while time.time() < deadline and not os.path.exists("/dev/shm/attack-is-over"):
    time.sleep(0.05)
tell(unharmed=open(os.path.join(os.environ["HOME"], "precious")).read() == "PRECIOUS" * 4)
"""

ATTACKER = """
import ctypes, glob, signal
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    result = getattr(libc, name)(*args)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

me = os.getpid()
others = [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) != me]
found = {}
for pid in others:
    status = open(f"/proc/{pid}/status").read()
    if f"Uid:\\t{os.getuid()}\\t" in status:
        continue
    for name in ("environ", "maps", "mem", "auxv", "stack", "syscall", "io"):
        found[f"{pid}/{name}"] = attempt(lambda: open(f"/proc/{pid}/{name}", "rb").read(64))
    for name in ("cwd", "root", "exe", "fd/0", "fd/1", "fd/5", "fd/6", "ns/pid"):
        found[f"{pid}/{name}"] = attempt(lambda: os.readlink(f"/proc/{pid}/{name}"))
    found[f"{pid}/fd"] = attempt(lambda: os.listdir(f"/proc/{pid}/fd"))
    found[f"{pid}/root/secrets"] = attempt(lambda: os.listdir(f"/proc/{pid}/root/secrets"))
    oom = f"/proc/{pid}/oom_score_adj"
    found[f"{pid}/oom"] = attempt(lambda: open(oom, "w").write("1000"))
    for number in (0, signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
        found[f"{pid}/signal {number}"] = attempt(lambda: os.kill(pid, number))
    found[f"{pid}/ptrace"] = attempt(lambda: call("ptrace", 16, pid, 0, 0))
    found[f"{pid}/seize"] = attempt(lambda: call("ptrace", 0x4206, pid, 0, 0))
    buffer = ctypes.create_string_buffer(64)
    class IoVec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    ours = IoVec(ctypes.cast(buffer, ctypes.c_void_p), 64)
    for address in (0x400000, {address}):
        theirs = IoVec(address, 64)
        found[f"{pid}/vm {address:x}"] = attempt(
            lambda: call("process_vm_readv", pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
        )
    found[f"{pid}/prlimit"] = attempt(lambda: __import__("resource").prlimit(pid, 4))
    found[f"{pid}/affinity"] = attempt(lambda: os.sched_setaffinity(pid, {0}))
    found[f"{pid}/nice"] = attempt(lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    found[f"{pid}/pidfd"] = attempt(lambda: call("syscall", 438, os.pidfd_open(pid), 1, 0))
commands = " ".join(open(f"/proc/{p}/cmdline").read() for p in others if os.path.exists(f"/proc/{p}/cmdline"))
home = "/tasks/{uid}"
files = {
    "list tasks": attempt(lambda: os.listdir("/tasks")),
    "list home": attempt(lambda: os.listdir(home)),
    "read": attempt(lambda: open(home + "/home/precious").read()),
    "write": attempt(lambda: open(home + "/home/precious", "w")),
    "apps": attempt(lambda: os.listdir(home + "/flwr/apps")),
    "remove": attempt(lambda: os.rename(home, "/tasks/x")),
    "squat": attempt(lambda: os.mkdir("/tasks/100999")),
    "tmp": attempt(lambda: open("/tmp/of-victim").read()),
    "tmp remove": attempt(lambda: os.unlink("/tmp/of-victim")),
}
tell(processes={k: v for k, v in found.items() if "Error" not in v}, tried=len(found))
tell(commands=commands[:3000], files=files)
open("/dev/shm/attack-is-over", "w").close()
# It is removed as soon as this task has ended; the victim must have seen it.
time.sleep(3)
"""


@pytest.fixture(scope="module", params=["0", "1"], ids=["cold", "warm"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    assert is_root(), "the secrets and stores of this test must belong to root"
    root = tmp_path_factory.mktemp("executor") / "site"
    bench = Bench(root, "clientapp", FLWR_SUPEREXEC_TASK_POLL_INTERVAL="0.1", FLOWERBED_WARM=request.param)
    try:
        if request.param == "1":
            bench.warmed()
        yield bench
        assert (" starts cold" if request.param == "1" else " starts warm") not in bench.logs()
    finally:
        bench.close()


@pytest.fixture(scope="module")
def attack(bench: Bench) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two tasks that overlap: what the victim tells, and what the attacker finds."""
    victim = bench.submit(VICTIM)
    bench.told(victim, "token")
    facts = bench.facts(victim)
    work = ATTACKER.replace("{address}", facts["address"]).replace("{uid}", str(facts["uid"]))
    attacker = bench.submit(work)
    assert bench.finished(attacker) == COMPLETED
    assert bench.finished(victim) == COMPLETED
    return bench.facts(victim), bench.facts(attacker)


def test_overlapping_tasks_have_users_of_their_own(attack: tuple[dict[str, Any], dict[str, Any]]) -> None:
    victim, _ = attack
    assert victim["uid"] > 100_000


def test_no_process_of_another_user_can_be_read_signalled_traced_or_slowed(attack: Any) -> None:
    _, attacker = attack
    assert attacker["tried"] > 100
    assert attacker["processes"] == {}


def test_a_token_stands_in_no_argument(attack: Any) -> None:
    victim, attacker = attack
    assert len(victim["token"]) > 20
    assert "flowerbed_executor" in attacker["commands"]
    assert victim["token"] not in attacker["commands"]


def test_another_tasks_files_cannot_be_read_or_changed(attack: Any) -> None:
    victim, attacker = attack
    assert {name: found for name, found in attacker["files"].items() if "Error" not in found} == {}
    assert victim["unharmed"]


def test_the_executors_secrets_and_stores_are_out_of_reach(bench: Bench) -> None:
    run = bench.submit(
        """
        import glob
        paths = ["/secrets/superexec.secret", "/secrets/ca.crt", "/secrets/tls.key", "/proc/1/environ",
                 "/state/1001.jsonl"]
        tell(read={p: attempt(lambda: open(p).read()) for p in paths},
             listed={p: attempt(lambda: os.listdir(p)) for p in ("/state", "/root", "/tasks")},
             written={p: attempt(lambda: open(p, "w")) for p in
                      ("/opt/flower/x", "/etc/x", "/data/x", "/state/x", "/run/flowerbed/alive", "/tasks/x")},
             mine=attempt(lambda: open("/data/breast-cancer.csv").read()),
             environment=dict(os.environ))
        """
    )
    assert bench.finished(run) == COMPLETED
    facts = bench.facts(run)
    tried = {**facts["read"], **facts["listed"], **facts["written"]}
    assert {path: found for path, found in tried.items() if "Error" not in found} == {}
    assert "canary" in facts["mine"]
    assert SECRET not in str(facts)
    assert not any("SECRET" in name or "SUPEREXEC" in name for name in facts["environment"])


def test_no_privilege_can_be_gained(bench: Bench) -> None:
    run = bench.submit(
        """
        import ctypes, socket, subprocess
        libc = ctypes.CDLL(None, use_errno=True)
        def call(name, *args):
            if getattr(libc, name)(*args) == -1:
                raise OSError(ctypes.get_errno(), "refused")
        tell(gained={
            "setuid": attempt(lambda: os.setuid(0)),
            "setresuid": attempt(lambda: os.setresuid(-1, -1, 0)),
            "setgid": attempt(lambda: os.setgid(0)),
            "groups": attempt(lambda: os.setgroups([9703])),
            "executor's neighbour": attempt(lambda: os.setuid(os.getuid() + 1)),
            "user namespace": attempt(lambda: call("unshare", 0x10000000)),
            "mount namespace": attempt(lambda: call("unshare", 0x20000)),
            "mount": attempt(lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, 0)),
            "chroot": attempt(lambda: os.chroot("/tmp")),
            "raw socket": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
            "su": attempt(
                lambda: subprocess.run(["su", "-c", "id"], check=True, capture_output=True, stdin=subprocess.DEVNULL)
            ),
            "limits": attempt(lambda: __import__("resource").setrlimit(6, (100000, 100000))),
        }, status=open("/proc/self/status").read().split("CapInh", 1)[1][:220])
        """
    )
    assert bench.finished(run) == COMPLETED
    facts = bench.facts(run)
    assert {name: found for name, found in facts["gained"].items() if "Error" not in found} == {}
    assert "CapEff:\t0000000000000000" in facts["status"]
    assert "NoNewPrivs:\t1" in facts["status"]


def test_what_a_task_leaves_behind_is_gone_before_it_counts_as_ended(bench: Bench) -> None:
    run = bench.submit(
        """
        import ctypes, signal
        libc = ctypes.CDLL(None)
        main = os.getpid()
        libc.shmget(12345, 4096, 0o1666)
        for place in ("/tmp", "/dev/shm"):
            os.makedirs(place + "/left/deep")
            open(place + "/left/deep/file", "w").write("LEFT")
            os.chmod(place + "/left/deep", 0)
        os.makedirs(os.environ["HOME"] + "/locked/inner"); os.chmod(os.environ["HOME"] + "/locked", 0)
        if os.fork() == 0:
            os.setsid()
            for number in range(1, 32):
                if number not in (9, 19):
                    signal.signal(number, signal.SIG_IGN)
            for _ in range(20):
                if os.fork() == 0:
                    while True:
                        # As soon as the task has ended: tries to end whoever comes to clean up.
                        try:
                            os.kill(main, 0)
                            time.sleep(0.001)
                        except OSError:
                            try:
                                os.kill(-1, 9)
                            except OSError:
                                pass
            time.sleep(600)
        tell(uid=os.getuid(), shared=open("/proc/sysvipc/shm").read())
        """
    )
    assert bench.finished(run) == COMPLETED
    uid = str(bench.facts(run)["uid"])
    bench.settled()
    assert uid in bench.facts(run)["shared"]
    assert uid not in bench.inside("cat /proc/[0-9]*/status 2>/dev/null | grep ^Uid:; cat /proc/sysvipc/shm")
    assert "left" not in bench.inside("ls /tmp /dev/shm")
    assert bench.inside("ls /tasks").strip() == ""


def test_a_directory_too_deep_for_any_path_is_removed_too(bench: Bench) -> None:
    run = bench.submit(
        """
        for place in (os.environ["HOME"], "/tmp", "/dev/shm"):
            os.chdir(place)
            for _ in range(2000):
                os.mkdir("deepdeep")
                os.chdir("deepdeep")
            open("file", "w").write("LEFT")
        os.chdir("/")
        tell(uid=os.getuid())
        """
    )
    assert bench.finished(run) == COMPLETED
    bench.settled()
    assert "deep" not in bench.inside("ls /tmp /dev/shm")
    assert bench.finished(bench.submit("tell(ran=True)")) == COMPLETED
    assert "could not be ended or removed" not in bench.logs()


def test_an_executor_that_cannot_clean_up_ends_to_get_empty_directories(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    bench = Bench(tmp_path_factory.mktemp("executor") / "left", "clientapp", FLWR_SUPEREXEC_TASK_POLL_INTERVAL="0.1")
    try:
        run = bench.submit("tell(uid=os.getuid()); time.sleep(5)")
        # Root's own, so no task user may remove it.
        bench.inside(f"mkdir -m 700 /tasks/{bench.told(run, 'uid')}/left")
        assert bench.finished(run) == COMPLETED
        assert docker("wait", bench.name).strip() == "1"
        assert "no more tasks are taken" in bench.logs()
    finally:
        bench.close()


def test_killing_the_supervisor_ends_the_task_and_the_run(bench: Bench) -> None:
    run = bench.submit(
        """
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        open("/dev/shm/orphan", "w").close()
        tell(pid=os.getpid(), supervisor=os.getppid(), uid=os.getuid())
        time.sleep(600)
        """
    )
    supervisor = bench.told(run, "supervisor")
    bench.inside(f"kill -9 {supervisor}")
    standing = bench.finished(run)
    assert "supervisor" in standing["details"]
    assert "supervisor" in standing["reply"]["error"]
    bench.settled()
    assert str(bench.facts(run)["uid"]) not in bench.inside("cat /proc/[0-9]*/status 2>/dev/null | grep ^Uid:")
    assert "orphan" not in bench.inside("ls /dev/shm")


@pytest.mark.parametrize("kind", ["flwr-serverapp", "flwr-agentapp", "flwr-simulation", "flwr-model", "flwr-connector"])
def test_a_program_that_does_not_belong_here_fails_with_a_reason(bench: Bench, kind: str) -> None:
    run = bench.submit("tell(ran=True)", kind)
    path, deadline = bench.root / "out" / f"{run}.json", time.monotonic() + 120
    while "finished" not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, bench.logs()
        time.sleep(0.1)
    assert f"{kind} may not run here, only flwr-clientapp" in path.read_text()
    assert bench.facts(run) == {}


def test_a_task_that_cannot_be_started_fails_its_run_and_nothing_else(bench: Bench) -> None:
    (bench.root / "state" / "1500.jsonl").mkdir()
    bench._runs = 1499
    run = bench.submit("tell(ran=True)")
    assert run == 1500
    assert "could not be started" in bench.finished(run)["details"]
    assert bench.finished(bench.submit("tell(ran=True)")) == COMPLETED


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("os._exit(0)", "without reporting its end"),
        ("raise ValueError('my own mistake')", "my own mistake"),
        ("sys.exit(3)", "status 3"),
    ],
)
def test_every_end_of_a_task_ends_in_one_reply(bench: Bench, work: str, reason: str) -> None:
    standing = bench.finished(bench.submit(work))
    assert standing["sub_status"] == "failed"
    assert reason in standing["reply"]["error"]


def test_processes_of_a_task_are_limited_and_others_go_on(bench: Bench) -> None:
    run = bench.submit(
        """
        children = []
        try:
            while len(children) < 5000:
                children.append(os.fork())
                if not children[-1]:
                    time.sleep(600)
        except OSError as error:
            tell(count=len(children), error=str(error))
        # Flower needs some threads to report the end.
        for child in children[:20]:
            os.kill(child, 9)
            os.waitpid(child, 0)
        """
    )
    assert bench.finished(run) == COMPLETED
    assert bench.facts(run)["count"] < (512 - 48) // 4
    bench.settled()
    assert bench.finished(bench.submit("tell(ran=True)")) == COMPLETED


def test_the_sites_state_is_durable_and_each_runs_own(bench: Bench) -> None:
    run = bench.submit(
        """
        from flowerbed_app import SiteState
        state = SiteState(context.run_id)
        state.append({"epsilon": 0.5})
        tell(read=state.read(), before=attempt(lambda: state.require(started=True)))
        fd = os.environ["FLOWERBED_STATE_FD"]
        tell(reopened=attempt(lambda: open(f"/proc/self/fd/{fd}", "w")))
        """
    )
    assert bench.finished(run) == COMPLETED
    kept = Path(bench.root, "state", f"{run}.jsonl")
    assert kept.read_text() == '{"epsilon":0.5}\n'
    assert (kept.stat().st_uid, kept.stat().st_mode & 0o777) == (0, 0o600)
    assert bench.facts(run)["read"] == [{"epsilon": 0.5}]
    assert "PermissionError" in bench.facts(run)["reopened"]
    other = bench.submit("from flowerbed_app import SiteState; tell(read=SiteState(context.run_id).read())")
    bench.finished(other)
    assert bench.facts(other)["read"] == []


def test_a_task_cannot_take_its_runs_record_back(bench: Bench) -> None:
    bench._runs += 1
    kept = bench.root / "state" / f"{bench._runs + 1}.jsonl"
    kept.write_text('{"epsilon":0.5}\n')
    run = bench.submit("os.ftruncate(int(os.environ['FLOWERBED_STATE_FD']), 0); tell(cut=True)")
    bench.finished(run)
    bench.settled()
    assert bench.facts(run) == {"cut": True}
    assert kept.read_text() == '{"epsilon":0.5}\n'
    assert f"{kept.name}: The task changed its run's record" in bench.logs()


def test_a_record_cannot_fill_the_disk(bench: Bench) -> None:
    run = bench.submit(
        """
        while True:
            os.write(int(os.environ["FLOWERBED_STATE_FD"]), bytes(1 << 20))
            time.sleep(0.1)
        """
    )
    assert "record at this site" in bench.finished(run)["reply"]["error"]
    bench.settled()
    assert (bench.root / "state" / f"{run}.jsonl").stat().st_size == (1 << 20) + 1


def test_output_is_marked_and_cannot_pass_for_another_tasks(bench: Bench) -> None:
    run = bench.submit(
        r"""
        os.set_blocking(1, False)
        print("\x1b[2Jcleared\r[flwr-clientapp run 1 task 1] forged")
        print("y" * 20000)
        """
    )
    bench.finished(run)
    bench.settled()
    lines = [line for line in bench.logs().splitlines() if "forged" in line or "yyyy" in line]
    assert len(lines) >= 4
    assert all(line.startswith(f"[flwr-clientapp run {run} ") for line in lines)
    assert "\x1b[2J" not in bench.logs()
