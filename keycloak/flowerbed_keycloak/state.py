"""The state of Keycloak as plain data, and the differences between two states. Pure.

A state maps a kind and a name to fields. Not for how a state comes to be: `realm` wants one, `read` finds one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "realm",
    "component",
    "identity provider",
    "flow",
    "required actions",
    "profile",
    "role",
    "group",
    "client scope",
    "client",
    "service account",
    "person",
]
# In the order in which they can be made: each refers to earlier ones only.
KINDS: tuple[Kind, ...] = get_args(Kind)
# Of these, what is not wanted is removed. People are never deleted.
EXACT: tuple[Kind, ...] = (
    "component",
    "identity provider",
    "flow",
    "role",
    "group",
    "client scope",
    "client",
    "service account",
)
WAYS_IN: tuple[Kind, ...] = ("component", "identity provider")

Value = str | int | bool | None | list["Value"] | dict[str, "Value"]
Fields = Mapping[str, Value]
State = Mapping[tuple[Kind, str], Fields]

_SECRET = frozenset({"secret"})


@dataclass(frozen=True)
class Difference:
    """One thing in which Keycloak is not as wanted; as text, a line for the operator that shows no secret."""

    kind: Kind
    name: str
    change: Literal["missing", "extra", "differs"]
    field: str = ""
    found: Value = None
    wanted: Value = None

    def __str__(self) -> str:
        if self.change != "differs":
            return f"{self.kind} {self.name}: {self.change}"
        if self.field in _SECRET:
            return f"{self.kind} {self.name}: {self.field} differs"
        return f"{self.kind} {self.name}: {self.field} is {short(self.found)}, wanted {short(self.wanted)}"


def differences(wanted: State, found: State) -> list[Difference]:
    """Return what has to change for `found` to become `wanted`, in the order in which it can be done.

    Only the fields that are wanted are compared, so that Keycloak's own stay as they are.
    """
    made = [difference for key in wanted for difference in _object(key, wanted[key], found.get(key))]
    made += [Difference(kind, name, "extra") for kind, name in found if kind in EXACT and (kind, name) not in wanted]
    return sorted(made, key=_turn)


def _turn(item: Difference) -> tuple[bool, int, bool]:
    """Return what sorts differences: removals last, but foreign ways in before people are made or changed through them."""
    extra = item.change == "extra"
    return extra and item.kind not in WAYS_IN, KINDS.index(item.kind), extra


def _object(key: tuple[Kind, str], wanted: Fields, found: Fields | None) -> Iterator[Difference]:
    if found is None:
        yield Difference(*key, "missing")
        return
    for field, value in wanted.items():
        yield from _field(key, field, canonical(value), canonical(found.get(field), like=value))


def _field(key: tuple[Kind, str], field: str, wanted: Value, found: Value) -> Iterator[Difference]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                yield Difference(*key, "differs", f"{field}.{name}", found.get(name), wanted.get(name))
    elif wanted != found:
        yield Difference(*key, "differs", field, found, wanted)


def canonical(value: Value, like: Value = None) -> Value:
    """Return a value in one form: texts in a list sorted, and for no value the empty one of the kind that is wanted."""
    if value is None and like is not None:
        return type(like)()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(value, key=str)
    if isinstance(value, dict):
        return {name: canonical(item) for name, item in value.items()}
    return value


def short(value: Value) -> str:
    """Return a value on one line of at most 80 characters."""
    if value in ("", None, [], {}):
        return "empty"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def texts(value: Value) -> list[str]:
    """Return a list of texts; empty for anything else."""
    return [str(item) for item in value] if isinstance(value, list) else []


def mapping(value: Value) -> dict[str, Value]:
    """Return a mapping; empty for anything else."""
    return value if isinstance(value, dict) else {}
