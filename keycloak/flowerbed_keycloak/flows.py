"""Reads and mends login flows: which there are, and of those that are bound every execution, its order and its settings.

What they should be is in `fresh`. Keycloak lets nobody add to its own flows or take from them, but anybody who administers may
change how an execution counts, where it comes, and its settings: each can do away with the second factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from keycloak import KeycloakAdmin

from .connection import within
from .errors import KeycloakRefusedError
from .fresh import FLOWS, SETTINGS, order
from .state import Fields, Value


def flows(whole: Mapping[str, Any]) -> Iterator[tuple[str, Fields]]:
    """Yield an export's flows: those that `fresh` knows, and every other that is not Keycloak's own."""
    there = {item["alias"]: item for item in whole["authenticationFlows"] if item["topLevel"]}
    for alias in FLOWS.keys() & there.keys():
        found = placed(executions(whole, alias))
        yield (
            alias,
            {
                "builtIn": there[alias]["builtIn"],
                "executions": requirements(alias, found),
                "order": order(alias, found),
                "settings": {place: item["settings"] for place, item in found.items() if item["settings"]},
            },
        )
    for alias, item in there.items():
        if alias not in FLOWS and not item["builtIn"]:
            yield alias, {"builtIn": False}


def executions(whole: Mapping[str, Any], alias: str, level: int = 0) -> Iterator[dict[str, Any]]:
    """Yield an export's executions of a flow with those of its sub-flows, as the admin API lists them, and with settings."""
    flow: Mapping[str, Any] = next((item for item in whole["authenticationFlows"] if item["alias"] == alias), {})
    for item in sorted(flow.get("authenticationExecutions", ()), key=lambda item: int(item["priority"])):
        below = item.get("flowAlias") if item["authenticatorFlow"] else None
        yield {
            "level": level,
            "requirement": item["requirement"],
            "authenticationFlow": bool(below),
            "displayName": below,
            "providerId": item.get("authenticator"),
            "settings": settings(whole, item.get("authenticatorConfig")),
        }
        if below:
            yield from executions(whole, below, level + 1)


def settings(whole: Mapping[str, Any], alias: str | None) -> dict[str, Value]:
    """Return the settings of a name; where several have it and are not the same, which one counts does not show."""
    found = [item["config"] for item in whole["authenticatorConfig"] if item["alias"] == alias]
    if not found:
        return {}
    return dict(found[0]) if all(item == found[0] for item in found) else {"": f"{len(found)} settings called {alias}"}


def placed(executions: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return a flow's executions by their place: names of sub-flows and ids of providers."""
    made: dict[str, Mapping[str, Any]] = {}
    above: list[str] = []
    for item in executions:
        del above[item["level"] :]
        own = str(item["displayName"] if item.get("authenticationFlow") else item["providerId"])
        place = "/".join([*above, own])
        while place in made:
            place += "#"
        made[place] = item
        above.append(place.rpartition("/")[2])
    return made


def requirements(alias: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Value]:
    """Return requirements by place; what is not Keycloak's own and does nothing is left out."""
    return {
        place: item["requirement"]
        for place, item in found.items()
        if place in FLOWS[alias] or item["requirement"] != "DISABLED"
    }


def mend(admin: KeycloakAdmin, path: str) -> None:
    """Give every execution of a flow Keycloak's own requirement, order and settings, and disable those that were added.

    Raises:
        KeycloakRefusedError: one of Keycloak's own is gone, or the flow, which its admin API cannot bring back.
    """
    realm, _, alias = path.partition("/")
    with within(admin, realm):
        there = next((item for item in admin.get_authentication_flows() if item["alias"] == alias), None)
        found = placed(admin.get_authentication_flow_executions(alias)) if there and there["builtIn"] else {}
        if gone := sorted(FLOWS[alias].keys() - found.keys()):
            raise KeycloakRefusedError(
                f"The flow {alias} of realm {realm} has lost {', '.join(gone)}, and Keycloak cannot bring that back: "
                "rebuild Keycloak (docs/runbooks/keycloak-rebuild.md)."
            )
        turns = _turns(alias, found)
        for place, item in found.items():
            wanted = {"requirement": FLOWS[alias].get(place, "DISABLED"), "priority": turns[place]}
            if any(item[key] != value for key, value in wanted.items()):
                admin.update_authentication_flow_executions({**item, **wanted}, alias)
            _mend_settings(admin, item, SETTINGS.get(alias, {}).get(place, {}))


def _turns(alias: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return the priority of each execution: its own, but one made anew where the order of its level is not Keycloak's."""
    wrong = order(alias, found).items() - order(alias, FLOWS[alias]).items()
    levels = {level for level, _ in wrong}
    made = {place: int(item["priority"]) for place, item in found.items()}
    for number, place in enumerate(FLOWS[alias], 1):
        if (place.rpartition("/")[0] or alias) in levels:
            made[place] = number * 10
    return made


def _mend_settings(admin: KeycloakAdmin, item: Mapping[str, Any], wanted: Mapping[str, Value]) -> None:
    identity = item.get("authenticationConfig")
    if not identity:
        if wanted:
            admin.create_execution_config(item["id"], {"alias": f"flowerbed {item['id']}", "config": wanted})
    elif not wanted:
        admin.delete_authenticator_config(identity)
    elif (found := admin.get_authenticator_config(identity))["config"] != wanted:
        # A name of its own: others may have the old one.
        admin.update_authenticator_config({**found, "alias": f"flowerbed {identity}", "config": wanted}, identity)


def remove(admin: KeycloakAdmin, path: str) -> None:
    """Remove a flow that is not Keycloak's own; nothing is bound to it any more."""
    realm, _, alias = path.partition("/")
    with within(admin, realm):
        for item in admin.get_authentication_flows():
            if item["alias"] == alias and not item["builtIn"]:
                admin.delete_authentication_flow(item["id"])
