"""The last records of the audit trail as a table for a person; what is shown is not verified."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rich.table import Table
from rich.text import Text

from . import audit_rows
from .audit_chain import LINE

_SUM = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b")  # of a key or an app; an export has it whole
_COLOURS = {"done": "green", "started": "cyan", "refused": "yellow", "failed": "red"}


@dataclass(frozen=True)
class Wanted:
    """Which records: the last so many of those that match; empty matches all."""

    last: int
    who: str = ""
    verb: str = ""
    run: str = ""

    def matches(self, record: dict[str, Any]) -> bool:
        """Whether a record is of this account (by name or id), verb and run."""
        return (
            self.who in ("", record.get("who"), record.get("aid"))
            and self.verb in ("", record.get("verb"))
            and self.run in ("", str(record.get("run")))
        )


def last(stack: str, wanted: Wanted) -> list[tuple[int, dict[str, Any]]]:
    """Return numbers and records, oldest first.

    Raises:
        FlowerbedError: PostgreSQL does not run, or has no audit trail.
    """
    with closing(audit_rows.rows(stack, newest_first=True)) as rows:
        found = ((number, record) for number, record in map(_parsed, rows) if wanted.matches(record))
        return list(islice(found, wanted.last))[::-1]


def table(records: list[tuple[int, dict[str, Any]]]) -> Table:
    """Return the records as a table of 80 columns."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name, width in {"#": None, "time (UTC)": 10, "who": 16, "verb": 14, "outcome": 7, "what": None}.items():
        made.add_column(name, justify="right" if name == "#" else "left", overflow="fold", width=width)
    for number, record in records:
        shown = {name: _printable(value) for name, value in record.items()}
        at, outcome = shown.get("at", ""), shown.get("outcome", "")
        made.add_row(
            str(number),
            Text(f"{at[:10]} {at[11:19]}"),
            Text("\n".join(filter(None, (shown.get("who") or "-", shown.get("organisation"))))),
            Text(shown.get("verb", "")),
            Text(outcome, _COLOURS.get(outcome, "")),
            Text(" · ".join(_what(shown))),
        )
    return made


def _what(shown: dict[str, str]) -> Iterator[str]:
    if shown.get("run", "null") != "null":
        yield f"run {shown['run']}"
    yield from (_SUM.sub(r"\1…", text) for name in ("object", "detail") if (text := shown.get(name)))
    if source := shown.get("source"):
        yield f"from {source}"


def _parsed(line: bytes) -> tuple[int, dict[str, Any]]:
    """Return number and record; of a row that somebody wrote by hand, what can be shown of it."""
    if (found := LINE.fullmatch(line)) is None:
        return 0, {"detail": line.decode(errors="replace")}
    try:
        record = json.loads(found[2])
    except (ValueError, RecursionError):
        record = {"detail": found[2].decode(errors="replace")}
    return int(found[1]), record


def _printable(value: object) -> str:
    """Return a value as text that cannot steer a terminal."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join("\ufffd" if unicodedata.category(c).startswith("C") else c for c in text)
