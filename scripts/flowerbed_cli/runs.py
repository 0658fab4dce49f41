"""Runs: submitting an app with the real `flwr` in a container, following it, showing what it says at the end.

The app's last word is one log line, `FLOWERBED_SUMMARY {json}` (apps/README.md); an app without it shows its logs only.
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
from rich.table import Table

from . import docker
from .errors import DockerError, RunError
from .project import KIT, Project
from .render import CONNECTION
from .up import FLWR_HOME

APP = KIT / "apps" / "breast-cancer"
SUMMARY = re.compile(r"FLOWERBED_SUMMARY (\{.*\})")
RUN_ID = re.compile(r"FLOWERBED_RUN (\d+)")
STATUS = re.compile(r"FLOWERBED_STATUS (.*)")
# A SuperLink that is started again ends the stream of the log, not the run: then its end is awaited, and all is shown.
SCRIPT = """
flwr run /app {connection} --format json {config} > /tmp/run.json || {{ cat /tmp/run.json; exit 1; }}
run=$(sed -n 's/.*"run-id": *"\\{{0,1\\}}\\([0-9]*\\).*/\\1/p' /tmp/run.json)
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


def run(project: Project, app: Path, config: Sequence[str], console: Console) -> dict[str, Any]:
    """Submit the app, show its log as it comes, and return its summary (empty if the app gives none).

    Raises:
        RunError: the SuperLink refused the run, or it did not end as completed; the message holds Flower's reason.
    """
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


def conclude(lines: Iterable[str]) -> dict[str, Any]:
    """Return the summary that a run's lines hold, with its `run_id`.

    Raises:
        RunError: the run did not end as completed.
    """
    text = "\n".join(lines)
    # An app may print what looks like our own lines: of those around its log, the first and the last are ours.
    started, summary = RUN_ID.search(text), last(SUMMARY, text)
    if started is None:
        raise RunError(f"The SuperLink did not accept the run: {refusal(text)}")
    run, answer = started.group(1), outcome(last(STATUS, text))
    if answer is None:
        raise RunError(f"The SuperLink could not be asked how run {run} ended: make status shows what is wrong.")
    if answer["status"] != "finished:completed":
        reason = " ".join(str(answer.get("status-details") or "").split())
        raise RunError(f"Run {run} ended as {answer['status']}: {reason or 'make logs shows why.'}")
    found: dict[str, Any] = json.loads(summary) if summary else {}
    return found | {"run_id": int(run)}


def last(pattern: re.Pattern[str], text: str) -> str:
    """Return what a pattern's group holds where it matches last; empty where it does not."""
    found = pattern.findall(text)
    return str(found[-1]) if found else ""


def outcome(text: str) -> dict[str, Any] | None:
    """Return the run in an answer of `flwr ls --run-id`, or None if it is none."""
    try:
        run: dict[str, Any] = json.loads(text)["runs"][0]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return run


def refusal(text: str) -> str:
    """Return why `flwr run` failed: the message of its JSON answer, else the last line it printed."""
    for found in re.finditer(r"^\{", text, re.MULTILINE):
        with suppress(ValueError, KeyError, TypeError):
            answer, _ = json.JSONDecoder().raw_decode(text[found.start() :])
            return " ".join(str(answer["error-message"]).split())
    return (text.strip().splitlines() or ["it gave no answer."])[-1]


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the closing table of a run."""
    table = Table(title=f"Run {summary['run_id']}")
    for name in ("organisation", "rounds", "rows", "epsilon spent"):
        table.add_column(name, justify="left" if name == "organisation" else "right")
    for name, own in sorted(summary.get("organisations", {}).items()):
        table.add_row(
            name, str(own.get("rounds", "")), str(own.get("rows", "")), f"{own.get('epsilon', float('nan')):.2f}"
        )
    console.print(table)
    if "accuracy" in summary:
        console.print(
            f"accuracy {summary['accuracy']:.3f} after {summary['rounds']} rounds in {summary['seconds']:.0f} s",
            highlight=False,
        )
