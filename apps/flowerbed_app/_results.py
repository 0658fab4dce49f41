"""Hands a ServerApp's results to the kit's store, where they outlive the run's task.

The task's side of the ``FLOWERBED_RESULTS_FD`` protocol of docs/contracts.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from flwr.app import ArrayRecord, MetricRecord

from ._data import simulation_dir
from ._errors import ResultRefusedError, SdkError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_CHUNK = 1024 * 1024


class Results:
    """The results of one run; each name is written once.

    Args:
        run_id: the run (``context.run_id``); names a directory for it under the simulation runtime, and nothing in a
            federation, where the executor has chosen the run already.
    """

    def __init__(self, run_id: int | None = None) -> None:
        self._run_id = run_id

    def save(self, name: str, content: bytes | Path) -> str:
        """Store ``content`` (bytes, or the file at a path) as ``name`` and return its SHA-256; durable on return.

        Raises:
            ResultRefusedError: if the name is not ``[a-z0-9][a-z0-9._-]{0,99}`` or taken, or if it is too large.
            SdkError: if the store cannot be reached.
        """
        if not _NAME.fullmatch(name):
            raise ResultRefusedError(f"{name!r} is no name for a result: use [a-z0-9][a-z0-9._-]{{0,99}}.")
        with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as source:
            size, digest = _measure(source)
            inherited = os.environ.get("FLOWERBED_RESULTS_FD")
            if inherited:
                _hand_over(int(inherited), name, size, digest, source)
            else:
                self._save_locally(name, digest, source)
        return digest

    def save_arrays(self, name: str, arrays: ArrayRecord) -> str:
        """Store an ArrayRecord as a NumPy ``.npz`` archive that loads without pickle; see `save`."""
        buffer = io.BytesIO()
        # numpy's stub takes its own option for one of the names.
        np.savez(buffer, **{key: array.numpy() for key, array in arrays.items()})  # type: ignore[arg-type]
        return self.save(name, buffer.getvalue())

    def save_metrics(self, name: str, metrics: MetricRecord | dict[str, Any]) -> str:
        """Store a MetricRecord, or any JSON object, as JSON; see `save`. NaN and infinity raise ValueError."""
        return self.save(name, json.dumps(dict(metrics), indent=2, sort_keys=True, allow_nan=False).encode() + b"\n")

    def _save_locally(self, name: str, digest: str, source: BinaryIO) -> None:
        """Under the simulation runtime: the same files, in the simulation's directory."""
        directory = simulation_dir() / "results" / ("" if self._run_id is None else str(self._run_id))
        directory.mkdir(parents=True, exist_ok=True)
        try:
            with (directory / name).open("xb") as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
        except FileExistsError as error:
            raise ResultRefusedError(f"{name} exists already; results are written once.") from error
        with (directory / "SHA256SUMS").open("a") as sums:
            sums.write(f"{digest}  {name}\n")


def _measure(source: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    source.seek(0)
    return size, digest.hexdigest()


def _hand_over(descriptor: int, name: str, size: int, digest: str, source: BinaryIO) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        try:
            connection.sendall(json.dumps({"name": name, "size": size, "sha256": digest}).encode() + b"\n")
            while chunk := source.read(_CHUNK):
                connection.sendall(chunk)
            answer = _answer(connection)
        except OSError as error:
            raise SdkError(f"{name} could not be stored: the results store is gone ({error.strerror}).") from error
    if "error" in answer:
        raise ResultRefusedError(str(answer["error"]))


def _answer(connection: socket.socket) -> dict[str, object]:
    line = b""
    while not line.endswith(b"\n"):
        received = connection.recv(4096)
        if not received:
            raise SdkError("the results store ended before it answered")
        line += received
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise SdkError("the results store gave no answer that can be read")
    return answer
