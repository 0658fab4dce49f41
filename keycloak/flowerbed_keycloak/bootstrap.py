"""The kit's own client in realm master: made once with the bootstrap client, which is removed then.

Not for realm flowerbed: that is `reconcile`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keycloak import KeycloakAdmin
from keycloak.exceptions import KeycloakAuthenticationError, KeycloakError

from .clients import BUILT_IN
from .connection import BOOTSTRAP_CLIENT, KIT_CLIENT, MASTER, Access, administrator, writes
from .errors import KeycloakRefusedError
from .realm import REALM

NO_WAY_IN = (
    "Keycloak accepts neither the kit's client nor the bootstrap client, so its database belongs to other secrets: put the "
    "secrets back from a backup, or rebuild Keycloak (docs/runbooks/keycloak-rebuild.md)."
)


def ready(access: Access) -> KeycloakAdmin | None:
    """Return an admin client for realm flowerbed as the kit; None if the kit's client is not made, or not whole."""
    admin = administrator(access, KIT_CLIENT, access.kit_secret, REALM)
    return admin if _administers(admin) else None


def _administers(admin: KeycloakAdmin) -> bool:
    """Say whether its client may read master's settings; only administrators of all realms may."""
    try:
        found = admin.get_realm(MASTER)
    except KeycloakAuthenticationError:
        return False
    except KeycloakError as error:
        if error.response_code in (400, 401, 403):
            return False
        raise
    return "accessTokenLifespan" in found


def bootstrap(access: Access) -> KeycloakAdmin:
    """Return an admin client as the bootstrap client.

    Raises:
        KeycloakRefusedError: it is gone, or has another secret.
    """
    admin = administrator(access, BOOTSTRAP_CLIENT, access.bootstrap_secret, REALM)
    if not _administers(admin):
        raise KeycloakRefusedError(NO_WAY_IN)
    return admin


def ensure_kit_client(access: Access) -> int:
    """Make the kit's client, or complete it, with the role that administers all realms; return the number of writes."""
    admin = bootstrap(access)
    admin.change_current_realm(MASTER)
    found = admin.get_client_id(KIT_CLIENT)
    identity = found or admin.create_client(_kit(access))
    if found:
        admin.update_client(identity, _kit(access))
    account = admin.get_client_service_account_user(identity)
    admin.assign_realm_roles(account["id"], [admin.get_realm_role("admin")])
    return writes(admin)


def _kit(access: Access) -> dict[str, Any]:
    return {
        "clientId": KIT_CLIENT,
        "name": "Flowerbed: keeps Keycloak equal to federation.yaml",
        "protocol": "openid-connect",
        "enabled": True,
        "publicClient": False,
        "secret": access.kit_secret,
        "serviceAccountsEnabled": True,
        "standardFlowEnabled": False,
        "directAccessGrantsEnabled": False,
        "implicitFlowEnabled": False,
        # The admin API looks for the client's roles in its token.
        "fullScopeAllowed": True,
        "attributes": {"client_credentials.use_refresh_token": "false"},
    }


@dataclass(frozen=True)
class Master:
    """Who may administer every realm: ids of bootstrap clients, which are to be gone, and names of others than the kit."""

    leftovers: tuple[str, ...]
    others: tuple[str, ...]


def master(clients: Sequence[Mapping[str, Any]], people: Iterable[Mapping[str, Any]]) -> Master:
    """Return who is in realm master beside the kit and Keycloak's own clients, and who of those has an account to log in with."""
    own = {KIT_CLIENT, *BUILT_IN, *(f"{realm}-realm" for realm in (MASTER, REALM))}
    own -= {item["clientId"] for item in clients if item.get("serviceAccountsEnabled")} - {KIT_CLIENT}
    left = tuple(item["id"] for item in clients if item["clientId"] == BOOTSTRAP_CLIENT)
    names = {item["clientId"] for item in clients} - own - {BOOTSTRAP_CLIENT}
    return Master(left, tuple(sorted(names | {item["username"] for item in people})))


def remove(admin: KeycloakAdmin, identities: Iterable[str]) -> None:
    """Remove the bootstrap client with its account."""
    admin.change_current_realm(MASTER)
    try:
        for identity in identities:
            admin.delete_client(identity)
    finally:
        admin.change_current_realm(REALM)
