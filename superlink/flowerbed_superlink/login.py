"""Logging people in: Flower's plugin for the device grant, which asks the identity provider; not who may do what.

Both tokens go to `flwr`, and no token, code or secret goes to a log or the trail. Keycloak rotates refresh tokens, and
`flwr` processes of one person share one: refreshes of the same token are done one after the other, and whoever repeats
one within a minute gets the same new pair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from threading import Lock
from typing import Any, NoReturn

from fastapi import HTTPException
from flwr.common.constant import ACCESS_TOKEN_KEY, REFRESH_TOKEN_KEY, AuthnType
from flwr.supercore.auth.typing import AccountAuthCredentials, AccountAuthLoginDetails, AccountInfo
from flwr.superlink.auth_plugin import ControlAuthnPlugin

from flowerbed_superlink import asking
from flowerbed_superlink.directory import Directory, directory
from flowerbed_superlink.errors import PeopleError, ProviderError, ProviderRefusalError, TokenError
from flowerbed_superlink.provider import Provider
from flowerbed_superlink.repeats import Repeats
from flowerbed_superlink.tokens import MAX_TOKEN, Claims, Tokens, provider, tokens
from flowerbed_superlink.trail import UNRECORDED, Trail, TrailUnavailable, trail

REPEAT_S = 60.0  # repeats of a refresh get the same pair for so long
FAILED_S = 5.0  # and the same failure: who waits must not ask again, one after the other, while nobody answers
MAX_CODE = 4096  # characters of a device code

_WAITING = frozenset({"authorization_pending", "slow_down"})
_REASONS = {
    "access_denied": "The login was refused on the page of the identity provider.",
    "expired_token": "The login took too long: run `flwr login` again.",
    "invalid_grant": "The login is not valid any more: run `flwr login` again.",
}

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass
class _Refresh:
    """One refresh token's exchange: who waits for it, what came of it and when, and whether that was recorded."""

    lock: Lock = field(default_factory=Lock)
    users: int = 0
    pair: tuple[str, str] | None = None
    failure: ProviderError | ProviderRefusalError | None = None
    at: float = 0.0
    recorded: bool = False


class OidcLogin(ControlAuthnPlugin):
    """Flower's login plugin `oidc`."""

    def __init__(self) -> None:
        """Take everything from the settings; nothing is asked of the identity provider yet."""
        self._use(provider(), tokens(), directory(), trail())

    def _use(
        self,
        provider: Provider,
        tokens: Tokens,
        directory: Directory,
        trail: Trail,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider, self._tokens, self._directory, self._trail = provider, tokens, directory, trail
        self._clock, self._lock, self._repeats = clock, Lock(), Repeats(trail)
        self._refreshes: dict[bytes, _Refresh] = {}

    def get_login_details(self) -> AccountAuthLoginDetails | None:
        """Start a login: where the person has to go, and the code that `flwr` asks with.

        Raises:
            HTTPException: 503, the identity provider cannot be asked.
        """
        try:
            answer = self._provider.start_login()
        except ProviderRefusalError as error:
            _refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{error} Tell an operator: people cannot log in.")
        except ProviderError as error:
            _refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        details = _details(answer)
        self._record_start()
        return details

    def get_auth_tokens(self, device_code: str) -> AccountAuthCredentials | None:
        """Return the tokens of a login that was done, None while the person has not finished.

        An identity provider that does not answer is asked again, as RFC 8628, section 3.5, says: `flwr` does so until the
        login is too old.

        Raises:
            HTTPException: 403, it was refused or took too long; 503, the tokens cannot be checked.
        """
        try:
            _check_grant(len(device_code) <= MAX_CODE)
            if (answer := self._polled(device_code)) is None:
                return None
            access, refresh = _pair(answer)
            claims = self._usable(access)
        except ProviderRefusalError as error:
            if error.code in _WAITING:
                return None
            self._refused("login", _REASONS.get(error.code, str(error)))
        except TokenError as error:
            self._refused("login", str(error))
        except (ProviderError, PeopleError) as error:
            _refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        self._record("login", "done", claims)
        return AccountAuthCredentials(access, refresh)

    def validate_tokens_in_metadata(self, metadata: Metadata) -> tuple[bool, AccountInfo | None]:
        """Return whether the access token is valid, and whose it is.

        Raises:
            HTTPException: 503, the identity provider's keys were never fetched and cannot be now.
        """
        token = _text(metadata, ACCESS_TOKEN_KEY)
        try:
            claims = self._tokens.validate(token)
        except TokenError:
            return False, None
        except ProviderError as error:
            _refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        return True, _account(claims)

    def refresh_tokens(self, metadata: Metadata) -> tuple[Metadata | None, AccountInfo | None]:
        """Return a new pair of tokens and the account, or twice None when the refresh token is not valid any more.

        Raises:
            HTTPException: 503, the identity provider cannot be asked.
        """
        old = _text(metadata, REFRESH_TOKEN_KEY)
        try:
            _check_grant(len(old) <= MAX_TOKEN and old.count(".") == 2)  # a JWT: machines' accounts have none to give
            access, refresh = self._exchange(old)
            claims = self._usable(access)
        except ProviderRefusalError as error:
            self._note("refresh", _REASONS.get(error.code, str(error)))
            return None, None
        except TokenError as error:
            self._note("refresh", str(error))
            return None, None
        except (ProviderError, PeopleError) as error:
            _refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        return [(ACCESS_TOKEN_KEY, access), (REFRESH_TOKEN_KEY, refresh)], _account(claims)

    def _exchange(self, old: str) -> tuple[str, str]:
        with self._refresh_of(old) as refresh, refresh.lock:
            pair = refresh.pair or self._renewed(refresh, old)
            if not refresh.recorded:
                self._record("refresh", "done", self._tokens.validate(pair[0]))
                refresh.recorded = True
            return pair

    def _renewed(self, refresh: _Refresh, old: str) -> tuple[str, str]:
        if refresh.failure is not None and self._clock() - refresh.at < FAILED_S:
            raise refresh.failure
        try:
            refresh.pair = pair = _pair(self._provider.refreshed(old))
        except (ProviderError, ProviderRefusalError) as error:
            refresh.failure = error
            raise
        finally:
            refresh.at = self._clock()
        return pair

    @contextmanager
    def _refresh_of(self, old: str) -> Iterator[_Refresh]:
        key = sha256(old.encode("utf-8", "surrogateescape")).digest()
        with self._lock:
            self._forget()
            refresh = self._refreshes.setdefault(key, _Refresh())
            refresh.users += 1
        try:
            yield refresh
        finally:
            with self._lock:
                refresh.users -= 1

    def _forget(self) -> None:
        now = self._clock()
        kept = {True: REPEAT_S, False: FAILED_S}
        done = [k for k, r in self._refreshes.items() if not r.users and now - r.at >= kept[r.pair is not None]]
        for key in done:
            del self._refreshes[key]

    def _polled(self, device_code: str) -> dict[str, Any] | None:
        try:
            return self._provider.login_tokens(device_code)
        except ProviderRefusalError:
            raise
        except ProviderError:  # said in the log by `provider`
            return None

    def _usable(self, access: str) -> Claims:
        claims = self._tokens.validate(access)
        if (problem := self._directory.problem(claims.aid)) is not None:
            raise TokenError(problem)
        return claims

    def _refused(self, verb: str, why: str) -> NoReturn:
        self._note(verb, why)
        _refuse(HTTPStatus.FORBIDDEN, why)

    def _note(self, verb: str, why: str) -> None:
        self._repeats.note(_values(verb, "refused", None, why))

    def _record_start(self) -> None:
        """Record that somebody begins to log in, before they get the page; anybody may, so repeats are counted."""
        if (values := self._repeats.admit(_values("login", "started", None))) is None:
            return
        try:
            self._trail.record(**values)
        except TrailUnavailable:
            self._repeats.forget(values)
            _refuse(HTTPStatus.SERVICE_UNAVAILABLE, UNRECORDED)

    def _record(self, verb: str, outcome: str, claims: Claims | None = None) -> None:
        try:
            self._trail.record(**_values(verb, outcome, claims))
        except TrailUnavailable:
            _refuse(HTTPStatus.SERVICE_UNAVAILABLE, UNRECORDED)


def _values(verb: str, outcome: str, claims: Claims | None, detail: str = "") -> dict[str, Any]:
    return {
        "who": claims.name if claims else "",
        "aid": claims.aid if claims else "",
        "organisation": claims.organisation if claims else "",
        "verb": verb,
        "object": "",
        "outcome": outcome,
        "source": asking.source(),
        "run": None,
        "detail": detail,
    }


def _check_grant(possible: bool) -> None:
    """Refuse what can be no grant before the identity provider is asked."""
    if not possible:
        raise ProviderRefusalError("invalid_grant")


def _details(answer: dict[str, Any]) -> AccountAuthLoginDetails:
    code, page = answer.get("device_code"), answer.get("verification_uri_complete")
    seconds, interval = answer.get("expires_in"), answer.get("interval", 5)
    if not (isinstance(code, str) and isinstance(page, str) and isinstance(seconds, int) and isinstance(interval, int)):
        _refuse(HTTPStatus.SERVICE_UNAVAILABLE, "The identity provider offers no login for devices: tell an operator.")
    return AccountAuthLoginDetails(AuthnType.OIDC, code, page, seconds, interval)


def _pair(answer: dict[str, Any]) -> tuple[str, str]:
    access, refresh = answer.get("access_token"), answer.get("refresh_token")
    if not (isinstance(access, str) and isinstance(refresh, str) and access and refresh):
        raise ProviderError("The identity provider gave no access token with a refresh token: tell an operator.")
    return access, refresh


def _text(metadata: Metadata, name: str) -> str:
    values = [value for key, value in metadata if key == name]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def _account(claims: Claims) -> AccountInfo:
    return AccountInfo(flwr_aid=claims.aid, account_name=claims.name)


def _refuse(status: HTTPStatus, detail: str) -> NoReturn:
    headers = {"Retry-After": "3"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    raise HTTPException(status, detail, headers)
