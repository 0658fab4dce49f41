"""Whether an access token is valid and whom it names, decided here with cached keys; not what that account may do.

The rules are "Identity" in docs/contracts.md. A token that was found valid is remembered by its SHA-256 until it ends, so
that a request costs neither a signature nor a question to anybody. Sources: RFC 7519, RFC 8725 (best practice).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from threading import Lock
from typing import Any

import jwt
from jwt import PyJWK

from flowerbed_superlink.errors import TokenError
from flowerbed_superlink.kit import KIT_AID
from flowerbed_superlink.provider import ALGORITHMS, Provider
from flowerbed_superlink.settings import settings

AUDIENCE = "flowerbed-superlink"
SKEW_S = 30
MAX_TOKEN = 16 * 1024  # characters
MAX_REMEMBERED = 4096
ROLES = ("operator", "custodian", "researcher", "auditor")
KIT_CLIENT = "kit"

_PERSON = re.compile(r"p-[0-9a-f]{20}", re.ASCII)
_PIPELINE = re.compile(r"pipeline-[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_GROUP = re.compile(r"/(organisations|federations)/([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)", re.ASCII)
_PEOPLES_CLIENTS = frozenset({"flwr", "hub"})

_INVALID = "The access token is not valid: run `flwr login`."
_OPTIONS: Any = {"require": ["exp", "iat", "iss", "aud"], "verify_iat": False, "strict_aud": False}


@dataclass(frozen=True)
class Claims:
    """Whom a valid token names, and what it says of them."""

    aid: str
    name: str
    organisation: str  # name of the organisation, empty for none
    federations: frozenset[str]  # names, without the consortium
    roles: frozenset[str]
    expires: float  # seconds since 1970
    client: str


class Tokens:
    """Validates access tokens of one issuer, in any number of threads."""

    def __init__(self, provider: Provider, clock: Callable[[], float] = time.time) -> None:
        self._provider, self._clock = provider, clock
        self._lock = Lock()
        self._valid: dict[bytes, Claims] = {}

    def remembered(self, token: str) -> Claims | None:
        """Return the claims of a token that was found valid before; asks and computes nothing that takes time."""
        claims = self._valid.get(_digest(token))
        return claims if claims is not None and self._clock() < claims.expires + SKEW_S else None

    def validate(self, token: str) -> Claims:
        """Return the claims of a token; may wait for the issuer's keys.

        Raises:
            TokenError: it is not valid.
            ProviderError: the issuer's keys were never fetched, and cannot be now.
        """
        if (claims := self.remembered(token)) is not None:
            return claims
        claims = self._checked(token)
        self._remember(token, claims)
        return claims

    def _checked(self, token: str) -> Claims:
        if len(token) > MAX_TOKEN:
            raise TokenError(_INVALID)
        key = self._key(token)
        try:
            payload = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=AUDIENCE,
                issuer=self._provider.issuer,
                leeway=SKEW_S,
                options=_OPTIONS,
            )
            return _claims(payload)
        except jwt.ExpiredSignatureError as error:
            raise TokenError("The access token has expired: run `flwr login`.") from error
        except jwt.InvalidAudienceError as error:
            raise TokenError("The access token is not for this SuperLink: run `flwr login`.") from error
        except jwt.InvalidIssuerError as error:
            raise TokenError("The access token is of another issuer: run `flwr login`.") from error
        except jwt.ImmatureSignatureError as error:
            raise TokenError("The access token is not valid yet: check this host's clock.") from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TokenError(_INVALID) from error

    def _key(self, token: str) -> PyJWK:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise TokenError(_INVALID) from error
        kid, algorithm = header.get("kid"), header.get("alg")
        # Before anything is fetched, so that what can never be valid costs nobody a question.
        if algorithm not in ALGORITHMS or not isinstance(kid, str) or "crit" in header:
            raise TokenError(_INVALID)
        if (key := self._provider.key(kid)) is None:
            raise TokenError("The access token is signed with a key that the identity provider does not know.")
        return key

    def _remember(self, token: str, claims: Claims) -> None:
        with self._lock:
            if len(self._valid) >= MAX_REMEMBERED:
                now = self._clock()
                self._valid = {k: c for k, c in self._valid.items() if now < c.expires + SKEW_S}
            if len(self._valid) >= MAX_REMEMBERED:
                self._valid.pop(next(iter(self._valid)))
            self._valid[_digest(token)] = claims


@cache
def tokens() -> Tokens:
    """Return the validation of this process, for FLOWERBED_ISSUER."""
    return Tokens(provider())


@cache
def provider() -> Provider:
    """Return the identity provider of this process."""
    return Provider(settings().issuer, settings().secrets / "ca.crt")


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def _claims(payload: dict[str, Any]) -> Claims:
    """Read a payload whose signature, issuer, audience and times are right.

    Raises:
        TokenError: it is no access token of an account of ours.
    """
    aid, client = _text(payload, "flowerbed_aid"), _text(payload, "azp")
    if payload.get("typ", "Bearer") != "Bearer":
        raise TokenError("An access token is needed, not another kind of token: run `flwr login`.")
    if not aid:
        raise TokenError(
            "This account has no id of the federation: ask an operator to add it with `flowerbed user add`."
        )
    if not _belongs(client, aid):
        raise TokenError("The access token was not issued to a client that this account may use.")
    organisations, federations = _groups(_texts(payload, "flowerbed_groups"))
    if len(organisations) > 1:
        raise TokenError("This account is in more than one organisation: ask an operator to correct it.")
    # Who is of no organisation of this federation any more may still log in, and has power over nothing.
    powerless = client in _PEOPLES_CLIENTS and not organisations
    roles = frozenset(_texts(payload, "flowerbed_roles")) & frozenset(() if powerless else ROLES)
    return Claims(
        aid=aid,
        # Keycloak calls the accounts of machines service-account-<client>.
        name=(_text(payload, "preferred_username") if client in _PEOPLES_CLIENTS else "") or aid,
        organisation=next(iter(organisations), ""),
        federations=frozenset(federations),
        roles=roles,
        expires=float(payload["exp"]),
        client=client,
    )


def _belongs(client: str, aid: str) -> bool:
    """Return whether a client may speak for an account: a person must not become a pipeline or the kit."""
    if client in _PEOPLES_CLIENTS:
        return _PERSON.fullmatch(aid) is not None
    if client == KIT_CLIENT:
        return aid == KIT_AID
    return client == aid and _PIPELINE.fullmatch(client) is not None


def _groups(paths: list[str]) -> tuple[set[str], set[str]]:
    found: dict[str, set[str]] = {"organisations": set(), "federations": set()}
    for path in paths:
        if (match := _GROUP.fullmatch(path)) is not None:
            found[match[1]].add(match[2])
    return found["organisations"], found["federations"]


def _text(payload: dict[str, Any], name: str) -> str:
    value = payload.get(name, "")
    if not isinstance(value, str) or len(value) > 200:
        raise TokenError(_INVALID)
    return value


def _texts(payload: dict[str, Any], name: str) -> list[str]:
    values = payload.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TokenError(_INVALID)
    return values
