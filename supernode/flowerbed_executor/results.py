"""Keeps what a ServerApp hands over: one file per name, written once, with its sum, beside SHA256SUMS.

This is the trusted side of the ``FLOWERBED_RESULTS_FD`` protocol of docs/contracts.md; ``flowerbed_app.Results`` is the
other. SHA256SUMS is the commit record: a file that it does not name was never finished. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import BinaryIO, Protocol

from .spec import RESULTS_GROUP, Limits

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_SUM = re.compile(r"[0-9a-f]{64}")
_HEADER_BYTES = 4096
_CHUNK = 1024 * 1024
SUMS = "SHA256SUMS"


class Connection(Protocol):
    """What a connection to the task must offer; reads and writes are complete (`io.BufferedRWPair`)."""

    def readline(self, size: int, /) -> bytes:
        """Read one line."""

    def read(self, size: int, /) -> bytes:
        """Read so many bytes, fewer at the end."""

    def write(self, data: bytes, /) -> int:
        """Write."""

    def flush(self) -> None:
        """Send what was written."""


class RefusedError(Exception):
    """One item was refused; its message is the sentence that the task gets."""


class BrokenError(Exception):
    """What the task sent cannot be followed any longer; the connection ends."""


class ResultsWriter:
    """Writes the results of one run into ``directory``."""

    def __init__(self, directory: Path, limits: Limits, group: int = RESULTS_GROUP) -> None:
        self._directory, self._limits, self._group = directory, limits, group

    def serve(self, stream: Connection) -> None:
        """Answer requests until the task closes its end or sends what cannot be understood."""
        while header := stream.readline(_HEADER_BYTES):
            try:
                answer = self._answer(header, stream)
            except BrokenError as error:
                _reply(stream, {"error": str(error)})
                return
            _reply(stream, answer)

    def _answer(self, header: bytes, stream: Connection) -> dict[str, object]:
        name, size, expected = _parse(header)
        try:
            self._check(name, size)
        except RefusedError as error:
            _discard(stream, size)
            return {"error": str(error)}
        try:
            self._store(name, size, expected, stream)
        except RefusedError as error:
            return {"error": str(error)}
        return {"ok": True}

    def _check(self, name: str, size: int) -> None:
        if not _NAME.fullmatch(name):
            raise RefusedError(f"{name[:120]!r} is no name for a result: use [a-z0-9][a-z0-9._-]{{0,99}}.")
        if size > self._limits.result_bytes:
            raise RefusedError(f"{name} has {size} bytes; one result may have {self._limits.result_bytes}.")
        kept = committed(self._directory)
        if name in kept:
            raise RefusedError(f"{name} exists already; results are written once.")
        if 0 < self._limits.results <= len(kept):
            raise RefusedError(f"{name} is one too many: a run may have {self._limits.results} results.")
        if self._used() + size > self._limits.results_bytes:
            raise RefusedError(
                f"{name} does not fit: all results of a run may have {self._limits.results_bytes} bytes."
            )

    def _used(self) -> int:
        if not self._directory.is_dir():
            return 0
        return sum(entry.stat().st_size for entry in os.scandir(self._directory) if entry.is_file())

    def _store(self, name: str, size: int, expected: str, stream: Connection) -> None:
        """Write, sync, compare, rename, and only then name the file in SHA256SUMS."""
        self._ensure_directory()
        temporary = self._directory / f".{name}.part"
        remaining = size
        try:
            with self._create(temporary) as target:
                digest = hashlib.sha256()
                while remaining:
                    chunk = _read(stream, min(_CHUNK, remaining))
                    remaining -= len(chunk)
                    digest.update(chunk)
                    target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            if digest.hexdigest() != expected:
                raise RefusedError(f"{name} arrived with another checksum than announced.")
            temporary.replace(self._directory / name)
            self._commit(name, expected)
        except OSError as error:
            _discard(stream, remaining)
            raise RefusedError(f"{name} could not be written: {error.strerror}.") from error
        finally:
            temporary.unlink(missing_ok=True)

    def _commit(self, name: str, digest: str) -> None:
        sums = self._directory / SUMS
        temporary = self._directory / f".{SUMS}.part"
        temporary.unlink(missing_ok=True)
        with self._create(temporary) as target:
            target.write((sums.read_bytes() if sums.exists() else b"") + f"{digest}  {name}\n".encode())
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(sums)
        _sync_directory(self._directory)

    def _create(self, path: Path) -> BinaryIO:
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        os.fchown(handle, -1, self._group)
        os.fchmod(handle, 0o640)
        return os.fdopen(handle, "wb")

    def _ensure_directory(self) -> None:
        for path in (self._directory.parent, self._directory):
            path.mkdir(exist_ok=True)
            if path.stat().st_gid != self._group:
                os.chown(path, -1, self._group)
                path.chmod(0o750)
        _sync_directory(self._directory.parent)


def committed(directory: Path) -> dict[str, str]:
    """Return the finished results as name to SHA-256."""
    sums = directory / SUMS
    lines = sums.read_text().splitlines() if sums.exists() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _parse(header: bytes) -> tuple[str, int, str]:
    """Return name, size and sum of one request; what is no request at all ends the connection."""
    try:
        fields = json.loads(header)
        name, size, expected = fields["name"], fields["size"], fields["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BrokenError('A result begins with one line {"name": …, "size": …, "sha256": …}.') from error
    if not isinstance(name, str) or type(size) is not int or size < 0 or not isinstance(expected, str):
        raise BrokenError("name and sha256 are strings, size is a number of bytes.")
    if not _SUM.fullmatch(expected):
        raise BrokenError("sha256 is 64 lower-case hexadecimal digits.")
    return name, size, expected


def _read(stream: Connection, count: int) -> bytes:
    chunk = stream.read(count)
    if not chunk:
        raise BrokenError("The connection ended in the middle of a result.")
    return chunk


def _discard(stream: Connection, size: int) -> None:
    while size:
        size -= len(_read(stream, min(_CHUNK, size)))


def _reply(stream: Connection, answer: dict[str, object]) -> None:
    try:
        stream.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
        stream.flush()
    except BrokenPipeError:
        return


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
