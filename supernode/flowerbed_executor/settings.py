"""Reads the executor's settings from its environment and checks what it needs before anything starts.

Every variable is listed in supernode/README.md; a test compares the two.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .spec import CLIENT_APP, MIB, SERVER_APP, Directories, Limits


class SettingsError(Exception):
    """The executor cannot start; its message names the setting, the value found and the remedy."""


@dataclass(frozen=True)
class Role:
    """What differs between the executor at the centre and one at a site."""

    program: str
    runtime_api: str
    task_seconds: float
    drain_seconds: float


_PIDS_MAX = (Path("/sys/fs/cgroup/pids.max"), Path("/sys/fs/cgroup/pids/pids.max"))
"""The container's limit of processes and threads, in cgroup v2 and v1."""
_CPU_MAX, _CPU_V1 = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu")
_OWN_PROCESSES = 48
"""What SuperExec, supervisors and results writers need of it."""
_LEAST_PROCESSES = 32

ROLES = {
    # A ServerApp lasts as long as its run, so a stop cannot wait for it: its finished rounds are in the results store.
    "serverapp": Role(SERVER_APP, "superlink:8000", task_seconds=0, drain_seconds=0),
    # A reply later than the message's time to live (3,600 s) is worth nothing.
    "clientapp": Role(CLIENT_APP, "supernode:9094", task_seconds=3600, drain_seconds=20),
}


@dataclass(frozen=True)
class Settings:
    """One executor's settings."""

    role: Role
    runtime_api: str
    secrets: Path = Path("/secrets")
    alive: Path = Path("/run/flowerbed/alive")
    drain_seconds: float = 0
    tasks_at_once: int = 4
    warm: bool = False
    warm_after: float = 0
    held_pulls: bool = False
    limits: Limits = field(default_factory=Limits)
    directories: Directories = field(default_factory=Directories)

    @property
    def ca(self) -> Path:
        """The root that the Runtime API's certificate is checked against."""
        return self.secrets / "ca.crt"

    @property
    def superexec_secret(self) -> Path:
        """The secret that acquires tasks; no task may read it."""
        return self.secrets / "superexec.secret"


def load(role_name: str, environment: Mapping[str, str]) -> Settings:
    """Return the settings of the executor for ``role_name``.

    Raises:
        SettingsError: one sentence, for the first setting that does not hold.
    """
    if role_name not in ROLES:
        raise SettingsError(f"The role is {role_name!r}; it must be serverapp or clientapp.")
    role, defaults, places = ROLES[role_name], Limits(), Directories()
    at_once = int(_number(environment, "FLOWERBED_TASKS_AT_ONCE", 4))
    return Settings(
        role=role,
        runtime_api=environment.get("FLOWERBED_RUNTIME_ADDRESS", role.runtime_api),
        secrets=Path(environment.get("FLOWERBED_SECRETS", "/secrets")),
        alive=Path(environment.get("FLOWERBED_ALIVE", "/run/flowerbed/alive")),
        drain_seconds=_number(environment, "FLOWERBED_DRAIN_SECONDS", role.drain_seconds),
        tasks_at_once=at_once,
        warm=_switch(environment, "FLOWERBED_WARM", "1"),
        warm_after=_number(environment, "FLOWERBED_WARM_AFTER_SECONDS", 0),
        held_pulls=_switch(environment, "FLOWERBED_HELD_PULLS", "0"),
        limits=Limits(
            processes=_fair_share(int(_number(environment, "FLOWERBED_TASK_PROCESSES", defaults.processes)), at_once),
            threads=int(_number(environment, "FLOWERBED_TASK_THREADS", _processors())),
            open_files=int(_number(environment, "FLOWERBED_TASK_OPEN_FILES", defaults.open_files)),
            file_bytes=_mib(environment, "FLOWERBED_TASK_FILE_MIB", defaults.file_bytes),
            data_bytes=_mib(environment, "FLOWERBED_TASK_MEMORY_MIB", defaults.data_bytes),
            seconds=_number(environment, "FLOWERBED_TASK_SECONDS", role.task_seconds),
            result_bytes=_mib(environment, "FLOWERBED_RESULT_MIB", defaults.result_bytes),
            results_bytes=_mib(environment, "FLOWERBED_RESULTS_MIB", defaults.results_bytes),
            all_results_bytes=_mib(environment, "FLOWERBED_ALL_RESULTS_MIB", defaults.all_results_bytes),
            state_bytes=_mib(environment, "FLOWERBED_STATE_MIB", defaults.state_bytes),
        ),
        directories=Directories(
            tasks=environment.get("FLOWERBED_TASKS", places.tasks),
            state=environment.get("FLOWERBED_STATE", places.state),
            results=environment.get("FLOWERBED_RESULTS", places.results),
            data=environment.get("FLOWERBED_DATA", places.data),
        ),
    )


def check(settings: Settings) -> None:
    """Raise `SettingsError` unless the files and directories that this role needs are there and usable."""
    if os.geteuid() != 0:
        raise SettingsError(
            "The executor runs as user 0, with CAP_SETUID and CAP_SETGID only, to give each task its own user."
        )
    for path in (settings.ca, settings.superexec_secret):
        if not os.access(path, os.R_OK):
            raise SettingsError(f"{path} cannot be read; mount this executor's secrets at {settings.secrets}.")
    if settings.superexec_secret.stat().st_mode & 0o077:
        raise SettingsError(f"{settings.superexec_secret} can be read by tasks; its mode must be 0400.")
    store = settings.directories.state if settings.role.program == CLIENT_APP else settings.directories.results
    for directory in (settings.directories.tasks, store):
        if not Path(directory).is_dir() or Path(directory).stat().st_uid != 0 or not os.access(directory, os.W_OK):
            raise SettingsError(f"{directory} must be a writable directory that root owns; mount it.")


def _fair_share(processes: int, at_once: int) -> int:
    """Lower the limit so that tasks together cannot use up the container's processes, which supervisors need too."""
    for path in _PIDS_MAX:
        if path.is_file() and (raw := path.read_text().strip()).isdigit():
            share = max(_LEAST_PROCESSES, (int(raw) - _OWN_PROCESSES) // max(1, at_once))
            return min(processes or share, share)
    return processes


def _processors() -> int:
    """Return the processors that the container may use; libraries do not see the limit and start a thread for each one.

    Source: Linux's cgroup v2 and v1 documentation, ``cpu.max`` and ``cpu.cfs_quota_us``.
    """
    with suppress(OSError, ValueError):
        quota, period = _CPU_MAX.read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    with suppress(OSError, ValueError):
        quota, period = ((_CPU_V1 / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            return max(1, math.ceil(int(quota) / int(period)))
    return len(os.sched_getaffinity(0))


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    raw = environment.get(name, "").strip()
    if not raw:
        return default
    try:
        value = float(raw)
    except ValueError:
        value = -1
    if not 0 <= value < 1e12:
        raise SettingsError(f"{name} is {raw!r}; it must be a number, 0 or more (0 means no limit).")
    return value


def _switch(environment: Mapping[str, str], name: str, default: str) -> bool:
    value = environment.get(name, "").strip() or default
    if value not in ("0", "1"):
        raise SettingsError(f"{name} is {value!r}; it must be 1 or 0.")
    return value == "1"


def _mib(environment: Mapping[str, str], name: str, default: int) -> int:
    return int(_number(environment, name, default / MIB) * MIB)
