"""Reading Keycloak through the real python-keycloak; a stand-in for its HTTP connection serves a tree of groups by pages."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from keycloak import KeycloakAdmin, KeycloakOpenIDConnection

from flowerbed_keycloak import read


class StandIn(KeycloakOpenIDConnection):
    """Answers what Keycloak would of groups, whose id is their path with dots; at most 100 at once."""

    def __init__(self, *paths: str) -> None:
        super().__init__(server_url="https://keycloak.invalid/", realm_name="flowerbed")
        self.paths = paths

    def children(self, parent: str) -> list[str]:
        return [path for path in self.paths if path.rpartition("/")[0] == parent]

    def raw_get(self, path: str, **query: Any) -> requests.Response:
        _, _, below = path.partition("/groups")
        parent = below.removesuffix("/children").lstrip("/").replace(".", "/")
        first, most = int(query["first"]), int(query["max"])
        assert query["briefRepresentation"] == "false"
        answer = requests.Response()
        answer.status_code = 200
        found = self.children(parent)[first : first + most]
        answer._content = json.dumps([self.group(item) for item in found]).encode()
        return answer

    def group(self, path: str) -> dict[str, Any]:
        return {
            "id": path.replace("/", "."),
            "path": path,
            "subGroupCount": len(self.children(path)),
            "subGroups": [],
        }


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 230])
def test_every_group_is_read_however_many_a_parent_has(count: int) -> None:
    paths = [
        *("/organisations", "/federations"),
        *(f"/federations/f{number}" for number in range(count)),
        *(f"/organisations/o{number}" for number in range(count)),
        *(f"/organisations/o0/wards-{number}" for number in range(count)),
    ]
    found = list(read.groups(KeycloakAdmin(connection=StandIn(*paths))))
    assert sorted(found) == sorted(paths)
    assert all(path.rpartition("/")[0] in ("", *found[:place]) for place, path in enumerate(found))


def test_more_groups_at_the_top_than_a_page_holds_are_all_read() -> None:
    paths = [f"/g{number}" for number in range(101)] + ["/g100/below"]
    assert sorted(read.groups(KeycloakAdmin(connection=StandIn(*paths)))) == sorted(paths)
