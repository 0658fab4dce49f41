"""OpenSSL's index.txt as data: which certificates were signed and which are revoked. Pure; reads and writes no file.

The format is that of `openssl ca` (TXT_DB): status, expiry, revocation, serial, file, subject, separated by tabs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from .errors import StoreBroken, UnknownCertificate

VALID, REVOKED, EXPIRED = "V", "R", "E"
_FIELDS = 6
# openssl's spelling in the index, with the value of CRLReason (RFC 5280, 5.3.1) that easy-rsa 3.2 accepts as well.
REASONS = (
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate. `revoked` and `reason` are set only where `status` is R; times are UTC, whole seconds."""

    status: str
    expires: datetime
    serial: str
    subject: str
    revoked: datetime | None = None
    reason: str | None = None
    file: str = "unknown"

    @property
    def common_name(self) -> str:
        """The last CN of the subject, still escaped; empty where there is none."""
        return self.subject.rpartition("/CN=")[2] if "/CN=" in self.subject else ""

    def line(self) -> str:
        """The entry as a line of index.txt, without the line end."""
        reason = f",{self.reason}" if self.reason else ""
        revoked = f"{time_text(self.revoked)}{reason}" if self.revoked else ""
        return "\t".join((self.status, time_text(self.expires), revoked, self.serial, self.file, self.subject))


@dataclass(frozen=True, slots=True)
class Index:
    """All entries in the order of the file."""

    entries: tuple[Entry, ...] = ()

    def text(self) -> str:
        """The whole file."""
        return "".join(f"{entry.line()}\n" for entry in self.entries)

    def by_serial(self) -> dict[str, Entry]:
        """Entries by serial, as `naming.serial_text` writes it."""
        return {entry.serial: entry for entry in self.entries}

    def revoked(self) -> tuple[Entry, ...]:
        """What a CRL lists."""
        return tuple(entry for entry in self.entries if entry.status == REVOKED)

    def merge(self, changes: Iterable[Entry]) -> Index:
        """The index with these entries added, or put in the place of those with the same serial.

        A revocation is never taken back: merging a valid entry over a revoked one changes nothing, so that a change
        replayed after a crash cannot undo what another tool revoked meanwhile.
        """
        merged = self.by_serial()
        for entry in changes:
            known = merged.get(entry.serial)
            if known is None or known.status != REVOKED:
                merged[entry.serial] = entry
        return Index(tuple(merged.values()))

    def find(self, serial: str) -> Entry:
        """The entry with this serial. Raises UnknownCertificate."""
        try:
            return self.by_serial()[serial]
        except KeyError as error:
            raise UnknownCertificate(
                f"serial {serial} is not in the index; `flowerbed ca list` shows all of them."
            ) from error


def revoke(entry: Entry, when: datetime, reason: str) -> Entry:
    """The entry as revoked. `unspecified` is written as no reason at all (RFC 5280, 5.3.1)."""
    return replace(entry, status=REVOKED, revoked=when, reason=None if reason == "unspecified" else reason)


def parse(text: str) -> Index:
    """Read index.txt. Raises StoreBroken, naming the line."""
    return Index(tuple(_entry(line, number) for number, line in enumerate(text.split("\n"), 1) if _is_row(line)))


def _is_row(line: str) -> bool:
    return bool(line) and not line.startswith("#")


def _entry(line: str, number: int) -> Entry:
    fields = line.split("\t")
    try:
        status, expires, revocation, serial, file, subject = fields
        when, _, reason = revocation.partition(",")
        return Entry(status, parse_time(expires), serial, subject, _revoked(when), reason or None, file)
    except ValueError as error:
        found = f"{len(fields)} fields" if len(fields) != _FIELDS else "a date that cannot be read"
        raise StoreBroken(
            f"index.txt, line {number} has {found}; restore the file from a backup or correct that line."
        ) from error


def _revoked(when: str) -> datetime | None:
    return parse_time(when) if when else None


def time_text(when: datetime) -> str:
    """UTCTime before 2050, GeneralizedTime from then on (RFC 5280, 4.1.2.5)."""
    return when.astimezone(UTC).strftime("%y%m%d%H%M%SZ" if when.year < 2050 else "%Y%m%d%H%M%SZ")


def parse_time(text: str) -> datetime:
    """The reverse of `time_text`: two-digit years below 50 lie in this century. Raises ValueError."""
    if len(text) == len("YYMMDDHHMMSSZ"):
        text = f"{'20' if int(text[:2]) < 50 else '19'}{text}"
    if not text[:-1].isdecimal() or len(text) != len("YYYYMMDDHHMMSSZ"):
        raise ValueError(f"{text!r} is neither UTCTime nor GeneralizedTime")
    return datetime.fromisoformat(f"{text[:8]}T{text[8:]}")
