"""The realm that a topology wants, and differences between two states. Pure: no Keycloak."""

from __future__ import annotations

import copy
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_keycloak import IdentityError, State, desired_state
from flowerbed_keycloak.clients import BUILT_IN, CLOSED
from flowerbed_keycloak.doors import actions, named
from flowerbed_keycloak.flows import placed, requirements
from flowerbed_keycloak.fresh import BINDINGS, KEY_PROVIDER, KEYS
from flowerbed_keycloak.reconcile import people_notes, shut_out
from flowerbed_keycloak.state import EXACT, KINDS, Difference, Kind, canonical, differences
from flowerbed_topology import ROLES
from keycloak_support import SECRETS, account, people, topology

TOPOLOGY = topology()
PEOPLE = people(TOPOLOGY)
WANTED = desired_state(TOPOLOGY, PEOPLE, SECRETS)


def fields(kind: Kind, name: str, state: State = WANTED) -> dict[str, Any]:
    return dict(state[kind, name])


def names(kind: Kind, state: State = WANTED) -> set[str]:
    return {name for of, name in state if of == kind}


def test_it_holds_what_the_topology_names() -> None:
    assert names("realm") == {"master", "flowerbed"}
    assert set(ROLES) < names("role")
    assert names("group") == {
        *("/organisations", "/organisations/north", "/organisations/south"),
        *("/federations", "/federations/main", "/federations/pilot"),
    }
    assert names("client") == {"flwr", "kit", "hub", "grafana", "pipeline-demo", *BUILT_IN}
    assert names("service account") == {"kit", "pipeline-demo"}
    assert names("person") == {f"{role}-{name}" for role in ROLES for name in ("north", "south")}


def test_it_is_plain_data() -> None:
    assert json.loads(json.dumps([dict(value) for value in WANTED.values()]))


def test_lifetimes_follow_the_topology() -> None:
    made = topology(identity={"access_token_minutes": 2, "session_hours": 3})
    realm = fields("realm", "flowerbed", desired_state(made, [], SECRETS))
    assert realm["accessTokenLifespan"] == 120
    assert realm["ssoSessionMaxLifespan"] == realm["ssoSessionIdleTimeout"] == 3 * 3600
    assert (realm["revokeRefreshToken"], realm["refreshTokenMaxReuse"]) == (True, 0)


def test_both_realms_guard_logins() -> None:
    for name in ("master", "flowerbed"):
        realm = fields("realm", name)
        assert realm["bruteForceProtected"]
        assert realm["sslRequired"] == "all"
        assert realm["eventsEnabled"]
        assert realm["adminEventsEnabled"]
        assert realm["eventsExpiration"] == 90 * 86400
        # Anybody can make errors.
        assert not [name for name in realm["enabledEventTypes"] if name.endswith("_ERROR") or "DEVICE" in name]
        assert "length(12)" in realm["passwordPolicy"]
        assert not realm["registrationAllowed"]
    assert fields("realm", "master")["attributes.frontendUrl"] == TOPOLOGY.url("admin")


def test_no_attribute_is_a_persons_own_to_change() -> None:
    profile = fields("profile", "flowerbed")
    assert profile["unmanagedAttributePolicy"] == ""
    for name in profile["declared"]:
        assert profile[name]["permissions"]["edit"] == ["admin"]
    assert profile["flowerbed_aid"]["permissions"]["view"] == ["admin"]
    behind_claims = {
        mapper["config"].get("user.attribute")
        for name in names("client") - set(BUILT_IN)
        for mapper in fields("client", name)["mappers"].values()
    }
    assert behind_claims - {None} <= set(profile["declared"])


FLOWS = (
    *("standardFlowEnabled", "implicitFlowEnabled", "directAccessGrantsEnabled", "serviceAccountsEnabled"),
    "publicClient",
)


@pytest.mark.parametrize(
    ("client", "allowed"),
    [
        ("flwr", {"publicClient"}),
        ("kit", {"serviceAccountsEnabled"}),
        ("pipeline-demo", {"serviceAccountsEnabled"}),
        ("hub", {"standardFlowEnabled"}),
        ("grafana", {"standardFlowEnabled"}),
    ],
)
def test_each_client_has_one_way_in(client: str, allowed: set[str]) -> None:
    made = fields("client", client)
    assert {flow for flow in FLOWS if made[flow]} == allowed
    assert made["attributes"].get("oauth2.device.authorization.grant.enabled") == ("true" if client == "flwr" else None)
    assert (made["defaultClientScopes"], made["optionalClientScopes"], made["fullScopeAllowed"]) == ([], [], False)
    assert made.get("secret") == SECRETS.get(client)


def test_grafana_alone_has_tokens_that_the_superlink_refuses() -> None:
    with_audience = {name for name in names("client") if "audience" in fields("client", name)["mappers"]}
    assert with_audience == {"flwr", "kit", "pipeline-demo", "hub"}


def test_redirects_lead_to_the_edge_alone() -> None:
    for client in ("hub", "grafana"):
        assert all(uri.startswith(f"{TOPOLOGY.url(client)}/") for uri in fields("client", client)["redirectUris"])
        assert fields("client", client)["attributes"]["pkce.code.challenge.method"] == "S256"


def test_keycloaks_own_clients_act_for_nobody_and_lead_to_its_own_pages() -> None:
    for name in BUILT_IN:
        made = fields("client", name)
        assert made["enabled"] is (name not in CLOSED)
        assert not any(made[flow] for flow in ("serviceAccountsEnabled", "directAccessGrantsEnabled"))
        assert all(uri.startswith("/") for uri in made["redirectUris"])


def test_no_client_has_an_account_that_is_not_wanted() -> None:
    """Why an account that is not wanted goes by itself."""
    for name in names("client"):
        has_one = fields("client", name)["serviceAccountsEnabled"]
        assert has_one is (name in names("service account"))


def test_a_pipeline_acts_where_the_topology_says() -> None:
    narrow = topology(
        pipelines=[{"name": "demo", "organisation": "north", "federations": ["pilot"], "roles": ["auditor"]}]
    )
    made = fields("service account", "pipeline-demo", desired_state(narrow, [], SECRETS))
    assert made["groups"] == ["/organisations/north", "/federations/pilot"]
    assert (made["roles"], made["attributes"]) == (["auditor"], {"flowerbed_aid": ["pipeline-demo"]})


def test_people_lose_what_the_topology_lost() -> None:
    person = account("mover", "person", "p-1", "south", ["researcher", "wizard"], ["main", "gone"])
    made = fields("person", "mover", desired_state(TOPOLOGY, [person], SECRETS))
    assert (made["groups"], made["roles"]) == (["/organisations/south", "/federations/main"], ["researcher"])


@pytest.mark.parametrize("organisation", ["gone", None])
def test_people_of_an_organisation_that_left_have_no_power_and_are_named(organisation: str | None) -> None:
    person = account("former", "person", "p-1", organisation, ["operator", "auditor"], ["main"])
    state = desired_state(TOPOLOGY, [*PEOPLE, person], SECRETS)
    made = fields("person", "former", state)
    assert (made["groups"], made["roles"], made["enabled"]) == ([], [], True)
    assert list(people_notes(state, {})) == [
        "Of no organisation in federation.yaml, and so without roles and groups: former."
    ]


def test_who_was_disabled_in_keycloak_stays_so_and_is_named() -> None:
    found = mutable()
    for name in ("operator-north", "auditor-south"):
        found["person", name]["enabled"] = False
    found["person", "auditor-south"]["lastName"] = "changed"
    kept = shut_out(WANTED, found)
    assert [str(item) for item in differences({**WANTED, **kept}, found)] == [
        "person auditor-south: lastName is changed, wanted south"
    ]
    assert list(people_notes(WANTED, kept)) == [
        "Disabled in Keycloak alone, and left so: auditor-south, operator-north. flowerbed user enable lets them in again."
    ]


def test_who_is_disabled_in_the_list_is_shut_out_and_nobody_else_is_named() -> None:
    listed = [item | {"enabled": item["name"] != "operator-north"} for item in PEOPLE]
    wanted = desired_state(TOPOLOGY, listed, SECRETS)
    assert shut_out(wanted, WANTED) == {}
    assert [str(item) for item in differences(wanted, WANTED)] == [
        "person operator-north: enabled is True, wanted False"
    ]
    assert list(people_notes(wanted, {})) == []


# --- ways in


def component(name: str, **changes: Any) -> dict[str, Any]:
    return {"id": "1", "name": name, "providerType": KEY_PROVIDER, **KEYS.get(name, {}), **changes}


@pytest.mark.parametrize(
    "foreign",
    [
        component("mine", providerId="rsa"),
        component("mine", providerId="rsa-generated", config={"priority": ["100"]}),
        component("rsa-generated", providerId="rsa", config={"priority": ["100"]}),
        component("rsa-generated", config={"priority": ["200"]}),
        {"id": "1", "providerType": "org.keycloak.storage.UserStorageProvider", "providerId": "ldap"},
    ],
)
def test_a_component_that_is_not_keycloaks_own_is_known_by_its_id(foreign: dict[str, Any]) -> None:
    (name,) = named([foreign])
    assert name == f"{foreign.get('name')} ({foreign['providerId']}, 1)"


def test_of_two_keys_that_look_the_same_neither_is_trusted() -> None:
    found = [component(name) for name in KEYS]
    assert set(named(found)) == set(KEYS)
    twice = named([*found, component("rsa-generated", id="2")])
    assert set(KEYS) - set(twice) == {"rsa-generated"}
    assert len(twice) == len(KEYS) + 1


def test_what_is_below_a_foreign_component_goes_with_it() -> None:
    above = {
        "id": "7",
        "name": "theirs",
        "providerType": "org.keycloak.storage.UserStorageProvider",
        "providerId": "ldap",
    }
    below = component("x", id="8", parentId="7", providerId="user-attribute-ldap-mapper")
    beside = component("y", id="9", parentId="realm", providerId="rsa")
    assert set(named([below, above, beside])) == {"theirs (ldap, 7)", "y (rsa, 9)"}


def execution(level: int, name: str, requirement: str = "REQUIRED", *, flow: bool = False) -> dict[str, Any]:
    own = {"authenticationFlow": True} if flow else {"providerId": name}
    return {"level": level, "displayName": name, "requirement": requirement, **own}


def test_foreign_ways_in_go_before_people_are_made_and_after_keycloaks_own_keys_are() -> None:
    found = {("component", "flowerbed/theirs (ldap, 7)"): {}, ("role", "theirs"): {}, ("realm", "flowerbed"): {}}
    made = differences({key: WANTED[key] for key in WANTED if key[0] != "realm"}, found)
    order = [(item.kind, item.change) for item in made]
    theirs = order.index(("component", "extra"))
    assert theirs == len(KEYS) * 2
    assert theirs < order.index(("person", "missing"))
    assert order[-1] == ("role", "extra")


def test_executions_are_known_by_their_place_and_added_ones_by_what_they_do() -> None:
    found = placed(
        [
            execution(0, "auth-cookie", "DISABLED"),
            execution(0, "forms", flow=True),
            execution(1, "inner", flow=True),
            execution(2, "x", "ALTERNATIVE"),
            execution(1, "auth-username-password-form"),
            execution(1, "auth-username-password-form"),
            execution(0, "y", "DISABLED"),
        ]
    )
    assert requirements("browser", found) == {
        "auth-cookie": "DISABLED",
        "forms": "REQUIRED",
        "forms/inner": "REQUIRED",
        "forms/inner/x": "ALTERNATIVE",
        "forms/auth-username-password-form": "REQUIRED",
        "forms/auth-username-password-form#": "REQUIRED",
    }


def test_added_actions_count_where_they_are_on() -> None:
    found = [
        {"alias": "UPDATE_PASSWORD", "enabled": False, "defaultAction": True},
        {"alias": "x", "enabled": False, "defaultAction": False},
        {"alias": "y", "enabled": True, "defaultAction": False},
        {"alias": "z", "enabled": True, "defaultAction": True},
    ]
    assert actions(found) == {"UPDATE_PASSWORD": "off", "y": "on", "z": "by default"}


def test_both_realms_have_keycloaks_own_ways_in_and_no_others() -> None:
    assert names("component") == {f"{realm}/{name}" for realm in ("master", "flowerbed") for name in KEYS}
    assert names("identity provider") == set()
    for realm in ("master", "flowerbed"):
        assert fields("realm", realm).items() >= BINDINGS.items()
        assert fields("flow", f"{realm}/browser")["executions"]["forms/auth-username-password-form"] == "REQUIRED"


@pytest.mark.parametrize("missing", SECRETS)
def test_a_missing_secret_is_a_sentence(missing: str) -> None:
    given = {name: value for name, value in SECRETS.items() if name != missing}
    with pytest.raises(
        IdentityError, match=rf"^The secret of the client {missing} is missing \(secrets/kit\): run make up"
    ):
        desired_state(TOPOLOGY, PEOPLE, given)
    with pytest.raises(IdentityError, match="has fewer than 32 characters"):
        desired_state(TOPOLOGY, PEOPLE, given | {missing: "short"})


# --- differences


def mutable() -> dict[tuple[Kind, str], Any]:
    return copy.deepcopy({key: dict(value) for key, value in WANTED.items()})


def test_equal_states_do_not_differ() -> None:
    assert differences(WANTED, mutable()) == []


def test_order_in_lists_and_fields_of_keycloaks_own_do_not_matter() -> None:
    found = mutable()
    for value in found.values():
        value["id"] = "x"
        for name, item in value.items():
            if isinstance(item, list):
                value[name] = item[::-1]
    assert differences(WANTED, found) == []


def test_against_nothing_everything_is_missing_in_an_order_that_can_be_made() -> None:
    made = differences(WANTED, {})
    assert [(item.kind, item.name) for item in made] == sorted(WANTED, key=lambda key: KINDS.index(key[0]))
    assert {item.change for item in made} == {"missing"}
    paths = [item.name for item in made if item.kind == "group"]
    assert all(path.rpartition("/")[0] in ("", *paths[:place]) for place, path in enumerate(paths))


@given(st.sampled_from(sorted(WANTED)), st.data())
def test_any_changed_field_is_found_and_named(key: tuple[Kind, str], data: st.DataObject) -> None:
    found = mutable()
    field = data.draw(st.sampled_from(sorted(found[key])))
    found[key][field] = "changed by hand"
    made = differences(WANTED, found)
    assert made
    assert {(item.kind, item.name) for item in made} == {key}
    assert all(item.field.startswith(field) and item.change == "differs" for item in made)
    assert str(made[0]).startswith(f"{key[0]} {key[1]}: {field}")


@pytest.mark.parametrize("kind", get_args(Kind))
def test_what_is_not_wanted_goes_unless_it_is_a_person(kind: Kind) -> None:
    made = differences(WANTED, {**mutable(), (kind, "by-hand"): {"enabled": True}})
    assert made == ([Difference(kind, "by-hand", "extra")] if kind in EXACT else [])


def test_a_secret_is_never_shown() -> None:
    found = mutable()
    found["client", "kit"]["secret"] = "guessed"
    assert [str(item) for item in differences(WANTED, found)] == ["client kit: secret differs"]


def test_no_value_is_the_empty_one_that_is_wanted() -> None:
    assert [canonical(None, like=value) for value in (False, "", [], {}, 0)] == [False, "", [], {}, 0]
