"""Runs: submitting an app with the real `flwr` in a container as a pipeline, following it, learning how it ended.

What it says at its end is read and shown by `summary`.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from flowerbed_topology import Topology

from . import accounts, docker
from .errors import DockerError, RunError
from .health import started
from .project import KIT, Project
from .render import CONNECTION
from .summary import Finished, finished

APP = KIT / "apps" / "breast-cancer"
PIPELINE = "demo"
RUN_ID = re.compile(r"FLOWERBED_RUN (\d+)")
STATUS = re.compile(r"FLOWERBED_STATUS (.*)")
# `flwr run --format json` exits with 0 where the SuperLink refuses a run.
# A SuperLink that is started again ends the stream of the log, not the run: then its end is awaited, and all is shown. Every
# command reads the credentials anew, which are never older than half their life.
SCRIPT = """
flwr run /app {connection} --format json {config} > /tmp/run.json || {{ cat /tmp/run.json; exit 1; }}
run=$(sed -n 's/.*"run-id": *"\\{{0,1\\}}\\([0-9]*\\).*/\\1/p' /tmp/run.json)
[ -n "$run" ] || {{ cat /tmp/run.json; exit 1; }}
echo "FLOWERBED_RUN $run"
flwr log "$run" {connection} --stream || true
tries=0
ended() {{
  flwr ls {connection} --run-id "$run" --format json > /tmp/ls.json || {{ tries=$((tries + 1)); return 1; }}
  tries=0
  grep -q '"status": *"finished:' /tmp/ls.json
}}
if ! ended; then
  until ended || [ $tries -ge {tries} ]; do sleep 1; done
  flwr log "$run" {connection} --show || true
fi
echo "FLOWERBED_STATUS $(tr -d '\\n' < /tmp/ls.json)"
"""
# How often in a row the SuperLink may give no answer; a second and one call of the CLI each.
TRIES = 300


def flwr(project: Project, script: str, *options: str) -> list[str]:
    """Return the docker arguments that run a shell script beside the `flwr` CLI, connected to this federation.

    Its standard input is `accounts.fed`.
    """
    login = accounts.LOGIN + script
    return docker.compose(project, "core", "run", "--rm", "-T", *options, "--entrypoint", "sh", "cli", "-euc", login)


def run(
    project: Project, topology: Topology, app: Path, config: Sequence[str], console: Console, pipeline: str = PIPELINE
) -> Finished:
    """Submit the app as a pipeline, show its log as it comes, and return what it said at its end.

    Raises:
        AccountError: there is no such pipeline, or it cannot log in.
        RunError: the SuperLink does not run or refused the run, or it did not end as completed; the message holds
            Flower's reason.
    """
    client = accounts.pipeline(topology, pipeline)
    ensure_running(topology)
    if not (app / "pyproject.toml").is_file():
        raise RunError(f"{app} is no Flower app, since it has no pyproject.toml: give the folder of one.")
    options = "".join(f" --run-config {shlex.quote(item)}" for item in config)
    script = SCRIPT.format(connection=CONNECTION, config=options, tries=TRIES)
    lines: list[str] = []
    try:
        with accounts.fed(project, topology, client) as stdin, own_container(topology) as name:
            for line in docker.stream(flwr(project, script, *name, "-v", f"{app.resolve()}:/app:ro"), stdin=stdin):
                lines.append(line.rstrip())
                if not line.startswith("FLOWERBED_") and "FLOWERBED_SUMMARY" not in line:
                    console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
    except DockerError as error:
        lines = lines or [str(error)]
    except KeyboardInterrupt:
        if (found := RUN_ID.search("\n".join(lines))) is not None:
            stop = f"flowerbed run-as {pipeline} -- flwr stop {found[1]} {CONNECTION}"
            console.print(
                f"Run {found[1]} goes on without being followed; {stop} ends it.", markup=False, soft_wrap=True
            )
        raise
    return conclude(lines)


@contextmanager
def own_container(topology: Topology) -> Iterator[list[str]]:
    """Give the options that name a one-off container, and remove it if the operator interrupts.

    Docker's own command passes no signal on while the container starts, and would leave it running.
    """
    name = f"{topology.name}-cli-run-{secrets.token_hex(6)}"
    try:
        yield ["--name", name]
    except KeyboardInterrupt:
        docker.call(["docker", "rm", "--force", name], timeout=60)
        raise


def ensure_running(topology: Topology) -> None:
    """Raise RunError where the federation does not run."""
    if f"{topology.name}-superlink" not in started(topology):
        raise RunError(f"The federation {topology.name} is not running: run make up first.")


def conclude(lines: Iterable[str]) -> Finished:
    """Return how a run ended, by its lines.

    Raises:
        RunError: the run did not end as completed.
    """
    text = "\n".join(lines)
    # An app may print what looks like our own lines: of those around its log, the first and the last are ours.
    accepted = RUN_ID.search(text)
    if accepted is None:
        raise RunError(f"The SuperLink did not accept the run: {refusal(text)}")
    run, answer = accepted.group(1), outcome(last(STATUS, text))
    if answer is None:
        raise RunError(f"The SuperLink could not be asked how run {run} ended: make status shows what is wrong.")
    if answer["status"] != "finished:completed":
        reason = " ".join(str(answer.get("status-details") or "").split())
        raise RunError(f"Run {run} ended as {answer['status']}: {reason or 'make logs shows why.'}")
    return finished(int(run), text)


def last(pattern: re.Pattern[str], text: str) -> str:
    """Return what a pattern's group holds where it matches last; empty where it does not."""
    found = pattern.findall(text)
    return str(found[-1]) if found else ""


def outcome(text: str) -> dict[str, Any] | None:
    """Return the run in an answer of `flwr ls --run-id`, or None if it is none."""
    try:
        run = json.loads(text)["runs"][0]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return run if isinstance(run, dict) and "status" in run else None


def refusal(text: str) -> str:
    """Return why `flwr run` failed: the message of its JSON answer, else the last line it printed."""
    for found in re.finditer(r"^\{", text, re.MULTILINE):
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            answer, _ = json.JSONDecoder().raw_decode(text[found.start() :])
            return " ".join(str(answer["error-message"]).split())
    return (text.strip().splitlines() or ["it gave no answer."])[-1]
