"""The realm that a topology wants, and differences between two states. Pure: no Keycloak."""

from __future__ import annotations

import copy
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_keycloak import IdentityError, State, desired_state
from flowerbed_keycloak.clients import CLOSED
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
    assert names("client") == {"flwr", "kit", "hub", "grafana", "pipeline-demo", *CLOSED}
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
        for name in names("client") - set(CLOSED)
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
    with_audience = {name for name in names("client") - set(CLOSED) if "audience" in fields("client", name)["mappers"]}
    assert with_audience == {"flwr", "kit", "pipeline-demo", "hub"}


def test_redirects_lead_to_the_edge_alone() -> None:
    for client in ("hub", "grafana"):
        assert all(uri.startswith(f"{TOPOLOGY.url(client)}/") for uri in fields("client", client)["redirectUris"])
        assert fields("client", client)["attributes"]["pkce.code.challenge.method"] == "S256"


def test_a_pipeline_acts_where_the_topology_says() -> None:
    narrow = topology(
        pipelines=[{"name": "demo", "organisation": "north", "federations": ["pilot"], "roles": ["auditor"]}]
    )
    made = fields("service account", "pipeline-demo", desired_state(narrow, [], SECRETS))
    assert made["groups"] == ["/organisations/north", "/federations/pilot"]
    assert (made["roles"], made["attributes"]) == (["auditor"], {"flowerbed_aid": ["pipeline-demo"]})


def test_people_lose_what_the_topology_lost() -> None:
    person = account("mover", "person", "p-1", "gone", ["researcher", "wizard"], ["main", "gone"])
    made = fields("person", "mover", desired_state(TOPOLOGY, [person], SECRETS))
    assert (made["groups"], made["roles"]) == (["/federations/main"], ["researcher"])


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
