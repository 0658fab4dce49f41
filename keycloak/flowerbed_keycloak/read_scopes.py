"""Client scopes, mappers and what tokens may name, from an export. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .state import Fields, Value


def scopes(whole: Mapping[str, Any]) -> Iterator[tuple[str, Fields]]:
    """Yield an export's client scopes."""
    given = dict.fromkeys(whole.get("defaultDefaultClientScopes") or (), "default")
    given |= dict.fromkeys(whole.get("defaultOptionalClientScopes") or (), "optional")
    for item in whole.get("clientScopes") or ():
        yield (
            item["name"],
            {
                "protocol": item.get("protocol"),
                "attributes": {key: value for key, value in (item.get("attributes") or {}).items() if value},
                "mappers": mappers(item),
                "roles": roles(whole, "clientScope", item["name"]),
                "given": given.get(item["name"], ""),
            },
        )


def mappers(item: Mapping[str, Any]) -> dict[str, Value]:
    """Return the mappers of a scope or a client by name."""
    return {
        mapper["name"]: {"protocolMapper": mapper["protocolMapper"], "config": mapper.get("config") or {}}
        for mapper in item.get("protocolMappers") or ()
    }


def roles(whole: Mapping[str, Any], kind: str, name: str) -> list[Value]:
    """Return the roles that tokens of a `client` or a `clientScope` may name: `name`, or `client/name` of a client's."""
    made: list[Value] = []
    for item in whole.get("scopeMappings") or ():
        made += item["roles"] if item.get(kind) == name else ()
    for client, items in (whole.get("clientScopeMappings") or {}).items():
        for item in items:
            made += [f"{client}/{role}" for role in item["roles"]] if item.get(kind) == name else ()
    return made
