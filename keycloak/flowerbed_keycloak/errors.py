"""What can go wrong with Keycloak, as sentences: what was found, and the remedy.

IdentityError
├── KeycloakDownError      nothing of this federation's answers
└── KeycloakRefusedError   Keycloak answers, and says no
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keycloak.exceptions import KeycloakConnectionError, KeycloakError


class IdentityError(Exception):
    """Shown as it is; ends a command with exit code 2."""


class KeycloakDownError(IdentityError):
    """Keycloak, or the edge before it, does not answer."""


class KeycloakRefusedError(IdentityError):
    """Keycloak does not accept the kit's credentials, or a change."""


@contextmanager
def sentences(what: str) -> Iterator[None]:
    """Turn what python-keycloak raises into one of ours; `what` completes "Keycloak refused …".

    Raises:
        KeycloakDownError: no connection, or 502 to 504 from the edge.
        KeycloakRefusedError: any other answer that is not success.
    """
    try:
        yield
    except KeycloakConnectionError as error:
        raise KeycloakDownError(unreachable(error)) from error
    except KeycloakError as error:
        if error.response_code in (502, 503, 504):
            raise KeycloakDownError(DOWN) from error
        raise KeycloakRefusedError(f"Keycloak refused {what}: {said(error)}. {remedy(error.response_code)}") from error


DOWN = "Keycloak does not answer behind the edge: make status says what is wrong, make up starts it."


def unreachable(error: BaseException) -> str:
    """Return a sentence for a connection that could not be made, by what the socket or TLS said."""
    text = " ".join(str(cause) for cause in causes(error))
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "What answers for Keycloak has no certificate of this federation's CA: is another stack up on that port?"
    if "timed out" in text:
        return "Keycloak gave no answer in time: make status says what is wrong."
    return "The edge cannot be reached, and Keycloak is behind it: run make up."


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def said(error: KeycloakError) -> str:
    """Return what Keycloak answered, on one short line."""
    text = error.error_message
    line = " ".join((text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)).split())
    return f"{error.response_code} {line[:200]}".strip()


def remedy(status: int | None) -> str:
    """Return what to do about a status."""
    if status in (400, 401, 403):
        return "If the kit's credentials are not this Keycloak's, docs/runbooks/keycloak-rebuild.md makes them equal."
    return "Run flowerbed realm once more; make logs shows Keycloak's side."
