"""How long root, leaves and revocation list last, as data for `make status` and `flowerbed ca list`. Pure.

Not for faults: `check` looks for those.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from . import index, naming
from .index import Index


@dataclass(frozen=True, slots=True)
class LeafStatus:
    """A certificate in `issued/`. `days_left` is whole days, negative once it has ended."""

    name: str
    serial: str
    days_left: int
    revoked: bool


@dataclass(frozen=True, slots=True)
class Status:
    """Whole days left; `crl_days_left` is None where no list was signed yet. The list warns below 10 days."""

    root_days_left: int
    leaves: tuple[LeafStatus, ...]
    crl_days_left: int | None
    revoked: int

    @property
    def crl_valid(self) -> bool:
        """Whether services that check the list accept anybody at all."""
        return self.crl_days_left is not None and self.crl_days_left >= 0

    @property
    def crl_warning(self) -> bool:
        """Whether fewer than 10 days of the list are left, or there is none."""
        return self.crl_days_left is None or self.crl_days_left < 10


def report(
    root: x509.Certificate,
    leaves: Iterable[tuple[str, x509.Certificate]],
    crl: x509.CertificateRevocationList | None,
    known: Index,
    now: datetime,
) -> Status:
    """The state of a store at `now`."""
    revoked = {entry.serial for entry in known.entries if entry.status == index.REVOKED}
    return Status(
        root_days_left=_days(root.not_valid_after_utc, now),
        leaves=tuple(_leaf(name, certificate, revoked, now) for name, certificate in leaves),
        crl_days_left=None if crl is None or crl.next_update_utc is None else _days(crl.next_update_utc, now),
        revoked=len(revoked),
    )


def _leaf(name: str, certificate: x509.Certificate, revoked: set[str], now: datetime) -> LeafStatus:
    serial = naming.serial_text(certificate.serial_number)
    return LeafStatus(name, serial, _days(certificate.not_valid_after_utc, now), serial in revoked)


def _days(until: datetime, now: datetime) -> int:
    return (until - now).days
