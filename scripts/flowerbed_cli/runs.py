"""Runs: submitting an app with the real `flwr` in a container, following it, learning how it ended.

What it says at its end is read and shown by `summary`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from flowerbed_topology import Topology

from . import docker
from .errors import DockerError, RunError
from .project import KIT, Project
from .render import CONNECTION
from .summary import Finished, finished
from .up import FLWR_HOME, started

APP = KIT / "apps" / "breast-cancer"
RUN_ID = re.compile(r"FLOWERBED_RUN (\d+)")
STATUS = re.compile(r"FLOWERBED_STATUS (.*)")
# `flwr run --format json` exits with 0 where the SuperLink refuses a run.
# A SuperLink that is started again ends the stream of the log, not the run: then its end is awaited, and all is shown.
SCRIPT = """
flwr run /app {connection} --format json {config} > /tmp/run.json || {{ cat /tmp/run.json; exit 1; }}
run=$(sed -n 's/.*"run-id": *"\\{{0,1\\}}\\([0-9]*\\).*/\\1/p' /tmp/run.json)
[ -n "$run" ] || {{ cat /tmp/run.json; exit 1; }}
echo "FLOWERBED_RUN $run"
flwr log "$run" {connection} --stream || true
ended() {{
  flwr ls {connection} --run-id "$run" --format json > /tmp/ls.json && grep -q '"status": *"finished:' /tmp/ls.json
}}
if ! ended; then
  tries=0
  until ended || [ $tries -ge {tries} ]; do tries=$((tries + 1)); sleep 1; done
  flwr log "$run" {connection} --show || true
fi
echo "FLOWERBED_STATUS $(tr -d '\\n' < /tmp/ls.json)"
"""
# A second and one call of the CLI each.
TRIES = 600


def flwr(project: Project, script: str, *options: str) -> list[str]:
    """Return the docker arguments that run a shell script beside the `flwr` CLI, connected to this federation."""
    return docker.compose(
        project, "core", "run", "--rm", "-T", *options, "--entrypoint", "sh", "cli", "-euc", FLWR_HOME + script
    )


def run(project: Project, topology: Topology, app: Path, config: Sequence[str], console: Console) -> Finished:
    """Submit the app, show its log as it comes, and return what it said at its end.

    Raises:
        RunError: the SuperLink does not run or refused the run, or it did not end as completed; the message holds
            Flower's reason.
    """
    if f"{topology.name}-superlink" not in started(topology):
        raise RunError(f"The federation {topology.name} is not running: run make up first.")
    if not (app / "pyproject.toml").is_file():
        raise RunError(f"{app} is no Flower app, since it has no pyproject.toml: give the folder of one.")
    options = "".join(f" --run-config {shlex.quote(item)}" for item in config)
    script = SCRIPT.format(connection=CONNECTION, config=options, tries=TRIES)
    lines: list[str] = []
    try:
        for line in docker.stream(flwr(project, script, "-v", f"{app.resolve()}:/app:ro")):
            lines.append(line.rstrip())
            if not line.startswith("FLOWERBED_") and "FLOWERBED_SUMMARY" not in line:
                console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
    except DockerError as error:
        lines = lines or [str(error)]
    return conclude(lines)


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
