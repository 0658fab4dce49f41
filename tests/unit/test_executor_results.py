"""The results protocol, task's side against supervisor's side over a real socket pair."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_app import ResultRefusedError, Results, SdkError
from flowerbed_executor.results import SUMS, ResultsWriter, committed
from flowerbed_executor.spec import Limits


class Store:
    def __init__(self, directory: Path, limits: Limits) -> None:
        self.directory = directory
        ours, self.theirs = socket.socketpair()
        writer = ResultsWriter(directory, limits, group=os.getgid())
        self.thread = threading.Thread(target=self._serve, args=(writer, ours))
        self.thread.start()

    @staticmethod
    def _serve(writer: ResultsWriter, ours: socket.socket) -> None:
        with ours, ours.makefile("rwb") as stream:
            writer.serve(stream)

    def raw(self, content: bytes) -> dict[str, str]:
        self.theirs.sendall(content)
        with self.theirs.makefile("rb") as answers:
            answer: dict[str, str] = json.loads(answers.readline())
        return answer

    def close(self) -> None:
        self.theirs.close()
        self.thread.join()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = Store(tmp_path / "results" / "42", Limits(result_bytes=1000, results_bytes=2500))
    store.directory.parent.mkdir()
    monkeypatch.setenv("FLOWERBED_RESULTS_FD", str(store.theirs.fileno()))
    yield store
    store.close()


def test_a_result_is_written_once_with_its_sum(store: Store) -> None:
    digest = Results().save("round-1.npz", b"first")
    with pytest.raises(ResultRefusedError, match="written once"):
        Results().save("round-1.npz", b"second")
    assert (store.directory / "round-1.npz").read_bytes() == b"first"
    assert committed(store.directory) == {"round-1.npz": digest}
    assert digest == hashlib.sha256(b"first").hexdigest()


def test_limits_are_refused_and_the_connection_goes_on(store: Store) -> None:
    with pytest.raises(ResultRefusedError, match="1000"):
        Results().save("large", b"x" * 1001)
    for name in ("a", "b"):
        Results().save(name, b"x" * 1000)
    with pytest.raises(ResultRefusedError, match="2500"):
        Results().save("c", b"x" * 1000)
    Results().save("d", b"")
    assert sorted(committed(store.directory)) == ["a", "b", "d"]


def test_results_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Limits().results == 1000
    store = Store(tmp_path / "42", Limits(results=2))
    monkeypatch.setenv("FLOWERBED_RESULTS_FD", str(store.theirs.fileno()))
    try:
        Results().save("a", b"")
        Results().save("b", b"")
        with pytest.raises(ResultRefusedError, match="may have 2 results"):
            Results().save("c", b"")
    finally:
        store.close()
    assert sorted(path.name for path in (tmp_path / "42").iterdir()) == [SUMS, "a", "b"]


@given(name=st.text(max_size=120))
def test_only_plain_names_reach_the_disk(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.mktemp("results")
    store = Store(root / "42", Limits())
    try:
        header = {"name": name, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
        answer = store.raw(json.dumps(header).encode() + b"\nx")
    finally:
        store.close()
    assert all(path.is_relative_to(root / "42") for path in root.rglob("*"))
    assert ("ok" in answer) == (name in committed(root / "42"))


@pytest.mark.parametrize("name", ["../x", "/etc/x", ".hidden", "SHA256SUMS", "a/b", "a\n", "", "x" * 101, "\u0660"])
def test_names_that_could_lead_elsewhere_are_refused_on_both_sides(store: Store, name: str) -> None:
    with pytest.raises(ResultRefusedError, match="no name"):
        Results().save(name, b"x")
    header = {"name": name, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    assert "no name" in store.raw(json.dumps(header).encode() + b"\nx")["error"]
    assert not store.directory.exists()


@pytest.mark.parametrize(
    "header",
    [
        b"\n",
        b"{}\n",
        b"[[[[\n",
        b"[" * 4095 + b"\n",
        b'{"name": "a", "size": -1, "sha256": "' + b"0" * 64 + b'"}\n',
        b'{"name": "a", "size": 1.5, "sha256": "' + b"0" * 64 + b'"}\n',
        b'{"name": "a", "size": true, "sha256": "' + b"0" * 64 + b'"}\n',
        b'{"name": "a", "size": 1, "sha256": "AA"}\n',
        b'{"name": 1, "size": 1, "sha256": "' + b"0" * 64 + b'"}\n',
        b"x" * 5000 + b"\n",
    ],
)
def test_what_is_no_request_ends_the_connection(store: Store, header: bytes) -> None:
    assert "error" in store.raw(header)
    store.thread.join(10)
    with pytest.raises(SdkError):
        Results().save("a", b"a")


def test_a_wrong_sum_leaves_nothing(store: Store) -> None:
    answer = store.raw(b'{"name": "a", "size": 1, "sha256": "' + b"0" * 64 + b'"}\nx')
    assert "another checksum" in answer["error"]
    assert list(store.directory.iterdir()) == []
    Results().save("a", b"x")


def test_what_an_earlier_crash_left_unfinished_is_replaced(store: Store) -> None:
    store.directory.mkdir(parents=True)
    (store.directory / "a").write_bytes(b"torn")
    (store.directory / ".a.part").write_bytes(b"torn")
    (store.directory / f".{SUMS}.part").write_bytes(b"torn")
    Results().save("a", b"whole")
    assert (store.directory / "a").read_bytes() == b"whole"
    assert sorted(path.name for path in store.directory.iterdir()) == [SUMS, "a"]


def test_a_planted_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    store.directory.mkdir(parents=True)
    (tmp_path / "target").write_bytes(b"untouched")
    (store.directory / ".a.part").symlink_to(tmp_path / "target")
    Results().save("a", b"x")
    assert (tmp_path / "target").read_bytes() == b"untouched"
    assert not (store.directory / "a").is_symlink()


def test_records_are_kept_in_formats_that_outlive_flower(store: Store) -> None:
    Results().save_arrays("model.npz", ArrayRecord({"weight": Array(np.arange(6.0).reshape(2, 3))}))
    Results().save_metrics("metrics.json", MetricRecord({"accuracy": 0.5}))
    with np.load(store.directory / "model.npz", allow_pickle=False) as kept:
        assert kept["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert json.loads((store.directory / "metrics.json").read_text()) == {"accuracy": 0.5}
    with pytest.raises(ValueError, match="JSON"):
        Results().save_metrics("bad.json", {"accuracy": float("nan")})


def test_a_file_can_be_handed_over(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"m" * 500)
    Results().save("model", tmp_path / "model")
    assert (store.directory / "model").read_bytes() == b"m" * 500


def test_simulation_keeps_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWERBED_RESULTS_FD", raising=False)
    monkeypatch.setenv("FLOWERBED_SIMULATION_DIR", str(tmp_path))
    Results(7).save("a", b"x")
    assert committed(tmp_path / "results" / "7") == {"a": hashlib.sha256(b"x").hexdigest()}
    with pytest.raises(ResultRefusedError, match="written once"):
        Results(7).save("a", b"y")
