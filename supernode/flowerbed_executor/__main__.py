"""``python -m flowerbed_executor serverapp|clientapp``: Flower's SuperExec with a user of its own for each task.

Exit status: 0 after SIGTERM, 2 if it cannot start (one sentence says why), 1 if it ended by itself, so that Docker
starts it again.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import MutableMapping
from pathlib import Path

from . import pinned
from .settings import Settings, SettingsError, check, load
from .spec import CLIENT_APP, RESULTS_GROUP

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


POLL_INTERVAL = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
_HELD_INTERVAL = "0.02"
"""Seconds of sleep between looks for a task when the Runtime API holds each look until there is one."""


def set_poll_interval(settings: Settings, environment: MutableMapping[str, str]) -> None:
    """Have SuperExec ask again at once where it is held anyway; what the operator has set stays, and else Flower's 1 s."""
    if settings.held_pulls:
        environment.setdefault(POLL_INTERVAL, _HELD_INTERVAL)


def superexec_arguments(settings: Settings) -> list[str]:
    """Return what Flower's own parser shall see."""
    return [
        "flower-superexec",
        "--runtime-api-address",
        settings.runtime_api,
        "--root-certificates",
        str(settings.ca),
        "--superexec-auth-secret-file",
        str(settings.superexec_secret),
    ]


def show_log() -> None:
    """Write the kit's own log to standard error; Flower writes its own."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("flowerbed")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def prepare(settings: Settings) -> None:
    """Make the directories safe, remove what an earlier start has left, keep proxies out of the way."""
    from .cleanup import ensure_store
    from .launch import supervisor_command

    for name in _PROXIES:
        os.environ.pop(name, None)
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")
    if settings.role.program == CLIENT_APP:
        ensure_store(Path(settings.directories.state), None)
    else:
        ensure_store(Path(settings.directories.results), RESULTS_GROUP)
    settings.alive.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(supervisor_command("sweep", settings.directories.tasks), check=True)


def run(settings: Settings) -> int:
    """Run SuperExec until it is stopped; return the exit status."""
    from flwr.supercore.cli.flower_superexec import flower_superexec
    from flwr.supercore.exit import add_exit_handler

    from .launch import SupervisedExecutor, install
    from .report import Reporter

    executor = SupervisedExecutor(settings, Reporter(settings.runtime_api, settings.ca.read_bytes()))
    install(executor)
    set_poll_interval(settings, os.environ)
    executor.start()
    stopped: list[int] = []

    def drain() -> None:
        stopped.append(signal.SIGTERM)
        executor.drain()

    add_exit_handler(drain, run_before_force_exit=True)
    sys.argv = superexec_arguments(settings)
    try:
        flower_superexec()
    except SystemExit as end:
        # SuperExec also exits with 0 when its secret is refused, by interrupting itself.
        return 1 if end.code or not stopped else 0
    return 1


def main() -> int:
    """Start the executor named on the command line."""
    show_log()
    try:
        settings = load(sys.argv[1] if len(sys.argv) > 1 else "", os.environ)
        check(settings)
        pinned.check()
    except (SettingsError, pinned.PinError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    prepare(settings)
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
