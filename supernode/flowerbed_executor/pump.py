"""Passes a task's output on to the container's log, line by line, marked with the task it came from.

A task gets a pipe instead of the container's own streams: what it does to its descriptors (non-blocking mode, say)
cannot reach SuperExec's, its terminal sequences reach nobody, and no line can pass for another task's. Standard library
only.
"""

from __future__ import annotations

import os
import re
import select

_LINE = 8192
"""Longest line, in bytes; what is longer is cut into several."""

_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")


class LogPump:
    """One pipe from a task to standard error."""

    def __init__(self, prefix: bytes, out: int = 2) -> None:
        self._prefix, self._out = prefix, out
        self._read, self._write = os.pipe()
        self._rest = b""
        self._open = True

    def attach(self) -> None:
        """In the task: make the pipe its standard output and error."""
        os.dup2(self._write, 1)
        os.dup2(self._write, 2)

    def started(self) -> None:
        """In the supervisor: let go of the task's end."""
        os.close(self._write)

    def close(self) -> None:
        """In a fork that has no part in it: let go of both ends."""
        os.close(self._read)
        os.close(self._write)

    def turn(self, timeout: float, woken: int) -> None:
        """Wait up to ``timeout`` seconds for output or a byte on ``woken``; pass output on, take such bytes away."""
        ready, _, _ = select.select([woken, self._read] if self._open else [woken], [], [], timeout)
        if woken in ready:
            os.read(woken, 4096)
        if self._read in ready:
            self._take()

    def drain(self) -> None:
        """Pass on what is left, without waiting."""
        while self._open and select.select([self._read], [], [], 0)[0]:
            self._take()
        if self._rest:
            self._emit(self._rest)
            self._rest = b""

    def _take(self) -> None:
        chunk = os.read(self._read, 65536)
        if not chunk:
            self._open = False
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._emit(line)
        while len(self._rest) > _LINE:
            self._emit(self._rest[:_LINE])
            self._rest = self._rest[_LINE:]

    def _emit(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, _LINE):
            part = _CONTROL.sub(b"?", _COLOUR.sub(b"", line[start : start + _LINE]))
            os.write(self._out, self._prefix + part + b"\n")
