"""Changes that somebody makes by hand in Keycloak, one for each kind of object, and the line that a reconcile reports for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keycloak import KeycloakAdmin

from flowerbed_keycloak.read import DEFAULT_ROLES, groups

RESEARCHER, CUSTODIAN, AUDITOR = "researcher-north", "custodian-south", "auditor-north"

Drift = Callable[[KeycloakAdmin], object]


def client(admin: KeycloakAdmin, name: str) -> str:
    return str(admin.get_client_id(name))


def person(admin: KeycloakAdmin, name: str) -> str:
    return str(admin.get_user_id(name))


def set_client(admin: KeycloakAdmin, name: str, **fields: Any) -> None:
    found = admin.get_client(client(admin, name))
    attributes = found["attributes"] | fields.pop("attributes", {})
    admin.update_client(found["id"], found | fields | {"attributes": attributes})


def rogue_mapper(admin: KeycloakAdmin) -> None:
    config = {"claim.name": "flowerbed_aid", "claim.value": "flowerbed", "access.token.claim": "true"}
    mapper = {
        "name": "x",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-hardcoded-claim-mapper",
        "config": config,
    }
    admin.add_mapper_to_client(client(admin, "flwr"), mapper)


def weak_mapper(admin: KeycloakAdmin) -> None:
    identity = client(admin, "hub")
    found = next(item for item in admin.get_mappers_from_client(identity) if item["name"] == "flowerbed_aid")
    found["config"]["user.attribute"] = "email"
    admin.update_client_mapper(identity, found["id"], found)


def open_profile(admin: KeycloakAdmin) -> None:
    found = admin.get_realm_users_profile()
    found["unmanagedAttributePolicy"] = "ENABLED"
    for item in found["attributes"]:
        item["permissions"] = {"view": ["admin", "user"], "edit": ["admin", "user"]}
    admin.update_realm_users_profile(found)


def other_person(admin: KeycloakAdmin) -> None:
    identity = person(admin, RESEARCHER)
    admin.assign_realm_roles(identity, [admin.get_realm_role("operator")])
    admin.group_user_remove(identity, groups(admin)["/federations/pilot"]["id"])
    found = admin.get_user(identity)
    admin.update_user(identity, found | {"attributes": {"flowerbed_aid": ["p-other"]}, "lastName": "Changed"})


def administrator(admin: KeycloakAdmin) -> None:
    management = client(admin, "realm-management")
    role = admin.get_client_role(management, "manage-users")
    admin.assign_client_role(person(admin, AUDITOR), management, [role])


def generous_group(admin: KeycloakAdmin) -> None:
    admin.assign_group_realm_roles(groups(admin)["/federations/main"]["id"], [admin.get_realm_role("operator")])


def composite(admin: KeycloakAdmin) -> None:
    admin.add_composite_realm_roles_to_role("auditor", [admin.get_realm_role("operator")])


def stranger(admin: KeycloakAdmin) -> None:
    admin.create_user({"username": "stranger", "enabled": True, "attributes": {"flowerbed_aid": ["flowerbed"]}})


def pipeline_account(admin: KeycloakAdmin) -> None:
    user = admin.get_client_service_account_user(client(admin, "pipeline-demo"))
    admin.assign_realm_roles(user["id"], [admin.get_realm_role("operator")])


DRIFTS: dict[str, tuple[Drift, str]] = {
    "realm": (
        lambda a: a.update_realm("flowerbed", a.get_realm("flowerbed") | {"accessTokenLifespan": 3600}),
        "realm flowerbed: accessTokenLifespan is 3600, wanted 300",
    ),
    "refresh": (
        lambda a: a.update_realm("flowerbed", a.get_realm("flowerbed") | {"revokeRefreshToken": False}),
        "realm flowerbed: revokeRefreshToken is False, wanted True",
    ),
    "master": (
        lambda a: a.update_realm("master", a.get_realm("master") | {"bruteForceProtected": False}),
        "realm master: bruteForceProtected is False, wanted True",
    ),
    "profile": (open_profile, "profile flowerbed: flowerbed_aid.permissions is "),
    "unmanaged": (open_profile, "profile flowerbed: unmanagedAttributePolicy is ENABLED, wanted empty"),
    "role gone": (lambda a: a.delete_realm_role("custodian"), "role custodian: missing"),
    "role added": (lambda a: a.create_realm_role({"name": "superuser"}), "role superuser: extra"),
    "role composite": (composite, "role auditor: composite is True, wanted False"),
    "default role": (
        lambda a: a.add_composite_realm_roles_to_role(DEFAULT_ROLES, [a.get_realm_role("offline_access")]),
        f"role {DEFAULT_ROLES}: composites is ",
    ),
    "group gone": (
        lambda a: a.delete_group(groups(a)["/organisations/south"]["id"]),
        "group /organisations/south: missing",
    ),
    "group added": (
        lambda a: a.create_group({"name": "evil"}, parent=groups(a)["/federations"]["id"]),
        "group /federations/evil: extra",
    ),
    "group roles": (generous_group, "group /federations/main: realmRoles is operator, wanted empty"),
    "client": (
        lambda a: set_client(a, "flwr", directAccessGrantsEnabled=True, fullScopeAllowed=True),
        "client flwr: directAccessGrantsEnabled is True, wanted False",
    ),
    "client attribute": (
        lambda a: set_client(a, "flwr", attributes={"access.token.lifespan": "86400"}),
        "client flwr: attributes.access.token.lifespan is 86400, wanted empty",
    ),
    "client secret": (lambda a: set_client(a, "grafana", secret="guessed"), "client grafana: secret differs"),
    "client gone": (lambda a: a.delete_client(client(a, "hub")), "client hub: missing"),
    "client added": (lambda a: a.create_client({"clientId": "pipeline-evil"}), "client pipeline-evil: extra"),
    "client opened": (
        lambda a: set_client(a, "admin-cli", enabled=True),
        "client admin-cli: enabled is True, wanted False",
    ),
    "mapper added": (rogue_mapper, "client flwr: mappers.x is "),
    "scope": (
        lambda a: a.add_client_default_client_scope(
            client(a, "kit"), next(s["id"] for s in a.get_client_scopes() if s["name"] == "profile"), {}
        ),
        "client kit: defaultClientScopes is profile, wanted empty",
    ),
    "scope role": (
        lambda a: a.assign_realm_roles_to_client_scope(client(a, "kit"), [a.get_realm_role("offline_access")]),
        "client kit: scopeRoles is ",
    ),
    "machine": (pipeline_account, "service account pipeline-demo: roles is operator, researcher, wanted researcher"),
    "person's role": (other_person, f"person {RESEARCHER}: roles is operator, researcher, wanted researcher"),
    "person's group": (other_person, f"person {RESEARCHER}: groups is "),
    "person's id": (other_person, f"person {RESEARCHER}: attributes.flowerbed_aid is p-other, wanted p-"),
    "person's name": (other_person, f"person {RESEARCHER}: lastName is Changed, wanted north"),
    "person made administrator": (
        administrator,
        f"person {AUDITOR}: clientRoles is realm-management/manage-users, wanted empty",
    ),
    "person gone": (lambda a: a.delete_user(person(a, "operator-south")), "person operator-south: missing"),
    "stranger with an id": (stranger, "person stranger: attributes.flowerbed_aid is flowerbed, wanted empty"),
}
