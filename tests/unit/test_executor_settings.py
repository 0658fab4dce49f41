"""The executor's settings, the arguments and environment of a task, and its pins. No privileges needed."""

from __future__ import annotations

import importlib.metadata
import subprocess
import time
from pathlib import Path

import pytest
from flwr.supercore.cli.flower_superexec import _parse_args
from flwr.superlink.cli.flwr_serverapp import _parse_args_run_flwr_serverapp
from flwr.supernode.cli.flwr_clientapp import _parse_args_run_flwr_clientapp
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_executor import launch, pinned
from flowerbed_executor.__main__ import superexec_arguments
from flowerbed_executor.settings import SettingsError, load
from flowerbed_executor.spec import CLIENT_APP, SERVER_APP, Directories, Limits, TaskSpec
from flowerbed_executor.task import ENTRY_POINTS, arguments

ROOT = Path(__file__).resolve().parents[2]


def spec(program: str) -> TaskSpec:
    return TaskSpec(program, 2**64 - 1, 7, "f0" * 32, "superlink:8000", "PEM\n", Limits(), Directories())


def test_flower_understands_superexecs_arguments() -> None:
    parsed = _parse_args().parse_args(superexec_arguments(load("clientapp", {}))[1:])
    assert (parsed.runtime_api_address, parsed.insecure) == ("supernode:9094", False)
    assert parsed.superexec_auth_secret_file == "/secrets/superexec.secret"
    assert not parsed.runtime_dependency_install


@pytest.mark.parametrize(
    ("program", "parser"),
    [(CLIENT_APP, _parse_args_run_flwr_clientapp), (SERVER_APP, _parse_args_run_flwr_serverapp)],
)
def test_flower_understands_a_tasks_arguments(program: str, parser: object) -> None:
    parsed = parser().parse_args(arguments(spec(program), Path("/tasks/1/tmp/ca.crt"))[1:])  # type: ignore[operator]
    assert (parsed.token, parsed.runtime_api_address) == ("f0" * 32, "superlink:8000")
    # A parent that may not be signalled counts as gone, which would end the task.
    assert parsed.parent_pid is None
    assert not parsed.insecure


@given(st.integers(0, 2**64 - 1), st.text(), st.text())
def test_a_description_survives_the_pipe(run_id: int, token: str, certificates: str) -> None:
    sent = TaskSpec(CLIENT_APP, run_id, 1, token, "a:1", certificates, Limits(seconds=1.5), Directories())
    assert TaskSpec.from_json(sent.to_json()) == sent


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"program": "x", "limits": {}, "directories": {}}', b"[]"])
def test_half_a_description_starts_nothing(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any
        TaskSpec.from_json(raw)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "1e99"])
def test_a_limit_must_be_a_number(value: str) -> None:
    with pytest.raises(SettingsError, match="FLOWERBED_TASK_SECONDS is"):
        load("clientapp", {"FLOWERBED_TASK_SECONDS": value})


def test_the_role_must_be_known() -> None:
    with pytest.raises(SettingsError, match="serverapp or clientapp"):
        load("agentapp", {})


def test_tasks_share_the_containers_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pids.max").write_text("512\n")
    monkeypatch.setattr("flowerbed_executor.settings._PIDS_MAX", (tmp_path / "pids.max",))
    assert load("clientapp", {}).limits.processes == (512 - 48) // 4
    assert load("clientapp", {"FLOWERBED_TASKS_AT_ONCE": "1"}).limits.processes == 464
    assert load("clientapp", {"FLOWERBED_TASK_PROCESSES": "50"}).limits.processes == 50
    (tmp_path / "pids.max").write_text("max\n")
    assert load("clientapp", {}).limits.processes == 512


def test_the_installed_flower_is_the_pinned_one() -> None:
    pinned.check()
    assert f"FLWR_VERSION={pinned.FLWR_VERSION}\n" in (ROOT / "versions.env").read_text()


def test_another_flower_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flwr.supercore.superexec.run_superexec.get_executor", lambda kind: kind)
    with pytest.raises(pinned.PinError, match="get_executor"):
        pinned.check()


def test_a_task_calls_what_flowers_own_programs_call() -> None:
    scripts = {entry.name: entry.value for entry in importlib.metadata.entry_points(group="console_scripts")}
    for program, (module, function) in ENTRY_POINTS.items():
        assert scripts[program] == f"{module}:{function}"


def test_a_supervisor_starts_without_flower_and_within_a_moment() -> None:
    started = time.monotonic()
    script = launch.supervisor_command()
    script[-1] = script[-1].replace("sys.exit(", "print([m for m in ('flwr', 'site', 'httpx') if m in sys.modules]) #")
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
    assert time.monotonic() - started < 5
