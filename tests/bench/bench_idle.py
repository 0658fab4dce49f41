"""What idle SuperNodes cost the SuperLink: a real one on a real PostgreSQL, and SuperNodes that only wait, in one process.

Each waits for messages and sends heartbeats as Flower's own does, with its own key and certificate, through Flower's Fleet
client; their connections to the SuperLink are pooled, as the edge's are. The edge is not measured, nor anything that works.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node as NodeProto

from held_support import INTERVAL_S, Held, Node, close_clients, surroundings

NODES = (50, 200)
WARM_S, WINDOW_S = 40, 120
HEALTH_S = 5.0  # flowerbed_superlink.health.INTERVAL_S: one transaction each
IDLE_S = 4.0  # as the edge's pool
LAG_S = 1.0  # until PostgreSQL has counted what was done
Row = dict[str, object]


def rows() -> list[Row]:
    """Return CPU, transactions and errors for each number of SuperNodes."""
    return [row for count in NODES for row in measure(count)]


def measure(count: int, **changes: str) -> list[Row]:
    """Return the figures of so many idle SuperNodes; `changes` are the SuperLink's environment's."""
    with (
        tempfile.TemporaryDirectory() as root,
        surroundings(Path(root), sites=count) as world,
        world.superlink(**changes) as process,
        idle(world) as errors,
    ):
        time.sleep(WARM_S)
        errors.clear()
        before = (cpu_s(process.pid), transactions(world), time.monotonic())
        time.sleep(WINDOW_S)
        after = (cpu_s(process.pid), transactions(world), time.monotonic())
        seconds = after[2] - before[2]
        done = after[1] - before[1] - seconds / HEALTH_S
        return [
            row(f"SuperLink, {count} idle SuperNodes", "% of a core", 100 * (after[0] - before[0]) / seconds),
            row(f"transactions per idle SuperNode, {count}", "1/s", done / seconds / count),
            row(f"errors of {count} idle SuperNodes in {WINDOW_S} s", "", float(len(errors))),
        ]


@contextmanager
def idle(world: Held) -> Iterator[list[str]]:
    """Have every site's SuperNode wait until the end; yield what has gone wrong so far."""
    errors: list[str] = []
    over = threading.Event()
    trust = ssl.create_default_context(cafile=str(world.secrets / "ca.crt"))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_S)
    with httpx.Client(verify=trust, timeout=30, limits=limits, trust_env=False) as pool:
        nodes = []
        for site in world.sites:
            world.add_node(site)
            node = Node(world, site, trust)
            node.client._client.close()
            node.client._client = pool
            nodes.append(node)
        threads = [threading.Thread(target=live, args=(node, over, errors)) for node in nodes]
        for at, node in enumerate(nodes):
            delay = INTERVAL_S * at / len(nodes)
            threads.append(threading.Thread(target=beat, args=(node, over, errors, delay)))
        for thread in threads:
            thread.start()
        try:
            yield errors
        finally:
            over.set()
            for thread in threads:
                thread.join()
            close_clients()


def live(node: Node, over: threading.Event, errors: list[str]) -> None:
    """Sign on, and wait for messages until the end; what comes back after that is no error."""
    try:
        node.activate()
        while not over.is_set():
            if node.pull().messages_list:
                errors.append("a message that nobody sent")
    except Exception as error:  # noqa: BLE001  whatever it is, it is counted
        if not over.is_set():
            errors.append(f"pull: {error!r}")


def beat(node: Node, over: threading.Event, errors: list[str], delay: float) -> None:
    """Send heartbeats until the end."""
    over.wait(delay + 5)
    while not over.is_set():
        try:
            sent = SendNodeHeartbeatRequest(node=NodeProto(node_id=node.node_id), heartbeat_interval=INTERVAL_S)
            if not node.client.SendNodeHeartbeat(sent).success:
                errors.append("a heartbeat was not taken")
        except Exception as error:  # noqa: BLE001  whatever it is, it is counted
            errors.append(f"heartbeat: {error!r}")
        over.wait(INTERVAL_S)


def cpu_s(pid: int) -> float:
    """Return the seconds of processor time that a process has used, as proc(5) says."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def transactions(world: Held) -> int:
    """Return how many transactions the SuperLink's database has seen."""
    time.sleep(LAG_S)
    counted = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'superlink'"
    return int(world.postgres.sql(counted, "postgres"))


def row(name: str, unit: str, value: float) -> Row:
    """Return a figure that was measured once."""
    return {"name": name, "unit": unit, "median": value, "min": value, "max": value, "runs": 1}
