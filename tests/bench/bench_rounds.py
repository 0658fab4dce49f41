"""Seconds per round and per exchange through the whole secured path, beside a stock insecure SuperLink on the same host.

A *round* is a train and an evaluate message to every site of an app that trains nothing: SuperNodes, executors and Flower's
own sleeps included, on both sides. An *exchange* is one message and its reply with all fixed sleeps out: the ServerApp asks
every 5 ms, and in place of SuperNode and executor a client of Flower's own Fleet connection answers at once (echo_node.py).
The stock side runs as its quick start says: SQLite in memory, no TLS, subprocess isolation.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.federation import KIT, STACK, VERSION, Federation, docker

BENCH = KIT / "tests" / "bench"
BIN = KIT / ".venv" / "bin"
SITES = 3
ROUNDS, EXCHANGES = 4, 60
PORT = 28431
Row = dict[str, object]


def rows(federation: Federation) -> list[Row]:
    """Return both comparisons; `ratio` is ours divided by stock Flower's."""
    ours = secured(federation, rounds=ROUNDS)
    our_exchanges = secured_exchanges(federation)
    with stock() as home:
        with stock_nodes(SITES):
            theirs = stock_run(home, f"rounds={ROUNDS} nodes={SITES}")
        with echo_node():
            their_exchanges = stock_run(home, f"exchanges={EXCHANGES} nodes=1")
    added = statistics.median(our_exchanges) - statistics.median(their_exchanges)
    return [
        row(f"round without training, {SITES} sites", ours, theirs),
        row("exchange without sleeps, 1 site", our_exchanges, their_exchanges),
        {"name": "added to one exchange", "unit": "s", "median": added, "min": added, "max": added, "runs": EXCHANGES},
    ]


def row(name: str, ours: list[float], theirs: list[float]) -> Row:
    """Return one comparison."""
    median, peer = statistics.median(ours), statistics.median(theirs)
    return {
        "name": name,
        "unit": "s",
        "median": median,
        "min": min(ours),
        "max": max(ours),
        "runs": len(ours),
        "against": "stock Flower 1.41.0, insecure",
        "peer_median": peer,
        "ratio": median / peer,
    }


def measured(log: str) -> list[float]:
    """Return the seconds that the app logged."""
    found = re.search(r"BENCH (\[.*\])", log)
    assert found, log
    return [float(seconds) for seconds in json.loads(found.group(1))]


def secured(federation: Federation, *, rounds: int) -> list[float]:
    """Return the seconds of each round on the federation."""
    run = federation.submit(BENCH / "echo", f"rounds={rounds} nodes={SITES}")
    return measured(federation.flwr(f"flwr log {run} flowerbed --stream"))


def secured_exchanges(federation: Federation) -> list[float]:
    """Return the seconds of each exchange, with a client of the bench in the first site's SuperNode's place."""
    site = federation.topology.sites[0]
    services = [f"{one.name}-supernode" for one in federation.topology.sites]
    docker("stop", *map(federation.container, services))
    name = f"{STACK}-bench-echo"
    docker("rm", "-f", name, check=False)  # of a run that was interrupted
    try:
        docker(
            "run", "-d", "--name", name, "--user", "9704:9704", "--network", site.network_name,
            "--read-only", "--cap-drop", "ALL", "-v", f"{federation.root / 'secrets' / f'supernode-{site.name}'}:/secrets:ro",
            "-v", f"{BENCH}:/bench:ro", f"flowerbed/flower:{VERSION}",
            "python", "/bench/echo_node.py", "gateway:9443", "/secrets/ca.crt", "/secrets/supernode.key",
        )  # fmt: skip
        # The nodes that were stopped leave when their heartbeats end; the app waits for one node and takes the first.
        run = federation.submit(BENCH / "echo", f"exchanges={EXCHANGES} nodes=1")
        return measured(federation.flwr(f"flwr log {run} flowerbed --stream"))
    finally:
        docker("rm", "-f", name, check=False)
        docker("start", *map(federation.container, services))


ENVIRONMENT = os.environ | {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
}


@contextmanager
def process(*command: str, home: Path | None = None) -> Iterator[None]:
    """Run a program of stock Flower's for as long as the block, with its children in a session of its own."""
    environment = ENVIRONMENT | ({"FLWR_HOME": str(home)} if home else {})
    started = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait(20)


@contextmanager
def stock() -> Iterator[Path]:
    """Run a stock insecure SuperLink; yield the FLWR_HOME that reaches it."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        connection = (
            f'[superlink]\ndefault = "stock"\n\n[superlink.stock]\naddress = "127.0.0.1:{PORT}"\ninsecure = true\n'
        )
        (home / "config.toml").write_text(connection)
        command = ["flower-superlink", "--insecure", "--port", str(PORT), "--disable-runtime-dependency-installation"]
        with process(*command, home=home):
            wait_for_port()
            yield home


def wait_for_port() -> None:
    """Wait until the SuperLink answers."""
    import httpx

    for _ in range(300):
        try:
            httpx.get(f"http://127.0.0.1:{PORT}/health", timeout=1)
        except httpx.TransportError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError("the stock SuperLink did not start")


@contextmanager
def stock_nodes(count: int) -> Iterator[None]:
    """Run stock SuperNodes, each with an executor of its own as a subprocess."""
    if count == 0:
        yield
        return
    address = ["--superlink", f"127.0.0.1:{PORT}", "--port", str(PORT + count)]
    with process("flower-supernode", "--insecure", *address), stock_nodes(count - 1):
        yield


@contextmanager
def echo_node() -> Iterator[None]:
    """Run the answering client against the stock SuperLink."""
    with process(str(BIN / "python"), str(BENCH / "echo_node.py"), f"127.0.0.1:{PORT}"):
        yield


def stock_run(home: Path, config: str) -> list[float]:
    """Submit the app to the stock SuperLink and return what it measured."""
    environment = ENVIRONMENT | {"FLWR_HOME": str(home)}
    command = [str(BIN / "flwr"), "run", str(BENCH / "echo"), "stock", "--stream", "--run-config", config]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    return measured(done.stdout + done.stderr)
