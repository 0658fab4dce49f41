"""Links of `flwr pull`: once, for five minutes, unguessable; and tars whose sums were checked."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_superlink.artifacts import MAX_LINKS, Links, ResultsProvider, check_results, router, tar_stream

URL = "https://superlink.flowerbed.test:8443"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _write(directory: Path, files: dict[str, bytes]) -> None:
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()]
    (directory / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(tmp_path: Path, clock: Clock) -> ResultsProvider:
    return ResultsProvider(tmp_path, URL, Links(clock))


async def _get(provider: ResultsProvider, path: str) -> httpx.Response:
    app = FastAPI()
    app.include_router(router)
    app.state.artifact_provider = provider
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        return await client.get(path)


def _pull(provider: ResultsProvider, url: str) -> httpx.Response:
    return asyncio.run(_get(provider, url.removeprefix(URL)))


def test_a_link_serves_the_runs_files_once(provider: ResultsProvider, tmp_path: Path) -> None:
    files = {"round-1.npz": os.urandom(3_000_000), "metrics.json": b"{}", "empty": b"", "block": bytes(512)}
    _write(tmp_path / "18446744073709551615", files)
    url = provider.get_url(18446744073709551615)
    assert url.startswith(f"{URL}/artifacts/")
    assert len(url.rsplit("/", 1)[1]) == 43
    response = _pull(provider, url)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
        members = {m.name.split("/", 1)[1]: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]  # only files
        assert {m.name.split("/")[0] for m in tar} == {"18446744073709551615"}
    assert members.pop("SHA256SUMS") == (tmp_path / "18446744073709551615" / "SHA256SUMS").read_bytes()
    assert members == files
    assert _pull(provider, url).status_code == 410


def test_an_old_link_is_gone_and_later_unknown(provider: ResultsProvider, tmp_path: Path, clock: Clock) -> None:
    _write(tmp_path / "7", {"a": b"a"})
    url = provider.get_url(7)
    clock.now += 300.0
    fresh = provider.get_url(7)
    clock.now += 0.1
    assert _pull(provider, url).status_code == 410
    assert _pull(provider, fresh).status_code == 200
    clock.now += 3600
    provider.get_url(7)
    assert _pull(provider, url).status_code == 404
    assert _pull(provider, f"{URL}/artifacts/{'a' * 43}").status_code == 404


def test_one_link_is_redeemed_once_however_many_try(clock: Clock) -> None:
    links = Links(clock)
    token = links.issue(7)

    def redeem(_: int) -> int | None:
        try:
            return links.redeem(token)
        except HTTPException:
            return None

    with ThreadPoolExecutor(16) as pool:
        assert [run for run in pool.map(redeem, range(200)) if run is not None] == [7]


def test_links_do_not_pile_up(clock: Clock) -> None:
    links = Links(clock)
    tokens = {links.issue(n) for n in range(MAX_LINKS + 10)}
    assert len(tokens) == MAX_LINKS + 10
    assert len(links._links) == MAX_LINKS


def test_a_run_without_results_gets_a_sentence(provider: ResultsProvider) -> None:
    with pytest.raises(HTTPException) as caught:
        provider.get_url(7)
    assert caught.value.status_code == 404
    assert caught.value.detail == "Run 7 has left no results: it finished no round."


def test_a_round_still_being_written_is_left_out(provider: ResultsProvider, tmp_path: Path) -> None:
    _write(tmp_path / "7", {"round-1.npz": b"one"})
    (tmp_path / "7" / "round-2.npz.part").write_bytes(b"tw")
    with tarfile.open(fileobj=io.BytesIO(_pull(provider, provider.get_url(7)).content)) as tar:
        assert tar.getnames() == ["7/round-1.npz", "7/SHA256SUMS"]


@pytest.mark.parametrize("damage", ["content", "missing", "link", "directory", "fifo", "name", "line"])
def test_damaged_results_are_not_served(provider: ResultsProvider, tmp_path: Path, damage: str) -> None:
    _write(tmp_path / "7", {"a": b"a", "b": b"b"})
    (tmp_path / "secret").write_bytes(b"b")
    path, sums = tmp_path / "7" / "b", tmp_path / "7" / "SHA256SUMS"
    if damage in ("missing", "link", "directory", "fifo"):
        path.unlink()
    if damage == "link":
        path.symlink_to(tmp_path / "secret")
    if damage == "directory":
        path.mkdir()
    if damage == "fifo":
        os.mkfifo(path)
    if damage == "content":
        path.write_bytes(b"c")
    if damage == "name":
        sums.write_text(f"{hashlib.sha256(b'b').hexdigest()}  ../secret\n")
    if damage == "line":
        sums.write_text("nonsense\n")
    response = _pull(provider, provider.get_url(7))
    assert response.status_code == 500
    assert "The results of run 7 cannot be sent: " in response.json()["detail"]


@pytest.mark.parametrize("swapped", [b"swapped", b"short", b"longer than it was"])
def test_what_was_checked_is_what_is_sent(tmp_path: Path, swapped: bytes) -> None:
    _write(tmp_path / "7", {"a": b"checked", "b": b"b"})
    results, sums = check_results(tmp_path / "7")
    assert b"checked" in b"".join(tar_stream("7", results, sums))
    (tmp_path / "7" / "a").write_bytes(swapped)
    sent = tar_stream("7", results, sums)
    with pytest.raises(OSError, match="a changed while it was sent"):
        b"".join(sent)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_download_holds_one_file_open_however_many_there_are(tmp_path: Path) -> None:
    _write(tmp_path / "7", {f"f{n}": b"x" * 1000 for n in range(200)})
    before = _open_files()
    results, sums = check_results(tmp_path / "7")
    assert _open_files() == before
    for _ in tar_stream("7", results, sums):
        assert _open_files() <= before + 1


def test_more_files_than_a_run_may_leave_are_refused(provider: ResultsProvider, tmp_path: Path) -> None:
    _write(tmp_path / "7", {f"f{n}": b"" for n in range(1000)})
    assert _pull(provider, provider.get_url(7)).status_code == 200
    _write(tmp_path / "8", {f"f{n}": b"" for n in range(1001)})
    response = _pull(provider, provider.get_url(8))
    assert response.status_code == 500
    assert "SHA256SUMS lists more than 1000 files" in response.json()["detail"]


@given(st.binary(max_size=200))
def test_no_sums_file_raises_anything_else(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "SHA256SUMS").write_bytes(content)
        with suppress(OSError, ValueError):
            assert check_results(Path(name))[0] == []
