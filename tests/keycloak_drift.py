"""Changes that somebody makes by hand in Keycloak, one for each kind of object, and the line that a reconcile reports for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from keycloak import KeycloakAdmin

from flowerbed_keycloak.fresh import KEY_PROVIDER
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


def other_page(admin: KeycloakAdmin) -> None:
    pages = admin.get_client(client(admin, "account-console"))["redirectUris"]
    set_client(admin, "account-console", redirectUris=[*pages, "https://theirs.invalid/*"])


def administering_client(admin: KeycloakAdmin) -> None:
    set_client(admin, "account", publicClient=False, serviceAccountsEnabled=True)
    management = client(admin, "realm-management")
    user = admin.get_client_service_account_user(client(admin, "account"))
    admin.assign_client_role(user["id"], management, [admin.get_client_role(management, "realm-admin")])


def in_master(admin: KeycloakAdmin, drift: Drift) -> None:
    admin.change_current_realm("master")
    try:
        drift(admin)
    finally:
        admin.change_current_realm("flowerbed")


def imported_key(admin: KeycloakAdmin, name: str = "mine", provider: str = "rsa") -> RSAPrivateKey:
    """Give a realm a signing key whose private half somebody keeps; Keycloak takes one as `generated` too."""
    key = generate_private_key(65537, 2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    config = {"priority": ["1000"], "algorithm": ["RS256"], "privateKey": [private]}
    if provider != "rsa":
        config |= {"certificate": [certificate(key)], "keySize": ["2048"]}
    admin.create_component({"name": name, "providerId": provider, "providerType": KEY_PROVIDER, "config": config})
    return key


def certificate(key: RSAPrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flowerbed")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=365))
    return made.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


def user_federation(admin: KeycloakAdmin) -> None:
    config = {
        "connectionUrl": ["ldap://127.0.0.1:1"],
        "usersDn": ["ou=people"],
        "usernameLDAPAttribute": ["uid"],
        "rdnLDAPAttribute": ["uid"],
        "uuidLDAPAttribute": ["entryUUID"],
        "userObjectClasses": ["person"],
        "editMode": ["READ_ONLY"],
        "vendor": ["other"],
        "authType": ["none"],
        "enabled": ["true"],
    }
    kind = "org.keycloak.storage.UserStorageProvider"
    admin.create_component({"name": "theirs", "providerId": "ldap", "providerType": kind, "config": config})


def identity_provider(admin: KeycloakAdmin) -> None:
    config = {
        "clientId": "x",
        "clientSecret": "x",
        "tokenUrl": "https://x.invalid/t",
        "authorizationUrl": "https://x.invalid/a",
    }
    admin.create_idp({"alias": "theirs", "providerId": "oidc", "enabled": True, "config": config})


def execution(admin: KeycloakAdmin, provider: str, requirement: str) -> None:
    found = next(e for e in admin.get_authentication_flow_executions("browser") if e.get("providerId") == provider)
    admin.update_authentication_flow_executions(found | {"requirement": requirement}, "browser")


def action(admin: KeycloakAdmin, alias: str, **changes: Any) -> None:
    found = admin.get_required_action_by_alias(alias)
    assert found
    admin.update_required_action(alias, found | changes)


def remove_key(admin: KeycloakAdmin, name: str) -> None:
    admin.delete_component(next(item["id"] for item in admin.get_components() if item.get("name") == name))


def other_flow(admin: KeycloakAdmin) -> None:
    admin.copy_authentication_flow({"newName": "theirs"}, "browser")
    admin.update_realm("flowerbed", admin.get_realm("flowerbed") | {"browserFlow": "theirs"})


def setting(admin: KeycloakAdmin, provider: str, config: dict[str, str]) -> None:
    """Change the settings of an execution of the flow `browser`, or give it some."""
    found = next(e for e in admin.get_authentication_flow_executions("browser") if e.get("providerId") == provider)
    if identity := found.get("authenticationConfig"):
        admin.update_authenticator_config(admin.get_authenticator_config(identity) | {"config": config}, identity)
    else:
        admin.create_execution_config(found["id"], {"alias": "theirs", "config": config})


def first(admin: KeycloakAdmin, provider: str) -> None:
    found = next(e for e in admin.get_authentication_flow_executions("browser") if e.get("providerId") == provider)
    admin.update_authentication_flow_executions(found | {"priority": 1}, "browser")


def scope(admin: KeycloakAdmin, name: str) -> str:
    return str(next(item["id"] for item in admin.get_client_scopes() if item["name"] == name))


def claiming(claim: str, value: str) -> dict[str, Any]:
    config = {"claim.name": claim, "claim.value": value, "access.token.claim": "true"}
    return {
        "name": "x",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-hardcoded-claim-mapper",
        "config": config,
    }


def audience(admin: KeycloakAdmin) -> None:
    """Have tokens of Keycloak's own clients name the SuperLink."""
    config = {"included.custom.audience": "flowerbed-superlink", "access.token.claim": "true"}
    mapper = claiming("", "") | {"protocolMapper": "oidc-audience-mapper", "config": config}
    admin.add_mapper_to_client_scope(scope(admin, "roles"), mapper)


def other_subject(admin: KeycloakAdmin) -> None:
    identity = scope(admin, "profile")
    found = next(item for item in admin.get_mappers_from_client_scope(identity) if item["name"] == "nickname")
    found["config"]["claim.name"] = "flowerbed_aid"
    admin.update_mapper_in_client_scope(identity, found["id"], found)


def scope_of_theirs(admin: KeycloakAdmin) -> None:
    """A scope that every client made from now on has, and one of Keycloak's own has already."""
    mappers = [claiming("flowerbed_aid", "flowerbed")]
    body = {"name": "theirs", "protocol": "openid-connect", "protocolMappers": mappers}
    identity = str(admin.create_client_scope(body))
    admin.add_default_default_client_scope(identity)
    admin.add_client_default_client_scope(client(admin, "account-console"), identity, {})


def scope_mapping(admin: KeycloakAdmin, owner: str, role: str) -> None:
    """Have tokens of a client or a client scope name one more role of the realm."""
    path = f"admin/realms/{admin.get_current_realm()}/{owner}/scope-mappings/realm"
    assert admin.connection.raw_post(path, data=json.dumps([admin.get_realm_role(role)])).status_code == 204


def console_scopes(admin: KeycloakAdmin) -> None:
    identity = client(admin, "security-admin-console")
    admin.delete_client_optional_client_scope(identity, scope(admin, "phone"))
    admin.add_client_default_client_scope(identity, scope(admin, "phone"), {})


def policies(admin: KeycloakAdmin) -> None:
    """Have every client's logins go by a rule of somebody's."""
    executors = [{"executor": "consent-required", "configuration": {}}]
    conditions = [{"condition": "any-client", "configuration": {}}]
    policy = {"name": "theirs", "enabled": True, "conditions": conditions, "profiles": ["theirs"]}
    for kind, items in (("profiles", [{"name": "theirs", "executors": executors}]), ("policies", [policy])):
        path = f"admin/realms/flowerbed/client-policies/{kind}"
        assert admin.connection.raw_put(path, data=json.dumps({kind: items})).status_code == 204


def masters_role(admin: KeycloakAdmin) -> None:
    admin.add_composite_realm_roles_to_role("default-roles-master", [admin.get_realm_role("admin")])


def unframed(admin: KeycloakAdmin) -> None:
    headers = admin.get_realm("flowerbed")["browserSecurityHeaders"] | {"xFrameOptions": ""}
    admin.update_realm("flowerbed", admin.get_realm("flowerbed") | {"browserSecurityHeaders": headers})


WAYS_IN: dict[str, tuple[Drift, str]] = {
    "key": (imported_key, "component flowerbed/mine (rsa, "),
    "key of master": (lambda a: in_master(a, imported_key), "component master/mine (rsa, "),
    "key twice": (
        lambda a: imported_key(a, "rsa-generated", "rsa-generated"),
        "component flowerbed/rsa-generated (rsa-generated, ",
    ),
    "key gone": (lambda a: remove_key(a, "aes-generated"), "component flowerbed/aes-generated: missing"),
    "user federation": (user_federation, "component flowerbed/theirs (ldap, "),
    "identity provider": (identity_provider, "identity provider flowerbed/theirs: extra"),
    "password": (
        lambda a: execution(a, "auth-username-password-form", "DISABLED"),
        "flow flowerbed/browser: executions.forms/auth-username-password-form is DISABLED, wanted REQUIRED",
    ),
    "one-time password": (
        lambda a: in_master(a, lambda m: execution(m, "auth-otp-form", "DISABLED")),
        "flow master/browser: executions.forms/Browser - Conditional 2FA/auth-otp-form is DISABLED, wanted ALTERNATIVE",
    ),
    "flow": (other_flow, "realm flowerbed: browserFlow is theirs, wanted browser"),
    "action": (
        lambda a: action(a, "delete_account", enabled=True, defaultAction=True),
        "required actions flowerbed: actions.delete_account is by default, wanted off",
    ),
    "action gone": (
        lambda a: a.connection.raw_delete("admin/realms/flowerbed/authentication/required-actions/CONFIGURE_TOTP"),
        "required actions flowerbed: actions.CONFIGURE_TOTP is empty, wanted on",
    ),
    "headers": (unframed, "realm flowerbed: browserSecurityHeaders.xFrameOptions is empty, wanted SAMEORIGIN"),
    "events": (
        lambda a: a.update_realm("flowerbed", a.get_realm("flowerbed") | {"enabledEventTypes": ["LOGIN_ERROR"]}),
        "realm flowerbed: enabledEventTypes is LOGIN_ERROR, wanted CLIENT_LOGIN, ",
    ),
}

# What adds to tokens, or to what an account may do, without any client, group or account being changed.
BESIDE: dict[str, tuple[Drift, str]] = {
    "second factor done away with": (
        lambda a: setting(a, "conditional-credential", {"credentials": "password"}),
        "flow flowerbed/browser: settings.forms/Browser - Conditional 2FA/conditional-credential is {'credentials': 'pass",
    ),
    "settings of master's": (
        lambda a: in_master(a, lambda m: setting(m, "identity-provider-redirector", {"defaultProvider": "theirs"})),
        "flow master/browser: settings.identity-provider-redirector is {'defaultProvider': 'theirs'}, wanted empty",
    ),
    "order": (
        lambda a: first(a, "auth-otp-form"),
        "flow flowerbed/browser: order.forms/Browser - Conditional 2FA is auth-otp-form, conditional-user-configured, ",
    ),
    "flow added": (other_flow, "flow flowerbed/theirs: extra"),
    "flow added to master": (
        lambda a: in_master(a, lambda m: m.copy_authentication_flow({"newName": "theirs"}, "direct grant")),
        "flow master/theirs: extra",
    ),
    "one-time password's policy": (
        lambda a: a.update_realm("flowerbed", a.get_realm("flowerbed") | {"otpPolicyLookAheadWindow": 100}),
        "realm flowerbed: otpPolicyLookAheadWindow is 100, wanted 1",
    ),
    "client policies": (policies, "realm flowerbed: clientPolicies.policies is "),
    "client profiles": (policies, "realm flowerbed: clientProfiles.profiles is "),
    "audience": (audience, "client scope flowerbed/roles: mappers.x is {'protocolMapper': 'oidc-audience-mapper'"),
    "mapper of a scope": (other_subject, "client scope flowerbed/profile: mappers.nickname is "),
    "mapper of a scope of master": (
        lambda a: in_master(a, lambda m: m.add_mapper_to_client_scope(scope(m, "basic"), claiming("x", "y"))),
        "client scope master/basic: mappers.x is ",
    ),
    "scope added": (scope_of_theirs, "client scope flowerbed/theirs: extra"),
    "scope added to a client": (scope_of_theirs, "client account-console: defaultClientScopes is "),
    "scope of a client": (console_scopes, "client security-admin-console: optionalClientScopes is "),
    "scope gone": (
        lambda a: a.delete_client_scope(scope(a, "address")),
        "client scope flowerbed/address: missing",
    ),
    "scope for everybody": (
        lambda a: in_master(a, lambda m: m.add_default_default_client_scope(scope(m, "service_account"))),
        "client scope master/service_account: given is default, wanted empty",
    ),
    "role of a scope": (
        lambda a: scope_mapping(a, f"client-scopes/{scope(a, 'email')}", "operator"),
        "client scope flowerbed/email: roles is operator, wanted empty",
    ),
    "role in tokens of Keycloak's own client": (
        lambda a: scope_mapping(a, f"clients/{client(a, 'account-console')}", "operator"),
        "client account-console: scopeRoles is account/manage-account, account/view-groups, operator, wanted account/",
    ),
    "role of Keycloak's own client": (
        lambda a: a.add_composite_client_roles_to_role(
            client(a, "account"), "view-groups", [a.get_realm_role("operator")]
        ),
        "role account/view-groups: composites is operator, wanted empty",
    ),
    "role of Keycloak's own client gone": (
        lambda a: a.delete_client_role(client(a, "account"), "view-applications"),
        "role account/view-applications: missing",
    ),
    "role of a client added": (
        lambda a: a.create_client_role(client(a, "flwr"), {"name": "theirs"}),
        "role flwr/theirs: extra",
    ),
    "role of Keycloak's own": (
        lambda a: a.add_composite_realm_roles_to_role("uma_authorization", [a.get_realm_role("operator")]),
        "role uma_authorization: composites is operator, wanted empty",
    ),
    "what everybody in master has": (
        lambda a: in_master(a, masters_role),
        "role default-roles-master of realm master: composites is account/manage-account, account/view-profile, admin, ",
    ),
}

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
    "everybody's role": (
        lambda a: a.add_composite_client_roles_to_role(
            a.get_client_id("account"), "manage-account", [a.get_realm_role("operator")]
        ),
        "role account/manage-account: composites is account/manage-account-links, operator",
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
    "page of Keycloak's own client": (
        other_page,
        "client account-console: redirectUris is /realms/flowerbed/account/*, https://theirs.invalid/*, wanted /realms/",
    ),
    "account of Keycloak's own client": (administering_client, "service account account: extra"),
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
    **WAYS_IN,
    **BESIDE,
    "stranger with an id": (stranger, "person stranger: attributes.flowerbed_aid is flowerbed, wanted empty"),
}
