"""The state that Keycloak is in, from what `snapshot` fetched. Pure, but for `groups`, which `apply` looks ids up with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from keycloak import KeycloakAdmin

from . import read_scopes, snapshot
from .clients import AID
from .doors import doors
from .realm import BUILT_IN_ROLES, DEFAULT_ROLES, MASTER, MASTERS_ROLE, REALM
from .snapshot import MANAGEMENT, Content, Export, Members, Snapshot
from .state import Fields, Kind, State, Value

# Keycloak's own notes in a client's attributes.
NOTES = frozenset({"client.secret.creation.time", "realm_client"})
_ACCOUNT = ("enabled", "email", "firstName", "lastName", "attributes")


def current_state(found: Snapshot) -> State:
    """Return what both realms hold; no more than realm master where realm flowerbed does not exist yet."""
    state: dict[tuple[Kind, str], Fields] = {("realm", MASTER): realm(found.master), **_both(found.master)}
    state["role", MASTERS_ROLE] = masters_default(found.master)
    if found.content:
        state.update(_realm_state(found.content))
    return state


def _realm_state(found: Content) -> Iterator[tuple[tuple[Kind, str], Fields]]:
    whole = found.whole
    yield ("realm", REALM), realm(whole)
    yield from _both(whole).items()
    yield ("profile", REALM), profile(found.profile)
    for name, fields in roles(whole).items():
        yield ("role", name), fields
    for path, group in snapshot.groups(whole["groups"]):
        yield ("group", path), group_fields(group)
    for item in found.clients:
        yield ("client", item["clientId"]), client(item, whole)
    yield from accounts(found)


def _both(whole: Export) -> dict[tuple[Kind, str], Fields]:
    """Return what is compared in either realm."""
    made = doors(whole)
    made |= {("client scope", f"{whole['realm']}/{name}"): fields for name, fields in read_scopes.scopes(whole)}
    return made


def realm(whole: Export) -> Fields:
    """Return a realm's settings, its attributes as `attributes.<name>`."""
    return {**whole, **{f"attributes.{key}": value for key, value in whole.get("attributes", {}).items()}}


def profile(found: Mapping[str, Any]) -> Fields:
    """Return the user profile, by attribute."""
    declared = {
        item["name"]: {key: value for key, value in item.items() if key != "name"} for item in found["attributes"]
    }
    policy = found.get("unmanagedAttributePolicy")
    return declared | {"declared": list(declared), "unmanagedAttributePolicy": policy or ""}


def roles(whole: Export) -> dict[str, Fields]:
    """Return the realm's roles and those of its clients; of Keycloak's own, what they bring with them."""
    made: dict[str, Fields] = {
        item["name"]: {"composites": composites(item)} if item["name"] in BUILT_IN_ROLES else item
        for item in whole["roles"]["realm"]
    }
    for client_id, items in whole["roles"]["client"].items():
        if client_id != MANAGEMENT:
            made |= {f"{client_id}/{item['name']}": {"composites": composites(item)} for item in items}
    return made


def masters_default(whole: Export) -> Fields:
    """Return what every account of realm master has."""
    return {
        "composites": [
            name
            for item in whole["roles"]["realm"]
            if item["name"] == f"default-roles-{MASTER}"
            for name in composites(item)
        ]
    }


def composites(role: Mapping[str, Any]) -> list[Value]:
    """Return the roles that an export's role brings with it, as `role_name` has them."""
    found = role.get("composites") or {}
    theirs = (found.get("client") or {}).items()
    return [*found.get("realm", ()), *(f"{client_id}/{name}" for client_id, names in theirs for name in names)]


def role_name(role: Mapping[str, Any], clients: Mapping[str, str]) -> str:
    """Return `name` for a role of the realm, `client/name` for a client's."""
    return f"{clients[role['containerId']]}/{role['name']}" if role["clientRole"] else str(role["name"])


def groups(admin: KeycloakAdmin) -> dict[str, dict[str, Any]]:
    """Return every group by its path, parents first."""
    made: dict[str, dict[str, Any]] = {}
    # python-keycloak writes the page that it asks for into what it is given, and reads one page alone where there is one.
    whole = {"briefRepresentation": "false"}
    waiting = admin.get_groups(dict(whole))
    while waiting:
        group = waiting.pop(0)
        made[group["path"]] = group
        if group.get("subGroupCount"):
            waiting += admin.get_group_children(group["id"], dict(whole))
    return made


def group_fields(group: Mapping[str, Any]) -> Fields:
    """Return what a group gives to its members."""
    return {
        key: group.get(key) or empty for key, empty in (("realmRoles", []), ("clientRoles", {}), ("attributes", {}))
    }


def client(found: Mapping[str, Any], whole: Export) -> Fields:
    """Return a client with its mappers by name and the roles that its tokens may name."""
    attributes = {key: value for key, value in (found.get("attributes") or {}).items() if key not in NOTES}
    mine = {"mappers": read_scopes.mappers(found), "scopeRoles": read_scopes.roles(whole, "client", found["clientId"])}
    return {**found, "attributes": attributes, **mine}


def accounts(found: Content) -> Iterator[tuple[tuple[Kind, str], Fields]]:
    """Yield every person and every client's own account, with groups and roles."""
    given = memberships(found.members)
    for item in found.people:
        yield ("person", item["username"]), account(item, given[item["id"]])
    for item in found.whole.get("users") or ():
        yield ("service account", item["serviceAccountClientId"]), account(item, _own(item))


def account(user: Mapping[str, Any], given: Mapping[str, list[str]]) -> Fields:
    """Return what is kept of an account."""
    fields = {key: user.get(key) for key in _ACCOUNT}
    return {**fields, **{kind: list(given.get(kind, ())) for kind in ("groups", "roles", "clientRoles")}}


def _own(machine: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return groups and roles of a client's own account, which an export has, unlike those of people."""
    theirs = (machine.get("clientRoles") or {}).items()
    return {
        "groups": machine.get("groups") or [],
        "roles": [name for name in machine.get("realmRoles") or () if name != DEFAULT_ROLES],
        "clientRoles": [f"{client_id}/{name}" for client_id, names in theirs for name in names],
    }


def memberships(members: Members) -> defaultdict[str, dict[str, list[str]]]:
    """Return groups, roles and administrative roles by account id. What everybody has by default is left out."""
    made: defaultdict[str, dict[str, list[str]]] = defaultdict(lambda: {"groups": [], "roles": [], "clientRoles": []})
    for (what, name), ids in members.items():
        for identity in ids:
            if what == "group":
                made[identity]["groups"].append(name)
            elif what == "management":
                made[identity]["clientRoles"].append(f"{MANAGEMENT}/{name}")
            else:
                made[identity]["roles"].append(name)
    return made


def aid(fields: Fields) -> str:
    """Return the id of ours that an account carries; empty for none."""
    attributes = fields.get("attributes")
    found = attributes.get(AID) if isinstance(attributes, dict) else None
    return str(found[0]) if isinstance(found, list) and found else ""
