"""`flowerbed user`: people of the federation, kept in the kit's database and reconciled to Keycloak; their first passwords.

Not for pipelines and demo people, which follow from federation.yaml. Asks the SuperLink's container, which alone writes the
list of people (docs/contracts.md, "Identity").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from flowerbed_topology import ROLES, Topology
from flowerbed_topology.accounts import RESERVED

from . import lock, passwords, people, realm, roster
from .errors import AccountError, DockerError, FlowerbedError
from .project import Project

NAME = re.compile(r"[a-z][a-z0-9._-]{1,61}[a-z0-9]")
# Narrower than RFC 5321: what Keycloak refuses must not reach the list of people.
EMAIL = re.compile(r"[\w%+-]+(?:\.[\w%+-]+)*@(?:[^\W_](?:[\w-]*[^\W_])?\.)+[a-zA-Z]{2,}", re.ASCII)
# What accounts of demo people, of pipelines and, in Keycloak, of clients are called.
OWN = (*(f"{role}-" for role in ROLES), "pipeline-", "service-account-")


@dataclass(frozen=True)
class Person:
    """Somebody to be added; `federations` empty means all of the organisation's."""

    name: str
    organisation: str
    roles: Sequence[str]
    federations: Sequence[str] = ()
    email: str = ""
    first_name: str = ""
    last_name: str = ""


def checked(topology: Topology, person: Person) -> dict[str, Any]:
    """Return what the list of people takes of a person.

    Raises:
        AccountError: a value is wrong; the message names the option, the value and the remedy.
    """
    if not NAME.fullmatch(person.name):
        rule = "give 3 to 63 of a-z, 0-9, dot, hyphen and underscore, a letter first"
        raise AccountError(f"NAME is {person.name!r}: {rule}.")
    if person.name in RESERVED or person.name.startswith(OWN):
        raise AccountError(f"NAME is {person.name!r}: that is one of the kit's own accounts, so choose another.")
    if person.name in {site.name for site in topology.sites}:
        raise AccountError(
            f"NAME is {person.name!r}: the audit trail calls that site's SuperNode so, so choose another."
        )
    if person.email and (len(person.email) > 200 or not EMAIL.fullmatch(person.email)):
        raise AccountError(f"--email is {person.email!r}: give an address such as name@example.org.")
    one_of("--organisation", [person.organisation], [item.name for item in topology.organisations])
    one_of("--role", person.roles, ROLES)
    if not person.roles:
        raise AccountError(f"--role is missing: give one or more of {', '.join(ROLES)}.")
    own = topology.federations_of(person.organisation)
    one_of("--federation", person.federations, own)
    return {
        "name": person.name,
        "kind": "person",
        "email": person.email or None,
        "first_name": printable("--first-name", person.first_name),
        "last_name": printable("--last-name", person.last_name),
        "organisation": person.organisation,
        "roles": sorted(set(person.roles)),
        "federations": sorted(set(person.federations or own)),
        "enabled": True,
    }


def one_of(option: str, values: Iterable[str], allowed: Sequence[str]) -> None:
    """Raise AccountError for a value that is not allowed."""
    for value in values:
        if value not in allowed:
            raise AccountError(f"{option} is {value!r}: give one of {', '.join(allowed) or 'none, as there is none'}.")


def printable(option: str, value: str) -> str | None:
    """Return a name of a person, None for an empty one."""
    if len(value) > 100 or not value.isprintable() or set(value) & set('<>&"$%!#?§;*~/\\|^=[]{}()\x60'):
        raise AccountError(f"{option} is {value!r}: give at most 100 letters, spaces, hyphens and the like.")
    return value or None


def add(project: Project, topology: Topology, wanted: Person) -> list[str]:
    """Add a person, or change what is known of one; return what changed. A new person's first password is temporary.

    Raises:
        AccountError: a value is wrong, or Keycloak or the SuperLink cannot be asked: then it is completed when done again.
    """
    account = checked(topology, wanted)
    with lock.changing(project, "flowerbed user add"):
        known = {item["name"]: item for item in people.everybody(topology)}.get(wanted.name)
        account["enabled"] = known is None or known["enabled"]
        changes = []
        if known is None or any(known.get(key) != value for key, value in account.items()):
            people.put(topology, [account])
            changes.append(f"{'changed' if known else 'added'} {wanted.name}")
        return changes + realm.reconcile(project, topology)


def disable(project: Project, topology: Topology, name: str) -> list[str]:
    """Shut a person out, end their sessions and stop their runs; return what changed. Sessions and runs are ended again.

    The list comes first, without waiting for another command, which may wait for Keycloak itself: the SuperLink reads it, so that
    nothing more is accepted from them.
    """
    changes = enabling(topology, name, enabled=False)
    left: list[str] = []
    try:
        changes += [f"stopped run {run} of {name}" for run in people.stop(topology, name)]
    except (AccountError, DockerError) as error:
        left.append(f"runs of {name} may go on. {error}")
    try:
        with lock.changing(project, "flowerbed user disable"):
            enabling(topology, name, enabled=False)  # who waited for may have let them in again
            roster.claimed(project, name)
            realm.disable(project, topology, name)
    except FlowerbedError as error:
        left.append(f"{name} is not shut out of Keycloak. {error}")
    if left:
        raise AccountError(f"{name} is shut out of the SuperLink, but do this again later: {' And '.join(left)}")
    return changes


def enable(project: Project, topology: Topology, name: str) -> list[str]:
    """Let a person in again, with the password that they had; return what changed."""
    with lock.changing(project, "flowerbed user enable"):
        changes = enabling(topology, name, enabled=True)
        realm.enable(project, topology, name)
        return changes


def enabling(topology: Topology, name: str, *, enabled: bool) -> list[str]:
    """Keep whether a person may log in; return what changed."""
    account = people.one(topology, name)
    if account["enabled"] is enabled:
        return []
    people.put(topology, [{key: account.get(key) for key in people.FIELDS} | {"enabled": enabled}])
    return [f"{'enabled' if enabled else 'disabled'} {name}"]


def reset(project: Project, topology: Topology, name: str) -> list[str]:
    """Give a person a new first password, end their sessions and unlock them; return what changed."""
    with lock.changing(project, "flowerbed user reset"):
        demo = people.one(topology, name)["kind"] == "demo"
        # Kept before it is set: what ends in between leaves a password that somebody knows.
        realm.set_password(project, topology, name, passwords.new(project, name), temporary=not demo)
    told = f"password of {name}: {passwords.path(project, name)}"
    return [told if demo else passwords.announcement(project, name)]


def table(accounts: Sequence[people.Account]) -> Table:
    """Return accounts as a table that 80 columns hold."""
    made = Table(title="People and pipelines", title_justify="left", box=box.SIMPLE_HEAD)
    for heading, width in (("name", 16), ("kind", 8), ("organisation", 12), ("roles", 10), ("federations", 11)):
        made.add_column(heading, overflow="fold", min_width=width)
    made.add_column("enabled", no_wrap=True)
    for item in accounts:
        enabled = Text("yes", "green") if item["enabled"] else Text("no", "red")
        lists = [Text(" ".join(item[key] or [])) for key in ("roles", "federations")]
        made.add_row(Text(item["name"]), Text(item["kind"]), Text(item["organisation"] or ""), *lists, enabled)
    return made
