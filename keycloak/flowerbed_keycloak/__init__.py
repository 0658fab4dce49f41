"""Keycloak as code: its configuration, the realm that a topology wants, and making Keycloak equal to it.

`realm`, `clients`, `config` and `state` are pure; the others speak to Keycloak.
"""

from .apply import Password
from .config import keycloak_conf
from .connection import Access
from .errors import IdentityError, KeycloakDownError, KeycloakRefusedError
from .people import disable, enable, set_password
from .realm import desired_state
from .reconcile import Report, reconcile
from .state import State

__all__ = [
    "Access",
    "IdentityError",
    "KeycloakDownError",
    "KeycloakRefusedError",
    "Password",
    "Report",
    "State",
    "desired_state",
    "disable",
    "enable",
    "keycloak_conf",
    "reconcile",
    "set_password",
]
