"""What a revocation changes: index entries, and the files that easyrsa moves to `revoked/`. Reads the store.

Not for signing the list afterwards; `authority` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from . import index, issuing, naming
from .errors import RequestRefused, UnknownCertificate
from .index import Entry, Index
from .store import Change, Store


def change(store: Store, name_or_serial: str, reason: str, now: datetime) -> Change:
    """The change that revokes a name or a serial, without entries where all of it was revoked before.

    Raises UnknownCertificate, or RequestRefused for an unknown reason.
    """
    if reason not in index.REASONS:
        raise RequestRefused(f"reason is {reason!r}; give one of {', '.join(index.REASONS)}.")
    meant = _meant(store, name_or_serial, now)
    serials = {entry.serial for entry in meant}
    entries = tuple(index.revoke(entry, now, reason) for entry in meant if entry.status != index.REVOKED)
    return Change(entries, moves=tuple(_moves(store, serials)))


def _meant(store: Store, name_or_serial: str, now: datetime) -> list[Entry]:
    known = store.index()
    serial = name_or_serial.replace(":", "").upper()
    path = store.pki / "issued" / f"{name_or_serial}.crt"
    if "/" not in name_or_serial and path.is_file():
        return _same_subject(known, known.find(_serial_in(path.read_bytes(), f"issued/{path.name}")), now)
    if serial in known.by_serial():
        return [known.find(serial)]
    named = [entry for entry in known.entries if entry.common_name == name_or_serial]
    if not named:
        raise UnknownCertificate(
            f"{name_or_serial!r} is neither a name nor a serial; `flowerbed ca list` shows all of them."
        )
    return [entry for entry in named if entry.expires > now] or named


def _same_subject(known: Index, current: Entry, now: datetime) -> list[Entry]:
    """The certificate in use, and those before it that would still be accepted."""
    older = [entry for entry in known.entries if entry.subject == current.subject and entry.expires > now]
    return [current, *(entry for entry in older if entry.serial != current.serial)]


def _moves(store: Store, serials: set[str]) -> Iterator[tuple[str, str]]:
    for path in sorted((store.pki / "issued").glob("*.crt")):
        serial = _serial_in(path.read_bytes(), f"issued/{path.name}")
        if serial in serials:
            yield f"issued/{path.name}", f"revoked/certs_by_serial/{serial}.crt"
            yield f"private/{path.stem}.key", f"revoked/private_by_serial/{serial}.key"
            yield f"reqs/{path.stem}.req", f"revoked/reqs_by_serial/{serial}.req"


def _serial_in(content: bytes, path: str) -> str:
    return naming.serial_text(issuing.load_certificate(content, path).serial_number)
