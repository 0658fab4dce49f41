"""The accounts that follow from federation.yaml, demo people, pipelines and the kit's own, kept in the list of people.

Not for people whom an operator adds (`users`), and nobody is deleted: an account that federation.yaml no longer names is
disabled, because its runs stay its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flowerbed_topology import Person, Pipeline, Topology

from . import people
from .files import write
from .people import Account
from .project import Project

KINDS = ("demo", "pipeline", "kit")
# What registers SuperNodes and owns them; its name is its id.
KIT_ACCOUNT = "flowerbed"


def ensure_roster(project: Project, topology: Topology) -> list[str]:
    """Bring the list of people in line with federation.yaml; return a line for each change.

    Whom it disables is noted on disk before, with whether their runs are still to be stopped: ended anywhere, the next
    time completes it.
    """
    listed = people.everybody(topology)
    asked = wanted(topology)
    changes = due(held(asked, listed, left(project)), listed)
    leaving = {item["name"] for item in changes} - {item["name"] for item in asked}
    if leaving:
        note(project, left(project) | dict.fromkeys(leaving, False))
    if changes:
        listed = people.put(topology, changes)
    verbs = {True: "enrolled", False: "disabled"}
    lines = [f"{verbs[item['enabled']]} {item['kind']} account {item['name']}" for item in changes]
    return lines + ensure_stopped(project, topology, listed)


def ensure_stopped(project: Project, topology: Topology, listed: Sequence[Account]) -> list[str]:
    """Stop the runs of those who were noted, and forget who is in again; return a line for each run."""
    noted, lines = left(project), []
    out = [item["name"] for item in listed if item["name"] in noted and not item["enabled"]]
    for name in out:
        if not noted[name]:
            lines += [f"stopped run {run} of {name}" for run in people.stop(topology, name)]
    if noted != (stopped := dict.fromkeys(out, True)):
        note(project, stopped)
    return lines


def left(project: Project) -> dict[str, bool]:
    """Return whom `up` disabled as federation.yaml names them no more, and whether their runs were stopped."""
    path = notes(project)
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}


def claimed(project: Project, name: str) -> None:
    """Note that an operator disabled somebody: federation.yaml does not let them in again."""
    if name in (noted := left(project)):
        note(project, {one: stopped for one, stopped in noted.items() if one != name})


def note(project: Project, noted: Mapping[str, bool]) -> None:
    """Keep whom `up` disabled."""
    write(notes(project), json.dumps(noted, indent=2, sort_keys=True).encode(), 0o600)


def notes(project: Project) -> Path:
    """Return where that is kept."""
    return project.secrets / "kit" / "left-federation.json"


def wanted(topology: Topology) -> list[Account]:
    """Return every account that federation.yaml gives cause for."""
    return [
        kit(topology),
        *(demo(topology, person) for person in topology.demo_people),
        *(machine(topology, pipeline) for pipeline in topology.pipelines),
    ]


def held(wanted: Sequence[Account], present: Sequence[Account], left: Iterable[str] = ()) -> list[Account]:
    """Return the accounts, demo people whom an operator disabled still disabled: only `flowerbed user enable` lets them in.

    Those who `left` were disabled by `up`, and are in again with federation.yaml.
    """
    shut = {item["name"] for item in present if item["kind"] == "demo" and not item["enabled"]} - set(left)
    return [item | {"enabled": False} if item["name"] in shut else item for item in wanted]


def due(wanted: Sequence[Account], present: Sequence[Account]) -> list[Account]:
    """Return the accounts to be written: new ones, changed ones, and disabled those that are wanted no more."""
    known = {item["name"]: item for item in present}
    changed = [item for item in wanted if item["name"] not in known or differs(item, known[item["name"]])]
    names = {item["name"] for item in wanted}
    gone = [item for item in present if item["kind"] in KINDS and item["enabled"] and item["name"] not in names]
    return changed + [{key: item.get(key) for key in people.FIELDS} | {"enabled": False} for item in gone]


def differs(one: Account, other: Account) -> bool:
    """Return whether two accounts of a name are not the same; the order of roles and federations is none."""
    return any(plain(one.get(key)) != plain(other.get(key)) for key in people.FIELDS)


def plain(value: object) -> object:
    """Return a value for comparison."""
    return sorted(value) if isinstance(value, list | tuple) else value


def kit(topology: Topology) -> Account:
    """Return the kit's own account, which registers SuperNodes."""
    federations = [federation.name for federation in topology.federations]
    return account(KIT_ACCOUNT, "kit", None, ["operator"], federations)


def demo(topology: Topology, person: Person) -> Account:
    """Return a demo person's account. Keycloak asks at the first login for whatever name or address is missing."""
    made = account(person.name, "demo", person.organisation, [person.role], person.federations)
    address = f"{person.name}@{topology.domain}"
    return made | {"email": address, "first_name": person.role.capitalize(), "last_name": person.organisation}


def machine(topology: Topology, pipeline: Pipeline) -> Account:
    """Return a pipeline's account, under its client's name, which no person can have."""
    federations = topology.pipeline_federations(pipeline)
    return account(pipeline.client, "pipeline", pipeline.organisation, pipeline.roles, federations)


def account(
    name: str, kind: str, organisation: str | None, roles: Sequence[str], federations: Sequence[str]
) -> Account:
    """Return an account without a person behind it."""
    return {
        "name": name,
        "kind": kind,
        "email": None,
        "first_name": None,
        "last_name": None,
        "organisation": organisation,
        "roles": sorted(roles),
        "federations": sorted(federations),
        "enabled": True,
    }
