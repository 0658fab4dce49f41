"""How commands are run: one that hangs, one that prints anything, one that must not ask."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowerbed_cli import docker
from flowerbed_cli.errors import DockerError
from flowerbed_cli.project import KIT, Project


def test_a_command_that_hangs_is_one_sentence() -> None:
    with pytest.raises(DockerError, match=r"^sleep 5 took longer than 0 s\.$"):
        docker.call(["sleep", "5"], timeout=0.05)


def test_bytes_that_are_no_text_are_shown_as_far_as_they_go() -> None:
    assert docker.call(["printf", r"rows \377\n"]).stdout == "rows \ufffd\n"


def test_both_streams_come_as_one_where_asked() -> None:
    done = docker.call(["sh"], stdin="echo out; echo err >&2; exit 3\n", merged=True)
    assert (done.stdout, done.stderr, done.returncode) == ("out\nerr\n", "", 3)


def test_a_command_without_input_finds_none() -> None:
    assert docker.call(["cat"], timeout=5).stdout == ""


def test_every_container_of_the_tools_image_is_confined() -> None:
    arguments = docker.tools(Project(KIT), [(KIT, "/target")], ["--network", "none"])
    assert arguments[:2] == ["run", "--rm"]
    text = " ".join(arguments)
    for option in ("--read-only", "--security-opt no-new-privileges:true", "--cap-drop ALL", "--network none"):
        assert option in text


def test_a_callers_variables_change_nothing_that_compose_fills_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLOWERBED_SECRETS", "SITE", "COMPOSE_PROJECT_NAME", "POSTGRES_DATA"):
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("DOCKER_HOST", "unix:///there")
    monkeypatch.setenv("https_proxy", "http://proxy")
    names = {line.partition("=")[0] for line in docker.call(["env"]).stdout.splitlines()}
    assert {"PATH", "DOCKER_HOST", "https_proxy"} <= names
    assert not names & {"FLOWERBED_SECRETS", "SITE", "COMPOSE_PROJECT_NAME", "POSTGRES_DATA"}


def test_a_stream_that_nobody_reads_any_more_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, mark = tmp_path / "docker", tmp_path / "ended"
    program.write_text(f"#!/bin/sh\ntrap 'touch {mark}; exit 0' TERM\necho first\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    lines = docker.stream(["logs"])
    assert next(lines) == "first\n"
    lines.close()
    assert mark.exists()
