"""Reads and mends the ways into a realm beside its accounts: keys, user federation, identity providers, required actions.

What they should be is in `fresh`; login flows are in `flows`. Each function is given the realm, because the administrators'
realm has the same ways in.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from keycloak import KeycloakAdmin
from keycloak.exceptions import KeycloakPostError, raise_error_from_response

from . import flows
from .connection import within
from .fresh import KEY_PROVIDER, KEYS, LEFT_ALONE, REQUIRED_ACTIONS
from .state import Fields, Kind, Value


def doors(whole: Mapping[str, Any]) -> dict[tuple[Kind, str], Fields]:
    """Return every way into a realm that `fresh` knows, and every other component and identity provider, from an export."""
    realm = whole["realm"]
    made: dict[tuple[Kind, str], Fields] = {}
    for name, item in named(components(whole.get("components") or {})).items():
        made["component", f"{realm}/{name}"] = {"providerId": item["providerId"], "config": item.get("config", {})}
    for item in whole.get("identityProviders") or ():
        made["identity provider", f"{realm}/{item['alias']}"] = {"providerId": item["providerId"]}
    made |= {("flow", f"{realm}/{alias}"): fields for alias, fields in flows.flows(whole)}
    made["required actions", realm] = {"actions": actions(whole["requiredActions"])}
    return made


# --- components


def components(tree: Mapping[str, Iterable[Mapping[str, Any]]], parent: str = "") -> Iterator[dict[str, Any]]:
    """Yield an export's components, those below others too, as the admin API has them."""
    for kind, items in tree.items():
        for item in items:
            yield {**item, "providerType": kind, "parentId": parent}
            yield from components(item.get("subComponents") or {}, item["id"])


def named(components: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return components by name; those that are not Keycloak's own, with kind and id, so that no two share one.

    Of two that look the same, one may be somebody's: neither is taken for Keycloak's own. What is below one that has to go
    goes with it.
    """
    compared = [item for item in components if item["providerType"] not in LEFT_ALONE]
    going = {item["id"] for item in compared if not _own(item)}
    compared = [item for item in compared if item.get("parentId") not in going]
    own = Counter(item["name"] for item in compared if _own(item))
    made = {}
    for item in compared:
        sure = _own(item) and own[item["name"]] == 1
        name = str(item.get("name"))
        made[name if sure else f"{name} ({item['providerId']}, {item['id']})"] = item
    return made


def _own(item: Mapping[str, Any]) -> bool:
    """Return whether a component is what Keycloak makes for a new realm, as far as it shows."""
    fields = {"providerId": item["providerId"], "config": item.get("config", {})}
    return item["providerType"] == KEY_PROVIDER and KEYS.get(str(item.get("name"))) == fields


def make_component(admin: KeycloakAdmin, path: str, wanted: Fields) -> None:
    """Let Keycloak make a key of its own."""
    realm, _, name = path.partition("/")
    with within(admin, realm):
        # A new realm has them already.
        if name not in named(admin.get_components()):
            admin.create_component({"name": name, "providerType": KEY_PROVIDER, **wanted})
            admin.connection.get_token()


def remove_component(admin: KeycloakAdmin, path: str) -> None:
    """Remove a component, with those below it."""
    realm, _, name = path.partition("/")
    with within(admin, realm):
        if item := named(admin.get_components()).get(name):
            admin.delete_component(item["id"])
            # The token in use may have been signed with it.
            admin.connection.get_token()


def remove_identity_provider(admin: KeycloakAdmin, path: str) -> None:
    """Remove an identity provider, with people's links to it."""
    realm, _, alias = path.partition("/")
    with within(admin, realm):
        admin.delete_idp(alias)


# --- required actions


def actions(found: Iterable[Mapping[str, Any]]) -> dict[str, Value]:
    """Return whether each action is `on`, `off` or on `by default`; those of others that are off are left out."""
    made: dict[str, Value] = {str(item["alias"]): _switch(item) for item in found}
    return {alias: value for alias, value in made.items() if alias in REQUIRED_ACTIONS or value != "off"}


def _switch(item: Mapping[str, Any]) -> str:
    if not item["enabled"]:
        return "off"
    return "by default" if item["defaultAction"] else "on"


def mend_actions(admin: KeycloakAdmin, realm: str) -> None:
    """Switch every action as Keycloak's own are, and those that were added off."""
    with within(admin, realm):
        there = {item["alias"] for item in admin.get_required_actions()}
        for alias in sorted(REQUIRED_ACTIONS.keys() - there):
            _register(admin, realm, alias)
        for item in admin.get_required_actions():
            wanted = REQUIRED_ACTIONS.get(item["alias"], "off")
            if _switch(item) != wanted:
                change = {"enabled": wanted != "off", "defaultAction": wanted == "by default"}
                admin.update_required_action(item["alias"], {**item, **change})


def _register(admin: KeycloakAdmin, realm: str, alias: str) -> None:
    """Bring back an action that was removed; python-keycloak has no function for it."""
    path = f"admin/realms/{realm}/authentication/register-required-action"
    answer = admin.connection.raw_post(path, data=json.dumps({"providerId": alias, "name": alias}))
    raise_error_from_response(answer, KeycloakPostError, expected_codes=[204])
