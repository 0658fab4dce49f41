"""Makes roles as wanted, and removes others: the realm's, and those of clients. What they should be is in `realm`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from keycloak import KeycloakAdmin
from keycloak.exceptions import KeycloakDeleteError, KeycloakPostError, raise_error_from_response

from .connection import within
from .read import role_name
from .realm import MASTER, MASTERS_ROLE
from .state import Fields, texts


def mend(admin: KeycloakAdmin, name: str, wanted: Fields, *, missing: bool) -> None:
    """Make a role, or bring it to what is wanted; a role of the kit's brings no other with it."""
    if name == MASTERS_ROLE:
        with within(admin, MASTER):
            _bring(admin, f"default-roles-{MASTER}", texts(wanted["composites"]))
        return
    if missing:
        _create(admin, name, wanted)
    elif "description" in wanted:
        admin.update_realm_role(name, {"name": name, "description": wanted["description"]})
    # What a role brings with it has no other way out.
    _bring(admin, name, texts(wanted.get("composites")))


def _create(admin: KeycloakAdmin, name: str, wanted: Fields) -> None:
    client, _, own = name.rpartition("/")
    fields = {"name": own, "description": wanted.get("description", "")}
    # Some came with the realm.
    if not client:
        if not any(item["name"] == own for item in admin.get_realm_roles()):
            admin.create_realm_role(fields)
        return
    # Clients are made after roles, because their tokens name some.
    identity = str(admin.get_client_id(client) or admin.create_client({"clientId": client, "enabled": False}))
    if not any(item["name"] == own for item in admin.get_client_roles(identity)):
        admin.create_client_role(identity, fields)


def _bring(admin: KeycloakAdmin, name: str, wanted: Iterable[str]) -> None:
    """Let a role bring with it these and no others."""
    goal = set(wanted)
    identity = role(admin, name)["id"]
    names = {item["id"]: item["clientId"] for item in admin.get_clients()}
    there = {role_name(item, names): item for item in admin.get_role_composites_by_id(identity)}
    path = f"admin/realms/{admin.get_current_realm()}/roles-by-id/{identity}/composites"
    if extra := [item for other, item in there.items() if other not in goal]:
        answer = admin.connection.raw_delete(path, data=json.dumps(extra))
        raise_error_from_response(answer, KeycloakDeleteError, expected_codes=[204])
    if lacking := [role(admin, other) for other in sorted(goal - there.keys())]:
        answer = admin.connection.raw_post(path, data=json.dumps(lacking))
        raise_error_from_response(answer, KeycloakPostError, expected_codes=[204])


def role(admin: KeycloakAdmin, name: str) -> dict[str, Any]:
    """Return a role of the realm, or as `client/name` one of a client's."""
    client, _, own = name.rpartition("/")
    if not client:
        return dict(admin.get_realm_role(own))
    return dict(admin.get_client_role(str(admin.get_client_id(client)), own))


def remove(admin: KeycloakAdmin, name: str) -> None:
    """Remove a role."""
    client, _, own = name.rpartition("/")
    identity = admin.get_client_id(client) if client else None
    if identity and any(item["name"] == own for item in admin.get_client_roles(identity)):
        admin.delete_client_role(identity, own)
    # By id: somebody may have given one of the realm a name with a slash.
    for item in admin.get_realm_roles():
        if item["name"] == name:
            path = f"admin/realms/{admin.get_current_realm()}/roles-by-id/{item['id']}"
            raise_error_from_response(admin.connection.raw_delete(path), KeycloakDeleteError, expected_codes=[204])
