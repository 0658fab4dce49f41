"""A reset on a real Keycloak: no second factor outlives it, and nobody needs one to be reset."""

from __future__ import annotations

import hmac
import html
import json
import re
import time
from collections.abc import Iterator
from hashlib import sha1
from typing import Any

import httpx
import pytest
from keycloak import KeycloakAdmin

from flowerbed_keycloak import set_password
from flowerbed_keycloak.bootstrap import ready
from keycloak_drift import AUDITOR, CUSTODIAN, RESEARCHER, person
from keycloak_people import NotLoggedInError, device_login, form
from keycloak_support import Keycloak, password, running

pytestmark = pytest.mark.docker

NEW = "a-new-Password-1"
SECURITY_KEY = {
    "aaguid": "00000000-0000-0000-0000-000000000000",
    "credentialId": "AAAA",
    "counter": 0,
    "attestationStatement": "",
    "credentialPublicKey": "AAAA",
    "attestationStatementFormat": "none",
    "transports": [],
}
CODES = {"hashIterations": 1, "algorithm": "SHA-512", "totalCodes": 1, "remainingCodes": 1}
KEYS = {"webauthn": SECURITY_KEY, "webauthn-passwordless": SECURITY_KEY, "recovery-authn-codes": CODES}


@pytest.fixture(scope="module")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    with running(tmp_path_factory.mktemp("keycloak")) as made:
        made.reconcile()
        yield made


@pytest.fixture(scope="module")
def admin(keycloak: Keycloak) -> KeycloakAdmin:
    found = ready(keycloak.access)
    assert found is not None
    return found


def one_time(secret: str) -> str:
    """The code that an authenticator app shows now (RFC 6238, with Keycloak's own policy)."""
    counted = hmac.digest(secret.encode(), int(time.time() // 30).to_bytes(8, "big"), sha1)
    place = counted[-1] & 0xF
    return f"{(int.from_bytes(counted[place : place + 4], 'big') & 0x7FFFFFFF) % 10**6:06d}"


class SetUp(httpx.Client):
    """A browser that answers Keycloak's page for a new authenticator app as soon as it is shown."""

    secret = ""

    def send(self, *args: Any, **kwargs: Any) -> httpx.Response:
        page = super().send(*args, **kwargs)
        found = re.search(r'name="totpSecret" value="([^"]+)"', page.text)
        if not found or self.secret:
            return page
        self.secret = html.unescape(found[1])
        answers = {"totp": one_time(self.secret), "totpSecret": self.secret, "userLabel": "theirs"}
        return self.post(form(page), data=answers)


def kinds(admin: KeycloakAdmin, name: str) -> set[str]:
    """What somebody can log in with; passwords of before, which the policy forbids to repeat, are no way in."""
    found = {item["type"] for item in admin.get_credentials(person(admin, name))}
    return found - {"password-history"}


def set_up_app(keycloak: Keycloak, admin: KeycloakAdmin, name: str) -> None:
    """Have somebody set up an authenticator app while logging in, as Keycloak asks them to."""
    identity = person(admin, name)
    admin.update_user(identity, admin.get_user(identity) | {"requiredActions": ["CONFIGURE_TOTP"]})
    plain = keycloak.http()
    with plain:
        plain.__class__ = SetUp
        assert device_login(plain, name, password(name))
    assert kinds(admin, name) == {"password", "otp"}


def import_keys(admin: KeycloakAdmin, name: str) -> None:
    """Give somebody keys and recovery codes as an import does."""
    identity = person(admin, name)
    keys = [
        {"type": kind, "userLabel": kind, "secretData": "{}", "credentialData": json.dumps(data)}
        for kind, data in KEYS.items()
    ]
    admin.update_user(identity, admin.get_user(identity) | {"credentials": keys})


def login(keycloak: Keycloak, name: str, word: str) -> dict[str, Any]:
    with keycloak.http() as http:
        return device_login(http, name, word)


def test_an_authenticator_app_does_not_outlive_a_reset(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    set_up_app(keycloak, admin, RESEARCHER)
    with pytest.raises(NotLoggedInError, match="One-time code"):
        login(keycloak, RESEARCHER, password(RESEARCHER))
    set_password(keycloak.access, RESEARCHER, NEW, temporary=False)
    assert kinds(admin, RESEARCHER) == {"password"}
    with pytest.raises(NotLoggedInError, match="Invalid username or password"):
        login(keycloak, RESEARCHER, password(RESEARCHER))
    assert login(keycloak, RESEARCHER, NEW)


def test_a_temporary_password_is_changed_at_the_login_that_needs_no_app(
    keycloak: Keycloak, admin: KeycloakAdmin
) -> None:
    set_up_app(keycloak, admin, AUDITOR)
    set_password(keycloak.access, AUDITOR, NEW, temporary=True)
    assert kinds(admin, AUDITOR) == {"password"}
    assert admin.get_user(person(admin, AUDITOR))["requiredActions"] == ["UPDATE_PASSWORD"]
    with pytest.raises(NotLoggedInError, match="Update password"):
        login(keycloak, AUDITOR, NEW)


def test_security_keys_and_recovery_codes_go_too(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    import_keys(admin, CUSTODIAN)
    assert kinds(admin, CUSTODIAN) == {"password", *KEYS}
    set_password(keycloak.access, CUSTODIAN, NEW, temporary=False)
    assert kinds(admin, CUSTODIAN) == {"password"}
    assert login(keycloak, CUSTODIAN, NEW)


def test_who_has_no_second_factor_or_no_password_at_all_is_reset_too(keycloak: Keycloak, admin: KeycloakAdmin) -> None:
    name = "operator-south"
    set_password(keycloak.access, name, NEW, temporary=False)
    assert login(keycloak, name, NEW)
    identity = person(admin, name)
    for item in admin.get_credentials(identity):
        admin.delete_credential(identity, item["id"])
    set_password(keycloak.access, name, f"{NEW}-again", temporary=False)
    assert kinds(admin, name) == {"password"}
    assert login(keycloak, name, f"{NEW}-again")
