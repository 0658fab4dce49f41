"""What can be wrong with a federation.yaml, as data and as sentences.

Not for errors of other components: theirs live with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import Repr

_LONGEST_VALUE = 80
# YAML's aliases can fold a value of gigabytes into a few lines: never write one out whole.
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _LONGEST_VALUE
_SHORT.maxlevel = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what was found, and what to do about it.

    `key` is a path such as `organisations[1].site.number`, empty for the file as a whole; `line` counts from 1 and is 0
    where it is not known.
    """

    file: str
    key: str
    value: str
    remedy: str
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        subject = f"{self.key} is {self.value}" if self.key else self.value
        return f"{where}: {subject}; {self.remedy}."


class TopologyError(Exception):
    """The file does not describe a federation. `problems` holds everything that was found, at least one."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule inside the model: the path of the key, relative to the model that found it, and the remedy."""

    loc: tuple[str | int, ...]
    value: object
    remedy: str


class RuleError(ValueError):
    """Carries several findings through pydantic, which reports one error for each validator."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("; ".join(f"{show_key(f.loc)} is {show_value(f.value)}: {f.remedy}" for f in findings))
        self.findings = findings


def refuse(findings: list[Finding]) -> None:
    """Raise `RuleError` if anything was found."""
    if findings:
        raise RuleError(findings)


def show_key(loc: tuple[str | int, ...]) -> str:
    """`("sites", 0, "number")` as `sites[0].number`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def show_value(value: object) -> str:
    """A value on one line, shortened where it is long or deep."""
    if value is None:
        return "empty"
    return show_text(_SHORT.repr(value) if isinstance(value, str | dict | list | tuple) else str(value))


def show_text(text: str) -> str:
    """A text on one line, in at most 80 characters."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= _LONGEST_VALUE else line[: _LONGEST_VALUE - 1] + "…"
