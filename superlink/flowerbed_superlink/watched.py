"""Files that other containers' tools replace while we run (CRL, topology, token); not for files read once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from flowerbed_superlink.errors import MaterialError
from flowerbed_superlink.log import event

T = TypeVar("T")

CHECK_INTERVAL_S = 1.0


class WatchedFile(Generic[T]):
    """A parsed file, looked at again at most once per second and parsed again only when it changed."""

    def __init__(self, path: Path, parse: Callable[[bytes], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._parse, self._clock = path, parse, clock
        self._lock = Lock()
        self._checked = float("-inf")
        self._stamp: tuple[int, int, int] | None = None
        self._value: T | None = None
        self._error = "has not been read yet"

    def get(self) -> T:
        """Return the parsed content.

        Raises:
            MaterialError: the file is missing, unreadable or garbled; an earlier good content is not used again,
                because a CRL or a topology that cannot be read may have taken something away.
        """
        with self._lock:
            if self._clock() - self._checked >= CHECK_INTERVAL_S:
                self._refresh()
            if self._value is None:
                raise MaterialError(f"{self._path} {self._error}")
            return self._value

    def _refresh(self) -> None:
        self._checked = self._clock()
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._stamp:
                self._value, self._stamp = self._parse(self._path.read_bytes()), stamp
                event("file-read", path=str(self._path))
        except (OSError, ValueError) as error:
            self._fail(f"cannot be used: {error}")

    def _fail(self, error: str) -> None:
        if self._value is not None or error != self._error:
            event("file-unusable", path=str(self._path), error=error)
        self._value, self._stamp, self._error = None, None, error
