"""Seconds per round and per exchange through the whole secured path, beside a stock insecure SuperLink on the same host.

A *round* is a train and an evaluate message to every site of an app that trains nothing: SuperNodes, executors and Flower's
own sleeps included, on both sides.

An *exchange* is one message and its reply with Flower's fixed sleeps taken out, on both sides alike: in place of SuperNode and
executor a client of Flower's own Fleet connection answers at once (echo_node.py), both ends look for messages every 50 ms
instead of every 3 s, and both ask again after 50 ms, instead of 1 s and more, for an object that is announced and not there yet
(Flower shows a message before its objects have arrived). The two sides take turns, so that what else the host does falls on
both; what the secured path adds is, for each turn, the median of ours less the median of theirs.

The stock side runs as its quick start says: state in memory, no TLS, subprocess isolation, as processes of the host. On a host
with cgroup v1 all containers together weigh as much as one such process: with anything else at work, ours alone is held up.
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
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import bench_stack

from e2e.federation import KIT, STACK, VERSION, Federation, docker
from flowerbed_cli import accounts
from flowerbed_cli.project import Project

BENCH = KIT / "tests" / "bench"
BIN = KIT / ".venv" / "bin"
SITES = (2, 3)
ROUNDS, STOCK_ROUNDS = 20, 4
STARTS = 5
TURNS, EXCHANGES = 5, 20
PORT = 28431
# `flwr`, but that names under .localhost are this host, which RFC 6761 (6.3) asks of resolvers and glibc leaves to others.
_PROGRAM = """
import socket
asked = socket.getaddrinfo
def here(host, *others, **named):
    local = isinstance(host, str) and host.endswith(".localhost")
    return asked("127.0.0.1" if local else host, *others, **named)
socket.getaddrinfo = here
from flwr.cli.app import app
app()
"""
FLWR = [str(BIN / "python"), "-c", _PROGRAM]
Row = dict[str, object]


def rows(federation: Federation) -> list[Row]:
    """Return both comparisons and what is added; `ratio` is ours divided by stock Flower's."""
    bench_stack.wait_until_warm(federation)
    with stock() as home:
        compared = [compared_rounds(federation, home, sites) for sites in SITES]
        turns = exchanges(federation, home)
    return [
        *compared,
        row(
            "flwr run to the first training message at a SuperNode", [first_message(federation) for _ in range(STARTS)]
        ),
        comparison("exchange without sleeps, 1 site", *(list(chain(*side)) for side in zip(*turns, strict=True))),
        row("added to one exchange", [statistics.median(our) - statistics.median(their) for our, their in turns]),
    ]


def compared_rounds(federation: Federation, home: Path, sites: int) -> Row:
    """Return the seconds of rounds with so many sites, all of a run of ours beside all of a stock one."""
    ours = secured_run(federation, f"rounds={ROUNDS} nodes={sites}")
    with stock_nodes(sites):
        theirs = stock_run(home, f"rounds={STOCK_ROUNDS} nodes={sites}")
    return comparison(f"round without training, {sites} sites", ours, theirs)


def first_message(federation: Federation) -> float:
    """Return the seconds from the start of the `flwr run` process, on this host, until a SuperNode has been given a message."""
    with our_home(federation) as home:
        log_in(federation, home)
        environment = ENVIRONMENT | {"FLWR_HOME": str(home)}
        started = time.time()
        command = [*FLWR, "run", str(BENCH / "echo"), "flowerbed", "--stream", "--run-config", "rounds=1 nodes=3"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert measured(done.stdout + done.stderr), done.stderr
    since = ["logs", "--timestamps", "--since", str(int(started))]
    received = [
        datetime.fromisoformat(line.split()[0][:26]).replace(tzinfo=UTC).timestamp()
        for site in federation.topology.sites
        for line in docker(*since, federation.container(f"{site.name}-supernode")).splitlines()
        if "Receiving: train message" in line
    ]
    return min(at for at in received if at > started) - started


def row(name: str, seconds: list[float]) -> Row:
    """Return one figure."""
    middle = statistics.median(seconds)
    return {"name": name, "unit": "s", "median": middle, "min": min(seconds), "max": max(seconds), "runs": len(seconds)}


def comparison(name: str, ours: list[float], theirs: list[float]) -> Row:
    """Return one figure beside stock Flower's."""
    peer = statistics.median(theirs)
    ratio = statistics.median(ours) / peer
    return row(name, ours) | {"against": "stock Flower 1.41.0, insecure", "peer_median": peer, "ratio": ratio}


def measured(log: str) -> list[float]:
    """Return the seconds that the app logged."""
    found = re.search(r"BENCH (\[.*\])", log)
    assert found, log
    return [float(seconds) for seconds in json.loads(found.group(1))]


def secured_run(federation: Federation, config: str) -> list[float]:
    """Submit the app to the federation and return what it measured."""
    command = f"flwr run /app flowerbed --stream --run-config '{config}'"
    return measured(federation.flwr(command, "-v", f"{BENCH / 'echo'}:/app:ro"))


@contextmanager
def our_home(federation: Federation) -> Iterator[Path]:
    """Yield a FLWR_HOME with the configuration that the kit gives researchers."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "config.toml").write_text((federation.root / "build" / "flwr" / "config.toml").read_text())
        yield home


def log_in(federation: Federation, home: Path) -> None:
    """Keep a fresh token of the demo pipeline in a FLWR_HOME."""
    store = home / "credentials.yaml"
    store.touch(mode=0o600)
    token = accounts.token(Project(federation.root), federation.topology, "pipeline-demo")
    store.write_text(accounts.credentials(federation.topology, token))


def exchanges(federation: Federation, home: Path) -> list[tuple[list[float], list[float]]]:
    """Return the seconds of each exchange, on the federation and on stock Flower, turn by turn."""
    turns = []
    with without_supernodes(federation):
        for _ in range(TURNS):
            with secured_echo_node(federation):
                ours = secured_run(federation, f"exchanges={EXCHANGES} nodes=1")
            with stock_echo_node():
                theirs = stock_run(home, f"exchanges={EXCHANGES} nodes=1")
            turns.append((ours, theirs))
    return turns


@contextmanager
def without_supernodes(federation: Federation) -> Iterator[None]:
    """Stop every SuperNode, which signs it off, for as long as the block."""
    services = [federation.container(f"{site.name}-supernode") for site in federation.topology.sites]
    docker("stop", *services)
    try:
        yield
    finally:
        docker("start", *services)


@contextmanager
def secured_echo_node(federation: Federation) -> Iterator[None]:
    """Run the answering client in the place of the first site's SuperNode."""
    site, name = federation.topology.sites[0], f"{STACK}-bench-echo"
    docker("rm", "-f", name, check=False)  # of a run that was interrupted
    try:
        docker(
            "run", "-d", "--name", name, "--user", "9704:9704", "--network", site.network_name,
            "--read-only", "--cap-drop", "ALL", "-v", f"{federation.root / 'secrets' / f'supernode-{site.name}'}:/secrets:ro",
            "-v", f"{BENCH}:/bench:ro", f"flowerbed/flower:{VERSION}",
            "python", "/bench/echo_node.py", "gateway:9443", "/secrets/ca.crt", "/secrets/supernode.key",
        )  # fmt: skip
        yield
    finally:
        docker("stop", name, check=False)
        docker("rm", "-f", name, check=False)


ENVIRONMENT = os.environ | {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
}


@contextmanager
def process(*command: str, **variables: str) -> Iterator[None]:
    """Run a program of stock Flower's for as long as the block, with its children in a session of its own."""
    environment = ENVIRONMENT | variables
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
def stock(**variables: str) -> Iterator[Path]:
    """Run a stock insecure SuperLink, with these variables too; yield the FLWR_HOME that reaches it."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        connection = (
            f'[superlink]\ndefault = "stock"\n\n[superlink.stock]\naddress = "127.0.0.1:{PORT}"\ninsecure = true\n'
        )
        (home / "config.toml").write_text(connection)
        command = ["flower-superlink", "--insecure", "--port", str(PORT), "--disable-runtime-dependency-installation"]
        with process(*command, FLWR_HOME=str(home), **variables):
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
def stock_nodes(count: int, **variables: str) -> Iterator[None]:
    """Run stock SuperNodes, each with an executor of its own as a subprocess."""
    if count == 0:
        yield
        return
    options = [
        "--superlink",
        f"127.0.0.1:{PORT}",
        "--port",
        str(PORT + count),
        "--node-config",
        f"partition-id={count - 1}",
    ]
    with process("flower-supernode", "--insecure", *options, **variables), stock_nodes(count - 1, **variables):
        yield


@contextmanager
def stock_echo_node() -> Iterator[None]:
    """Run the answering client against the stock SuperLink."""
    with process(str(BIN / "python"), str(BENCH / "echo_node.py"), f"127.0.0.1:{PORT}"):
        yield


def stock_run(home: Path, config: str) -> list[float]:
    """Submit the app to the stock SuperLink and return what it measured."""
    return measured(stock_log(home, BENCH / "echo", config))


def stock_log(home: Path, app: Path, config: str) -> str:
    """Submit an app to the stock SuperLink and return its log."""
    environment = ENVIRONMENT | {"FLWR_HOME": str(home)}
    command = [str(BIN / "flwr"), "run", str(app), "stock", "--stream", "--run-config", config]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    return done.stdout + done.stderr
