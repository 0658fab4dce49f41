"""Who a site is, read from its client certificate; not for people, who log in, nor for TLS itself, which the edge does.

Sources: RFC 5280 (certificates and CRLs); NGINX's `$ssl_client_escaped_cert` (a percent-encoded PEM).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from urllib.parse import unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import BaseModel, ConfigDict, Field

MAX_ESCAPED_LENGTH = 16_384
_BINDING = re.compile(r"https://(?P<domain>[^/]+)/supernode/(?P<key>[0-9a-f]{64})", re.ASCII)


class Site(BaseModel):
    """One organisation's site, as the topology has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    organisation: str
    supernode: str = Field(pattern=r"^[0-9a-f]{64}$")  # SHA-256 of the SuperNode key's SubjectPublicKeyInfo


class Federation(BaseModel):
    """What `/config/federation.json` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    domain: str
    consortium: str
    sites: dict[str, Site]
    federations: dict[str, list[str]]


@dataclass(frozen=True)
class ClientCertificate:
    """What a site's certificate states, after its signature was checked."""

    site: str
    organisation: str
    serial: int
    domain: str
    key: str  # SHA-256 of the SuperNode key that this certificate is bound to, hexadecimal
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True)
class RevocationList:
    """The serials of a CRL whose signature was checked."""

    serials: frozenset[int]
    next_update: datetime


def parse_federation(data: bytes) -> Federation:
    """Parse `/config/federation.json`; a pydantic `ValidationError` is a `ValueError`."""
    return Federation.model_validate_json(data)


def parse_crl(data: bytes, authority: x509.Certificate) -> RevocationList:
    """Parse a PEM CRL and check that the authority signed it.

    Raises:
        ValueError: not a CRL, of another issuer, wrongly signed, or without an end.
    """
    crl = x509.load_pem_x509_crl(data)
    if crl.issuer != authority.subject or not crl.is_signature_valid(authority.public_key()):  # type: ignore[arg-type]  # every key type that can sign a CRL
        raise ValueError("the CRL is not signed by our authority")
    if crl.next_update_utc is None:
        raise ValueError("the CRL has no end of validity")
    return RevocationList(frozenset(entry.serial_number for entry in crl), crl.next_update_utc)


@lru_cache(maxsize=4096)
def parse_client_certificate(escaped: str, authority: x509.Certificate) -> ClientCertificate:
    """Parse NGINX's escaped PEM, check issuer, signature and purpose, and read out site, organisation and binding.

    Raises:
        ValueError: the header does not hold exactly one certificate of ours with the names of a site.
    """
    if len(escaped) > MAX_ESCAPED_LENGTH:
        raise ValueError("the certificate header is too long")
    pem = unquote(escaped, encoding="ascii", errors="strict").strip()
    if pem.count("-----BEGIN ") != 1 or not pem.startswith("-----BEGIN CERTIFICATE-----"):
        raise ValueError("the certificate header does not hold exactly one certificate")
    certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
    _check_issued(certificate, authority)
    domain, key = _binding(certificate)
    return ClientCertificate(
        site=_one_name(certificate, NameOID.COMMON_NAME),
        organisation=_one_name(certificate, NameOID.ORGANIZATION_NAME),
        serial=certificate.serial_number,
        domain=domain,
        key=key,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


@lru_cache(maxsize=4096)
def key_fingerprint(public_key_header: str) -> str:
    """Return the SHA-256, hexadecimal, of the SubjectPublicKeyInfo in a `flwr-public-key` header (base64 of PEM).

    Raises:
        ValueError: not a public key.
    """
    try:
        key = load_pem_public_key(base64.b64decode(public_key_header, validate=True))
    except binascii.Error as error:
        raise ValueError("the public key header is not base64") from error
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _check_issued(certificate: x509.Certificate, authority: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, TypeError, ValueError) as error:
        raise ValueError("the certificate was not issued by our authority") from error
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise ValueError("the certificate has no extended key usage") from error
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise ValueError("the certificate is not for clients")


def _one_name(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    values = certificate.subject.get_attributes_for_oid(oid)
    if len(values) != 1 or not isinstance(values[0].value, str):
        raise ValueError("the certificate's subject must have exactly one CN and one O")
    return values[0].value


def _binding(certificate: x509.Certificate) -> tuple[str, str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise ValueError("the certificate is bound to no SuperNode key") from error
    matches = [_BINDING.fullmatch(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]
    if len(matches) != 1 or matches[0] is None:
        raise ValueError("the certificate must be bound to exactly one SuperNode key")
    return matches[0]["domain"], matches[0]["key"]
