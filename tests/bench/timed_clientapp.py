"""One ClientApp task that says what it did when: Flower's own program, with everything imported before it gets its token.

Stands in for the executor's warm parent, so that what is measured is the way of a message and not the start of Python.
Reads ``ADDRESS TOKEN CA`` from standard input. Times are of the monotonic clock, in seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supernode.runtime import run_clientapp

from flowerbed_executor import waits
from flowerbed_executor.preload import preload

EVENTS: list[tuple[float, float, str]] = []
STEPS = ("install_from_fab", "get_load_client_app_fn", "flwr_exit")


def timed(owner: Any, name: str, label: Callable[..., str]) -> None:
    """Note start, end and label of each call of ``owner.name``."""
    call = getattr(owner, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        begun = time.monotonic()
        try:
            return call(*args, **kwargs)
        finally:
            EVENTS.append((begun, time.monotonic(), label(**kwargs)))

    setattr(owner, name, run)


def cpu_s() -> float:
    """Return the CPU time of this process, its threads included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Wait for the token, run the task, tell."""
    timed(ProtobufClient, "_unary_unary", lambda **given: str(given["path"].rpartition("/")[2]))
    timed(ssl.SSLSocket, "do_handshake", lambda **_: "TLS handshake")
    for name in STEPS:
        timed(run_clientapp, name, lambda name=name, **_: name)
    preload("flwr-clientapp")
    # As task.py does: Flower's program takes its entry point after this.
    waits.install("flwr-clientapp")
    address, token, root = sys.stdin.readline().split()
    sys.argv = ["flwr-clientapp", "--runtime-api-address", address, "--token", token, "--root-certificates", root]
    begun, cpu = time.monotonic(), cpu_s()
    try:
        importlib.import_module("flwr.supernode.cli").flwr_clientapp()
    except SystemExit as end:
        if end.code:
            raise
    told = {"begun": begun, "ended": time.monotonic(), "cpu": cpu_s() - cpu, "events": EVENTS}
    os.write(1, f"{json.dumps(told)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
