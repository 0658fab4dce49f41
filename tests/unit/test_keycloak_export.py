"""What an export says of flows, scopes, roles and groups; that a real one says so is what the integration tests find."""

from __future__ import annotations

from typing import Any

import pytest

from flowerbed_keycloak import flows, read, read_scopes, snapshot
from flowerbed_keycloak.fresh import FLOWS, SETTINGS, order


def execution(provider: str, priority: int, **fields: Any) -> dict[str, Any]:
    flow = "flowAlias" in fields
    made = {"authenticator": provider, "authenticatorFlow": flow, "requirement": "REQUIRED", "priority": priority}
    return made | fields


def flow(alias: str, *executions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"alias": alias, "topLevel": True, "builtIn": True, "authenticationExecutions": list(executions)} | fields


def test_executions_come_in_the_order_of_their_priority_with_those_below() -> None:
    below = flow("forms", execution("b", 20), execution("a", 10), topLevel=False)
    whole = {
        "authenticationFlows": [flow("browser", execution("", 20, flowAlias="forms"), execution("first", 5)), below],
        "authenticatorConfig": [],
    }
    assert list(flows.placed(flows.executions(whole, "browser"))) == ["first", "forms", "forms/a", "forms/b"]


@pytest.mark.parametrize(
    ("configs", "found"),
    [
        ([], {}),
        ([{"credentials": "x"}], {"credentials": "x"}),
        # What was replaced stays behind under its name: it counts no more, and is the same.
        ([{"credentials": "x"}, {"credentials": "x"}], {"credentials": "x"}),
        ([{"credentials": "x"}, {"credentials": "y"}], {"": "2 settings called mine"}),
    ],
)
def test_settings_that_cannot_be_told_apart_are_nobodys(configs: list[dict[str, str]], found: dict[str, str]) -> None:
    whole = {"authenticatorConfig": [{"alias": "mine", "config": config} for config in configs]}
    assert flows.settings(whole, "mine") == found
    assert flows.settings(whole, None) == {}


def test_flows_of_somebodys_are_seen_and_other_flows_of_keycloaks_own_are_not() -> None:
    whole = {
        "authenticationFlows": [
            flow("saml ecp"),
            flow("theirs", builtIn=False),
            flow("below theirs", builtIn=False, topLevel=False),
            flow("docker auth", execution("docker-http-basic-authenticator", 10), builtIn=False),
        ],
        "authenticatorConfig": [],
    }
    found = dict(flows.flows(whole))
    assert found.keys() == {"theirs", "docker auth"}
    assert found["docker auth"]["builtIn"] is False


def test_every_setting_and_place_of_a_fresh_flow_is_in_the_tables() -> None:
    assert all(place in FLOWS[alias] for alias, places in SETTINGS.items() for place in places)
    assert order("direct grant", FLOWS["direct grant"])["Direct Grant - Conditional OTP"] == (
        "conditional-user-configured, direct-grant-validate-otp"
    )


def test_roles_that_tokens_may_name_are_those_of_the_realm_and_of_clients() -> None:
    whole = {
        "scopeMappings": [{"client": "a", "roles": ["x"]}, {"clientScope": "a", "roles": ["y"]}],
        "clientScopeMappings": {"account": [{"client": "a", "roles": ["z"]}, {"client": "b", "roles": ["z"]}]},
    }
    assert read_scopes.roles(whole, "client", "a") == ["x", "account/z"]
    assert read_scopes.roles(whole, "clientScope", "a") == ["y"]
    assert read_scopes.roles({}, "client", "a") == []


def test_what_a_role_brings_with_it_is_named_with_its_client() -> None:
    role = {"composites": {"realm": ["operator"], "client": {"account": ["view-profile"]}}}
    assert read.composites(role) == ["operator", "account/view-profile"]
    assert read.composites({}) == []


def test_groups_of_an_export_come_parents_first() -> None:
    tree = [{"path": "/a", "subGroups": [{"path": "/a/b", "subGroups": [{"path": "/a/b/c"}]}]}, {"path": "/d"}]
    assert [path for path, _ in snapshot.groups(tree)] == ["/a", "/a/b", "/a/b/c", "/d"]
