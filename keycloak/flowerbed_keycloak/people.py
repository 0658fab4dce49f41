"""Single accounts of people: passwords, and shutting somebody out at once. Not for the list: `reconcile` brings that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keycloak import KeycloakAdmin

from . import bootstrap
from .connection import Access
from .errors import KeycloakRefusedError, sentences


def set_password(access: Access, name: str, password: str, *, temporary: bool) -> None:
    """Give a person a new password, take away every other way to log in, end their sessions, forget wrong attempts.

    Whoever knew the old password may have added a second factor of their own, which would shut the person out.

    Raises:
        KeycloakDownError: Keycloak does not answer.
        KeycloakRefusedError: there is nobody of that name, or the password is against the realm's policy.
    """
    with _somebody(access, name, f"a password for {name}") as (admin, identity):
        admin.set_user_password(identity, password, temporary=temporary)
        for credential in admin.get_credentials(identity):
            if not credential["type"].startswith("password"):
                admin.delete_credential(identity, credential["id"])
        admin.user_logout(identity)
        admin.clear_bruteforce_attempts_for_user(identity)


def disable(access: Access, name: str) -> None:
    """Let a person log in no more, and end their sessions: refresh tokens are dead at once, access tokens when they expire.

    Raises:
        KeycloakDownError: Keycloak does not answer.
        KeycloakRefusedError: there is nobody of that name.
    """
    _set_enabled(access, name, enabled=False)


def enable(access: Access, name: str) -> None:
    """Let a person log in again, and forget their wrong attempts.

    Raises:
        KeycloakDownError: Keycloak does not answer.
        KeycloakRefusedError: there is nobody of that name.
    """
    _set_enabled(access, name, enabled=True)


def _set_enabled(access: Access, name: str, *, enabled: bool) -> None:
    with _somebody(access, name, f"to {'enable' if enabled else 'disable'} {name}") as (admin, identity):
        admin.update_user(identity, admin.get_user(identity) | {"enabled": enabled})
        if enabled:
            admin.clear_bruteforce_attempts_for_user(identity)
        else:
            admin.user_logout(identity)


@contextmanager
def _somebody(access: Access, name: str, what: str) -> Iterator[tuple[KeycloakAdmin, str]]:
    with sentences(what):
        admin = bootstrap.ready(access)
        if admin is None:
            raise KeycloakRefusedError("Keycloak does not know the kit yet: run flowerbed realm.")
        identity = admin.get_user_id(name)
        if identity is None:
            raise KeycloakRefusedError(
                f"Keycloak has nobody called {name}: run flowerbed realm, which brings the list."
            )
        yield admin, identity
