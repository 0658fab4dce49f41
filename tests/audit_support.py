"""What the audit trail's tests share: an authority with an operator, and exports made without the kit's own writer."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flowerbed_cli.audit_seal import Checkpoint, seal
from superlink_support import DAY, NOW, Authority, new_key, pem, private_pem

# What a record of a submission holds.
VALUES: dict[str, Any] = {
    "who": "researcher-north",
    "aid": "p-0123456789abcdef0123",
    "organisation": "north",
    "verb": "start-run",
    "object": "flowerbed/probe 1.0.0",
    "outcome": "done",
    "source": "192.0.2.9",
    "run": 2**64 - 1,
}


class Operator:
    """An authority and what it issued to an operator, laid out as a project has them."""

    def __init__(self, root: Path) -> None:
        self.root, self.authority, self.key = root, Authority(), new_key()
        self.certificate = self.issue(self.key)
        self.pki = root / "ca" / "pki"
        for folder in ("private", "issued"):
            (self.pki / folder).mkdir(parents=True)
        self.ca, self.crl = self.pki / "ca.crt", self.pki / "crl.pem"
        self.ca.write_bytes(pem(self.authority.certificate))
        self.crl.write_bytes(self.authority.crl([]))
        (self.pki / "private" / "operator.key").write_bytes(private_pem(self.key))
        (self.pki / "issued" / "operator.crt").write_bytes(pem(self.certificate))

    def issue(
        self,
        key: ec.EllipticCurvePrivateKey,
        unit: str = "operator",
        start: datetime = NOW - DAY,
        end: datetime = NOW + 30 * DAY,
    ) -> x509.Certificate:
        names = [(NameOID.ORGANIZATION_NAME, "Consortium"), (NameOID.ORGANIZATIONAL_UNIT_NAME, unit)]
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in names])
        return self.authority.issue(
            key, [], subject=subject, usage=ExtendedKeyUsageOID.CLIENT_AUTH, start=start, end=end
        )

    def sealed(self, count: int, head: bytes, time: datetime | None = None) -> bytes:
        at = (time or datetime.now(UTC)).replace(microsecond=0)
        return seal(Checkpoint(count, head, at), self.key, self.certificate)

    def export(self, records: list[str]) -> list[bytes]:
        """Return the lines of an export of these records."""
        lines, head = chained(records)
        return [*lines, self.sealed(len(records), head)]


def chained(records: list[str], head: bytes = bytes(32), first: int = 1) -> tuple[list[bytes], bytes]:
    """Return exported lines and the last hash, computed with nothing of the kit's."""
    lines = []
    for number, record in enumerate(records, first):
        head = hashlib.sha256(head + f"{number}:{record}".encode()).digest()
        lines.append(f'{{"seq":{number},"record":{record},"hash":"{head.hex()}"}}'.encode())
    return lines, head


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def later(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)
