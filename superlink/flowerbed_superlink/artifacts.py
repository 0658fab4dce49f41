"""`flwr pull`: single-use links to a run's results, and the route that serves them; not the writing of results.

The results of run N lie in `/results/N/` beside `SHA256SUMS` (docs/contracts.md, "What a task finds"). Only what that
file lists is served, after its sums were checked, and again while it is sent. At most one file is open for a download at
any time; how many downloads there are at once is the gate's to bound.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from io import BufferedReader
from pathlib import Path
from threading import Lock

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import StreamingResponse
from flwr.superlink.artifact_provider import ArtifactProvider

from flowerbed_superlink.log import event
from flowerbed_superlink.routes import ARTIFACT_ROUTE

LINK_LIFETIME_S = 300.0
REMEMBERED_S = 3600.0  # how long a used or expired link answers 410 instead of 404
MAX_LINKS = 10_000
SUMS = "SHA256SUMS"
MAX_SUMS_BYTES = 1024 * 1024
MAX_FILES = 1000
CHUNK = 1024 * 1024

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([a-z0-9][a-z0-9._-]{0,99})", re.ASCII)

router = APIRouter()


@dataclass(frozen=True)
class Result:
    """One file of a run, as it was when its sum was checked."""

    path: Path
    sum: str
    size: int
    modified: float


class Links:
    """The links handed out, by the SHA-256 of their token; in memory, so that a restart ends them all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._links: dict[bytes, tuple[int, float, bool]] = {}  # run, issued at, used

    def issue(self, run_id: int) -> str:
        """Return a new token of 256 bits for this run."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._forget()
            self._links[_digest(token)] = (run_id, self._clock(), False)
        return token

    def redeem(self, token: str) -> int:
        """Return the token's run, once.

        Raises:
            HTTPException: 404 for a token that was never issued, 410 for one that was used or has expired.
        """
        with self._lock:
            run_id, issued, used = self._links.get(_digest(token), (None, 0.0, False))
            if run_id is None:
                raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such link.")
            if used or self._clock() - issued > LINK_LIFETIME_S:
                raise HTTPException(HTTPStatus.GONE, "This link was used or has expired: run `flwr pull` again.")
            self._links[_digest(token)] = (run_id, issued, True)
            return run_id

    def _forget(self) -> None:
        old = self._clock() - REMEMBERED_S
        self._links = {key: link for key, link in self._links.items() if link[1] > old}
        while len(self._links) >= MAX_LINKS:
            del self._links[next(iter(self._links))]


class ResultsProvider(ArtifactProvider):
    """Hands out links to the results directory."""

    def __init__(self, directory: Path, public_url: str, links: Links | None = None) -> None:
        self._directory, self._public_url, self.links = directory, public_url, links or Links()

    def get_url(self, run_id: int) -> str:
        """Return a link that works once within five minutes.

        Raises:
            HTTPException: 404, the run has left no results.
        """
        if not (self.run_directory(run_id) / SUMS).is_file():
            raise HTTPException(HTTPStatus.NOT_FOUND, f"Run {run_id} has left no results: it finished no round.")
        return f"{self._public_url}{ARTIFACT_ROUTE.format(token=self.links.issue(run_id))}"

    @property
    def output_dir(self) -> str:
        """Directory of all runs' results."""
        return str(self._directory)

    @property
    def tmp_dir(self) -> str:
        """The same: nothing is packed in advance."""
        return str(self._directory)

    def run_directory(self, run_id: int) -> Path:
        """Return the directory of one run's results."""
        return self._directory / str(run_id)


@router.get(ARTIFACT_ROUTE, include_in_schema=False)
def download_results(token: str, request: Request) -> StreamingResponse:
    """Stream a run's results as an uncompressed tar (POSIX.1-2001 pax), one directory named after the run."""
    provider = request.app.state.artifact_provider
    run_id = provider.links.redeem(token)
    try:
        results, sums = check_results(provider.run_directory(run_id))
    except (OSError, ValueError) as error:
        event("results-unusable", run_id=run_id, error=str(error))
        raise HTTPException(
            HTTPStatus.INTERNAL_SERVER_ERROR, f"The results of run {run_id} cannot be sent: {error}."
        ) from error
    event("results-pulled", run_id=run_id, files=len(results))
    headers = {"Content-Disposition": f'attachment; filename="run-{run_id}.tar"', "Cache-Control": "no-store"}
    return StreamingResponse(tar_stream(str(run_id), results, sums), media_type="application/x-tar", headers=headers)


def check_results(directory: Path) -> tuple[list[Result], bytes]:
    """Check the sum of every file that SHA256SUMS lists, one after the other; files still being written are not listed yet.

    Raises:
        ValueError: a line, a name or a sum is wrong, or there are more than MAX_FILES.
        OSError: a listed file is missing or cannot be read.
    """
    with _open_regular(directory / SUMS) as file:
        sums = file.read(MAX_SUMS_BYTES)
    lines = sums.decode("ascii").splitlines()
    if len(lines) > MAX_FILES:
        raise ValueError(f"{SUMS} lists more than {MAX_FILES} files")
    return [_check_result(directory, line) for line in lines], sums


def tar_stream(prefix: str, results: list[Result], sums: bytes) -> Iterator[bytes]:
    """Yield the tar's bytes.

    Raises:
        OSError: a file is no longer the one that was checked; the tar is left without its end.
    """
    for result in results:
        yield _header(f"{prefix}/{result.path.name}", result.size, result.modified)
        yield from _content(result)
        yield bytes(-result.size % tarfile.BLOCKSIZE)
    yield _header(f"{prefix}/{SUMS}", len(sums), time.time()) + sums + bytes(-len(sums) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _content(result: Result) -> Iterator[bytes]:
    digest, left = hashlib.sha256(), result.size
    with _open_regular(result.path) as file:
        while left and (data := file.read(min(CHUNK, left))):
            left -= len(data)
            digest.update(data)
            yield data
    if left or digest.hexdigest() != result.sum:
        raise OSError(f"{result.path.name} changed while it was sent")


def _check_result(directory: Path, line: str) -> Result:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"{SUMS} has a line that is not a sum and a name")
    expected, name = match.groups()
    with _open_regular(directory / name) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise ValueError(f"{name} has another sum")
        status = os.fstat(file.fileno())
    return Result(directory / name, expected, status.st_size, status.st_mtime)


def _open_regular(path: Path) -> BufferedReader:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path.name} is not a regular file")
    return os.fdopen(descriptor, "rb")


def _header(name: str, size: int, modified: float) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(modified), 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
