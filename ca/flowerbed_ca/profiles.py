"""What is in a certificate: root and leaf profiles as X.509 extensions, and how an existing one compares. Pure.

Extensions follow RFC 5280 and RFC 8813 (no keyEncipherment with EC keys) and pass OpenSSL's strict verification.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import TypeGuard

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from . import naming
from .errors import PlanInvalid
from .plan import CLIENT, OPERATOR, SERVER, Leaf

HASH = hashes.SHA384()
ROOT_UNIT, ROOT_NAME = "certificate authority", "flowerbed root"
BACKDATE = timedelta(hours=1)  # clocks of hosts in different organisations differ
_USAGES = {
    SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
    CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
    OPERATOR: ExtendedKeyUsageOID.CLIENT_AUTH,
}
_CA = ("key_cert_sign", "crl_sign")
_BITS = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def key_usage(*bits: str) -> x509.KeyUsage:
    """A keyUsage with exactly these bits."""
    return x509.KeyUsage(**{bit: bit in bits for bit in _BITS})


LEAF_USAGE = key_usage("digital_signature")


def is_p384(key: object) -> TypeGuard[ec.EllipticCurvePublicKey]:
    """Whether a public key is elliptic and on P-384."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def usages(*profiles: str) -> list[list[x509.ObjectIdentifier]]:
    """The extendedKeyUsage of each profile."""
    return [[_USAGES[profile]] for profile in profiles]


def new_key() -> ec.EllipticCurvePrivateKey:
    """A P-384 key from the system's random generator."""
    return ec.generate_private_key(ec.SECP384R1())


def root(key: ec.EllipticCurvePrivateKey, organisation: str, now: datetime, days: int) -> x509.Certificate:
    """A self-signed root, valid for `days` from an hour before `now`."""
    subject = naming.name(organisation, ROOT_UNIT, ROOT_NAME)
    start = now - BACKDATE
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(*_CA), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(identifier.digest, None, None), critical=False)
    )
    return builder.sign(key, HASH)


def end_of(leaf_days: int, now: datetime, ca: x509.Certificate) -> datetime:
    """When a leaf issued now ends: after its days, but never after the root."""
    return min(now - BACKDATE + timedelta(days=leaf_days), ca.not_valid_after_utc)


def authority_key_identifier(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The issuer's key identifier as its certificate states it, or as RFC 5280 computes it where it states none."""
    try:
        identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        identifier = x509.SubjectKeyIdentifier.from_public_key(ca.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def leaf_builder(
    leaf: Leaf, public_key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    """Everything of a leaf but its issuer and signature. Raises PlanInvalid."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject_of(leaf))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(LEAF_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([_usage(leaf)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    names = alternative_names(leaf)
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False) if names else builder


def subject_of(leaf: Leaf) -> x509.Name:
    """The leaf's subject. Raises PlanInvalid."""
    return naming.name(leaf.organisation, leaf.unit, leaf.common_name)


def index_subject(leaf: Leaf) -> str:
    """The leaf's subject as the index has it."""
    return naming.oneline(leaf.organisation, leaf.unit, leaf.common_name)


def alternative_names(leaf: Leaf) -> list[x509.GeneralName]:
    """The leaf's subjectAltName. Raises PlanInvalid for what is not a DNS name, address or URI in ASCII."""
    try:
        return [
            *map(x509.DNSName, leaf.dns),
            *(x509.IPAddress(ip_address(ip)) for ip in leaf.ips),
            *map(x509.UniformResourceIdentifier, leaf.uris),
        ]
    except ValueError as error:
        raise PlanInvalid(f"{leaf.name}: a name of its certificate is not usable ({error}).") from error


def _usage(leaf: Leaf) -> x509.ObjectIdentifier:
    try:
        return _USAGES[leaf.profile]
    except KeyError as error:
        known = ", ".join(_USAGES)
        raise PlanInvalid(f"{leaf.name}: profile is {leaf.profile!r}; give one of {known}.") from error


def usages_of(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    """The extendedKeyUsage of a certificate, empty where it has none."""
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []


def names_of(certificate: x509.Certificate) -> frozenset[x509.GeneralName]:
    """The subjectAltName of a certificate as a set, empty where it has none."""
    try:
        return frozenset(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return frozenset()


def has_profile_of(certificate: x509.Certificate, leaf: Leaf) -> bool:
    """Whether a certificate serves what the leaf's profile is for."""
    return usages_of(certificate) == [_usage(leaf)]
