"""Makes one object of Keycloak as wanted. Each step is whole in itself, so that the next reconcile completes what was cut off.

Not for finding out what differs: that is in `state` and `read`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keycloak import KeycloakAdmin

from . import doors, flows, read, roles, scopes
from .realm import DEFAULT_ROLES
from .state import Fields, Kind, canonical, mapping, texts

Password = tuple[str, bool]
"""A password, and whether it has to be changed at the first login."""


@dataclass
class Target:
    """Keycloak while it is being changed; ids are looked up once they are needed."""

    admin: KeycloakAdmin
    password_for: Callable[[str], Password]
    _ids: dict[str, dict[str, Any]] = field(default_factory=dict)

    def clients(self) -> dict[str, Any]:
        """Return clients by clientId."""
        return self._once("clients", lambda: {item["clientId"]: item for item in self.admin.get_clients()})

    def roles(self) -> dict[str, Any]:
        """Return the realm's roles by name."""
        return self._once("roles", lambda: {item["name"]: item for item in self.admin.get_realm_roles()})

    def groups(self) -> dict[str, Any]:
        """Return groups by path."""
        return self._once("groups", lambda: read.groups(self.admin))

    def scopes(self) -> dict[str, Any]:
        """Return client scopes by name."""
        return self._once("scopes", lambda: {item["name"]: item for item in self.admin.get_client_scopes()})

    def people(self) -> dict[str, Any]:
        """Return people by name."""
        return self._once("people", lambda: {item["username"]: item for item in self.admin.get_users({})})

    def changed(self, what: str) -> None:
        """Look these up again."""
        self._ids.pop(what, None)

    def _once(self, what: str, look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if what not in self._ids:
            self._ids[what] = look()
        return self._ids[what]


def make(target: Target, kind: Kind, name: str, wanted: Fields, *, missing: bool) -> None:
    """Bring one object that is missing or differs to what is wanted."""
    _MAKE[kind](target, name, wanted, missing)


def remove(target: Target, kind: Kind, name: str) -> None:
    """Remove an object that is not wanted."""
    if kind == "role":
        roles.remove(target.admin, name)
        target.changed("roles")
    elif kind == "client scope":
        scopes.remove(target.admin, name)
    elif kind == "client":
        target.admin.delete_client(target.clients()[name]["id"])
        target.changed("clients")
    elif kind == "group" and name in target.groups():
        # With its parent it went already.
        target.admin.delete_group(target.groups()[name]["id"])
        target.changed("groups")
    elif kind == "component":
        doors.remove_component(target.admin, name)
        # With user federation go its people.
        target.changed("people")
    elif kind == "flow":
        flows.remove(target.admin, name)
    elif kind == "identity provider":
        doors.remove_identity_provider(target.admin, name)
    # A service account goes with its client, or as that is brought to what is wanted: no client has one that is not.


def _realm(target: Target, name: str, wanted: Fields, missing: bool) -> None:
    found: dict[str, Any] = {"realm": name} if missing else target.admin.get_realm(name)
    made = found | {key: value for key, value in wanted.items() if not key.startswith("attributes.")}
    extra = {key.removeprefix("attributes."): value for key, value in wanted.items() if key.startswith("attributes.")}
    made["attributes"] = (found.get("attributes") or {}) | extra
    if missing:
        target.admin.create_realm(made)
        # The token in use was given before there was this realm, and does not name it.
        target.admin.connection.get_token()
    else:
        target.admin.update_realm(name, made)


def _profile(target: Target, _: str, wanted: Fields, __: bool) -> None:
    declared = wanted["declared"]
    assert isinstance(declared, list)  # noqa: S101 - `realm.profile` is the only source
    attributes = []
    for name in declared:
        value = wanted[str(name)]
        assert isinstance(value, dict)  # noqa: S101
        attributes.append({"name": name, **value})
    # Without a policy, attributes that are not declared are refused.
    target.admin.update_realm_users_profile({"attributes": attributes})


def _role(target: Target, name: str, wanted: Fields, missing: bool) -> None:
    roles.mend(target.admin, name, wanted, missing=missing)
    target.changed("roles")
    target.changed("clients")


def _group(target: Target, path: str, wanted: Fields, missing: bool) -> None:
    parent, _, name = path.rpartition("/")
    if missing:
        target.admin.create_group({"name": name}, parent=target.groups()[parent]["id"] if parent else None)
    else:
        group = target.groups()[path]
        _strip_roles(target, group)
        target.admin.update_group(group["id"], {"name": name, "attributes": wanted["attributes"]})
    target.changed("groups")


def _strip_roles(target: Target, group: Mapping[str, Any]) -> None:
    """Take roles from a group: accounts have theirs themselves, where the list of people says so."""
    if names := group.get("realmRoles"):
        target.admin.delete_group_realm_roles(group["id"], [target.roles()[name] for name in names])
    for client, names in (group.get("clientRoles") or {}).items():
        theirs = [roles.role(target.admin, f"{client}/{name}") for name in names]
        target.admin.delete_group_client_roles(group["id"], target.clients()[client]["id"], theirs)


def _client(target: Target, name: str, wanted: Fields, _: bool) -> None:
    mappers = [
        {"name": key, "protocol": "openid-connect", **value}
        for key, value in mapping(wanted.get("mappers")).items()
        if isinstance(value, dict)
    ]
    plain = {key: value for key, value in wanted.items() if key not in ("mappers", "scopeRoles", "attributes")}
    # Some came with the realm.
    if name not in target.clients():
        body = {"clientId": name, **plain, "attributes": wanted["attributes"], "protocolMappers": mappers}
        target.admin.create_client(body)
        target.changed("clients")
    # A new client too: Keycloak gives one without redirect URIs those of every page.
    found = target.clients()[name]
    identity = found["id"]
    _update_client(target, found, plain, wanted)
    _mappers(target, found, mappers)
    scopes.mend_roles(target.admin, f"clients/{identity}", texts(wanted["scopeRoles"]))
    if "defaultClientScopes" in wanted:
        _scopes(target, identity, wanted)


def _update_client(target: Target, found: Mapping[str, Any], plain: Fields, wanted: Fields) -> None:
    there = {key: value for key, value in (found.get("attributes") or {}).items() if key not in read.NOTES}
    # Keycloak lets nobody change realm-management, not even into what it is.
    if there == wanted["attributes"] and all(
        canonical(found.get(key), like=plain[key]) == canonical(plain[key]) for key in plain
    ):
        return
    body = {**found, **plain}
    body.pop("protocolMappers", None)
    # An empty one is removed.
    body["attributes"] = {**dict.fromkeys(there, ""), **mapping(wanted["attributes"])}
    target.admin.update_client(found["id"], body)
    target.changed("clients")


def _mappers(target: Target, found: Mapping[str, Any], wanted: Iterable[Mapping[str, Any]]) -> None:
    there = {item["name"]: item for item in found.get("protocolMappers") or ()}
    goal = {item["name"]: item for item in wanted}
    for name, item in there.items():
        same = goal.get(name)
        if same is None or same["protocolMapper"] != item["protocolMapper"]:
            target.admin.remove_client_mapper(found["id"], item["id"])
        elif same["config"] != item["config"]:
            target.admin.update_client_mapper(found["id"], item["id"], {"id": item["id"], **same})
    for name, item in goal.items():
        if there.get(name, {}).get("protocolMapper") != item["protocolMapper"]:
            target.admin.add_mapper_to_client(found["id"], dict(item))


def _scopes(target: Target, identity: str, wanted: Fields) -> None:
    """Let a client have the client scopes that are wanted and no others: Keycloak gives some to new ones."""
    admin, ids = target.admin, target.scopes()
    default, optional = set(texts(wanted["defaultClientScopes"])), set(texts(wanted["optionalClientScopes"]))
    has = {item["name"] for item in admin.get_client_default_client_scopes(identity)}
    may = {item["name"] for item in admin.get_client_optional_client_scopes(identity)}
    # Away first: none can be both.
    for name in sorted(has - default):
        admin.delete_client_default_client_scope(identity, ids[name]["id"])
    for name in sorted(may - optional):
        admin.delete_client_optional_client_scope(identity, ids[name]["id"])
    for name in sorted(default - has):
        admin.add_client_default_client_scope(identity, ids[name]["id"], {})
    for name in sorted(optional - may):
        admin.add_client_optional_client_scope(identity, ids[name]["id"], {})


def _client_scope(target: Target, name: str, wanted: Fields, _: bool) -> None:
    scopes.mend(target.admin, name, wanted)
    target.changed("scopes")


def _machine(target: Target, client: str, wanted: Fields, _: bool) -> None:
    user = target.admin.get_client_service_account_user(target.clients()[client]["id"])
    _account(target, user, wanted)


def _person(target: Target, name: str, wanted: Fields, missing: bool) -> None:
    if missing:
        value, temporary = target.password_for(name)
        user = {key: item for key, item in wanted.items() if key not in ("roles", "clientRoles")}
        # With the password in the same step: a person without one could not be completed later.
        user |= {"username": name, "credentials": [{"type": "password", "value": value, "temporary": temporary}]}
        target.admin.create_user(user)
        target.changed("people")
    _account(target, target.people()[name], wanted)
    if not missing and wanted.get("enabled") is False:
        target.admin.user_logout(target.people()[name]["id"])


def _account(target: Target, user: Mapping[str, Any], wanted: Fields) -> None:
    """Bring an account's fields, groups and roles to what is wanted; what is equal is not sent."""
    plain = {key: value for key, value in wanted.items() if key not in ("groups", "roles", "clientRoles")}
    if any(canonical(user.get(key), like=value) != canonical(value) for key, value in plain.items()):
        target.admin.update_user(user["id"], {**user, **plain})
    if "groups" in wanted:
        _memberships(target, user["id"], set(texts(wanted["groups"])))
        _roles(target, user["id"], set(texts(wanted["roles"])))


def _memberships(target: Target, user: str, wanted: set[str]) -> None:
    found = {item["path"]: item["id"] for item in target.admin.get_user_groups(user)}
    for path in sorted(wanted - found.keys()):
        target.admin.group_user_add(user, target.groups()[path]["id"])
    for path in sorted(found.keys() - wanted):
        target.admin.group_user_remove(user, found[path])


def _roles(target: Target, user: str, wanted: set[str]) -> None:
    found = target.admin.get_all_roles_of_user(user)
    mine = {item["name"]: item for item in found.get("realmMappings") or ()}
    if lacking := [target.roles()[name] for name in sorted(wanted - mine.keys())]:
        target.admin.assign_realm_roles(user, lacking)
    if extra := [item for name, item in mine.items() if name not in wanted | {DEFAULT_ROLES}]:
        target.admin.delete_realm_roles_of_user(user, extra)
    for client in (found.get("clientMappings") or {}).values():
        target.admin.delete_client_roles_of_user(user, client["id"], client["mappings"])


_MAKE: Mapping[Kind, Callable[[Target, str, Fields, bool], None]] = {
    "realm": _realm,
    "component": lambda target, name, wanted, _: doors.make_component(target.admin, name, wanted),
    "client scope": _client_scope,
    "flow": lambda target, name, *_: flows.mend(target.admin, name),
    "required actions": lambda target, name, *_: doors.mend_actions(target.admin, name),
    "profile": _profile,
    "role": _role,
    "group": _group,
    "client": _client,
    "service account": _machine,
    "person": _person,
}
