"""A run's record at one site: JSON lines, each durable before `append` returns.

The executor opens the file and hands it over as a descriptor (``FLOWERBED_STATE_FD``), so it outlives the task, its
home and the SuperNode, and no other run can reach it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ._data import simulation_dir
from ._errors import StateCorruptError, StateMissingError

Record = dict[str, Any]

_TORN = b"\x18"
"""Ends a line that a crash has torn; JSON never contains this byte."""


class SiteState:
    """What this run has noted at this site.

    Args:
        run_id: the run (``context.run_id``); names the record under the simulation runtime. In a federation the
            executor has chosen the record already, by the run that it acquired.
        site: the site's name or node id, likewise; simulated sites share one machine.
    """

    def __init__(self, run_id: int, site: str | int = 0) -> None:
        self._run_id, self._site = run_id, site

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record; when this returns it is on disk.

        Raises:
            ValueError: if the record is no JSON object of finite numbers.
            OSError: if it could not be written whole.
        """
        line = json.dumps(dict(record), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with self._open() as handle:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                # The line before was torn by a crash: mark it, so that this one stands by itself.
                line = _TORN + b"\n" + line
            written = os.write(handle, line)
            os.fsync(handle)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes of the site's state could be written")

    def read(self) -> list[Record]:
        """Return all records, oldest first. A line that a crash has torn is ignored: its `append` never returned.

        Raises:
            StateCorruptError: if a whole line is no record.
        """
        with self._open() as handle:
            content = os.pread(handle, os.fstat(handle).st_size, 0)
        return _parse(content)

    def last(self) -> Record | None:
        """Return the newest record, or None if there is none."""
        records = self.read()
        return records[-1] if records else None

    def require(self, *, started: bool) -> Record | None:
        """Return the newest record, as `last`, but refuse to go on without one when the run has ``started`` here.

        Raises:
            StateMissingError: if ``started`` and there is none.
        """
        newest = self.last()
        if started and newest is None:
            raise StateMissingError(
                f"run {self._run_id} has trained at this site before, but its record is gone: "
                "start a new run, so that what was spent is not counted from zero."
            )
        return newest

    @contextmanager
    def _open(self) -> Iterator[int]:
        inherited = os.environ.get("FLOWERBED_STATE_FD")
        if inherited:
            yield int(inherited)
            return
        path = simulation_dir() / "state" / f"{self._run_id}-{self._site}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            yield handle
        finally:
            os.close(handle)


def _parse(content: bytes) -> list[Record]:
    *lines, torn = content.split(b"\n")
    del torn
    return [_record(number, line) for number, line in enumerate(lines, start=1) if not line.endswith(_TORN)]


def _record(number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise StateCorruptError(f"line {number} of the site's state is no record")
    return record
