"""The certificate revocation list: when it is due, and what is in it (RFC 5280, 5). Pure.

Not for handing it to services; they re-read the file that `authority` writes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from . import profiles
from .index import Entry, Index

DAYS = 30
_SIGN_BELOW_DAYS = 20
_REASONS = {flag.value.lower(): flag for flag in x509.ReasonFlags}
# What `openssl ca -revoke` writes with an argument of its own (-crl_hold, -crl_compromise, -crl_CA_compromise).
_REASONS |= {
    "holdinstruction": x509.ReasonFlags.certificate_hold,
    "keytime": x509.ReasonFlags.key_compromise,
    "cakeytime": x509.ReasonFlags.ca_compromise,
}


def due(crl: x509.CertificateRevocationList | None, index: Index, ca: x509.Certificate, now: datetime) -> bool:
    """Whether a list must be signed: none, fewer than 20 days left, another issuer, or other revocations."""
    if crl is None or crl.issuer != ca.subject:
        return True
    ends = crl.next_update_utc
    if ends is None or ends - now < timedelta(days=_SIGN_BELOW_DAYS):
        return True
    return {entry.serial_number for entry in crl} != {int(entry.serial, 16) for entry in index.revoked()}


def number_of(crl: x509.CertificateRevocationList | None) -> int:
    """The list's number, 0 where it has none, as easyrsa's."""
    if crl is None:
        return 0
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def sign(
    index: Index, number: int, ca: x509.Certificate, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateRevocationList:
    """A list of everything revoked in the index, valid for 30 days from an hour before now."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(now - profiles.BACKDATE)
        .next_update(now + timedelta(days=DAYS))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(profiles.authority_key_identifier(ca), critical=False)
    )
    for entry in index.revoked():
        builder = builder.add_revoked_certificate(_revoked(entry))
    return builder.sign(key, profiles.HASH)


def _revoked(entry: Entry) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(int(entry.serial, 16))
    builder = builder.revocation_date(entry.revoked or entry.expires)
    reason = _REASONS.get((entry.reason or "").partition(",")[0].lower())
    if reason is not None and reason != x509.ReasonFlags.unspecified:
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    return builder.build()
