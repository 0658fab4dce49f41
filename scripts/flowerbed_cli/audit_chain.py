"""The chain of the audit trail, followed line by line in constant memory. Pure; what signs its end is `audit_seal`'s.

An exported line is `{"seq":N,"record":R,"hash":"H"}`, where R is the record's text exactly as the database holds it and
H = SHA-256(hash of the record before, 32 zero bytes before the first || "N:R" in UTF-8), in hexadecimal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256

from .errors import Tampered

START = bytes(32)
MAX_LINE = 65_536  # bytes; the database takes records of at most 16 KiB
# The last 77 bytes have a fixed form, so a line can be read in one way only, whatever the record says.
LINE = re.compile(rb'\{"seq":([1-9][0-9]{0,18}),"record":(\{[^\n]*\}),"hash":"([0-9a-f]{64})"\}')


class Chain:
    """Where a trail that was followed so far stands: how many records, and the last one's hash."""

    def __init__(self, known: Mapping[int, bytes] | None = None) -> None:
        """`known` gives, for numbers of records, the hashes that signed checkpoints hold."""
        self.count, self.head = 0, START
        self._known = dict(known or {})

    def follow(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield each line, without its newline, once its record is known to follow the one before.

        Raises:
            Tampered: naming the first record that was changed, removed, inserted or reordered.
        """
        known = self._known
        for line in lines:
            found = LINE.fullmatch(line)
            expected = self.count + 1
            if found is None:
                raise Tampered(f"Record {expected} was changed: line {expected} does not have the form of a record.")
            number, record, stated = found.groups()
            head = sha256(self.head + b"%d:" % expected + record).digest()
            if head.hex().encode() != stated:
                raise Tampered(_broken(expected) if int(number) == expected else _misplaced(int(number), expected))
            if int(number) != expected:
                raise Tampered(f"Record {expected} was changed: it is numbered {int(number)}.")
            if known.get(expected, head) != head:
                raise Tampered(rewritten(expected))
            self.count, self.head = expected, head
            yield line

    def check_reaches(self) -> None:
        """Check that no checkpoint is known beyond the trail's end.

        Raises:
            Tampered: the tail was cut off.
        """
        if (known := max(self._known, default=0)) > self.count:
            raise Tampered(cut_off(self.count, known))


def cut_off(count: int, known: int) -> str:
    """Return the sentence for a trail that ends too early."""
    return f"Record {count + 1} was removed, with all that followed: the trail had {known:,} records and has {count:,}."


def _misplaced(found: int, expected: int) -> str:
    place = (
        f"after record {expected - 1} comes record {found}" if expected > 1 else f"the trail begins with record {found}"
    )
    if found > expected:
        return f"Record {expected} was removed or moved: {place}."
    return f"Record {found} was inserted or moved: {place}."


def _broken(number: int) -> str:
    before = f", or record {number - 1} was and its hash with it" if number > 1 else ""
    return f"Record {number} was changed or inserted{before}: its hash does not follow from the records up to it."


def rewritten(number: int) -> str:
    """Return the sentence for hashes that agree with each other and not with what was signed."""
    return (
        f"Record {number} or one before it was changed, and every hash after it: the hash of record {number} is not the "
        "one that was signed."
    )
