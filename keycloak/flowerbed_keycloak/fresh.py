"""The ways into a realm as Keycloak 26.7 makes them: keys, login flows, required actions, headers. Pure.

Whoever was administrator once could leave a way in here that no account and no client shows. That these tables are a new
realm's is what the integration tests find. Not for clients, roles and people: those are in `realm`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

# By flow, then by the place of an execution in it: names of sub-flows and ids of providers.
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

BROWSER_HEADERS: Final[Mapping[str, Value]] = {
    "contentSecurityPolicyReportOnly": "",
    "xContentTypeOptions": "nosniff",
    "referrerPolicy": "no-referrer",
    "xRobotsTag": "none",
    "xFrameOptions": "SAMEORIGIN",
    "contentSecurityPolicy": "frame-src 'self'; frame-ancestors 'self'; object-src 'none';",
    "strictTransportSecurity": "max-age=31536000; includeSubDomains",
}


def entries(realm: str) -> Iterator[tuple[tuple[Kind, str], Fields]]:
    """Yield what a realm has of them; identity providers and user federation it has none."""
    for name, fields in KEYS.items():
        yield ("component", f"{realm}/{name}"), fields
    for alias, executions in FLOWS.items():
        yield ("flow", f"{realm}/{alias}"), {"executions": dict(executions)}
    yield ("required actions", realm), {"actions": dict(REQUIRED_ACTIONS)}
