"""The clients of the realm, their claims and their own accounts, from the topology and the clients' secrets. Pure.

No client has a client scope: every claim is a mapper of the client's own, so that nothing shared can add one. Not for what a
claim allows, which the SuperLink decides (docs/contracts.md, "Identity").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flowerbed_topology import ROLES, Topology

from .errors import IdentityError
from .fresh_scopes import DEFAULT, OPTIONAL, SCOPE_ROLES
from .state import Fields, Kind, Value

AUDIENCE = "flowerbed-superlink"
AID = "flowerbed_aid"
KIT_AID = "flowerbed"
DEVICE_LIFETIME_S = 600

Entry = tuple[tuple[Kind, str], Fields]

# Made by Keycloak in every realm. The first three could log people in, or administer, beside the kit's own clients.
CLOSED = ("admin-cli", "broker", "security-admin-console")
BUILT_IN = (*CLOSED, "account", "account-console", "realm-management")
# Of those that have pages: root, and what is below it.
_PAGES = {
    "account": ("${authBaseUrl}", "/realms/flowerbed/account/"),
    "account-console": ("${authBaseUrl}", "/realms/flowerbed/account/"),
    "security-admin-console": ("${authAdminUrl}", "/admin/flowerbed/console/"),
}
_BUILT_IN_SCOPES: dict[str, Value] = {"defaultClientScopes": list(DEFAULT), "optionalClientScopes": list(OPTIONAL)}
_TOKENS = ("access", "id", "userinfo", "introspection")


@dataclass(frozen=True)
class Machine:
    """A client that acts for itself: the kit, or a pipeline."""

    client: str
    name: str
    aid: str
    roles: tuple[str, ...]
    groups: tuple[str, ...]


def machines(topology: Topology) -> tuple[Machine, ...]:
    """Return the kit's own account, which registers every SuperNode, and those of pipelines."""
    everywhere = tuple(f"/federations/{item.name}" for item in topology.federations)
    kit = Machine("kit", "The kit itself", KIT_AID, ("operator",), everywhere)
    return (
        kit,
        *(
            Machine(
                item.client,
                f"Pipeline {item.name}",
                item.client,
                tuple(item.roles),
                memberships(item.organisation, topology.pipeline_federations(item)),
            )
            for item in topology.pipelines
        ),
    )


def memberships(organisation: str | None, federations: tuple[str, ...]) -> tuple[str, ...]:
    """Return the groups of an account."""
    own = (f"/organisations/{organisation}",) if organisation else ()
    return (*own, *(f"/federations/{name}" for name in federations))


def entries(topology: Topology, secrets: Mapping[str, str]) -> Iterator[Entry]:
    """Yield every client and every account of a machine.

    Raises:
        IdentityError: a client's secret is missing.
    """
    yield ("client", "flwr"), _flwr()
    for machine in machines(topology):
        yield ("client", machine.client), _machine(machine, _secret(secrets, machine.client))
        yield ("service account", machine.client), _account(machine)
    yield ("client", "hub"), _web(topology, "hub", "JupyterHub", "/hub/oauth_callback", _secret(secrets, "hub"))
    grafana = _web(topology, "grafana", "Grafana", "/login/generic_oauth", _secret(secrets, "grafana"))
    yield ("client", "grafana"), grafana
    for name in BUILT_IN:
        yield ("client", name), _built_in(name)


def _secret(secrets: Mapping[str, str], client: str) -> str:
    secret = secrets.get(client, "")
    if len(secret) < 32:
        problem = "is missing" if not secret else "has fewer than 32 characters"
        raise IdentityError(f"The secret of the client {client} {problem} (secrets/kit): run make up, which makes it.")
    return secret


def _client(name: str, mappers: dict[str, Value], attributes: dict[str, Value], **fields: Value) -> Fields:
    """Return a client that can do nothing but what is given."""
    base: dict[str, Value] = {
        "name": name,
        "enabled": True,
        "protocol": "openid-connect",
        "publicClient": False,
        "bearerOnly": False,
        "consentRequired": False,
        "standardFlowEnabled": False,
        "implicitFlowEnabled": False,
        "directAccessGrantsEnabled": False,
        "serviceAccountsEnabled": False,
        "clientAuthenticatorType": "client-secret",
        # Its tokens name the kit's roles and no other that an account may have.
        "fullScopeAllowed": False,
        "scopeRoles": list(ROLES),
        "defaultClientScopes": [],
        "optionalClientScopes": [],
        "authenticationFlowBindingOverrides": {},
        "rootUrl": "",
        "baseUrl": "",
        "adminUrl": "",
        "redirectUris": [],
        "webOrigins": [],
        "attributes": {
            "access.token.signed.response.alg": "RS256",
            "backchannel.logout.session.required": "true",
            "backchannel.logout.revoke.offline.tokens": "false",
            **attributes,
        },
        "mappers": mappers,
    }
    return base | fields


def _flwr() -> Fields:
    """The `flwr` command line: people, by device grant alone (RFC 8628)."""
    attributes: dict[str, Value] = {"oauth2.device.authorization.grant.enabled": "true"}
    return _client("Flower command line", _claims(), attributes, publicClient=True)


def _machine(machine: Machine, secret: str) -> Fields:
    """A machine, by client credentials alone (RFC 6749, section 4.4), without refresh tokens."""
    attributes: dict[str, Value] = {"client_credentials.use_refresh_token": "false"}
    return _client(machine.name, _claims(), attributes, serviceAccountsEnabled=True, secret=secret)


def _web(topology: Topology, host: str, name: str, callback: str, secret: str) -> Fields:
    """A web application behind the edge, by authorization code with PKCE (RFC 7636)."""
    url = topology.url(host)
    attributes: dict[str, Value] = {
        "pkce.code.challenge.method": "S256",
        "post.logout.redirect.uris": f"{url}/*",
    }
    # What people do in a notebook, they do at the SuperLink; nothing in a dashboard is.
    claims = _claims(in_id_token=True, audience=host == "hub")
    fields: dict[str, Value] = {"standardFlowEnabled": True, "redirectUris": [url + callback], "secret": secret}
    return _client(name, claims, attributes, **fields)


def _built_in(name: str) -> Fields:
    """A client of Keycloak's own as Keycloak 26.7 makes it, but for what is closed; not its roles."""
    root, base = _PAGES.get(name, ("", ""))
    public = name == "admin-cli" or bool(base)
    return {
        "enabled": name not in CLOSED,
        "publicClient": public,
        "bearerOnly": not public,
        "standardFlowEnabled": name != "admin-cli",
        "implicitFlowEnabled": False,
        "directAccessGrantsEnabled": False,
        "serviceAccountsEnabled": False,
        "fullScopeAllowed": name in ("admin-cli", "security-admin-console"),
        "authenticationFlowBindingOverrides": {},
        "rootUrl": root,
        "baseUrl": base,
        "adminUrl": "",
        "redirectUris": [f"{base}*"] if base else [],
        "webOrigins": ["+"] if name == "security-admin-console" else [],
        "scopeRoles": list(SCOPE_ROLES.get(name, ())),
        # Nobody gets a token as realm-management, and Keycloak lets nobody change it.
        **({} if name == "realm-management" else _BUILT_IN_SCOPES),
        "attributes": _built_in_attributes(name),
        "mappers": _built_in_mappers(name),
    }


def _built_in_attributes(name: str) -> dict[str, Value]:
    made: dict[str, Value] = {}
    if name in _PAGES:
        made["post.logout.redirect.uris"] = "+"
    if name.endswith("-console"):
        made["pkce.code.challenge.method"] = "S256"
    if name in ("admin-cli", "security-admin-console"):
        made["client.use.lightweight.access.token.enabled"] = "true"
    return made


def _built_in_mappers(name: str) -> dict[str, Value]:
    if name == "account-console":
        return {"audience resolve": _mapper("oidc-audience-resolve-mapper", {})}
    if name == "security-admin-console":
        everywhere: dict[str, Value] = {f"{where}.token.claim": "true" for where in _TOKENS}
        config = everywhere | _into("locale") | {"user.attribute": "locale"}
        return {"locale": _mapper("oidc-usermodel-attribute-mapper", config)}
    return {}


def _claims(*, in_id_token: bool = False, audience: bool = True) -> dict[str, Value]:
    """Return the mappers behind a token's claims, by name."""
    where: dict[str, Value] = {
        "access.token.claim": "true",
        "id.token.claim": str(in_id_token).lower(),
        "userinfo.token.claim": str(in_id_token).lower(),
        "introspection.token.claim": "true",
    }
    made: dict[str, Value] = {
        "sub": _mapper("oidc-sub-mapper", {"access.token.claim": "true", "introspection.token.claim": "true"}),
        "preferred_username": _mapper(
            "oidc-usermodel-attribute-mapper", where | _into("preferred_username") | {"user.attribute": "username"}
        ),
        AID: _mapper("oidc-usermodel-attribute-mapper", where | _into(AID) | {"user.attribute": AID}),
        # Keycloak adds `multivalued` by itself with the first token.
        "flowerbed_groups": _mapper(
            "oidc-group-membership-mapper",
            where | {"claim.name": "flowerbed_groups", "full.path": "true", "multivalued": "true"},
        ),
        "flowerbed_roles": _mapper(
            "oidc-usermodel-realm-role-mapper", where | _into("flowerbed_roles") | {"multivalued": "true"}
        ),
    }
    if in_id_token:
        made["email"] = _mapper("oidc-usermodel-attribute-mapper", where | _into("email") | {"user.attribute": "email"})
    if audience:
        config: dict[str, Value] = {
            "included.custom.audience": AUDIENCE,
            "access.token.claim": "true",
            "id.token.claim": "false",
            "userinfo.token.claim": "false",
            "introspection.token.claim": "true",
        }
        made["audience"] = _mapper("oidc-audience-mapper", config)
    return made


def _into(claim: str) -> dict[str, Value]:
    return {"claim.name": claim, "jsonType.label": "String"}


def _mapper(kind: str, config: dict[str, Value]) -> dict[str, Value]:
    return {"protocolMapper": kind, "config": config}


def _account(machine: Machine) -> Fields:
    return {
        "enabled": True,
        "attributes": {AID: [machine.aid]},
        "groups": list(machine.groups),
        "roles": list(machine.roles),
        "clientRoles": [],
    }
