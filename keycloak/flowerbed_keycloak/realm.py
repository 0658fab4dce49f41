"""The realm as code: what Keycloak should hold for a topology, a list of people and the clients' secrets. Pure.

Not for making Keycloak so: that is `reconcile`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flowerbed_topology import ROLES, Topology

from . import clients, fresh, fresh_scopes
from .clients import AID, Entry, memberships
from .state import Fields, State, Value

REALM = "flowerbed"
MASTER = "master"
DEFAULT_ROLES = f"default-roles-{REALM}"
# What everybody has: their own password to look after; Keycloak's default would add logins that last for ever.
EVERYBODYS = ("account/manage-account", "account/view-profile")
BUILT_IN_ROLES = (DEFAULT_ROLES, "offline_access", "uma_authorization")
MASTERS_ROLE = f"default-roles-{MASTER} of realm {MASTER}"
ORGANISATIONS = "/organisations"
EVENTS_KEPT_S = 90 * 24 * 3600
# What somebody did who had logged in. What anybody can make by the thousand without a login, errors above all, is in the log,
# whose size is limited, and not in the database.
EVENTS_KEPT = (
    *("LOGIN", "LOGOUT", "CLIENT_LOGIN", "UPDATE_CREDENTIAL", "REMOVE_CREDENTIAL", "UPDATE_PASSWORD"),
    *("UPDATE_TOTP", "REMOVE_TOTP", "UPDATE_PROFILE", "UPDATE_EMAIL"),
)
_DESCRIPTIONS = {
    "operator": "Registers and removes SuperNodes, and sees every run.",
    "custodian": "Sees what runs on their organisation's node.",
    "researcher": "Submits runs in their federations, sees everybody's there, and stops and pulls their own.",
    "auditor": "Reads everything, and changes nothing.",
}


def desired_state(topology: Topology, people: Sequence[Mapping[str, Any]], secrets: Mapping[str, str]) -> State:
    """Return the state that Keycloak should have.

    `people` is the list of docs/contracts.md, "Identity", whose pipelines and kit are left out here, because the topology has
    them; `secrets` maps each client (`kit`, `pipeline-<name>`, `hub`, `grafana`) to its secret.

    Raises:
        IdentityError: a client's secret is missing.
    """
    return dict(_entries(topology, people, secrets))


def _entries(topology: Topology, people: Sequence[Mapping[str, Any]], secrets: Mapping[str, str]) -> Iterator[Entry]:
    yield ("realm", MASTER), _master(topology)
    yield ("realm", REALM), _realm(topology)
    for realm in (MASTER, REALM):
        yield from fresh.entries(realm)
        yield from fresh_scopes.entries(realm)
    yield ("role", MASTERS_ROLE), {"composites": list(fresh_scopes.MASTERS_DEFAULT)}
    yield ("profile", REALM), profile()
    for role in ROLES:
        yield ("role", role), {"description": _DESCRIPTIONS[role], "composite": False}
    yield from _built_in_roles()
    for path in groups(topology):
        yield ("group", path), {"realmRoles": [], "clientRoles": {}, "attributes": {}}
    yield from clients.entries(topology, secrets)
    for person in people:
        if person["kind"] in ("person", "demo"):
            yield ("person", str(person["name"])), _person(topology, person)


def _built_in_roles() -> Iterator[Entry]:
    """Yield what Keycloak's own roles bring with them: whatever else is in one would be everybody's who has it."""
    for client, roles in fresh_scopes.CLIENT_ROLES.items():
        for name, brings in roles.items():
            yield ("role", f"{client}/{name}"), {"composites": list(brings)}
    for name in BUILT_IN_ROLES:
        yield ("role", name), {"composites": list(EVERYBODYS) if name == DEFAULT_ROLES else []}


def groups(topology: Topology) -> tuple[str, ...]:
    """Return the paths of all groups, parents first."""
    return (
        ORGANISATIONS,
        "/federations",
        *(f"{ORGANISATIONS}/{item.name}" for item in topology.organisations),
        *(f"/federations/{item.name}" for item in topology.federations),
    )


def _person(topology: Topology, person: Mapping[str, Any]) -> Fields:
    """Return a person; what they were member of and the topology no longer has, they are member of no more.

    Whose organisation it does not have keeps no group and no role: operators and auditors have power beyond their organisation.
    """
    known = set(groups(topology))
    belongs = f"{ORGANISATIONS}/{person['organisation']}" in known
    wanted = memberships(person["organisation"], tuple(person["federations"] or ())) if belongs else ()
    return {
        "enabled": bool(person["enabled"]),
        "email": person["email"] or "",
        "firstName": person["first_name"] or "",
        "lastName": person["last_name"] or "",
        "attributes": {AID: [str(person["aid"])]},
        "groups": [path for path in wanted if path in known],
        "roles": [role for role in person["roles"] or () if role in ROLES and belongs],
        "clientRoles": [],
    }


def _guarded() -> dict[str, Value]:
    """Return what both realms have: TLS, locks after wrong passwords, events that are kept, Keycloak's own login flows."""
    return {
        "enabled": True,
        "sslRequired": "all",
        "bruteForceProtected": True,
        "permanentLockout": False,
        "failureFactor": 5,
        "waitIncrementSeconds": 60,
        "maxFailureWaitSeconds": 900,
        "quickLoginCheckMilliSeconds": 1000,
        "minimumQuickLoginWaitSeconds": 60,
        "maxDeltaTimeSeconds": 43200,
        "eventsEnabled": True,
        "eventsExpiration": EVENTS_KEPT_S,
        "enabledEventTypes": list(EVENTS_KEPT),
        "eventsListeners": ["jboss-logging"],
        "adminEventsEnabled": True,
        "adminEventsDetailsEnabled": True,
        "attributes.adminEventsExpiration": str(EVENTS_KEPT_S),
        "registrationAllowed": False,
        "resetPasswordAllowed": False,
        "rememberMe": False,
        "editUsernameAllowed": False,
        "passwordPolicy": "length(12) and maxLength(128) and notUsername(undefined) and notEmail(undefined) "
        "and passwordHistory(3)",
        "browserSecurityHeaders": dict(fresh.BROWSER_HEADERS),
        **fresh.BINDINGS,
        **fresh.ONE_TIME,
        **fresh.POLICIES,
    }


def _master(topology: Topology) -> Fields:
    """Realm master, which administers and holds nobody: its public name is admin's, so that auth's need not answer for it."""
    return _guarded() | {"attributes.frontendUrl": topology.url("admin")}


def _realm(topology: Topology) -> Fields:
    session = topology.identity.session_hours * 3600
    return _guarded() | {
        "displayName": topology.title,
        "loginTheme": "keycloak.v2",
        "accountTheme": "keycloak.v3",
        "defaultSignatureAlgorithm": "RS256",
        "accessTokenLifespan": topology.identity.access_token_minutes * 60,
        "ssoSessionIdleTimeout": session,
        "ssoSessionMaxLifespan": session,
        "clientSessionIdleTimeout": 0,
        "clientSessionMaxLifespan": 0,
        # A refresh token is good for one use; the SuperLink gives repeats of it the same answer.
        "revokeRefreshToken": True,
        "refreshTokenMaxReuse": 0,
        "oauth2DeviceCodeLifespan": clients.DEVICE_LIFETIME_S,
        "oauth2DevicePollingInterval": 5,
        "verifyEmail": False,
        # Names are unique, addresses need not be.
        "loginWithEmailAllowed": False,
        "duplicateEmailsAllowed": True,
        "userManagedAccessAllowed": False,
    }


def profile() -> Fields:
    """Return the user profile: what an account has, all of it written by administrators alone.

    An attribute that people could edit and that a token carries would be account takeover; what is not declared is refused.
    """
    return {
        "username": _attribute("username", {"min": 1, "max": 255}, "username-prohibited-characters"),
        "email": _attribute("email", {"max": 255}, "email"),
        "firstName": _attribute("firstName", {"max": 255}, "person-name-prohibited-characters"),
        "lastName": _attribute("lastName", {"max": 255}, "person-name-prohibited-characters"),
        AID: _attribute(AID, {"max": 64}, own=False),
        "declared": ["username", "email", "firstName", "lastName", AID],
        "unmanagedAttributePolicy": "",
    }


def _attribute(name: str, length: dict[str, Value], *rules: str, own: bool = True) -> Value:
    """Return the declaration of one attribute; `own` lets people see theirs."""
    validations: dict[str, Value] = {"length": length, **{rule: {} for rule in rules}}
    view: list[Value] = ["admin", "user"] if own else ["admin"]
    return {
        "displayName": f"${{{name}}}" if own else name,
        "validations": validations,
        "permissions": {"view": view, "edit": ["admin"]},
        "multivalued": False,
    }
