"""What a run says at its end: the app's last log line, `FLOWERBED_SUMMARY {json}` (apps/README.md), and the closing table.

Apps are researchers' code and sites' names come from nodes: what does not read as a summary is left out, and nothing in
it is taken for markup. Not for submitting or following a run: that is `runs`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

LINE = re.compile(r"FLOWERBED_SUMMARY (\{.*\})")


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("give a name of printable characters")
    return name


Name = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Organisation(BaseModel):
    """One organisation's part in a run. Other figures, an app's own, are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rounds: Count | None = None
    rows: Count | None = None
    epsilon: float | None = None


class Summary(BaseModel):
    """A run's closing figures. `accuracy` is a share of 1, `seconds` the whole run's. Other figures are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rounds: Count | None = None
    accuracy: float | None = None
    seconds: float | None = None
    organisations: dict[Name, Organisation] = Field(default_factory=dict, max_length=10_000)


@dataclass(frozen=True)
class Finished:
    """A run that ended well; `summary` is None where the app gave none, or gave one that cannot be read: then `ignored`."""

    run: int
    summary: Summary | None = None
    ignored: bool = False


def finished(run: int, text: str) -> Finished:
    """Return what the log of a run that ended well says at its end."""
    found = LINE.findall(text)
    if not found:
        return Finished(run)
    try:
        return Finished(run, Summary.model_validate_json(found[-1]))
    except ValidationError:
        return Finished(run, ignored=True)


def show(ended: Finished, console: Console) -> None:
    """Print the closing table of a run."""
    if ended.ignored:
        warning = f"The app's closing figures are not as apps/README.md has them, so run {ended.run} is shown without."
        console.print(Text.assemble(("! ", "yellow"), warning))
    summary = ended.summary or Summary()
    table = Table(title=f"Run {ended.run}")
    for name in ("organisation", "rounds", "rows", "epsilon spent"):
        table.add_column(name, justify="left" if name == "organisation" else "right")
    for name, own in sorted(summary.organisations.items()):
        table.add_row(Text(name), figure(own.rounds), figure(own.rows), figure(own.epsilon, ".2f"))
    console.print(table)
    if summary.accuracy is not None:
        console.print(
            f"accuracy {summary.accuracy:.3f} after {figure(summary.rounds)} rounds in {figure(summary.seconds, '.0f')} s",
            highlight=False,
        )


def figure(value: float | None, form: str = "") -> str:
    """Return a figure, empty where an app gave none."""
    return "" if value is None else format(value, form)
