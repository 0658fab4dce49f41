"""What `up` says where something fails while logins are brought in line. No containers: every other step is a stand-in."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flowerbed_cli import reload, up
from flowerbed_cli.errors import AccountError, DockerError
from flowerbed_cli.project import KIT, Project
from flowerbed_topology import load

TOPOLOGY = load(KIT / "federation.yaml")
FIRST = "first password of alex: secrets/people/alex.password"


def run(monkeypatch: pytest.MonkeyPatch, project: Path, *, logins: Any, healthy: Any, missing: list[str]) -> str:
    """Start containers with stand-ins for the two steps that may fail; what was shown, and the failure."""
    for module, name, value in (
        (up, "started", {}),
        (up, "ensure_departed", []),
        (up.docker, "run", ""),
        (reload, "ensure_reloaded", []),
        (up, "ensure_site", None),
        (up, "register", None),
        (up, "expected", ["a site's"]),
        (up, "unregistered", missing),
    ):
        monkeypatch.setattr(module, name, lambda *_, value=value: value)
    monkeypatch.setattr(up, "wait_healthy", lambda _, names: answer(healthy if "a site's" in names else None))
    monkeypatch.setattr(up, "ensure_logins", lambda *_: answer(logins))
    shown = io.StringIO()
    try:
        up.ensure_containers(Project(project), TOPOLOGY, up.Progress(Console(file=shown, width=200)))
    except (DockerError, AccountError) as error:
        shown.write(f"ERROR {error}")
    return "".join(line for line in shown.getvalue().splitlines(keepends=True) if not line.startswith("  …"))


def answer(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


@pytest.mark.parametrize("missing", [[], ["north"]])
def test_where_first_passwords_lie_is_shown_though_a_container_is_not_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    unhealthy = DockerError("north-supernode is not healthy")
    said = run(monkeypatch, tmp_path, logins=up.Logins([FIRST]), healthy=unhealthy, missing=missing)
    assert said.count(FIRST) == 1
    assert said.endswith("ERROR north-supernode is not healthy")


def test_it_is_shown_once_where_all_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run(monkeypatch, tmp_path, logins=up.Logins([FIRST], "not compared"), healthy=None, missing=[])
    assert (said.count(FIRST), said.count("! not compared")) == (1, 1)


@pytest.mark.parametrize("missing", [[], ["north"]])
def test_what_fails_of_logins_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: list[str]) -> None:
    said = run(monkeypatch, tmp_path, logins=AccountError(FIRST), healthy=None, missing=missing)
    assert said == f"ERROR {FIRST}"


def test_of_two_failures_neither_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unhealthy = DockerError("north-supernode is not healthy")
    said = run(monkeypatch, tmp_path, logins=AccountError(FIRST), healthy=unhealthy, missing=[])
    assert said == f"  ! {FIRST}\nERROR north-supernode is not healthy"
