"""What a warm parent imports once for all tasks, and what must hold before a task may be forked from it.

Only imports: no tensor is made, no thread pool started, no CUDA context opened, and no app code ever runs here.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import random
import ssl
import sys
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .spec import CLIENT_APP, SERVER_APP
from .task import ENTRY_POINTS

LIBRARIES = {
    CLIENT_APP: (
        "numpy",
        "torch",
        "opacus",
        "sklearn.metrics",
        "flowerbed_app",
        "flwr.clientapp",
        "flwr.clientapp.mod",
    ),
    SERVER_APP: ("numpy", "torch", "flowerbed_app", "flwr.serverapp", "flwr.serverapp.strategy"),
}
"""What most apps import. One that an image lacks is left out. A ServerApp starts once in a run, and aggregates: no Opacus."""

ALSO = ("httpcore", "encodings.idna", "encodings.ascii", "encodings.latin_1", "encodings.cp437")
"""Modules that HTTP and app bundles come to when they are first used."""

_MADV_DONTNEED, _MADV_COLLAPSE = 4, 25
_HUGE = 2 * 1024 * 1024


@dataclass(frozen=True)
class Preloaded:
    """What the imports left that each task must have anew or as its own."""

    generators: tuple[random.Random, ...]
    """Every generator of Python's `random` that some module has made, its own one included."""
    variables: dict[str, str]
    """Environment variables that modules set for themselves when they were imported."""
    blas: Any = None
    """threadpoolctl's controller of the BLAS libraries, if there is one."""


def preload(program: str) -> Preloaded:
    """Import everything that a task of ``program`` is likely to need."""
    before = dict(os.environ)
    # A collection would look at every object again and again while only more of them come.
    gc.disable()
    import_program(*ENTRY_POINTS[program])
    for name in (*LIBRARIES[program], *ALSO):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    # They would remove the parent's temporary files at the end of each task.
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # noqa: SLF001 - no public list
        finalizer.atexit = False
    leave_out_telemetry()
    # OpenSSL finds its algorithms when the first context is made; its generator notices a fork (RAND(7)).
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    variables = {name: value for name, value in os.environ.items() if before.get(name) != value}
    return Preloaded(tuple(_generators()), variables, _blas())


def import_program(package: str, function: str) -> None:
    """Import the module of one of Flower's programs, and not its package's other programs, which are whole servers.

    `package.function`, which `task.main` calls, is what it is after a plain import (asserted in `pinned`).
    """
    around = importlib.import_module(package.rpartition(".")[0])
    bare = types.ModuleType(package)
    bare.__path__ = [str(Path(path, package.rpartition(".")[2])) for path in around.__path__]
    sys.modules[package] = bare
    setattr(bare, function, getattr(importlib.import_module(f"{package}.{function}"), function))


def leave_out_telemetry() -> None:
    """Do without the events that Flower composes, with three programs started for each, and then never sends.

    Every task's telemetry is off, and then Flower's own function returns the same (asserted in `pinned`).
    """
    telemetry = importlib.import_module("flwr.supercore.telemetry")
    telemetry.create_event = lambda *_: "disabled"  # type: ignore[attr-defined]  # replaced on purpose


def settle() -> None:
    """Put every object out of the collector's sight, so that no task's collection writes to shared pages."""
    gc.collect()
    gc.freeze()
    release_clean_pages()
    join_pages()


def obstacle() -> str:
    """Return why no task may be forked from this process, or nothing."""
    if (threads := len(list(Path("/proc/self/task").iterdir()))) != 1:
        return f"{threads} threads run in the warm parent, and a fork takes only one of them along"
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.split()[1].startswith("rw") and line.split()[1].endswith("s"):
            return f"tasks would share writable memory: {line}"
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return "CUDA is initialised in the warm parent, and does not survive a fork"
    return ""


def release_clean_pages() -> None:
    """Let go of pages that are in the image's files unchanged: they stay in the page cache, which all tasks share.

    Only mappings of which no page was ever written (smaps: no anonymous page), so nothing is lost (madvise(2)).
    """
    for start, end in list(_unwritten()):
        _advise(start, end, _MADV_DONTNEED)


def join_pages() -> None:
    """Have the kernel join written pages to large ones, which halves the work of each fork and of each fork's end.

    Where it cannot (MADV_COLLAPSE came with Linux 6.1), nothing changes. A task that writes gets small copies.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        start, end = (int(part, 16) for part in fields[0].split("-"))
        if fields[1] == "rw-p" and (len(fields) < 6 or fields[5] == "[heap]") and end - start >= _HUGE:
            _advise(start, end, _MADV_COLLAPSE)


def _advise(start: int, end: int, advice: int) -> None:
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)


def _unwritten() -> Iterator[tuple[int, int]]:
    span: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0] and not fields[0].endswith(":"):
            start, end = (int(part, 16) for part in fields[0].split("-"))
            plain = len(fields) > 5 and fields[5].startswith("/") and fields[1] in ("r--p", "r-xp")
            span = (start, end) if plain else None
        elif span and fields[0] == "Anonymous:" and fields[1] == "0":
            yield span


def _blas() -> object:
    try:
        return importlib.import_module("threadpoolctl").ThreadpoolController().select(user_api="blas")
    except ModuleNotFoundError:
        return None


def _generators() -> Iterator[random.Random]:
    for found in gc.get_objects():
        # Not isinstance: it asks the object, and some of torch's answer with a warning.
        if issubclass(type(found), random.Random) and not issubclass(type(found), random.SystemRandom):
            yield found
