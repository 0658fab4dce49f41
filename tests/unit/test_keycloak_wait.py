"""Waiting for Keycloak: as soon as its own check succeeds, whenever Docker looks next; Docker's word is enough too."""

from __future__ import annotations

from threading import Event

import pytest

from flowerbed_cli import health
from flowerbed_cli.errors import DockerError
from flowerbed_topology import Topology
from keycloak_support import topology


class Patient(Event):
    """Lets no time pass, and ends the waiting after so many turns."""

    def __init__(self, turns: int = 10) -> None:
        super().__init__()
        self.turns = turns

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout == 1
        self.turns -= 1
        return self.turns < 0


@pytest.fixture
def made() -> Topology:
    return topology()


def docker_says(monkeypatch: pytest.MonkeyPatch, *statuses: str) -> None:
    """Docker's word about Keycloak, the last one for good."""
    left = list(statuses)

    def containers(_: str) -> list[dict[str, object]]:
        status = left.pop(0) if len(left) > 1 else left[0]
        return [{"Id": "k", "Name": "/k", "RestartCount": 0, "State": {"Health": {"Status": status}}}]

    monkeypatch.setattr(health.docker, "containers", containers)


def test_its_own_check_ends_the_waiting(made: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    docker_says(monkeypatch, "starting")
    answers = iter([False, False, True])
    health.wait_healthy(made, ["k"], Patient(), lambda _: next(answers))
    assert next(answers, "asked three times") == "asked three times"


def test_dockers_word_ends_the_waiting_too(made: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    docker_says(monkeypatch, "starting", "starting", "healthy")
    health.wait_healthy(made, ["k"], Patient(), lambda _: False)


def test_a_check_that_never_succeeds_leaves_the_waiting_to_its_end(
    made: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker_says(monkeypatch, "starting")
    with pytest.raises(DockerError, match="not waited for any longer"):
        health.wait_healthy(made, ["k"], Patient(3), lambda _: False)


def test_a_container_that_does_not_run_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def refused(arguments: list[str], **_: object) -> str:
        asked.append(arguments)
        raise DockerError("not running")

    monkeypatch.setattr(health.docker, "run", refused)
    assert not health.keycloak_ready("k")
    monkeypatch.setattr(health.docker, "run", lambda *_, **__: "")
    assert health.keycloak_ready("k")
    assert asked == [["exec", "k", "flowerbed-keycloak-healthy"]]
