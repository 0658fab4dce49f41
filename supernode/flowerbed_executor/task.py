"""The first code that runs as a task's own user: takes the token from a pipe and calls Flower's own program.

It holds nothing but this task's description. Everything that confines it has happened before (see `supervise`).
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from . import waits
from .spec import CLIENT_APP, SERVER_APP, TaskSpec

ENTRY_POINTS = {
    CLIENT_APP: ("flwr.supernode.cli", "flwr_clientapp"),
    SERVER_APP: ("flwr.superlink.cli", "flwr_serverapp"),
}
"""Flower's programs that may run as a task, with what their console scripts call (a test compares the two)."""


def arguments(spec: TaskSpec, root_certificates: Path) -> list[str]:
    """Return the argument vector that Flower's parser shall see; the kernel never sees it."""
    return [
        spec.program,
        "--runtime-api-address",
        spec.runtime_api,
        "--token",
        spec.token,
        "--root-certificates",
        str(root_certificates),
    ]


def main() -> None:
    """Run the task whose description lies on ``FLOWERBED_SPEC_FD``."""
    with os.fdopen(int(os.environ.pop("FLOWERBED_SPEC_FD")), "rb") as pipe:
        spec = TaskSpec.from_json(pipe.read())
    root_certificates = Path(os.environ["TMPDIR"], "ca.crt")
    root_certificates.write_text(spec.root_certificates)
    module, function = ENTRY_POINTS[spec.program]
    sys.argv = arguments(spec, root_certificates)
    waits.install(spec.program)
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    main()
