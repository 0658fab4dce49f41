"""Certificates as lines for people. Pure; prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from . import index, naming, profiles
from .index import Index
from .plan import Leaf
from .reporting import Status

_STATES = {index.VALID: "valid", index.REVOKED: "revoked", index.EXPIRED: "expired"}


def listing(status: Status, known: Index) -> Iterator[str]:
    """Root, list and every entry of the index, the files' names where a certificate is in use."""
    yield f"root: {status.root_days_left} days left"
    days = status.crl_days_left
    yield "revocation list: none" if days is None else f"revocation list: {days} days left, {status.revoked} revoked"
    names = {leaf.serial: leaf.name for leaf in status.leaves}
    now = datetime.now(UTC)
    for entry in known.entries:
        left = (entry.expires - now).days
        name = names.get(entry.serial, "-")
        yield f"{_STATES.get(entry.status, entry.status):8}{left:5} days  {name:24}{entry.serial}  {entry.subject}"


def details(certificate: x509.Certificate) -> Iterator[str]:
    """What a person compares: subject, names, times, serial, fingerprint."""
    yield f"subject:     {certificate.subject.rfc4514_string()}"
    yield f"issuer:      {certificate.issuer.rfc4514_string()}"
    yield f"serial:      {naming.serial_text(certificate.serial_number)}"
    yield f"valid from:  {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    yield f"valid until: {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    for name in sorted(str(name.value) for name in profiles.names_of(certificate)):
        yield f"name:        {name}"
    yield f"fingerprint: {certificate.fingerprint(hashes.SHA256()).hex()} (SHA-256)"


def binding(leaf: Leaf, fingerprints: Mapping[str, str]) -> Iterator[str]:
    """What signing a CSR would bind together."""
    yield f"certificate: {leaf.name} ({leaf.profile}), O={leaf.organisation}, OU={leaf.unit}, CN={leaf.common_name}"
    for name in (*leaf.dns, *leaf.ips, *leaf.uris):
        yield f"name:        {name}"
    labels = {"request": "CSR", "supernode": "SuperNode key"}
    for what, fingerprint in fingerprints.items():
        yield f"{labels[what]}: SHA-256 {fingerprint}"
