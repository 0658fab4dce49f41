"""The accounts that follow from federation.yaml, demo people, pipelines and the kit's own, kept in the list of people.

Not for people whom an operator adds (`users`), and nobody is deleted: an account that federation.yaml no longer names is
disabled, because its runs stay its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowerbed_topology import Person, Pipeline, Topology

from . import people
from .people import Account

KINDS = ("demo", "pipeline", "kit")
# What registers SuperNodes and owns them; its name is its id.
KIT_ACCOUNT = "flowerbed"
FIELDS = ("name", "kind", "email", "first_name", "last_name", "organisation", "roles", "federations", "enabled")


def ensure_roster(topology: Topology) -> tuple[list[str], list[Account]]:
    """Bring the list of people in line with federation.yaml; return a line for each change, and the list."""
    listed = people.everybody(topology)
    changes = due(held(wanted(topology), listed), listed)
    if changes:
        listed = people.put(topology, changes)
    for account in changes:
        if not account["enabled"]:
            people.stop(topology, account["name"])
    verbs = {True: "enrolled", False: "disabled"}
    return [f"{verbs[item['enabled']]} {item['kind']} account {item['name']}" for item in changes], listed


def wanted(topology: Topology) -> list[Account]:
    """Return every account that federation.yaml gives cause for."""
    return [
        kit(topology),
        *(demo(topology, person) for person in topology.demo_people),
        *(machine(topology, pipeline) for pipeline in topology.pipelines),
    ]


def held(wanted: Sequence[Account], present: Sequence[Account]) -> list[Account]:
    """Return the accounts, demo people whom an operator disabled still disabled: only `flowerbed user enable` lets them in."""
    shut = {item["name"] for item in present if item["kind"] == "demo" and not item["enabled"]}
    return [item | {"enabled": False} if item["name"] in shut else item for item in wanted]


def due(wanted: Sequence[Account], present: Sequence[Account]) -> list[Account]:
    """Return the accounts to be written: new ones, changed ones, and disabled those that are wanted no more."""
    known = {item["name"]: item for item in present}
    changed = [item for item in wanted if item["name"] not in known or differs(item, known[item["name"]])]
    names = {item["name"] for item in wanted}
    gone = [item for item in present if item["kind"] in KINDS and item["enabled"] and item["name"] not in names]
    return changed + [{key: item.get(key) for key in FIELDS} | {"enabled": False} for item in gone]


def differs(one: Account, other: Account) -> bool:
    """Return whether two accounts of a name are not the same; the order of roles and federations is none."""
    return any(plain(one.get(key)) != plain(other.get(key)) for key in FIELDS)


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
    return account(f"pipeline-{pipeline.name}", "pipeline", pipeline.organisation, pipeline.roles, federations)


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
