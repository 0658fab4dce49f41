"""Checkpoints of the audit trail: how many records there were at a time and the last one's hash, signed under our CA.

A sealed checkpoint is one line: `{"checkpoint":{"count":N,"head":"H","time":"T"},"signature":"S","certificate":"C"}`. S is
base64 of an ECDSA signature with SHA-384 over the text of the inner object, C the PEM of the certificate of whose key it is:
the authority's leaf `operator`. Sources: RFC 5280, and FIPS 186-5 for ECDSA. Not for reading files or keys.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from .errors import Tampered

BEGIN = b'{"checkpoint":'
UNIT = "operator"
_ALGORITHM = ec.ECDSA(hashes.SHA384())
_SEAL = re.compile(rb'\{"checkpoint":(\{[^{}]*\}),"signature":"([A-Za-z0-9+/=]*)","certificate":"([^"]*)"\}')
_TEXT = re.compile(rb'\{"count":(0|[1-9][0-9]{0,18}),"head":"([0-9a-f]{64})","time":"([0-9TZ:-]{20})"\}')
# What parsing hostile X.509 raises in `cryptography`.
_MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True)
class Checkpoint:
    """`count` records, the last of which has the hash `head`; `time` is when it was signed, UTC, in whole seconds."""

    count: int
    head: bytes
    time: datetime

    def text(self) -> bytes:
        """Return what is signed."""
        time = self.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return _compact({"count": self.count, "head": self.head.hex(), "time": time})


def seal(checkpoint: Checkpoint, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    """Sign a checkpoint; return its line, without a newline."""
    return _line(checkpoint.text(), key.sign(checkpoint.text(), _ALGORITHM), certificate)


def opened(
    line: bytes, authority: x509.Certificate, revoked: x509.CertificateRevocationList | None = None
) -> Checkpoint:
    """Return the checkpoint in a line whose seal is good.

    Raises:
        Tampered: the line was changed, or not sealed with a certificate that the authority gave to an operator, that was
            valid at the checkpoint's time, and that is not revoked.
    """
    found = _SEAL.fullmatch(line)
    text = _TEXT.fullmatch(found[1]) if found else None
    if found is None or text is None:
        raise Tampered("The checkpoint was changed: it does not have the form of one.")
    try:
        time = datetime.strptime(text[3].decode(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        certificate = x509.load_pem_x509_certificate(json.loads(b'"%s"' % found[3]).encode())
        signature = base64.b64decode(found[2], validate=True)
    except (*_MALFORMED, binascii.Error) as error:
        raise Tampered("The checkpoint was changed: its time, signature or certificate cannot be read.") from error
    _check_signer(certificate, authority, revoked, time)
    _check_signature(certificate, signature, found[1])
    if line != _line(found[1], signature, certificate):
        raise Tampered("The checkpoint was changed: its signature or certificate is written in another way.")
    return Checkpoint(int(text[1]), bytes.fromhex(text[2].decode()), time)


def _check_signer(
    certificate: x509.Certificate,
    authority: x509.Certificate,
    revoked: x509.CertificateRevocationList | None,
    time: datetime,
) -> None:
    try:
        certificate.verify_directly_issued_by(authority)
        units = [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
    except (*_MALFORMED, InvalidSignature) as error:
        raise Tampered("The checkpoint is not signed under this certificate authority.") from error
    if units != [UNIT]:
        raise Tampered(f"The checkpoint is signed with the certificate of no operator, but of {units}.")
    if not certificate.not_valid_before_utc <= time <= certificate.not_valid_after_utc:
        raise Tampered(f"The checkpoint's certificate was not valid when it was signed, {time.isoformat()}.")
    if revoked is not None and revoked.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
        raise Tampered(
            f"The checkpoint's certificate, serial {certificate.serial_number:X}, is revoked: ask for a new export."
        )


def _check_signature(certificate: x509.Certificate, signature: bytes, text: bytes) -> None:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Tampered("The checkpoint's certificate does not hold an elliptic curve key.")
    try:
        key.verify(signature, text, _ALGORITHM)
    except InvalidSignature as error:
        raise Tampered("The checkpoint was changed: its signature is not of what it says.") from error


def _line(text: bytes, signature: bytes, certificate: x509.Certificate) -> bytes:
    pem = certificate.public_bytes(Encoding.PEM).decode()
    rest = _compact({"signature": base64.b64encode(signature).decode(), "certificate": pem})
    return BEGIN + text + b"," + rest[1:]


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
