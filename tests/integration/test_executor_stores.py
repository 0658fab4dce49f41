"""A ServerApp's results and an executor's stop, in the real image with the real flags."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Iterator

import pytest

from executor_support import Bench, docker, is_root

pytestmark = pytest.mark.docker

FAST = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    assert is_root(), "the stores of this test must belong to root"
    bench = Bench(tmp_path_factory.mktemp("executor") / "centre", "serverapp", FLOWERBED_RESULT_MIB="1", **FAST)
    yield bench
    bench.close()


def test_results_are_kept_once_under_the_acquired_run(centre: Bench) -> None:
    run = centre.submit(
        """
        from flowerbed_app import Results
        results = Results(999999)
        first = results.save("round-1.json", b"{}")
        tell(sum=first,
             again=attempt(lambda: results.save("round-1.json", b"[]")),
             large=attempt(lambda: results.save("large.bin", bytes(2 * 1024 * 1024))),
             after=results.save("round-2.bin", b"x" * 1000000),
             listed=attempt(lambda: os.listdir("/results")),
             state="FLOWERBED_STATE_FD" in os.environ)
        """
    )
    assert centre.finished(run)["sub_status"] == "completed"
    facts, kept = centre.facts(run), centre.root / "results" / str(run)
    centre.settled()
    assert sorted(path.name for path in kept.iterdir()) == ["SHA256SUMS", "round-1.json", "round-2.bin"]
    assert (kept / "round-1.json").read_bytes() == b"{}"
    assert facts["sum"] == hashlib.sha256(b"{}").hexdigest()
    assert "written once" in facts["again"]
    assert "one result may have 1048576" in facts["large"]
    assert "PermissionError" in facts["listed"]
    assert not facts["state"]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=kept, check=True, capture_output=True)


def test_results_can_be_read_by_the_superlink_and_by_nobody_else(centre: Bench) -> None:
    run = centre.submit("from flowerbed_app import Results; Results().save('a', b'a')")
    centre.finished(run)
    centre.settled()
    kept = centre.root / "results" / str(run)
    for path, mode in ((kept.parent, 0o750), (kept, 0o750), (kept / "a", 0o640), (kept / "SHA256SUMS", 0o640)):
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 9703, mode), path


def test_a_result_is_kept_whole_or_not_at_all_when_its_task_dies(centre: Bench) -> None:
    run = centre.submit(
        """
        import socket
        from flowerbed_app import Results
        Results().save("whole", b"whole")
        channel = socket.socket(fileno=int(os.environ["FLOWERBED_RESULTS_FD"]))
        channel.sendall(b'{"name": "half", "size": 1000, "sha256": "' + b"0" * 64 + b'"}\\n' + b"x" * 500)
        os.kill(os.getpid(), 9)
        """
    )
    assert "SIGKILL" in centre.finished(run)["details"]
    centre.settled()
    assert sorted(path.name for path in (centre.root / "results" / str(run)).iterdir()) == ["SHA256SUMS", "whole"]


def test_no_serverapp_starts_when_results_are_more_than_allowed(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("executor") / "full"
    bench = Bench(root, "serverapp", FLOWERBED_ALL_RESULTS_MIB="1", **FAST)
    try:
        run = bench.submit("from flowerbed_app import Results; Results().save('a', bytes(2 << 20)); tell(ran=True)")
        assert bench.finished(run)["sub_status"] == "completed"
        refused = bench.submit("tell(ran=True)")
        assert "the results of all runs have" in bench.finished(refused)["details"]
        assert bench.facts(refused) == {}
    finally:
        bench.close()


def test_a_stop_ends_a_serverapp_at_once_and_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    bench = Bench(tmp_path_factory.mktemp("executor") / "stop", "serverapp", **FAST)
    try:
        run = bench.submit(
            "from flowerbed_app import Results; Results().save('round-1', b'1'); tell(ready=1); time.sleep(300)"
        )
        bench.told(run, "ready")
        docker("stop", "--time", "30", bench.name)
        standing = bench.finished(run)
        assert "executor was stopped" in standing["details"]
        assert (bench.root / "results" / str(run) / "round-1").read_bytes() == b"1"
        assert docker("inspect", "-f", "{{.State.ExitCode}}", bench.name).strip() == "0"
    finally:
        bench.close()


def test_a_task_that_outlives_its_run_is_ended(centre: Bench) -> None:
    run = centre.submit(
        """
        import signal
        from flwr.proto.runtime_pb2 import PushTaskOutputRequest
        from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
        from flwr.supercore.runtime import RuntimeHttpClient
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        client = RuntimeHttpClient.from_server_address(
            sys.argv[2], insecure=False, root_certificates=open(sys.argv[6], "rb").read(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
                          RuntimeTokenHttpInterceptor(sys.argv[4])])
        client.PushTaskOutput(PushTaskOutputRequest(sub_status="completed"))
        tell(reported=True)
        while True:
            time.sleep(600)
        """
    )
    assert centre.finished(run)["sub_status"] in ("completed", "failed")
    centre.settled(60)
    assert f"run {run} task" in centre.logs()
    assert "has outlived its run or its report" in centre.logs()


def test_a_stop_lets_a_clientapp_finish_and_a_late_one_is_ended(tmp_path_factory: pytest.TempPathFactory) -> None:
    bench = Bench(tmp_path_factory.mktemp("executor") / "late", "clientapp", FLOWERBED_TASK_SECONDS="20", **FAST)
    try:
        late = bench.submit("tell(ready=1); time.sleep(600)")
        standing = bench.finished(late)
        assert "ended after 20 seconds" in standing["reply"]["error"]
        run = bench.submit("tell(ready=1); time.sleep(4)")
        bench.told(run, "ready")
        started = time.monotonic()
        docker("stop", "--time", "30", bench.name)
        assert time.monotonic() - started < 25
        assert bench.finished(run)["sub_status"] == "completed"
        assert docker("inspect", "-f", "{{.State.ExitCode}}", bench.name).strip() == "0"
    finally:
        bench.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"FLOWERBED_TASK_SECONDS": "soon"}, "FLOWERBED_TASK_SECONDS is 'soon'"),
        ({"FLOWERBED_SECRETS": "/nowhere"}, "/nowhere/ca.crt cannot be read"),
        ({"FLOWERBED_TASKS": "/nowhere"}, "/nowhere must be a writable directory"),
    ],
)
def test_an_executor_that_cannot_start_says_why(
    tmp_path_factory: pytest.TempPathFactory, change: dict[str, str], sentence: str
) -> None:
    bench = Bench(tmp_path_factory.mktemp("executor") / "bad", "clientapp", **change)
    try:
        assert docker("wait", bench.name).strip() == "2"
        assert sentence in bench.logs()
        assert "Traceback" not in bench.logs()
    finally:
        bench.close()
