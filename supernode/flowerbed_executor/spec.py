"""What a supervisor needs to know of one task, and the settings of this executor.

Plain data that crosses one pipe from SuperExec's process to the supervisor's, so that no argument and no environment
variable ever holds a token. Standard library only: it is imported in the supervisor, which must start in milliseconds.
"""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass

SERVER_APP = "flwr-serverapp"
CLIENT_APP = "flwr-clientapp"

FIRST_UID = 100_000
"""A task's user and group are this plus the process id of its supervisor."""

RESULTS_GROUP = 9703
"""Group of the SuperLink, which serves results (docs/contracts.md)."""

SWEPT = b"nothing is left\n"
"""What a sweep of one task user writes when it has removed everything."""

END_TASK = signal.SIGUSR1
"""What tells a supervisor to end its task, whatever the task wants."""

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Resource limits of one task; 0 means none. They are set before any app code runs."""

    processes: int = 512
    """Processes and threads of the task's user (RLIMIT_NPROC)."""
    open_files: int = 1024
    """RLIMIT_NOFILE."""
    file_bytes: int = 2048 * MIB
    """Largest file that the task may write (RLIMIT_FSIZE)."""
    data_bytes: int = 0
    """Private writable memory of each process (RLIMIT_DATA)."""
    threads: int = 0
    """What numeric libraries are told to use (OMP_NUM_THREADS); 0 leaves it to them."""
    seconds: float = 0
    """Wall clock, from the start of the supervisor."""
    result_bytes: int = 512 * MIB
    """One result file."""
    results_bytes: int = 2048 * MIB
    """All results of one run."""
    results: int = 1000
    """How many results one run may have; 0 means no limit, as everywhere."""
    all_results_bytes: int = 20480 * MIB
    """All results of all runs; more, and no ServerApp starts."""
    state_bytes: int = 1024 * MIB
    """All runs' records at a site; more, and no ClientApp starts."""


@dataclass(frozen=True)
class Directories:
    """Where things lie in the container; docs/contracts.md names them."""

    tasks: str = "/tasks"
    state: str = "/state"
    results: str = "/results"
    data: str = "/data"


@dataclass(frozen=True)
class TaskSpec:
    """One task, as SuperExec acquired it. ``run_id`` comes from the acquired task, never from the task's own code."""

    program: str
    run_id: int
    task_id: int
    token: str
    runtime_api: str
    """``host:port`` of the Runtime API."""
    root_certificates: str
    """PEM of the root that the Runtime API's certificate is checked against."""
    limits: Limits
    directories: Directories

    def to_json(self) -> bytes:
        """Return the form that crosses the pipe."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> TaskSpec:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: if it is not complete.
        """
        fields = json.loads(raw)
        try:
            limits, directories = Limits(**fields.pop("limits")), Directories(**fields.pop("directories"))
            return cls(**fields, limits=limits, directories=directories)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the task's description is not complete: {error}") from error
