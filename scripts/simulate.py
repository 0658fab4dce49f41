"""Run the first app under Flower's simulation runtime: the same app, the same three data sets, no Docker.

`make simulate` calls this. It needs the `simulate` extra and starts a SuperLink of its own on loopback, which lives as
long as the run. Nothing is isolated or encrypted here: it is for trying the app, not for data that matters.

Usage: python scripts/simulate.py [--run-config 'num-server-rounds=5']
"""

import argparse
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from flowerbed_cli import summary

KIT = Path(__file__).resolve().parents[1]
APP = KIT / "apps" / "breast-cancer"
SIMULATION = KIT / "build" / "simulate"
SITES = 3
START_SECONDS = 60
NEEDED = ("flwr", "opacus", "ray", "sklearn", "torch")
COLOUR = re.compile(r"\x1b\[\d*m")

Environment = dict[str, str]


class SimulationError(Exception):
    """One sentence: what is missing or went wrong, and the remedy."""


def main() -> int:
    """Run the app and print the closing table; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run the first app under Flower's simulation runtime.")
    parser.add_argument("--run-config", action="append", default=[], help="as for flwr run")
    try:
        simulate(parser.parse_args().run_config)
    except SimulationError as error:
        Console(stderr=True).print(str(error), markup=False)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped.")
        return 130
    return 0


def simulate(run_config: Sequence[str]) -> None:
    """Write the data sets, run, and show the result.

    Raises:
        SimulationError: something is missing, or the run failed.
    """
    check_packages()
    write_data(SIMULATION / "data")
    console = Console()
    with tempfile.TemporaryDirectory(prefix="flowerbed-") as scratch:
        port = free_port()
        env = environment(Path(scratch), port)
        with superlink(env, port, Path(scratch) / "superlink.log"):
            ended = follow(env, run_config, console)
    summary.show(ended, console)
    place = SIMULATION / "results" / str(ended.run)
    console.print(f"arrays and metrics of each round: {place}", markup=False, soft_wrap=True)


def check_packages() -> None:
    """Refuse early, in one sentence, where the simulate extra is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SimulationError(
            f"{', '.join(missing)} missing in {sys.prefix}: run scripts/venv.sh {sys.prefix} simulate."
        )


def write_data(folder: Path) -> None:
    """Write each simulated site's data file, by the rule that the sample sites' data follows."""
    for part in range(1, SITES + 1):
        site = folder / f"site-{part}"
        site.mkdir(parents=True, exist_ok=True)
        script = [
            str(KIT / "apps" / "samples.py"),
            str(site / "breast-cancer.csv"),
            "--part",
            str(part),
            "--of",
            str(SITES),
        ]
        done = subprocess.run([sys.executable, *script], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SimulationError(f"The data of site {part} could not be written: {last_line(done.stderr)}")


def free_port() -> int:
    """Return a TCP port of loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(scratch: Path, port: int) -> Environment:
    """Return the environment of SuperLink, CLI and simulated nodes, with a Flower home of this run's own."""
    home = scratch / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "simulation"\n\n'
        f'[superlink.simulation]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    own = {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # What apps import is in the environment already; without this, each run downloads torch again.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLOWERBED_SIMULATION_DIR": str(SIMULATION),
        "RAY_TMPDIR": str(scratch),
        # Ray's name for "no cluster": it then listens on loopback only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    # A federation's variables in the caller's shell must not point the app anywhere else.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOWERBED_")}
    return inherited | own


@contextmanager
def superlink(env: Environment, port: int, log: Path) -> Iterator[None]:
    """Run a SuperLink in simulation mode, and end it with all that it started."""
    command = ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--control-api-address", f"127.0.0.1:{free_port()}"]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until_healthy(process, port, log)
        yield
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started, which may have ended already."""
    # The group is asked, not the process: what a SuperLink that died started may live on.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_line(text: str) -> str:
    """Return the last line of what a process printed."""
    return (text.strip().splitlines() or ["it said nothing."])[-1]


def wait_until_healthy(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Return when the SuperLink answers.

    Raises:
        SimulationError: it ended, or does not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise SimulationError(f"The SuperLink did not start: {last_line(log.read_text(errors='replace'))}")


def follow(env: Environment, run_config: Sequence[str], console: Console) -> summary.Finished:
    """Submit the app, show its log as it comes, return what it said at its end.

    Raises:
        SimulationError: the run ended without one.
    """
    cpus = min(SITES, os.cpu_count() or 1)
    federation = f"num-supernodes={SITES} client-resources-num-cpus=1 init-args-num-cpus={cpus}"
    command = ["flwr", "run", str(APP), "simulation", "--stream", "--federation-config", federation]
    command += [part for item in run_config for part in ("--run-config", item)]
    lines = []
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            lines.append(COLOUR.sub("", line.rstrip()))
            if "FLOWERBED_SUMMARY" not in line:
                console.print(lines[-1], markup=False, emoji=False, highlight=False, soft_wrap=True)
    text = "\n".join(lines)
    started = re.search(r"started run (\d+)", text)
    if started is None or not summary.LINE.search(text):
        raise SimulationError("The run did not finish: its log above says why.")
    return summary.finished(int(started.group(1)), text)


if __name__ == "__main__":
    sys.exit(main())
