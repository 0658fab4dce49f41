"""The way of one message through a site: from the SuperLink that has it to the SuperLink that gets the reply.

The SuperNode's real launcher and Flower's real ClientApp program, over TLS, each in a process of its own; a SuperLink and a
SuperExec of the benchmark's that do nothing else. Once with stock Flower's waits and once with held pulls. The ClientApp has
imported everything before, and its app answers at once.

    python tests/bench/bench_message.py [MESSAGES]      prints the steps of the median message too
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KIT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(KIT / "tests"), str(KIT / "supernode")]

from flwr.proto.runtime_pb2 import AcquireTaskRequest  # noqa: E402

from supernode_support import SuperLink, SuperNode, secrets, until  # noqa: E402

MESSAGES = 12
WANTED = AcquireTaskRequest(supported_task_types=["flwr-clientapp"])
Row = dict[str, object]


@dataclass(frozen=True)
class Way:
    """How one side waits: does the SuperLink hold pulls, and how long does SuperExec sleep between questions."""

    name: str
    switch: str
    hold_seconds: float
    poll_seconds: float


STOCK = Way("stock", "0", 0, 1.0)
HELD = Way("held", "1", 20, 0.02)


@dataclass(frozen=True)
class Passage:
    """One message: seconds from the SuperLink to the SuperLink, CPU seconds, and its steps (seconds after the start)."""

    seconds: float
    supernode_cpu: float
    clientapp_cpu: float
    requests: int
    handshakes: int
    steps: list[tuple[float, float, str]]


def rows(messages: int = MESSAGES) -> list[Row]:
    """Return the figures of both ways."""
    return compared(measure(HELD, messages), measure(STOCK, messages))


def compared(held: list[Passage], stock: list[Passage]) -> list[Row]:
    """Return held beside stock."""
    figures = {
        "message through a site": ("s", lambda one: one.seconds),
        "SuperNode's CPU for a message": ("ms", lambda one: 1000 * one.supernode_cpu),
        "ClientApp's CPU for a message": ("ms", lambda one: 1000 * one.clientapp_cpu),
        "ClientApp's requests for a message": ("", lambda one: one.requests),
        "ClientApp's connections for a message": ("", lambda one: one.handshakes),
    }
    return [
        row(name, unit, [value(one) for one in held], [value(one) for one in stock])
        for name, (unit, value) in figures.items()
    ]


def row(name: str, unit: str, ours: list[float], theirs: list[float]) -> Row:
    """Return one row of the table (see run.py)."""
    median, peer = statistics.median(ours), statistics.median(theirs)
    spread = {"min": min(ours), "max": max(ours), "runs": len(ours)}
    against = {"against": "stock Flower's waits", "peer_median": peer, "ratio": median / peer}
    return {"name": name, "unit": unit, "median": median, **spread, **against}


def measure(way: Way, messages: int) -> list[Passage]:
    """Send so many messages, one after another, each when the site has come to rest."""
    with tempfile.TemporaryDirectory() as root, site(Path(root), way) as (link, supernode):
        # The first one brings its run and app along.
        return [passage(way, link, supernode, Path(root) / f"home{number}") for number in range(messages + 1)][1:]


@contextmanager
def site(root: Path, way: Way) -> Iterator[tuple[SuperLink, SuperNode]]:
    """A SuperLink and a SuperNode that waits for messages."""
    link = SuperLink(secrets(root / "secrets"))
    link.hold_seconds = way.hold_seconds
    supernode = SuperNode(root, link, FLOWERBED_HELD_PULLS=way.switch)
    try:
        until(lambda: "pull-messages" in link.seen, "the first pull")
        yield link, supernode
    finally:
        supernode.close()
        link.close()


def passage(way: Way, link: SuperLink, supernode: SuperNode, home: Path) -> Passage:
    """Send one message and wait for its reply."""
    task = waiting_task(way, home)
    # At any phase of the SuperNode's pause.
    time.sleep(1 + random.random() * 3)  # noqa: S311 - no secret
    before, seen, replies = cpu_s(supernode.process.pid), len(link.at), len(link.replies)
    begun = time.monotonic()
    link.give()
    token, acquired = acquire(way, supernode)
    assert task.stdin
    assert task.stdout
    task.stdin.write(f"localhost:{supernode.port} {token} {supernode.secrets / 'ca.crt'}\n")
    task.stdin.close()
    # Flower's own log is on the same stream.
    lines = task.stdout.readlines()
    assert lines, (home / "log").read_text()
    assert lines[-1].startswith("{"), "".join(lines)
    told = json.loads(lines[-1])
    task.stdout.close()
    task.wait()
    until(lambda: len(link.replies) > replies, "the reply")
    until(lambda: link.at[-1][1] == "pull-messages", "the next pull")
    fleet = [(at, at, f"Fleet: {name}") for at, name in link.at[seen:]]
    ended = link.times("push-messages")[-1]
    steps = sorted(
        (start - begun, end - begun, label)
        for start, end, label in [*fleet, *told["events"], (acquired, acquired, "SuperExec has the task")]
    )
    return Passage(
        seconds=ended - begun,
        supernode_cpu=cpu_s(supernode.process.pid) - before,
        clientapp_cpu=told["cpu"],
        requests=sum("-" in label for _, _, label in told["events"]),
        handshakes=sum(label == "TLS handshake" for _, _, label in told["events"]),
        steps=steps,
    )


def waiting_task(way: Way, home: Path) -> subprocess.Popen[str]:
    """Start a ClientApp that waits for its token."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "FLWR_HOME": str(home),
        "PYTHONPATH": str(KIT / "supernode"),
        "FLOWERBED_HELD_PULLS": way.switch,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    program = [sys.executable, str(Path(__file__).with_name("timed_clientapp.py"))]
    pipe = subprocess.PIPE
    home.mkdir()
    with (home / "log").open("w") as log:
        task = subprocess.Popen(program, env=environment, stdin=pipe, stdout=pipe, stderr=log, text=True)
    # Imports take seconds of CPU.
    until(lambda: cpu_is_still(task.pid), "a ClientApp that has imported everything")
    return task


def acquire(way: Way, supernode: SuperNode) -> tuple[str, float]:
    """Ask for the task as SuperExec does; return its token and when it came."""
    client = supernode.client()
    while True:
        token = client.AcquireTask(WANTED).token
        if token:
            client.close()
            return token, time.monotonic()
        time.sleep(way.poll_seconds)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, in hundredths."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_is_still(pid: int) -> bool:
    """Return whether a process that has worked for a while does nothing now."""
    before = cpu_s(pid)
    time.sleep(0.5)
    return before > 0.5 and cpu_s(pid) == before


def main() -> None:
    """Print the table and the median message's steps with held pulls."""
    from rich.console import Console
    from run import table

    messages = int(sys.argv[1]) if len(sys.argv) > 1 else MESSAGES
    held, stock = measure(HELD, messages), measure(STOCK, messages)
    Console(width=140).print(table(compared(held, stock)))
    for way, passages in (("held pulls", held), ("stock waits", stock)):
        median = sorted(passages, key=lambda one: one.seconds)[len(passages) // 2]
        sys.stdout.write(f"The median message, {way}: ms after the SuperLink has it, step, its length in ms\n")
        for start, end, label in median.steps:
            sys.stdout.write(f"{1000 * start:9.1f}  {label:32s}{1000 * (end - start):8.1f}\n")


if __name__ == "__main__":
    main()
