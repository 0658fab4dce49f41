"""What `flowerbed clean` says where it cannot remove everything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from flowerbed_cli import docker, down
from flowerbed_cli.errors import DockerError, FlowerbedError
from flowerbed_cli.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "secrets" / "edge").mkdir(parents=True)
    (tmp_path / "secrets" / "edge" / "tls.key").write_text("key")
    return Project(tmp_path)


def test_secrets_go(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    down.remove_secrets(project)
    down.remove_secrets(project)
    assert not project.secrets.exists()


def test_secrets_that_the_container_could_not_remove_are_named(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> str:
        raise DockerError("docker run failed: no such image")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(docker, "one_shot", fails)
    with pytest.raises(FlowerbedError, match=rf"are left in {project.secrets}.*sudo rm -r.*no such image"):
        down.remove_secrets(project)


def test_what_this_user_may_not_remove_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuses)
    with pytest.raises(FlowerbedError, match=r"could not be removed whole .*Permission denied.*sudo rm -r"):
        down.remove_tree(project.secrets)
