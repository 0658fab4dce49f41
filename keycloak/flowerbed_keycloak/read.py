"""The state that Keycloak is in, read over its admin API. Writes nothing.

The number of requests follows from roles, groups and clients, not from people, of whom 100 come with each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from keycloak import KeycloakAdmin

from .clients import AID, BUILT_IN
from .doors import doors
from .realm import DEFAULT_ROLES, EVERYBODYS, MASTER, REALM
from .state import Fields, Kind, State, Value

BUILT_IN_ROLES = (DEFAULT_ROLES, "offline_access", "uma_authorization")
# Keycloak's own notes in a client's attributes.
NOTES = frozenset({"client.secret.creation.time", "realm_client"})
_ACCOUNT = ("enabled", "email", "firstName", "lastName", "attributes")


def current_state(admin: KeycloakAdmin) -> State:
    """Return what both realms hold; no more than realm master where realm flowerbed does not exist yet."""
    state: dict[tuple[Kind, str], Fields] = {("realm", MASTER): realm(admin, MASTER), **doors(admin, MASTER)}
    if REALM not in {item["realm"] for item in admin.get_realms()}:
        return state
    state["realm", REALM] = realm(admin, REALM)
    state.update(doors(admin, REALM))
    state["profile", REALM] = profile(admin)
    found = admin.get_clients()
    state.update({("role", name): fields for name, fields in roles(admin, found).items()})
    tree = groups(admin)
    state.update({("group", path): group_fields(item) for path, item in tree.items()})
    state.update({("client", item["clientId"]): client(admin, item) for item in found})
    state.update(accounts(admin, tree, found))
    return state


def realm(admin: KeycloakAdmin, name: str) -> Fields:
    """Return a realm's settings, its attributes as `attributes.<name>`."""
    found = admin.get_realm(name)
    return found | {f"attributes.{key}": value for key, value in found.get("attributes", {}).items()}


def profile(admin: KeycloakAdmin) -> Fields:
    """Return the user profile, by attribute."""
    found = admin.get_realm_users_profile()
    declared = {
        item["name"]: {key: value for key, value in item.items() if key != "name"} for item in found["attributes"]
    }
    policy = found.get("unmanagedAttributePolicy")
    return declared | {"declared": list(declared), "unmanagedAttributePolicy": policy or ""}


def roles(admin: KeycloakAdmin, clients: Iterable[Mapping[str, Any]]) -> dict[str, Fields]:
    """Return the realm's roles but Keycloak's own; of these, what everybody has, and what that brings with it."""
    found = {item["name"]: item for item in admin.get_realm_roles()}
    made: dict[str, Fields] = {name: item for name, item in found.items() if name not in BUILT_IN_ROLES}
    names = {item["id"]: item["clientId"] for item in clients}
    ids = {client_id: identity for identity, client_id in names.items()}
    made[DEFAULT_ROLES] = composites(admin, found[DEFAULT_ROLES]["id"], names)
    for path in EVERYBODYS:
        client_id, _, name = path.partition("/")
        made[path] = composites(admin, admin.get_client_role(ids[client_id], name)["id"], names)
    return made


def composites(admin: KeycloakAdmin, role_id: str, clients: Mapping[str, str]) -> Fields:
    """Return the roles that a role brings with it."""
    found: list[Value] = [role_name(item, clients) for item in admin.get_role_composites_by_id(role_id)]
    return {"composites": found}


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


def client(admin: KeycloakAdmin, found: Mapping[str, Any]) -> Fields:
    """Return a client with its mappers by name and, where it is not Keycloak's own, the roles that its tokens may name."""
    mappers: dict[str, Value] = {
        item["name"]: {"protocolMapper": item["protocolMapper"], "config": item["config"]}
        for item in found.get("protocolMappers") or ()
    }
    attributes = {key: value for key, value in (found.get("attributes") or {}).items() if key not in NOTES}
    fields = {**found, "attributes": attributes, "mappers": mappers}
    if found["clientId"] not in BUILT_IN:
        fields["scopeRoles"] = [item["name"] for item in admin.get_realm_roles_of_client_scope(found["id"])]
    return fields


def accounts(
    admin: KeycloakAdmin, tree: Mapping[str, Mapping[str, Any]], clients: Iterable[Mapping[str, Any]]
) -> dict[tuple[Kind, str], Fields]:
    """Return every person and every client's own account, with groups and roles."""
    members = memberships(admin, tree, clients)
    made: dict[tuple[Kind, str], Fields] = {}
    for item in admin.get_users({}):
        made["person", item["username"]] = account(item, members[item["id"]])
    for item in clients:
        if item.get("serviceAccountsEnabled"):
            found = admin.get_client_service_account_user(item["id"])
            made["service account", item["clientId"]] = account(found, members[found["id"]])
    return made


def account(user: Mapping[str, Any], memberships: Mapping[str, list[str]]) -> Fields:
    """Return what is kept of an account."""
    fields = {key: user.get(key) for key in _ACCOUNT}
    return {**fields, **{kind: list(memberships.get(kind, ())) for kind in ("groups", "roles", "clientRoles")}}


def memberships(
    admin: KeycloakAdmin, tree: Mapping[str, Mapping[str, Any]], clients: Iterable[Mapping[str, Any]]
) -> defaultdict[str, dict[str, list[str]]]:
    """Return groups, roles and administrative roles by account id. What everybody has by default is left out."""
    made: defaultdict[str, dict[str, list[str]]] = defaultdict(lambda: {"groups": [], "roles": [], "clientRoles": []})
    for path, group in tree.items():
        for member in admin.get_group_members(group["id"]):
            made[member["id"]]["groups"].append(path)
    for role in admin.get_realm_roles():
        if role["name"] != DEFAULT_ROLES:
            for member in admin.get_realm_role_members(role["name"]):
                made[member["id"]]["roles"].append(role["name"])
    # Of Keycloak's own clients this one alone has power over others.
    management = next(item["id"] for item in clients if item["clientId"] == "realm-management")
    for role in admin.get_client_roles(management):
        for member in admin.get_client_role_members(management, role["name"]):
            made[member["id"]]["clientRoles"].append(f"realm-management/{role['name']}")
    return made


def aid(fields: Fields) -> str:
    """Return the id of ours that an account carries; empty for none."""
    attributes = fields.get("attributes")
    found = attributes.get(AID) if isinstance(attributes, dict) else None
    return str(found[0]) if isinstance(found, list) and found else ""
