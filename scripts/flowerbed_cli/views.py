"""`flowerbed runs` and `flowerbed sites`: what an account may see across accounts, which `flwr ls` does not show.

Asks the SuperLink's routes of ours through the edge, as the kit or as a pipeline; the SuperLink decides what is shown.
"""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from flowerbed_topology import Topology

from . import accounts
from .errors import AccountError
from .project import Project


def view(project: Project, topology: Topology, name: str, pipeline: str | None = None) -> list[dict[str, Any]]:
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


def listed(content: object, name: str) -> list[dict[str, Any]]:
    """Return the list in an answer: the answer itself, or its value `name`."""
    inner = content.get(name) if isinstance(content, dict) else content
    return [item for item in inner if isinstance(item, dict)] if isinstance(inner, list) else []


def table(title: str, columns: dict[str, str], rows: list[dict[str, Any]]) -> Table:
    """Return rows as a table that 80 columns hold; `columns` is heading to key."""
    made = Table(title=title, title_justify="left")
    for heading in columns:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell(row.get(key))) for key in columns.values()))
    return made


def cell(value: object) -> str:
    """Return a value as people read it."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value)
