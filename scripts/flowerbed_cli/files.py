"""The one writer: compares, then writes atomically. Rendering elsewhere returns data; effects on files are here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, content: bytes, mode: int) -> bool:
    """Make `path` hold `content` with `mode`; return whether it changed. Readers see the old file or the new one."""
    if path.is_file() and path.stat().st_mode & 0o777 == mode and readable(path) == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
    Path(name).replace(path)
    return True


def readable(path: Path) -> bytes | None:
    """Return the content of `path`, or None where this user may not read it."""
    try:
        return path.read_bytes()
    except PermissionError:
        return None


def write_tree(root: Path, files: Mapping[str, str]) -> list[str]:
    """Write rendered files below `root`, world-readable as nothing in them is secret; return the names that changed."""
    return [name for name, text in files.items() if write(root / name, text.encode(), 0o644)]
