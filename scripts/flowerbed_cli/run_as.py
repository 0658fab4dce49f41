"""`flowerbed run-as NAME -- COMMAND`: a command, `flwr` mostly, with a pipeline's account.

It runs in a fresh CLI container with a token and a credential store of its own, which are gone when it ends. Not for people:
they log in with `flwr login`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from flowerbed_topology import Topology

from . import accounts, docker
from .errors import FlowerbedError
from .project import Project
from .runs import ensure_running, flwr, own_container

WORK = "/work"


def run_as(project: Project, topology: Topology, name: str, command: Sequence[str], directory: Path) -> int:
    """Run a command as the pipeline `name`, in `directory` as it is on this host; return the command's exit code.

    Output is passed through. The directory is mounted read-only, and read by the container's own user.

    Raises:
        AccountError: there is no such pipeline, or it cannot log in.
        FlowerbedError: the federation does not run, or the directory is closed to others.
    """
    client = accounts.pipeline(topology, name)
    if not directory.stat().st_mode & 0o005 == 0o005 or ":" in str(directory):
        raise FlowerbedError(
            f"{directory} cannot be read by the container's user: open it with chmod o+rx, or work elsewhere."
        )
    ensure_running(topology)
    columns = shutil.get_terminal_size().columns
    place = ["-v", f"{directory}:{WORK}:ro", "-w", WORK, "-e", f"COLUMNS={columns}"]
    with accounts.fed(project, topology, client) as stdin, own_container(topology) as named:
        return docker.attached([*flwr(project, 'exec "$@"', *named, *place), "sh", *command], stdin=stdin)
