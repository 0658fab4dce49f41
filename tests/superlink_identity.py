"""A stand-in for Keycloak: a small real OpenID Connect issuer over TLS with keys of its own; the real one is tried end to end.

Serves discovery, keys, the device grant and rotating refresh tokens in a thread of the test's process. `token` makes what an
issuer would and would not.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

REALM = "/realms/flowerbed"
PROTOCOL = f"{REALM}/protocol/openid-connect"
AUDIENCE = "flowerbed-superlink"

SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass
class Person:
    """An account, as its tokens say it."""

    name: str
    aid: str
    roles: list[str]
    organisation: str = "north"
    federations: list[str] = field(default_factory=lambda: ["main"])
    client: str = "flwr"

    def claims(self) -> dict[str, Any]:
        groups = [f"/organisations/{self.organisation}"] if self.organisation else []
        return {
            "flowerbed_aid": self.aid,
            "flowerbed_groups": groups + [f"/federations/{name}" for name in self.federations],
            "flowerbed_roles": self.roles,
            "preferred_username": self.name,
            "azp": self.client,
        }


def person(name: str, *roles: str, **changes: Any) -> Person:
    """Return a person whose id follows from the name."""
    return Person(name, "p-" + hashlib.sha256(name.encode()).hexdigest()[:20], list(roles), **changes)


class Issuer:
    """The issuer's state: keys, logins under way, refresh tokens, and what was asked of it."""

    def __init__(self, url: str = "https://auth.flowerbed.test", lifetime_s: float = 300) -> None:
        self.issuer, self.lifetime_s = f"{url}{REALM}", lifetime_s
        self.keys: dict[str, SigningKey] = {}
        self.asked: list[str] = []
        self.logins: dict[str, Person | str] = {}  # device code: person, or an error code
        self.refreshable: dict[str, Person] = {}
        self.endpoints: dict[str, str] = {}
        self._lock = threading.Lock()
        self.new_key()

    def new_key(self, elliptic: bool = False) -> str:
        """Make a key, which signs from now on; return its id."""
        kid = os.urandom(6).hex()
        key = ec.generate_private_key(ec.SECP256R1()) if elliptic else rsa.generate_private_key(65537, 2048)
        self.keys[kid] = key
        return kid

    def token(
        self, person: Person, kid: str | None = None, headers: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        """Return an access token; a change to None leaves that claim out."""
        kid = kid or list(self.keys)[-1]
        key, now = self.keys[kid], time.time()
        usual = {"iss": self.issuer, "aud": [AUDIENCE, "account"], "iat": int(now), "exp": int(now + self.lifetime_s)}
        payload = (
            usual | {"typ": "Bearer", "sub": "s-" + person.aid, "jti": os.urandom(8).hex()} | person.claims() | changes
        )
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        kept = {name: value for name, value in payload.items() if value is not None}
        return jwt.encode(kept, key, algorithm, headers={"kid": kid} | (headers or {}))

    def jwks(self) -> dict[str, Any]:
        return {"keys": [_jwk(kid, key) for kid, key in self.keys.items()]}

    def discovery(self) -> dict[str, Any]:
        base = self.issuer.removesuffix(REALM) + PROTOCOL
        found = {
            "issuer": self.issuer,
            "jwks_uri": f"{base}/certs",
            "token_endpoint": f"{base}/token",
            "device_authorization_endpoint": f"{base}/auth/device",
        }
        return found | self.endpoints

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of a request."""
        with self._lock:
            self.asked.append(path + (f" {form['grant_type']}" if "grant_type" in form else ""))
            if path == f"{REALM}/.well-known/openid-configuration":
                return 200, self.discovery()
            if path == f"{PROTOCOL}/certs":
                return 200, self.jwks()
            if path == f"{PROTOCOL}/auth/device":
                return 200, self._device()
            if path == f"{PROTOCOL}/token":
                return self._token(form)
            return 404, {"error": "not_found"}

    def _device(self) -> dict[str, Any]:
        code = os.urandom(16).hex()
        self.logins[code] = "authorization_pending"
        page = f"{self.issuer}/device?user_code=ABCD-EFGH"
        return {"device_code": code, "verification_uri_complete": page, "expires_in": 600, "interval": 1}

    def approve(self, result: Person | str) -> None:
        """End every login under way: with a person, or with an error code."""
        for code in self.logins:
            self.logins[code] = result

    def _token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if form.get("client_id") != "flwr":
            return 401, {"error": "invalid_client"}
        if form.get("grant_type") == "refresh_token":
            found: Person | str = self.refreshable.pop(form.get("refresh_token", ""), "invalid_grant")
        else:
            found = self.logins.get(form.get("device_code", ""), "invalid_grant")
        if isinstance(found, str):
            return 400, {"error": found}
        return 200, {"access_token": self.token(found), "refresh_token": self.refresh_token(found)}

    def refresh_token(self, person: Person) -> str:
        """Return a refresh token that works once."""
        made = jwt.encode({"jti": os.urandom(8).hex(), "typ": "Refresh"}, os.urandom(64), "HS512")
        self.refreshable[made] = person
        return made

    def exchanges(self) -> int:
        """Return how many refresh tokens were brought, also those that had been exchanged before."""
        return sum(path.endswith(" refresh_token") for path in self.asked)

    @contextmanager
    def served(self, port: int, files: Path) -> Iterator[None]:
        """Serve on a port of this host, with `tls.crt` and `tls.key`."""
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files / "tls.crt", files / "tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _handler(issuer: Issuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self._answer(dict(parse_qsl(body.decode())))

        def _answer(self, form: dict[str, str]) -> None:
            status, content = issuer.answer(self.path, form)
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _jwk(kid: str, key: SigningKey) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        made = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"alg": "RS256"}
    else:
        made = ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"alg": "ES256"}
    return cast("dict[str, Any]", made) | {"kid": kid, "use": "sig"}


def credentials(address: str, access: str, refresh: str) -> str:
    """Return the file in which `flwr` keeps a login."""
    values = {"authn-type": "oidc", "oidc-access-token": access, "oidc-refresh-token": refresh}
    lines = (f"flower.account-auth.{address}.{k}: {base64.b64encode(v.encode()).decode()}" for k, v in values.items())
    return "\n".join(lines) + "\n"


def b64(data: bytes) -> str:
    """Return a part of a token."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _alg_none(issuer: Issuer, person: Person) -> str:
    payload = issuer.token(person).split(".")[1]
    header = {"alg": "none", "typ": "JWT", "kid": next(iter(issuer.keys))}
    return f"{b64(json.dumps(header).encode())}.{payload}."


def _hs256_with_the_public_key(issuer: Issuer, person: Person) -> str:
    """The classic confusion: the public key, which everybody has, used as a shared secret."""
    kid, key = next(iter(issuer.keys.items()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = b64(json.dumps({"alg": "HS256", "typ": "JWT", "kid": kid}).encode())
    signed = f"{header}.{issuer.token(person).split('.')[1]}"
    return f"{signed}.{b64(hmac.digest(public, signed.encode(), 'sha256'))}"


def _forged_group(issuer: Issuer, person: Person) -> str:
    head, payload, signature = issuer.token(person).split(".")
    content = json.loads(base64.urlsafe_b64decode(payload + "=="))
    content["flowerbed_groups"].append("/federations/secret")
    return f"{head}.{b64(json.dumps(content).encode())}.{signature}"


def _another_realms_key(issuer: Issuer, person: Person) -> str:
    """A token of another realm, which claims this one and the id of its key."""
    other = Issuer()
    return other.token(person, kid=next(iter(other.keys)), headers={"kid": next(iter(issuer.keys))}, iss=issuer.issuer)


# Tokens that somebody made up, by what is wrong with them.
FORGERIES: dict[str, Callable[[Issuer, Person], str]] = {
    "alg none": _alg_none,
    "HS256 with the public key": _hs256_with_the_public_key,
    "forged group": _forged_group,
    "another realm's key": _another_realms_key,
}
