"""Compares a planned leaf with what the store holds and says what is due. Pure.

Not for acting on it: `authority` does.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509

from . import profiles
from .errors import Drift
from .plan import SERVER, Leaf

_RENEW_AT = 3  # a leaf is renewed when a third of its life is left
_TOLERANCE = timedelta(days=1)


def renewal_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether a third or less of the certificate's life is left."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now <= life / _RENEW_AT


def names_changed(leaf: Leaf, certificate: x509.Certificate) -> bool:
    """Whether the plan names other hosts, addresses or URIs than the certificate."""
    return profiles.names_of(certificate) != frozenset(profiles.alternative_names(leaf))


def refuse_drift(leaf: Leaf, certificate: x509.Certificate, ca: x509.Certificate, leaf_days: int) -> None:
    """Raise Drift where the certificate differs from the plan in what is never changed silently.

    A server that got another host name is not among it: its certificate is issued again.
    """
    found = _drift(leaf, certificate, ca, leaf_days)
    if found:
        raise Drift(f"issued/{leaf.name}.crt: {found}; `flowerbed ca renew {leaf.name}` issues it as planned.")


def _drift(leaf: Leaf, certificate: x509.Certificate, ca: x509.Certificate, leaf_days: int) -> str | None:
    planned = profiles.subject_of(leaf)
    if certificate.subject != planned:
        return f"its subject is {certificate.subject.rfc4514_string()}, planned is {planned.rfc4514_string()}"
    if not profiles.has_profile_of(certificate, leaf):
        return f"it is not a {leaf.profile} certificate, as planned"
    if leaf.profile != SERVER and names_changed(leaf, certificate):
        return "it is bound to another SuperNode key or domain than planned"
    if certificate.issuer != ca.subject:
        return "another authority signed it"
    days = (certificate.not_valid_after_utc - certificate.not_valid_before_utc) / timedelta(days=1)
    capped = certificate.not_valid_after_utc == ca.not_valid_after_utc
    if abs(days - leaf_days) > _TOLERANCE / timedelta(days=1) and not (capped and days < leaf_days):
        return f"it is valid for {days:.0f} days, planned are {leaf_days}"
    return None
