"""Mends client scopes, and which roles tokens of a scope or a client may name. What they should be is in `fresh_scopes`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from keycloak import KeycloakAdmin
from keycloak.exceptions import (
    KeycloakDeleteError,
    KeycloakGetError,
    KeycloakPostError,
    raise_error_from_response,
)

from .connection import within
from .read_scopes import mappers
from .roles import role


def mend(admin: KeycloakAdmin, path: str, wanted: Mapping[str, Any]) -> None:
    """Make a client scope that is missing or differs; what is equal is not sent."""
    realm, _, name = path.partition("/")
    with within(admin, realm):
        there = {item["name"]: item for item in admin.get_client_scopes()}
        plain = {"name": name, "protocol": wanted["protocol"], "attributes": wanted["attributes"]}
        if name not in there:
            admin.create_client_scope(dict(plain))
            there = {item["name"]: item for item in admin.get_client_scopes()}
        found = there[name]
        # An empty one is as good as none.
        extra = dict.fromkeys((found.get("attributes") or {}).keys() - wanted["attributes"].keys(), "")
        if found["protocol"] != wanted["protocol"] or (found.get("attributes") or {}) != wanted["attributes"] | extra:
            admin.update_client_scope(found["id"], {**found, **plain, "attributes": wanted["attributes"] | extra})
        _mend_mappers(admin, found, wanted)
        mend_roles(admin, f"client-scopes/{found['id']}", wanted["roles"])
        _give(admin, found["id"], wanted["given"])


def _mend_mappers(admin: KeycloakAdmin, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    there, goal = mappers(found), wanted["mappers"]
    for item in found.get("protocolMappers") or ():
        if there[item["name"]] != goal.get(item["name"]):
            admin.delete_mapper_from_client_scope(found["id"], item["id"])
    for name, value in goal.items():
        if there.get(name) != value:
            mapper = {"name": name, "protocol": wanted["protocol"], **value}
            admin.add_mapper_to_client_scope(found["id"], mapper)


def _give(admin: KeycloakAdmin, identity: str, wanted: str) -> None:
    """Have new clients have a scope, or be asked for it, or neither."""
    default = identity in {item["id"] for item in admin.get_default_default_client_scopes()}
    optional = identity in {item["id"] for item in admin.get_default_optional_client_scopes()}
    if default and wanted != "default":
        admin.delete_default_default_client_scope(identity)
    if optional and wanted != "optional":
        admin.delete_default_optional_client_scope(identity)
    if wanted == "default" and not default:
        admin.add_default_default_client_scope(identity)
    if wanted == "optional" and not optional:
        admin.add_default_optional_client_scope(identity)


def remove(admin: KeycloakAdmin, path: str) -> None:
    """Remove a client scope, from clients that have it first."""
    realm, _, name = path.partition("/")
    with within(admin, realm):
        found = {item["name"]: item["id"] for item in admin.get_client_scopes()}
        if name not in found:
            return
        _give(admin, found[name], "")
        for client in admin.get_clients():
            if name in (client.get("defaultClientScopes") or ()):
                admin.delete_client_default_client_scope(client["id"], found[name])
            if name in (client.get("optionalClientScopes") or ()):
                admin.delete_client_optional_client_scope(client["id"], found[name])
        admin.delete_client_scope(found[name])


def mend_roles(admin: KeycloakAdmin, owner: str, wanted: Iterable[str]) -> None:
    """Let tokens of `clients/<id>` or `client-scopes/<id>` name these roles and no others; python-keycloak knows half of it."""
    path = f"admin/realms/{admin.get_current_realm()}/{owner}/scope-mappings"
    found = raise_error_from_response(admin.connection.raw_get(path), KeycloakGetError)
    assert isinstance(found, dict)  # noqa: S101 - what this address answers
    goal = set(wanted)
    there = {item["name"]: item for item in found.get("realmMappings") or ()}
    _send(admin, f"{path}/realm", there, {name for name in goal if "/" not in name}, "")
    theirs = found.get("clientMappings") or {}
    for client in theirs.keys() | {name.partition("/")[0] for name in goal if "/" in name}:
        there = {item["name"]: item for item in theirs.get(client, {}).get("mappings", ())}
        names = {name.partition("/")[2] for name in goal if name.startswith(f"{client}/")}
        _send(admin, f"{path}/clients/{admin.get_client_id(client)}", there, names, client)


def _send(admin: KeycloakAdmin, path: str, there: Mapping[str, Any], goal: set[str], client: str) -> None:
    """Take away and add the roles of one client, or of the realm."""
    if extra := [item for name, item in there.items() if name not in goal]:
        answer = admin.connection.raw_delete(path, data=json.dumps(extra))
        raise_error_from_response(answer, KeycloakDeleteError, expected_codes=[204])
    if lacking := sorted(goal - there.keys()):
        items = [role(admin, f"{client}/{name}" if client else name) for name in lacking]
        answer = admin.connection.raw_post(path, data=json.dumps(items))
        raise_error_from_response(answer, KeycloakPostError, expected_codes=[204])
