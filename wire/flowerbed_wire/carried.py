"""Puts small objects into the protobuf message that announces them, and takes them out; sends and stores nothing.

Flower moves every object of a message in a request of its own, three for the smallest message. Here they ride along in a
field that Flower's messages do not have: who does not know it skips it (Protocol Buffers, "Unknown Fields") and asks for
the objects as before. An object is named by its content's SHA-256, as in Flower, so the content is all that travels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from google.protobuf.unknown_fields import UnknownFieldSet

if TYPE_CHECKING:
    from google.protobuf.message import Message

FIELD = 190_747
"""Number of the field: repeated bytes, each an object's content; one that is empty asks for objects."""

MOST = 128 * 1024
"""Bytes of objects that one message carries at most, all together; larger ones are asked for one by one."""

LARGEST = MOST + 32 * 1024
"""Bytes of a message that is looked through for objects, its own fields included: stuffed with others it costs 0.15 s of CPU."""

_LENGTH_DELIMITED = 2


def attach(message: Message, contents: Iterable[bytes]) -> None:
    """Add objects to a message, which must be as small together as `within` leaves them."""
    message.MergeFromString(b"".join(_TAG + _varint(len(content)) + content for content in contents))


def detach(message: Message) -> dict[str, bytes]:
    """Return the objects that came with a message by their ids, and drop all its unknown fields."""
    found = {hashlib.sha256(content).hexdigest(): content for content in within(_carried(message)) if content}
    message.DiscardUnknownFields()
    return found


def ask(request: Message) -> None:
    """Have a request for messages say that their objects may come with them."""
    attach(request, [b""])


def asks(request: Message) -> bool:
    """Return whether the sender of a request for messages takes their objects with them."""
    return any(content == b"" for content in _carried(request))


def within(contents: Iterable[bytes], most: int = MOST) -> Iterator[bytes]:
    """Yield contents, in order, for as long as they have `most` bytes together."""
    for content in contents:
        most -= len(content)
        if most < 0:
            return
        yield content


def _carried(message: Message) -> Iterator[bytes]:
    if message.ByteSize() > LARGEST:
        return
    fields = UnknownFieldSet(message)
    for field in (fields[at] for at in range(len(fields))):
        if field.field_number == FIELD and field.wire_type == _LENGTH_DELIMITED:
            yield field.data


def _varint(number: int) -> bytes:
    """Return a number as Protocol Buffers encode it ("Base 128 Varints")."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


_TAG = _varint(FIELD << 3 | _LENGTH_DELIMITED)
