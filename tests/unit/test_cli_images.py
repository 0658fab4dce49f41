"""What a build of the images hears of its caller, without building one."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from flowerbed_cli import images
from flowerbed_cli.project import Project


def test_a_callers_variables_change_no_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard: list[dict[str, str]] = []
    names = ("FLOWERBED_VERSION", "DEBIAN_SUITE", "KEYCLOAK_SHA256", "POSTGRES_MAJOR", "FLOWERBED_TORCH")
    for name in names:
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("FLOWERBED_MIRROR", "http://mirror/debian")
    monkeypatch.setenv("https_proxy", "http://proxy")
    monkeypatch.setattr(images, "stale", lambda *_: ["nginx"])
    monkeypatch.setattr(images, "logged", lambda _arguments, environment, *_: heard.append(environment))
    assert images.build(Project(tmp_path), Console(quiet=True)) == ["nginx"]
    for environment in heard:
        assert not set(names) & set(environment)
        assert environment["FLOWERBED_MIRROR"] == "http://mirror/debian"
        assert environment["https_proxy"] == "http://proxy"
        assert len(environment["FLOWERBED_SOURCE_APP"]) == 64
    assert len(heard) == 2
