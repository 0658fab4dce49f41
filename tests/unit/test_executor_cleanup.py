"""What a task may leave behind is removed, whatever its shape. Runs as the test's own user; no other user is needed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowerbed_executor import cleanup


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "place").mkdir()
    yield tmp_path / "place"
    # Should a test fail: Python's own removal is defeated by depth, too.
    subprocess.run(["rm", "-rf", str(tmp_path / "place")], check=True)


def make_deep(top: Path, levels: int, name: str = "d") -> None:
    """Make a chain of directories whose path no call could take, a file at each level."""
    top.mkdir()
    handle = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("file", os.O_CREAT, dir_fd=handle))
        os.mkdir(name, dir_fd=handle)
        inner = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)


@pytest.mark.parametrize(("levels", "name"), [(3000, "d"), (100, "d" * 250)])
def test_depth_does_not_defeat_the_removal(place: Path, levels: int, name: str) -> None:
    make_deep(place / "deep", levels, name)
    (place / "deep" / "link").symlink_to("/etc")
    assert cleanup._remove(place / "deep")
    assert list(place.iterdir()) == []


def test_a_deep_directory_in_a_shared_place_is_found_and_removed(place: Path) -> None:
    make_deep(place / "deep", 3000)
    assert cleanup._remove_owned(os.getuid(), place)
    assert list(place.iterdir()) == []


def test_a_strangers_deep_directory_is_walked_without_an_error(place: Path) -> None:
    make_deep(place / "deep", 3000)
    assert cleanup._remove_owned(os.getuid() + 1, place)
    assert (place / "deep").is_dir()


def test_the_removal_goes_on_after_an_error_and_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "stubborn", "z"):
        (place / "tree" / name).mkdir(parents=True)
        (place / "tree" / name / "file").write_text("left")
    unlink = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self.parent.name == "stubborn":
            raise PermissionError
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert not cleanup._remove(place / "tree")
    assert [str(path.relative_to(place)) for path in sorted(place.rglob("*"))] == [
        "tree",
        "tree/stubborn",
        "tree/stubborn/file",
    ]
