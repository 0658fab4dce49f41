"""`flowerbed runs` and `flowerbed sites`: what an account may see across accounts, which `flwr ls` does not show.

Asks the SuperLink's routes of ours through the edge, as the kit or as a pipeline; the SuperLink decides what is shown.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from flowerbed_topology import Topology

from . import accounts
from .errors import AccountError
from .project import Project

Rows = list[dict[str, Any]]


def view(project: Project, topology: Topology, name: str, pipeline: str | None = None) -> Rows:
    """Return `runs` or `sites`, as the kit or as a pipeline sees them.

    Raises:
        AccountError: nobody can log in, or the SuperLink refuses.
    """
    client = accounts.pipeline(topology, pipeline) if pipeline else accounts.KIT_CLIENT
    token = accounts.token(project, topology, client)
    with accounts.edge(project, topology, "superlink") as http:
        http.headers["Authorization"] = f"Bearer {token}"
        answer = accounts.ask(http, "GET", f"/v1/flowerbed/{name}")
    if answer.status_code in (401, 403):
        raise AccountError(f"The SuperLink does not show {name} to {client}: {accounts.field(answer, 'detail')}")
    if answer.status_code != 200:
        raise AccountError(accounts.trouble("The SuperLink", answer))
    return listed(answer.json(), name)


def listed(content: object, name: str) -> Rows:
    """Return the list in an answer: the answer itself, or its value `name`."""
    inner = content.get(name) if isinstance(content, dict) else content
    return [item for item in inner if isinstance(item, dict)] if isinstance(inner, list) else []


def runs(rows: Rows) -> Table:
    """Return runs as a table that 80 columns hold."""
    made = framed("Runs", ("run", "started", "status", "account"), ("federation", "sites"))
    for row in rows:
        federation = str(row.get("federation") or "").rpartition("/")[2]
        state = row.get("sub_status") or row.get("status")
        began = moment(row.get("pending_at"))
        shown = (row.get("id"), began, state, row.get("account"), federation, row.get("sites"))
        made.add_row(*(Text(cell(value)) for value in shown))
    return made


def sites(rows: Rows) -> Table:
    """Return sites as a table that 80 columns hold."""
    made = framed("Sites", ("site", "online", "heartbeat"), ("organisation", "federations"))
    for row in rows:
        online = "yes" if row.get("online") else "no" if row.get("node") else "not registered"
        beat = moment(row.get("last_heartbeat"))
        shown = (row.get("name"), online, beat, row.get("organisation"), row.get("federations"))
        made.add_row(*(Text(cell(value)) for value in shown))
    return made


def framed(title: str, whole: tuple[str, ...], folded: tuple[str, ...]) -> Table:
    """Return an empty table: columns that are kept on one line, then columns that share what is left."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for heading in whole:
        made.add_column(heading, no_wrap=True, max_width=24)
    for heading in folded:
        made.add_column(heading, overflow="fold")
    return made


def moment(value: object) -> str:
    """Return a time in ISO 8601 as `11-22 08:30` in this host's time zone; what is none, as it is."""
    try:
        return datetime.fromisoformat(str(value)).astimezone().strftime("%m-%d %H:%M")
    except ValueError:
        return cell(value)


def cell(value: object) -> str:
    """Return a value as people read it: names come from other people, so nothing in them moves the cursor."""
    if value is None:
        return ""
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)
