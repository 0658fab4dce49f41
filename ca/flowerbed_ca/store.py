"""The directory in easy-rsa 3's layout: paths, lock, and changes that happen whole or not at all.

A change is staged (every file complete and flushed to disk), committed by one rename of its journal, and applied: the
index first, so that no certificate is ever in use that the index does not know, then the files. A process killed before
the commit leaves nothing but staged files that the next one deletes; killed after it, the next one applies the rest.

Not for deciding what to write, and the lock covers our own commands only: easyrsa and openssl know nothing of it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from . import index
from .errors import StoreBroken, StoreMissing
from .index import Entry, Index

PUBLIC, PRIVATE, CA_KEY = 0o644, 0o600, 0o400
_DIRECTORIES = (
    "certs_by_serial", "issued", "private", "reqs", "revoked", "revoked/certs_by_serial", "revoked/private_by_serial",
    "revoked/reqs_by_serial", "x509-types",
)  # fmt: skip
_STAGING, _JOURNAL, _LOCK = ".staging", ".staging/journal.json", ".lock"


@dataclass(frozen=True, slots=True)
class Change:
    """What one step does to the store: entries merged into the index, files written, files moved or removed.

    Paths are relative to the store. A move whose source is missing has happened already.
    """

    entries: tuple[Entry, ...] = ()
    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)
    moves: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Store:
    """One authority's directory."""

    pki: Path

    @contextmanager
    def locked(self, *, create: bool = False) -> Iterator[None]:
        """Hold the store's lock, with anything that a killed process left behind finished or taken away first.

        Waits for another of our commands. Raises StoreMissing where there is no store and `create` is not set, and
        StoreBroken for whatever the file system refuses meanwhile.
        """
        if not create and not self.pki.is_dir():
            raise StoreMissing(f"{self.pki} holds no certificate authority; `flowerbed ca init` creates one.")
        try:
            with self._lock():
                self._recover()
                yield
        except OSError as error:
            raise _refused(error, self.pki) from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._make_directories()
        descriptor = os.open(self.pki / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_directories(self) -> None:
        for directory in (".", *_DIRECTORIES):
            (self.pki / directory).mkdir(mode=0o700, parents=True, exist_ok=True)

    def index(self) -> Index:
        """The index as it is now; empty where there is none yet."""
        try:
            return index.parse((self.pki / "index.txt").read_text(encoding="ascii"))
        except FileNotFoundError:
            return Index()
        except UnicodeDecodeError as error:
            raise StoreBroken("index.txt is not ASCII; restore the file from a backup.") from error

    def read(self, path: str) -> bytes | None:
        """A file's content, or None where there is no such file."""
        try:
            return (self.pki / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(error, self.pki / path) from error

    def commit(self, change: Change) -> None:
        """Make a change, durably. Call with the lock held."""
        staged = self._stage(change.files)
        moves = [*staged, *change.moves]
        journal = {"index": [entry.line() for entry in change.entries], "moves": moves}
        temporary = self.pki / f"{_JOURNAL}.new"
        _write(temporary, json.dumps(journal).encode(), PRIVATE)
        _flush(self.pki)
        temporary.replace(self.pki / _JOURNAL)
        self._apply(change.entries, moves)

    def replace(self, path: str, content: bytes, mode: int = PUBLIC) -> None:
        """Replace one file, atomically and durably."""
        temporary = self.pki / f"{path}.new"
        temporary.unlink(missing_ok=True)
        _write(temporary, content, mode, flush=True)
        temporary.replace(self.pki / path)
        descriptor = os.open(temporary.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _stage(self, files: Mapping[str, tuple[bytes, int]]) -> list[tuple[str, str]]:
        (self.pki / _STAGING).mkdir(mode=0o700)
        moves = [(f"{_STAGING}/{number}", path) for number, path in enumerate(files)]
        for source, path in moves:
            content, mode = files[path]
            _write(f"{self.pki}/{source}", content, mode)
        return moves

    def _apply(self, entries: Sequence[Entry], moves: Iterable[tuple[str, str]]) -> None:
        if entries:
            self.replace("index.txt", self.index().merge(entries).text().encode("ascii"), PRIVATE)
        for source, target in moves:
            self._move(source, target)
        _flush(self.pki)
        (self.pki / _JOURNAL).unlink()  # first, so that a change is not applied again once it is whole
        shutil.rmtree(self.pki / _STAGING)

    @property
    def unfinished(self) -> bool:
        """Whether a killed process left a change behind, which the next lock finishes or takes away."""
        return (self.pki / _STAGING).exists()

    def _move(self, source: str, target: str) -> None:
        with suppress(FileNotFoundError):  # moved before the process was killed, or not there, as a custodian's key
            os.replace(f"{self.pki}/{source}", f"{self.pki}/{target}")  # noqa: PTH105 - hundreds; a Path costs more

    def _recover(self) -> None:
        staging = self.pki / _STAGING
        if not staging.exists():
            return
        text = self.read(_JOURNAL)
        if text is None:
            shutil.rmtree(staging)
            return
        journal = json.loads(text)
        self._apply(index.parse("\n".join(journal["index"])).entries, journal["moves"])


def _refused(error: OSError, path: Path) -> StoreBroken:
    where, reason = error.filename or path, (error.strerror or str(error)).lower()
    return StoreBroken(f"{where}: {reason}; see that the disk has room and that this user owns {path}.")


def _write(path: Path | str, content: bytes, mode: int, *, flush: bool = False) -> None:
    """Create a file with its mode from the first byte on: a key is at no moment readable by others."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Flush the whole file system once, which costs less than flushing hundreds of files one by one."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "the file system could not be flushed", str(path))
    finally:
        os.close(descriptor)
