"""What Keycloak holds, fetched: each thing once, and what does not need another at the same time. Writes nothing.

Not for what it means: that is in `read`. The number of requests follows from roles and groups, not from people, of whom 100
come with each; most of them are of the kind "who has this?", which Keycloak answers in no other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from keycloak import KeycloakAdmin
from keycloak.exceptions import KeycloakPostError

from .connection import Connection, within
from .realm import DEFAULT_ROLES, MASTER, REALM

# As many as make a difference on two cores, and fewer than the connections that are kept.
AT_ONCE = 4
MANAGEMENT = "realm-management"

Export = Mapping[str, Any]
What = Literal["group", "role", "management"]
Members = Mapping[tuple[What, str], list[str]]


@dataclass(frozen=True)
class Content:
    """Realm flowerbed: its export, and what that has not."""

    whole: Export
    clients: list[dict[str, Any]]
    """With their secrets, which an export masks."""
    people: list[dict[str, Any]]
    profile: dict[str, Any]
    members: Members
    """Ids of people by what they are in or have: paths of groups, names of roles, names of roles of realm-management."""


@dataclass(frozen=True)
class Snapshot:
    """Both realms."""

    master: Export
    administrators: list[dict[str, Any]]
    content: Content | None
    """None where there is no realm flowerbed yet."""


def take(admin: KeycloakAdmin) -> Snapshot:
    """Return what both realms hold."""
    with within(admin, MASTER):
        administrators = admin.get_users({})
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        master = pool.submit(_export, admin, MASTER)
        try:
            whole = _export(admin, REALM)
        except KeycloakPostError as error:
            if error.response_code != 404:
                raise
            return Snapshot(master.result(), administrators, None)
        return Snapshot(master.result(), administrators, _content(admin, whole, pool))


def _export(admin: KeycloakAdmin, realm: str) -> Export:
    connection = admin.connection
    assert isinstance(connection, Connection)  # noqa: S101 - `connection.administrator` makes no other
    return connection.export(realm)


def _content(admin: KeycloakAdmin, whole: Export, pool: Executor) -> Content:
    clients, people = pool.submit(admin.get_clients), pool.submit(admin.get_users, {})
    profile = pool.submit(admin.get_realm_users_profile)
    asked = {what: pool.submit(ask) for what, ask in _memberships(admin, whole)}
    members = {what: [item["id"] for item in answer.result()] for what, answer in asked.items()}
    return Content(whole, clients.result(), people.result(), profile.result(), members)


def _memberships(
    admin: KeycloakAdmin, whole: Export
) -> Iterator[tuple[tuple[What, str], Callable[[], list[dict[str, Any]]]]]:
    """Yield each group and role with the question who is in it or has it."""
    for path, group in groups(whole["groups"]):
        yield ("group", path), partial(admin.get_group_members, group["id"], _brief())
    for role in whole["roles"]["realm"]:
        if role["name"] == DEFAULT_ROLES:
            # Everybody.
            continue
        yield ("role", role["name"]), partial(admin.get_realm_role_members, role["name"], _brief())
    # Of Keycloak's own clients this one alone has power over others.
    identity = next(item["id"] for item in whole["clients"] if item["clientId"] == MANAGEMENT)
    for role in whole["roles"]["client"][MANAGEMENT]:
        ask = partial(admin.get_client_role_members, identity, role["name"], **_brief())
        yield ("management", role["name"]), ask


def _brief() -> dict[str, Any]:
    # A new one each: python-keycloak writes the page that it asks for into what it is given.
    return {"briefRepresentation": "true"}


def groups(found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield an export's groups by path, parents first."""
    for group in found:
        yield group["path"], group
        yield from groups(group.get("subGroups") or [])
