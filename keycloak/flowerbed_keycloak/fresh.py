"""The ways into a realm as Keycloak 26.7 makes them: keys, login flows, required actions, headers. Pure.

Whoever was administrator once could leave a way in here that no account and no client shows. That these tables are a new
realm's is what the integration tests find. Not for clients, roles and people: those are in `realm`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from .state import Fields, Kind, Value

KEY_PROVIDER: Final = "org.keycloak.keys.KeyProvider"

# By name. Keycloak takes a private key that comes with a *generated* provider too, so that the kind alone says nothing: what is
# not exactly this is removed, and made anew.
KEYS: Final[Mapping[str, Fields]] = {
    "rsa-generated": {"providerId": "rsa-generated", "config": {"priority": ["100"]}},
    "rsa-enc-generated": {
        "providerId": "rsa-enc-generated",
        "config": {"priority": ["100"], "algorithm": ["RSA-OAEP"]},
    },
    "hmac-generated-hs512": {
        "providerId": "hmac-generated",
        "config": {"priority": ["100"], "algorithm": ["HS512"]},
    },
    "aes-generated": {"providerId": "aes-generated", "config": {"priority": ["100"]}},
}

# Kinds of components that no way in goes through, and that are compared elsewhere or of no use behind the edge.
LEFT_ALONE: Final = frozenset(
    {
        "org.keycloak.userprofile.UserProfileProvider",
        "org.keycloak.services.clientregistration.policy.ClientRegistrationPolicy",
    }
)

_SECOND: Final = "forms/Browser - Conditional 2FA"
_DIRECT: Final = "Direct Grant - Conditional OTP"

_RESET: Final = "Reset - Conditional OTP"
_HANDLE: Final = "User creation or linking/Handle Existing Account"
_VERIFY: Final = f"{_HANDLE}/Account verification options/Verify Existing Account by Re-authentication"
_BROKER: Final = f"{_VERIFY}/First broker login - Conditional 2FA"

# By flow, then, in their order, by the place of an execution in it: names of sub-flows and ids of providers.
FLOWS: Final[Mapping[str, Mapping[str, Value]]] = {
    "browser": {
        "auth-cookie": "ALTERNATIVE",
        "auth-spnego": "DISABLED",
        "identity-provider-redirector": "ALTERNATIVE",
        "forms": "ALTERNATIVE",
        "forms/auth-username-password-form": "REQUIRED",
        _SECOND: "CONDITIONAL",
        f"{_SECOND}/conditional-user-configured": "REQUIRED",
        f"{_SECOND}/conditional-credential": "REQUIRED",
        f"{_SECOND}/auth-otp-form": "ALTERNATIVE",
        f"{_SECOND}/webauthn-authenticator": "DISABLED",
        f"{_SECOND}/auth-recovery-authn-code-form": "DISABLED",
    },
    "direct grant": {
        "direct-grant-validate-username": "REQUIRED",
        "direct-grant-validate-password": "REQUIRED",
        _DIRECT: "CONDITIONAL",
        f"{_DIRECT}/conditional-user-configured": "REQUIRED",
        f"{_DIRECT}/direct-grant-validate-otp": "REQUIRED",
    },
    "clients": {
        "client-secret": "ALTERNATIVE",
        "client-jwt": "ALTERNATIVE",
        "client-secret-jwt": "ALTERNATIVE",
        "client-x509": "ALTERNATIVE",
        "federated-jwt": "ALTERNATIVE",
    },
    # Bound too, though settings of the realm close them.
    "registration": {
        "registration form": "REQUIRED",
        "registration form/registration-user-creation": "REQUIRED",
        "registration form/registration-password-action": "REQUIRED",
        "registration form/registration-recaptcha-action": "DISABLED",
        "registration form/registration-terms-and-conditions": "DISABLED",
    },
    "reset credentials": {
        "reset-credentials-choose-user": "REQUIRED",
        "reset-credential-email": "REQUIRED",
        "reset-password": "REQUIRED",
        _RESET: "CONDITIONAL",
        f"{_RESET}/conditional-user-configured": "REQUIRED",
        f"{_RESET}/reset-otp": "REQUIRED",
    },
    "docker auth": {"docker-http-basic-authenticator": "REQUIRED"},
    "first broker login": {
        "idp-review-profile": "REQUIRED",
        "User creation or linking": "REQUIRED",
        "User creation or linking/idp-create-user-if-unique": "ALTERNATIVE",
        _HANDLE: "ALTERNATIVE",
        f"{_HANDLE}/idp-confirm-link": "REQUIRED",
        f"{_HANDLE}/Account verification options": "REQUIRED",
        f"{_HANDLE}/Account verification options/idp-email-verification": "ALTERNATIVE",
        _VERIFY: "ALTERNATIVE",
        f"{_VERIFY}/idp-username-password-form": "REQUIRED",
        _BROKER: "CONDITIONAL",
        f"{_BROKER}/conditional-user-configured": "REQUIRED",
        f"{_BROKER}/conditional-credential": "REQUIRED",
        f"{_BROKER}/auth-otp-form": "ALTERNATIVE",
        f"{_BROKER}/webauthn-authenticator": "DISABLED",
        f"{_BROKER}/auth-recovery-authn-code-form": "DISABLED",
    },
}

# Settings of executions, by flow and place; the others have none. Those of a condition can do away with what it is for.
SETTINGS: Final[Mapping[str, Mapping[str, dict[str, Value]]]] = {
    "browser": {f"{_SECOND}/conditional-credential": {"credentials": "webauthn-passwordless"}},
    "first broker login": {
        "idp-review-profile": {"update.profile.on.first.login": "missing"},
        "User creation or linking/idp-create-user-if-unique": {"require.password.update.after.registration": "false"},
        f"{_BROKER}/conditional-credential": {"credentials": "webauthn-passwordless"},
    },
}

BINDINGS: Final[Fields] = {
    "browserFlow": "browser",
    "directGrantFlow": "direct grant",
    "clientAuthenticationFlow": "clients",
    "registrationFlow": "registration",
    "resetCredentialsFlow": "reset credentials",
    "dockerAuthenticationFlow": "docker auth",
    "firstBrokerLoginFlow": "first broker login",
}

# Of each action, whether people may be asked for it (`on`), and whether new ones are (`by default`).
REQUIRED_ACTIONS: Final[Mapping[str, Value]] = {
    "TERMS_AND_CONDITIONS": "off",
    "UPDATE_PROFILE": "on",
    "VERIFY_EMAIL": "on",
    "CONFIGURE_TOTP": "on",
    "UPDATE_PASSWORD": "on",
    "delete_account": "off",
    "UPDATE_EMAIL": "off",
    "webauthn-register": "on",
    "webauthn-register-passwordless": "on",
    "VERIFY_PROFILE": "on",
    "delete_credential": "on",
    "idp_link": "on",
    "CONFIGURE_RECOVERY_AUTHN_CODES": "on",
    "update_user_locale": "on",
}

# What a code of an authenticator app has to be.
ONE_TIME: Final[Fields] = {
    "otpPolicyType": "totp",
    "otpPolicyAlgorithm": "HmacSHA1",
    "otpPolicyDigits": 6,
    "otpPolicyPeriod": 30,
    "otpPolicyLookAheadWindow": 1,
    "otpPolicyCodeReusable": False,
}

# Nothing that changes clients or their logins by rules of its own.
POLICIES: Final[Fields] = {"clientPolicies": {"policies": []}, "clientProfiles": {"profiles": []}}

BROWSER_HEADERS: Final[Mapping[str, Value]] = {
    "contentSecurityPolicyReportOnly": "",
    "xContentTypeOptions": "nosniff",
    "referrerPolicy": "no-referrer",
    "xRobotsTag": "none",
    "xFrameOptions": "SAMEORIGIN",
    "contentSecurityPolicy": "frame-src 'self'; frame-ancestors 'self'; object-src 'none';",
    "strictTransportSecurity": "max-age=31536000; includeSubDomains",
}


def order(alias: str, places: Iterable[str]) -> dict[str, Value]:
    """Return what comes after what at each level of a flow, by the sub-flow; what is not Keycloak's own is left out."""
    made: dict[str, str] = {}
    for place in places:
        if place in FLOWS[alias]:
            above, _, own = place.rpartition("/")
            level = above or alias
            made[level] = f"{made[level]}, {own}" if level in made else own
    return dict(made)


def entries(realm: str) -> Iterator[tuple[tuple[Kind, str], Fields]]:
    """Yield what a realm has of them; identity providers and user federation it has none."""
    for name, fields in KEYS.items():
        yield ("component", f"{realm}/{name}"), fields
    for alias, executions in FLOWS.items():
        settings: dict[str, Value] = dict(SETTINGS.get(alias, {}))
        yield (
            ("flow", f"{realm}/{alias}"),
            {"builtIn": True, "executions": dict(executions), "order": order(alias, executions), "settings": settings},
        )
    yield ("required actions", realm), {"actions": dict(REQUIRED_ACTIONS)}
