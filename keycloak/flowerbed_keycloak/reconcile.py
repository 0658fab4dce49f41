"""Makes Keycloak equal to a desired state, and says what was not.

Re-runnable: a second run writes nothing, and one that was cut off is completed by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from keycloak import KeycloakAdmin

from . import apply, bootstrap, read, snapshot
from .apply import Password
from .connection import BOOTSTRAP_CLIENT, KIT_CLIENT, Access, writes
from .errors import KeycloakRefusedError, sentences
from .realm import ORGANISATIONS, REALM
from .state import Difference, Fields, State, differences, texts


@dataclass(frozen=True)
class Report:
    """What a reconcile found and did."""

    lines: tuple[str, ...]
    """One line for each difference; what was corrected, or would be."""
    notes: tuple[str, ...]
    """What was seen and left alone."""
    writes: int
    """Changes sent to Keycloak; none in a dry run."""


def reconcile(
    access: Access, wanted: State, *, password_for: Callable[[str], Password], dry_run: bool = False
) -> Report:
    """Make Keycloak equal to `wanted`; with `dry_run` only find out what that would change.

    `password_for` is asked for the first password of each person that Keycloak does not have yet.

    Raises:
        KeycloakDownError: Keycloak does not answer.
        KeycloakRefusedError: it does not accept the kit, or a change.
    """
    with sentences("what the realm is made of"):
        admin, lines, sent = _enter(access, dry_run=dry_run)
        seen = snapshot.take(admin)
        master = bootstrap.master(seen.master["clients"], seen.administrators)
        if master.leftovers:
            lines.append(f"client {BOOTSTRAP_CLIENT} of realm master: extra")
        if not dry_run:
            bootstrap.remove(admin, master.leftovers)
        found = read.current_state(seen)
        wanted = {**wanted, **_strangers(wanted, found)}
        left = shut_out(wanted, found)
        wanted = {**wanted, **left}
        due = differences(wanted, found)
        lines += map(str, due)
        notes = (*_notes(wanted, found, master), *people_notes(wanted, left))
        if not dry_run:
            _apply(admin, wanted, _begun(admin, wanted, due, password_for), password_for)
            sent += writes(admin)
    return Report(tuple(lines), notes, sent)


def _enter(access: Access, *, dry_run: bool) -> tuple[KeycloakAdmin, list[str], int]:
    """Return a way in, what had to be done for one, and with how many writes."""
    lines: list[str] = []
    sent = 0
    admin = bootstrap.ready(access)
    if admin is None:
        lines.append(f"client {KIT_CLIENT} of realm master: missing")
        if dry_run:
            return bootstrap.bootstrap(access), lines, 0
        sent = bootstrap.ensure_kit_client(access)
        admin = bootstrap.ready(access)
    if admin is None:
        raise KeycloakRefusedError("Keycloak does not let the kit's new client administer: make logs shows its side.")
    return admin, lines, sent


def _begun(
    admin: KeycloakAdmin, wanted: State, due: list[Difference], password_for: Callable[[str], Password]
) -> list[Difference]:
    """Make a realm that is missing, and return what is due then: Keycloak itself makes half of what a new one has."""
    missing = [item for item in due if item.kind == "realm" and item.change == "missing"]
    if not missing:
        return due
    _apply(admin, wanted, missing, password_for)
    return differences(wanted, read.current_state(snapshot.take(admin)))


def _apply(
    admin: KeycloakAdmin, wanted: State, due: Sequence[Difference], password_for: Callable[[str], Password]
) -> None:
    target = apply.Target(admin, password_for)
    for (kind, name), group in groupby(due, key=lambda item: (item.kind, item.name)):
        change = next(group).change
        with sentences(f"{kind} {name}"):
            if change == "extra":
                apply.remove(target, kind, name)
            else:
                apply.make(target, kind, name, wanted[kind, name], missing=change == "missing")


def _strangers(wanted: State, found: State) -> State:
    """Return what is wanted of people who are not in the list: no id of ours. Without one the SuperLink knows nobody."""
    return {
        key: {"attributes": {}}
        for key, fields in found.items()
        if key[0] == "person" and key not in wanted and read.aid(fields)
    }


def shut_out(wanted: State, found: State) -> State:
    """Return what is wanted of people whom somebody has disabled in Keycloak: to stay so, as it may be an emergency."""
    return {
        (kind, name): {**fields, "enabled": False}
        for (kind, name), fields in wanted.items()
        if kind == "person" and fields.get("enabled") and found.get((kind, name), {}).get("enabled") is False
    }


def people_notes(wanted: State, left: State) -> Iterator[str]:
    """Yield a sentence on those whom somebody disabled, and on those whose organisation left."""
    if left:
        names = ", ".join(sorted(name for _, name in left))
        yield f"Disabled in Keycloak alone, and left so: {names}. flowerbed user enable lets them in again."
    former = sorted(name for (kind, name), fields in wanted.items() if kind == "person" and _former(fields))
    if former:
        yield f"Of no organisation in federation.yaml, and so without roles and groups: {', '.join(former)}."


def _former(fields: Fields) -> bool:
    """Return whether somebody in the list is of no organisation that there is."""
    return "enabled" in fields and not any(path.startswith(f"{ORGANISATIONS}/") for path in texts(fields["groups"]))


def _notes(wanted: State, found: State, master: bootstrap.Master) -> Iterator[str]:
    if master.others:
        yield f"In realm master beside the kit, and left alone: {', '.join(master.others)}."
    strangers = sorted(name for kind, name in found if kind == "person" and _unlisted(wanted, name))
    if strangers:
        yield f"Not in the list of people, and left alone in realm {REALM}: {', '.join(strangers)}."


def _unlisted(wanted: State, name: str) -> bool:
    fields = wanted.get(("person", name))
    return fields is None or "enabled" not in fields
