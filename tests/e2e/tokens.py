"""Real tokens of the federation's Keycloak, and what somebody who may not have one makes of them."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from keycloak import KeycloakAdmin

from flowerbed_cli import accounts, realm
from flowerbed_cli.project import Project
from flowerbed_keycloak import connection
from keycloak_people import account_token, device_login

from .federation import Federation
from .laptop import claims

REALM = "flowerbed"
PIPELINE = "pipeline-demo"
SECRET = "a secret of a client that a test makes"
SHORT_TOKEN_S = 5


def administrator(federation: Federation) -> KeycloakAdmin:
    """Return the kit's own way to Keycloak's administration: through the edge, with the operator's certificate."""
    access = realm.access(Project(federation.root), federation.topology)
    return connection.administrator(access, connection.KIT_CLIENT, access.kit_secret, REALM)


@contextmanager
def short_tokens(federation: Federation) -> Iterator[None]:
    """Let access tokens that are issued meanwhile live for seconds."""
    admin = administrator(federation)
    usual = (admin.get_realm(REALM) or {})["accessTokenLifespan"]
    admin.update_realm(REALM, {"accessTokenLifespan": SHORT_TOKEN_S})
    try:
        yield
    finally:
        # A test may have taken longer than the administrator's own token lives.
        administrator(federation).update_realm(REALM, {"accessTokenLifespan": usual})


def pipeline_token(federation: Federation, client: str = PIPELINE) -> str:
    """Return a new access token of a pipeline."""
    return accounts.token(Project(federation.root), federation.topology, client)


def person_token(federation: Federation, name: str, password: str) -> str:
    """Return an access token of a person who fills in Keycloak's pages, as a browser does after `flwr login`."""
    with accounts.edge(Project(federation.root), federation.topology, "auth") as http:
        return str(device_login(http, name, password)["access_token"])


def account_page_token(federation: Federation, name: str, password: str) -> str:
    """Return the access token with which a person's browser asks Keycloak for their own account: not the SuperLink's."""
    with accounts.edge(Project(federation.root), federation.topology, "auth") as http:
        return account_token(http, federation.topology.issuer, name, password)


def master_token(federation: Federation) -> str:
    """Return the token with which the kit administers Keycloak, of realm master."""
    return _master_token(federation, connection.KIT_CLIENT)


def master_token_with_claims(federation: Federation) -> str:
    """Return a token of realm master, whose client was made to have a pipeline's name and every claim of its."""
    admin = administrator(federation)
    admin.change_current_realm(connection.MASTER)
    made = admin.create_client(_double(claims(pipeline_token(federation))))
    try:
        return _master_token(federation, PIPELINE)
    finally:
        admin.delete_client(made)


def _master_token(federation: Federation, client: str) -> str:
    """Return a token that realm master gives a client: at the edge's name for administration, to an operator."""
    access = realm.access(Project(federation.root), federation.topology)
    secret = access.kit_secret if client == connection.KIT_CLIENT else SECRET
    made = connection.administrator(access, client, secret, REALM).connection
    made.get_token()
    return str((made.token or {})["access_token"])


def renamed_realm_token(federation: Federation) -> str:
    """Return a token that the realm signed while it went by another public name."""
    admin = administrator(federation)
    admin.update_realm(REALM, {"attributes": {"frontendUrl": f"https://other.{federation.topology.domain}"}})
    try:
        return pipeline_token(federation)
    finally:
        admin.update_realm(REALM, {"attributes": {"frontendUrl": ""}})


def _double(real: dict[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in real.items() if name.startswith("flowerbed_")}
    mappers = [
        _mapper(f"oidc-hardcoded-claim-mapper {name}", {"claim.name": name, "claim.value": json.dumps(value).strip('"'),
                                                       "jsonType.label": "JSON" if isinstance(value, list) else "String"})
        for name, value in said.items()
    ]  # fmt: skip
    mappers.append(_mapper("oidc-audience-mapper aud", {"included.custom.audience": real["aud"]}))
    return {"clientId": PIPELINE, "secret": SECRET, "serviceAccountsEnabled": True, "protocolMappers": mappers}


def _mapper(named: str, config: dict[str, str]) -> dict[str, Any]:
    kind, name = named.split()
    config |= {"access.token.claim": "true"}
    return {"name": name, "protocol": "openid-connect", "protocolMapper": kind, "config": config}


# --- forgeries


def without_signature(federation: Federation) -> str:
    """Return a real payload under a header that asks for no check."""
    head, payload, _ = pipeline_token(federation).split(".")
    return f"{_encoded(_decoded(head) | {'alg': 'none'})}.{payload}."


def signed_with_the_public_key(federation: Federation) -> str:
    """Return the classic confusion: the realm's public key, which everybody has, used as a shared secret."""
    head, payload, _ = pipeline_token(federation).split(".")
    signed = f"{_encoded(_decoded(head) | {'alg': 'HS256'})}.{payload}"
    public = _public_key(federation, _decoded(head)["kid"])
    return f"{signed}.{_text(hmac.digest(public, signed.encode(), 'sha256'))}"


def with_a_group_more(federation: Federation) -> str:
    """Return a real token, into whose payload a federation was written."""
    head, payload, signature = pipeline_token(federation).split(".")
    return f"{head}.{_joined(payload)}.{signature}"


def with_a_group_more_and_another_key(federation: Federation) -> str:
    """Return the same, signed anew, by a key that claims to be the realm's."""
    head, payload, _ = pipeline_token(federation).split(".")
    signed = f"{head}.{_joined(payload)}"
    key = rsa.generate_private_key(65537, 2048)
    return f"{signed}.{_text(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


FORGERIES: dict[str, Callable[[Federation], str]] = {
    "alg none": without_signature,
    "HS256 with the public key": signed_with_the_public_key,
    "forged group": with_a_group_more,
    "forged group, signed by another key": with_a_group_more_and_another_key,
}


def _joined(payload: str) -> str:
    said = _decoded(payload)
    return _encoded(said | {"flowerbed_groups": [*said["flowerbed_groups"], "/federations/rare"]})


def _public_key(federation: Federation, kid: str) -> bytes:
    with accounts.edge(Project(federation.root), federation.topology, "auth") as http:
        listed = http.get(f"/realms/{REALM}/protocol/openid-connect/certs").json()["keys"]
    key = jwt.PyJWK(next(item for item in listed if item["kid"] == kid)).key
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.PEM, kind))


def _decoded(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def _encoded(content: dict[str, Any]) -> str:
    return _text(json.dumps(content).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
