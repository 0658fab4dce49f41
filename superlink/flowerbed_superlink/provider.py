"""What we ask of the identity provider: discovery, its keys, the device grant and refreshes; not what a token means.

Everything is lazy: a provider that is away never keeps the SuperLink from starting or from serving. Sources: OpenID
Connect Discovery 1.0, RFC 7517 (JWK), RFC 8628 (device grant), RFC 6749 section 6 (refresh).
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any
from urllib.parse import urlsplit

import httpx
from jwt import PyJWK, PyJWTError

from flowerbed_superlink.errors import ProviderError, ProviderRefusalError
from flowerbed_superlink.log import event

CLIENT_ID = "flwr"
ALGORITHMS = ("RS256", "ES256")
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
TIMEOUT = httpx.Timeout(5.0, connect=3.0)
PATIENCE_S = 10.0  # for a whole answer: the timeout above is each read's
MIN_REFETCH_S = 5.0  # tokens that name unknown keys ask for the keys no more often than this
MAX_KEYS_AGE_S = 300.0  # keys that were withdrawn are forgotten after this
AT_ONCE = 32  # questions: a provider that hangs must not hold every handler's thread
MAX_ANSWER = 256 * 1024  # bytes
MAX_KEYS = 32

_AWAY = "The identity provider cannot be reached, try again in a minute; whoever is logged in can go on."
_BUSY = "Too many logins at the moment, try again in a minute."
_STRANGE = "The identity provider answers something that is not OpenID Connect: tell an operator."


class Provider:
    """One issuer, asked by any number of threads."""

    def __init__(
        self,
        issuer: str,
        authority: Path,
        clock: Callable[[], float] = time.monotonic,
        http: httpx.Client | None = None,
    ) -> None:
        """Take the issuer's URL and the file of the authority that vouches for it; `http` is for tests."""
        self.issuer = issuer
        self._authority, self._clock, self._http = authority, clock, http
        self._slots = BoundedSemaphore(AT_ONCE)
        self._opening, self._fetching = Lock(), Lock()
        self._found: dict[str, str] | None = None
        self._keys: Mapping[str, PyJWK] = {}
        self._fetched = self._tried = float("-inf")

    def key(self, kid: str) -> PyJWK | None:
        """Return the issuer's key of that id, fetching the keys when it is unknown or they are old; None: no such key.

        Raises:
            ProviderError: the keys have never been fetched, and cannot be now.
        """
        now, known = self._clock(), self._keys.get(kid)
        if known is not None and now - self._fetched < MAX_KEYS_AGE_S:
            return known
        # With the key at hand, nobody waits for a thread that fetches already.
        if self._fetching.acquire(blocking=known is None):
            try:
                self._refetch()
            finally:
                self._fetching.release()
        if not self._keys:
            raise ProviderError(_AWAY)
        return self._keys.get(kid)

    def _refetch(self) -> None:
        now = self._clock()
        if now - self._tried < MIN_REFETCH_S:  # also for who waited while another tried: that result is theirs
            return
        try:
            document = self._ask("GET", self._endpoint("jwks_uri"))
            self._keys, self._fetched = _keys(document), now
        except ProviderError as error:
            event("keys-not-fetched", error=str(error), kept=len(self._keys))
        else:
            event("keys-fetched", keys=sorted(self._keys))
        finally:
            self._tried = self._clock()  # after the try, however long it took: those who waited do not try again

    def start_login(self) -> dict[str, Any]:
        """Start a device grant; return the answer of RFC 8628, section 3.2.

        Raises:
            ProviderError: it cannot be asked, or refused.
        """
        return self._post("device_authorization_endpoint", scope="openid")

    def login_tokens(self, device_code: str) -> dict[str, Any]:
        """Ask for the tokens of a login; return the answer of RFC 6749, section 5.1.

        Raises:
            ProviderRefusalError: `authorization_pending`, `slow_down`, `access_denied`, `expired_token`, or another code.
            ProviderError: it cannot be asked.
        """
        return self._post("token_endpoint", grant_type=DEVICE_GRANT, device_code=device_code)

    def refreshed(self, refresh_token: str) -> dict[str, Any]:
        """Exchange a refresh token for new tokens.

        Raises:
            ProviderRefusalError: it is not valid any more.
            ProviderError: it cannot be asked.
        """
        return self._post("token_endpoint", grant_type="refresh_token", refresh_token=refresh_token)

    def _post(self, endpoint: str, **form: str) -> dict[str, Any]:
        return self._ask("POST", self._endpoint(endpoint), data={"client_id": CLIENT_ID, **form})

    def _endpoint(self, name: str) -> str:
        if self._found is None:
            found = self._ask("GET", f"{self.issuer}/.well-known/openid-configuration")
            self._found = _endpoints(found, self.issuer)
        return self._found[name]

    def _ask(self, method: str, url: str, **given: Any) -> dict[str, Any]:  # noqa: ANN401  httpx's own
        try:
            with self._slot(), self._client().stream(method, url, **given) as answer:
                body = _read(answer)
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            event("provider-away", error=f"{type(error).__name__}: {error}")
            raise ProviderError(_AWAY) from error
        return _parsed(answer, body)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(blocking=False):
            raise ProviderError(_BUSY)
        try:
            yield
        finally:
            self._slots.release()

    def _client(self) -> httpx.Client:
        with self._opening:
            if self._http is None:
                trust = ssl.create_default_context(cafile=str(self._authority))
                self._http = httpx.Client(verify=trust, trust_env=False, timeout=TIMEOUT, follow_redirects=False)
            return self._http


def _read(answer: httpx.Response) -> bytes:
    body, deadline = bytearray(), time.monotonic() + PATIENCE_S
    for chunk in answer.iter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER or time.monotonic() > deadline:
            raise ProviderError(_STRANGE)
    return bytes(body)


def _parsed(answer: httpx.Response, body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if answer.status_code == httpx.codes.OK and isinstance(content, dict):
        return content
    if isinstance(content, dict) and isinstance(code := content.get("error"), str) and answer.status_code < 500:
        raise ProviderRefusalError(code)
    event("provider-away", error=f"status {answer.status_code}")
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise ProviderError(_BUSY)
    raise ProviderError(_AWAY if answer.status_code >= 500 else _STRANGE)


def _endpoints(found: dict[str, Any], issuer: str) -> dict[str, str]:
    """Return the endpoints of a discovery document, which must be the issuer's own and stay on its host."""
    names = ("jwks_uri", "token_endpoint", "device_authorization_endpoint")
    endpoints = {name: found.get(name) for name in names}
    origin = urlsplit(issuer)[:2]
    if found.get("issuer") != issuer:
        raise ProviderError(f"The identity provider calls itself {found.get('issuer')!r}, not {issuer!r}.")
    if not all(isinstance(url, str) and urlsplit(url)[:2] == origin for url in endpoints.values()):
        raise ProviderError(_STRANGE)
    return {name: str(url) for name, url in endpoints.items()}


def _keys(document: dict[str, Any]) -> dict[str, PyJWK]:
    """Return the public signing keys of a JWK set by their id; what is no key of an allowed algorithm is left out."""
    keys: dict[str, PyJWK] = {}
    listed = document.get("keys")
    for jwk in (listed if isinstance(listed, list) else [])[:MAX_KEYS]:
        if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or jwk.get("kty") not in ("RSA", "EC"):
            continue
        try:
            key = PyJWK(jwk)
        except (PyJWTError, ValueError, TypeError, KeyError):
            continue
        if isinstance(kid := jwk.get("kid"), str) and key.algorithm_name in ALGORITHMS:
            keys[kid] = key
    if not keys:
        raise ProviderError(_STRANGE)
    return keys
