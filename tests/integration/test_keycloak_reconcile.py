"""The realm as code against a real Keycloak on PostgreSQL: equal after one run, untouched by the second, repaired, rebuilt."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from keycloak import KeycloakAdmin

from flowerbed_keycloak import KeycloakDownError, KeycloakRefusedError, Report, disable, enable, set_password
from flowerbed_keycloak.bootstrap import ready
from flowerbed_keycloak.connection import BOOTSTRAP_CLIENT, Connection
from flowerbed_keycloak.read import current_state
from flowerbed_keycloak.snapshot import take
from flowerbed_keycloak.state import differences
from images_support import docker
from keycloak_drift import AUDITOR, CUSTODIAN, DRIFTS, RESEARCHER, client, imported_key, person
from keycloak_people import TOKENS, NotLoggedInError, account_token, device_login
from keycloak_support import SECRETS, Keycloak, account, claims, password, running

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    with running(tmp_path_factory.mktemp("keycloak")) as made:
        yield made


@pytest.fixture(scope="module")
def first(keycloak: Keycloak) -> dict[str, Report]:
    """What a dry run, the first run and the second run say about a new Keycloak."""
    return {
        "dry": keycloak.reconcile(dry_run=True),
        "first": keycloak.reconcile(),
        "second": keycloak.reconcile(),
    }


@pytest.fixture(scope="module")
def admin(keycloak: Keycloak, first: dict[str, Report]) -> KeycloakAdmin:
    assert first["first"].writes
    found = ready(keycloak.access)
    assert found is not None
    return found


def test_a_dry_run_names_every_object_and_writes_nothing(first: dict[str, Report]) -> None:
    assert first["dry"].writes == 0
    for line in (
        "client flowerbed-kit of realm master: missing",
        "realm flowerbed: missing",
        "person auditor-south: missing",
    ):
        assert line in first["dry"].lines


def test_a_second_run_writes_nothing(first: dict[str, Report]) -> None:
    assert first["first"].writes > 40
    assert first["second"] == Report((), (), 0)


def test_the_bootstrap_client_is_gone(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    with keycloak.http("admin") as http:
        form = {
            "grant_type": "client_credentials",
            "client_id": BOOTSTRAP_CLIENT,
            "client_secret": keycloak.access.bootstrap_secret,
        }
        answer = http.post("/realms/master/protocol/openid-connect/token", data=form)
    assert answer.status_code == 401
    admin.change_current_realm("master")
    try:
        assert admin.get_users({}) == []
    finally:
        admin.change_current_realm("flowerbed")


def test_issuers_are_the_public_names(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    assert admin
    with keycloak.http() as http:
        found = http.get("/realms/flowerbed/.well-known/openid-configuration").json()
        assert found["issuer"] == keycloak.topology.issuer
        assert found["jwks_uri"].startswith(keycloak.topology.issuer)
    with keycloak.http("admin") as http:
        found = http.get("/realms/master/.well-known/openid-configuration").json()
        assert found["issuer"] == f"{keycloak.topology.url('admin')}/realms/master"


# --- tokens


@pytest.mark.parametrize(
    ("client", "aid", "roles", "groups"),
    [
        ("kit", "flowerbed", {"operator"}, {"/federations/main", "/federations/pilot"}),
        (
            "pipeline-demo",
            "pipeline-demo",
            {"researcher"},
            {"/federations/main", "/federations/pilot", "/organisations/north"},
        ),
    ],
)
def test_a_machine_has_the_claims_of_its_account(
    keycloak: Keycloak, admin: KeycloakAdmin, client: str, aid: str, roles: set[str], groups: set[str]
) -> None:
    assert admin
    answer = keycloak.token(client)
    assert answer.status_code == 200, answer.text
    assert "refresh_token" not in answer.json()
    assert 290 < answer.json()["expires_in"] <= 300
    found = claims(answer.json()["access_token"])
    assert (found["flowerbed_aid"], set(found["flowerbed_roles"]), set(found["flowerbed_groups"])) == (
        aid,
        roles,
        groups,
    )
    assert (found["aud"], found["azp"], found["iss"]) == ("flowerbed-superlink", client, keycloak.topology.issuer)


def test_a_person_has_their_claims_and_one_use_of_each_refresh_token(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    assert admin
    with keycloak.http() as http:
        answer = device_login(http, CUSTODIAN, password(CUSTODIAN))
        found = claims(answer["access_token"])
        aid = next(item["aid"] for item in keycloak.people if item["name"] == CUSTODIAN)
        assert found["flowerbed_aid"] == aid
        assert (found["preferred_username"], found["azp"], found["aud"]) == (CUSTODIAN, "flwr", "flowerbed-superlink")
        assert found["flowerbed_roles"] == ["custodian"]
        assert set(found["flowerbed_groups"]) == {"/federations/main", "/organisations/south"}
        again = refresh(http, answer["refresh_token"])
        assert again.status_code == 200, again.text
        assert claims(again.json()["access_token"])["flowerbed_aid"] == aid
        assert refresh(http, answer["refresh_token"]).status_code == 400


def refresh(http: httpx.Client, token: str) -> httpx.Response:
    return http.post(TOKENS, data={"grant_type": "refresh_token", "client_id": "flwr", "refresh_token": token})


@pytest.mark.parametrize("client", ["flwr", "kit", "pipeline-demo", "hub", "grafana", "admin-cli", "account-console"])
def test_no_client_takes_a_password(keycloak: Keycloak, admin: KeycloakAdmin, client: str) -> None:
    assert admin
    answer = keycloak.token(client, grant_type="password", username=RESEARCHER, password=password(RESEARCHER))
    assert answer.status_code in (400, 401), answer.text
    assert "access_token" not in answer.text


@pytest.mark.parametrize("scope", ["offline_access", "profile", "roles"])
def test_no_scope_adds_to_a_token(keycloak: Keycloak, admin: KeycloakAdmin, scope: str) -> None:
    assert admin
    answer = keycloak.token("pipeline-demo", scope=scope)
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_scope"


def test_what_people_change_of_themselves_changes_no_claim(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    assert admin
    with keycloak.http() as http:
        before = claims(device_login(http, AUDITOR, password(AUDITOR))["access_token"])
    with keycloak.http() as http:
        headers = {
            "Authorization": f"Bearer {account_token(http, keycloak.topology.issuer, AUDITOR, password(AUDITOR))}"
        }
        answer = http.get("/realms/flowerbed/account/", headers=headers | {"Accept": "application/json"})
        assert answer.status_code == 200, answer.text
        mine = answer.json()
        assert mine["username"] == AUDITOR
        assert "flowerbed_aid" not in mine.get("attributes", {})
        stolen = {
            "flowerbed_aid": ["p-stolen"],
            "flowerbed_groups": ["/federations/pilot"],
            "flowerbed_roles": ["operator"],
        }
        for change in ({"attributes": stolen}, {"username": "operator-north"}, {"email": "x@y.z"}, {"id": "other"}):
            # Some are refused, some accepted without an effect; a way that is not there would prove nothing.
            answer = http.post("/realms/flowerbed/account/", headers=headers, json=mine | change)
            assert answer.status_code in (200, 204, 400, 409), answer.text
    with keycloak.http() as http:
        after = claims(device_login(http, AUDITOR, password(AUDITOR))["access_token"])
    changing = {"exp", "iat", "jti", "sid", "auth_time"}
    assert {k: v for k, v in after.items() if k not in changing} == {
        k: v for k, v in before.items() if k not in changing
    }
    assert keycloak.reconcile() == Report((), (), 0)


# --- drift


@pytest.fixture(scope="module")
def drifted(keycloak: Keycloak, admin: KeycloakAdmin) -> dict[str, Report]:
    """Everything changed by hand at once; what a dry run, a run and one more say."""
    for drift in dict.fromkeys(drift for drift, _ in DRIFTS.values()):
        drift(admin)
    made = {"dry": keycloak.reconcile(dry_run=True), "run": keycloak.reconcile(), "after": keycloak.reconcile()}
    # Its token may be signed with a key that is gone by now.
    admin.connection.get_token()
    return made


@pytest.mark.parametrize("kind", DRIFTS)
def test_drift_is_reported(drifted: dict[str, Report], kind: str) -> None:
    expected = DRIFTS[kind][1]
    assert [line for line in drifted["run"].lines if line.startswith(expected)], drifted["run"].lines


def test_drift_is_repaired_by_one_run_and_by_no_dry_run(drifted: dict[str, Report]) -> None:
    assert drifted["dry"].writes == 0
    assert drifted["dry"].lines == drifted["run"].lines
    assert drifted["run"].writes
    assert (drifted["after"].lines, drifted["after"].writes) == ((), 0)
    assert not any("guessed" in line or SECRETS["grafana"] in line for line in drifted["run"].lines)


def test_nobody_is_left_who_administers_the_realm(drifted: dict[str, Report], admin: KeycloakAdmin) -> None:
    assert drifted
    for role in ("realm-admin", "manage-users"):
        assert admin.get_client_role_members(client(admin, "realm-management"), role) == []


def test_people_who_are_not_listed_stay_and_are_named(drifted: dict[str, Report], admin: KeycloakAdmin) -> None:
    assert drifted["after"].notes == ("Not in the list of people, and left alone in realm flowerbed: stranger.",)
    assert admin.get_user_id("stranger")
    admin.delete_user(person(admin, "stranger"))


@pytest.mark.parametrize("provider", ["rsa", "rsa-generated"])
def test_tokens_of_an_imported_key_are_refused_after_one_run(
    keycloak: Keycloak, admin: KeycloakAdmin, provider: str
) -> None:
    key = imported_key(admin, "mine", provider)
    forged = forge(keycloak, key)
    assert decoded(keycloak, forged)["flowerbed_aid"] == "flowerbed"
    assert keycloak.reconcile().lines[0].startswith(f"component flowerbed/mine ({provider}, ")
    with pytest.raises(jwt.PyJWKClientError):
        decoded(keycloak, forged)
    assert decoded(keycloak, keycloak.token("kit").json()["access_token"])["flowerbed_aid"] == "flowerbed"
    assert keycloak.reconcile() == Report((), (), 0)


def forge(keycloak: Keycloak, key: RSAPrivateKey) -> str:
    """Sign what Keycloak gave the kit once more, with another key that its realm names."""
    public = key.public_key().public_numbers().n
    found = next(item for item in jwks(keycloak) if jwt.PyJWK(item).key.public_numbers().n == public)
    payload = claims(keycloak.token("kit").json()["access_token"])
    return jwt.encode(payload, key, "RS256", {"kid": found["kid"]})


def jwks(keycloak: Keycloak) -> list[dict[str, Any]]:
    with keycloak.http() as http:
        found = http.get("/realms/flowerbed/protocol/openid-connect/certs").json()["keys"]
    return [item for item in found if item["use"] == "sig"]


def decoded(keycloak: Keycloak, token: str) -> dict[str, Any]:
    """A token's claims, by the realm's keys of now."""
    kid = jwt.get_unverified_header(token)["kid"]
    for item in jwks(keycloak):
        if item["kid"] == kid:
            return jwt.decode(token, jwt.PyJWK(item), ["RS256"], audience="flowerbed-superlink")
    raise jwt.PyJWKClientError(f"no key {kid}")


def test_who_was_disabled_by_hand_stays_so_until_enabled(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    identity = person(admin, CUSTODIAN)
    admin.update_user(identity, admin.get_user(identity) | {"enabled": False})
    report = keycloak.reconcile()
    assert (report.lines, report.writes) == ((), 0)
    assert report.notes == (
        f"Disabled in Keycloak alone, and left so: {CUSTODIAN}. flowerbed user enable lets them in again.",
    )
    assert admin.get_user(identity)["enabled"] is False
    enable(keycloak.access, CUSTODIAN)
    assert keycloak.reconcile() == Report((), (), 0)


def test_errors_that_anybody_can_make_are_not_kept(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    before = len(admin.get_events({"max": 1000}))
    for _ in range(3):
        assert keycloak.token("nobody").status_code == 401
        assert keycloak.token("flwr", grant_type="refresh_token", refresh_token="x").status_code == 400
    assert len(admin.get_events({"max": 1000})) == before
    assert keycloak.token("kit").status_code == 200
    kept = admin.get_events({"max": 1000})
    assert (len(kept), kept[0]["type"]) == (before + 1, "CLIENT_LOGIN")


# --- people


def test_somebody_disabled_in_the_list_is_shut_out(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    assert admin
    listed = [item | ({"enabled": False} if item["name"] == CUSTODIAN else {}) for item in keycloak.people]
    with keycloak.http() as http:
        token = device_login(http, CUSTODIAN, password(CUSTODIAN))["refresh_token"]
        report = keycloak.reconcile(keycloak.wanted(listed))
        assert report.lines == (f"person {CUSTODIAN}: enabled is True, wanted False",)
        assert refresh(http, token).status_code == 400
    with keycloak.http() as http, pytest.raises(NotLoggedInError, match="disabled"):
        device_login(http, CUSTODIAN, password(CUSTODIAN))
    enable(keycloak.access, CUSTODIAN)
    assert keycloak.reconcile() == Report((), (), 0)
    with keycloak.http() as http:
        assert device_login(http, CUSTODIAN, password(CUSTODIAN))


def test_disabling_one_person_ends_their_sessions_and_enabling_lets_them_in(
    keycloak: Keycloak, admin: KeycloakAdmin
) -> None:
    assert admin
    with keycloak.http() as http:
        token = device_login(http, CUSTODIAN, password(CUSTODIAN))["refresh_token"]
        disable(keycloak.access, CUSTODIAN)
        assert refresh(http, token).status_code == 400
    enable(keycloak.access, CUSTODIAN)
    with keycloak.http() as http:
        assert device_login(http, CUSTODIAN, password(CUSTODIAN))


def test_wrong_passwords_lock_an_account_until_it_is_reset(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    assert admin
    for _ in range(6):
        with keycloak.http() as http, pytest.raises(NotLoggedInError):
            device_login(http, CUSTODIAN, "wrong")
    with keycloak.http() as http, pytest.raises(NotLoggedInError):
        device_login(http, CUSTODIAN, password(CUSTODIAN))
    set_password(keycloak.access, CUSTODIAN, "another-Password-1", temporary=False)
    with keycloak.http() as http:
        assert device_login(http, CUSTODIAN, "another-Password-1")
    set_password(keycloak.access, CUSTODIAN, "a-third-Password-1", temporary=True)
    with keycloak.http() as http, pytest.raises(NotLoggedInError, match="Update password"):
        device_login(http, CUSTODIAN, "a-third-Password-1")


def test_what_cannot_be_done_is_one_sentence(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    assert admin
    with pytest.raises(
        KeycloakRefusedError, match=r"^Keycloak refused a password for auditor-north: 400 .*length.*\.$"
    ):
        set_password(keycloak.access, AUDITOR, "short", temporary=False)
    with pytest.raises(KeycloakRefusedError, match=r"^Keycloak has nobody called nobody: "):
        disable(keycloak.access, "nobody")
    wrong = dataclasses.replace(keycloak.access, kit_secret="w" * 64)
    with pytest.raises(KeycloakRefusedError, match=r"neither the kit's client nor the bootstrap client"):
        Keycloak.reconcile(with_access(keycloak, wrong))
    nowhere = dataclasses.replace(keycloak.access, port=1)
    with pytest.raises(KeycloakDownError, match=r"^The edge cannot be reached"):
        Keycloak.reconcile(with_access(keycloak, nowhere))


def with_access(keycloak: Keycloak, access: Any) -> Keycloak:
    other = object.__new__(Keycloak)
    other.__dict__.update(keycloak.__dict__, access=access)
    return other


def test_a_removed_pipeline_and_federation_lose_their_client_and_group(
    keycloak: Keycloak, admin: KeycloakAdmin
) -> None:
    from keycloak_support import topology

    assert admin
    smaller = topology(pipelines=[], federations=[{"name": "main", "organisations": ["north", "south"]}])
    report = keycloak.reconcile(keycloak.wanted(made=smaller))
    assert {"client pipeline-demo: extra", "group /federations/pilot: extra"} <= set(report.lines)
    assert keycloak.token("pipeline-demo").status_code == 401
    assert keycloak.reconcile(keycloak.wanted(made=smaller)).writes == 0
    assert keycloak.reconcile().writes


# --- rebuilt


def way_in(keycloak: Keycloak) -> KeycloakAdmin:
    """A new admin client: one of before would hold a token of another database."""
    found = ready(keycloak.access)
    assert found is not None
    return found


class CutOffError(Exception):
    """The process was killed here, as far as Keycloak can tell."""


def cut_off_after(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    """Let a reconcile send so many changes, and no more."""
    left = itertools.count(allowed, -1)
    for name in ("raw_post", "raw_put", "raw_delete"):
        real = getattr(Connection, name)

        def counted(self: Connection, *args: Any, real: Any = real, **kwargs: Any) -> Any:
            if next(left) <= 0:
                raise CutOffError
            return real(self, *args, **kwargs)

        monkeypatch.setattr(Connection, name, counted)


def test_a_new_keycloak_cut_off_at_many_points_becomes_equal_with_the_same_ids(
    keycloak: Keycloak, admin: KeycloakAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert admin
    before = {name: claims(keycloak.token(name).json()["access_token"]) for name in ("kit", "pipeline-demo")}
    keycloak.empty()
    for allowed in (1, 1, 1, 2, 5, 8, 8, 8, 8):
        with monkeypatch.context() as patch:
            cut_off_after(patch, allowed)
            with pytest.raises(CutOffError):
                keycloak.reconcile()
    assert keycloak.reconcile().writes
    assert keycloak.reconcile() == Report((), (), 0)
    assert differences(keycloak.wanted(), current_state(take(way_in(keycloak)))) == []
    for name, old in before.items():
        new = claims(keycloak.token(name).json()["access_token"])
        assert new["sub"] != old["sub"]
        assert new["flowerbed_aid"] == old["flowerbed_aid"]
    with keycloak.http() as http:
        found = claims(device_login(http, RESEARCHER, password(RESEARCHER))["access_token"])
    assert found["flowerbed_aid"] == next(item["aid"] for item in keycloak.people if item["name"] == RESEARCHER)


def test_a_restarted_keycloak_is_as_it_was_and_takes_new_people(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    assert admin
    docker("restart", keycloak.keycloak)
    keycloak.wait()
    assert keycloak.reconcile() == Report((), (), 0)
    listed = [*keycloak.people, account("p", "person", "p-1", "north", ["researcher"], ["main"])]
    assert keycloak.reconcile(keycloak.wanted(listed)).lines == ("person p: missing",)
    way_in(keycloak).delete_user(person(way_in(keycloak), "p"))


def test_an_administrator_made_for_an_hour_is_named_until_deleted(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    assert admin
    command = ("flowerbed-keycloak-administrator", "admin-today", "--password:env", "PW")
    docker("exec", "-e", "PW=a-long-Password-1", keycloak.keycloak, *command)
    keycloak.wait()
    assert keycloak.reconcile().notes == ("In realm master beside the kit, and left alone: admin-today.",)
    master = way_in(keycloak)
    master.change_current_realm("master")
    master.delete_user(person(master, "admin-today"))
    assert keycloak.reconcile() == Report((), (), 0)


def test_a_person_whom_keycloak_refuses_is_named(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    assert admin
    wrong = account("odd", "person", "p-2", "north", [], []) | {"email": "no address"}
    with pytest.raises(KeycloakRefusedError, match=r"^Keycloak refused person odd: 400 .*email"):
        keycloak.reconcile(keycloak.wanted([*keycloak.people, wrong]))
