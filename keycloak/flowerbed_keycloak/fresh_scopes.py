"""Client scopes and roles of Keycloak's own clients as Keycloak 26.7 makes them in a new realm. Pure.

The kit's own clients have no scope; Keycloak's have, and a mapper in one of theirs could name an audience or an account id. That
these tables are a new realm's is what the integration tests find.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from .state import Fields, Kind, Value

# What Keycloak's own clients have, and what may be asked of them beside.
DEFAULT: Final = ("acr", "basic", "email", "profile", "roles", "web-origins")
OPTIONAL: Final = ("address", "microprofile-jwt", "offline_access", "phone")

# By client, then by role, what a role brings with it. Those of realm-management are not here: Keycloak lets nobody change them.
CLIENT_ROLES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "account": {
        "view-profile": (),
        "view-groups": (),
        "view-applications": (),
        "view-consent": (),
        "delete-account": (),
        "manage-account-links": (),
        "manage-consent": ("account/view-consent",),
        "manage-account": ("account/manage-account-links",),
    },
    "broker": {"read-token": ()},
}
MASTERS_DEFAULT: Final = ("offline_access", "uma_authorization", "account/manage-account", "account/view-profile")
# Of the roles that an account has, those that tokens of Keycloak's own clients may name.
SCOPE_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "account-console": ("account/manage-account", "account/view-groups")
}

_TOKENS = ("access", "id", "introspection")


def _mapper(kind: str, into: tuple[str, ...] = (), **config: str) -> Value:
    """Return a mapper; two underscores in the name of a setting are a dot."""
    made: dict[str, Value] = {f"{where}.token.claim": "true" for where in into}
    made |= {name.replace("__", "."): value for name, value in config.items()}
    return {"protocolMapper": kind, "config": made}


def _claim(
    claim: str, attribute: str = "", kind: str = "String", *, of: str = "attribute", into: tuple[str, ...] = ()
) -> Value:
    """Return a mapper of something that an account has."""
    config = {"user__attribute": attribute or claim, "claim__name": claim, "jsonType__label": kind}
    return _mapper(f"oidc-usermodel-{of}-mapper", into or (*_TOKENS, "userinfo"), **config)


def _note(claim: str, note: str = "", kind: str = "String") -> Value:
    config = {"user__session__note": note or claim, "claim__name": claim, "jsonType__label": kind}
    return _mapper("oidc-usersessionmodel-note-mapper", _TOKENS, **config)


def _roles(claim: str, of: str, into: tuple[str, ...] = ("access", "introspection")) -> Value:
    config = {"user__attribute": "foo", "claim__name": claim, "jsonType__label": "String", "multivalued": "true"}
    return _mapper(f"oidc-usermodel-{of}-role-mapper", into, **config)


def _address() -> Value:
    parts = ("formatted", "country", "postal_code", "street", "region", "locality")
    return _mapper(
        "oidc-address-mapper", (*_TOKENS, "userinfo"), **{f"user__attribute__{part}": part for part in parts}
    )


_PROFILE = {
    "given name": ("given_name", "firstName"),
    "family name": ("family_name", "lastName"),
    "middle name": ("middle_name", "middleName"),
    "username": ("preferred_username", "username"),
    **{name: (name, name) for name in ("nickname", "profile", "picture", "website", "gender", "birthdate", "zoneinfo")},
    "locale": ("locale", "locale"),
}

_MAPPERS: Final[Mapping[str, dict[str, Value]]] = {
    "acr": {"acr loa level": _mapper("oidc-acr-mapper", _TOKENS)},
    "basic": {
        "auth_time": _note("auth_time", "AUTH_TIME", "long"),
        "sub": _mapper("oidc-sub-mapper", ("access", "introspection")),
    },
    "email": {
        "email": _claim("email"),
        "email verified": _claim("email_verified", "emailVerified", "boolean", of="property"),
    },
    "profile": {
        **{name: _claim(claim, attribute) for name, (claim, attribute) in _PROFILE.items()},
        "updated at": _claim("updated_at", "updatedAt", "long"),
        "full name": _mapper("oidc-full-name-mapper", (*_TOKENS, "userinfo")),
    },
    "roles": {
        "audience resolve": _mapper("oidc-audience-resolve-mapper", ("access", "introspection")),
        "client roles": _roles("resource_access.${client_id}.roles", "client"),
        "realm roles": _roles("realm_access.roles", "realm"),
    },
    "web-origins": {"allowed web origins": _mapper("oidc-allowed-origins-mapper", ("access", "introspection"))},
    "address": {"address": _address()},
    "microprofile-jwt": {"groups": _roles("groups", "realm", _TOKENS), "upn": _claim("upn", "username")},
    "phone": {
        "phone number": _claim("phone_number", "phoneNumber"),
        "phone number verified": _claim("phone_number_verified", "phoneNumberVerified", "boolean"),
    },
    "offline_access": {},
    "service_account": {
        "Client ID": _note("client_id"),
        "Client Host": _note("clientHost"),
        "Client IP Address": _note("clientAddress"),
    },
    "role_list": {
        "role list": _mapper(
            "saml-role-list-mapper", single="false", attribute__nameformat="Basic", attribute__name="Role"
        )
    },
    "AuthnContextClassRef": {"AuthnContextClassRef": _mapper("saml-authn-context-class-ref-mapper")},
}
_SAML = ("role_list", "AuthnContextClassRef")
_NAMED_IN_TOKENS = ("email", "profile", "address", "phone", "microprofile-jwt")
_CONSENT = {
    **{name: f"${{{name}ScopeConsentText}}" for name in ("email", "profile", "roles", "address", "phone")},
    "offline_access": "${offlineAccessScopeConsentText}",
    "role_list": "${samlRoleListScopeConsentText}",
}


def _attributes(name: str) -> dict[str, Value]:
    """Return a scope's attributes but empty ones."""
    if name == "AuthnContextClassRef":
        return {}
    made: dict[str, Value] = {"display.on.consent.screen": str(name in _CONSENT).lower()}
    if name in _CONSENT:
        made["consent.screen.text"] = _CONSENT[name]
    if name not in (*_SAML, "offline_access"):
        made["include.in.token.scope"] = str(name in _NAMED_IN_TOKENS).lower()
    return made


def _given(name: str) -> str:
    """Return whether new clients have a scope (`default`), or may be asked for it (`optional`)."""
    return "default" if name in (*DEFAULT, *_SAML) else "optional" if name in OPTIONAL else ""


def entries(realm: str) -> Iterator[tuple[tuple[Kind, str], Fields]]:
    """Yield the client scopes of a realm."""
    for name, mappers in _MAPPERS.items():
        yield (
            ("client scope", f"{realm}/{name}"),
            {
                "protocol": "saml" if name in _SAML else "openid-connect",
                "attributes": _attributes(name),
                "mappers": mappers,
                "roles": ["offline_access"] if name == "offline_access" else [],
                "given": _given(name),
            },
        )
