"""Which accounts follow from federation.yaml, and which of them have to be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowerbed_cli import people, realm, roster, users
from flowerbed_cli.project import Project
from flowerbed_topology import Topology, parse

YAML = """
domain: example.org
organisations:
  - {name: north, title: North, site: {number: 1, data: {directory: /srv/north}}}
  - {name: south, title: South, site: {number: 2, data: {directory: /srv/south}}}
federations:
  - {name: main, organisations: [north, south]}
  - {name: side, organisations: [south]}
identity: {demo_people: true}
pipelines:
  - {name: nightly, organisation: south, roles: [researcher, auditor], federations: [side]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def topology() -> Topology:
    return parse(YAML)


def stored(accounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the list of people gives accounts back: with an id, and lists in another order."""
    return [{**item, "aid": "p-0", "roles": item["roles"][::-1]} for item in accounts]


def test_the_kit_demo_people_and_pipelines_are_wanted(topology: Topology) -> None:
    found = {item["name"]: item for item in roster.wanted(topology)}
    assert len(found) == 1 + 2 * 4 + 1
    assert (found["flowerbed"]["kind"], found["flowerbed"]["federations"]) == ("kit", ["main", "side"])
    assert found["auditor-south"] == {
        "name": "auditor-south",
        "kind": "demo",
        "email": "auditor-south@example.org",
        "first_name": "Auditor",
        "last_name": "south",
        "organisation": "south",
        "roles": ["auditor"],
        "federations": ["main", "side"],
        "enabled": True,
    }
    pipeline = found["pipeline-nightly"]
    assert (pipeline["roles"], pipeline["federations"]) == (["auditor", "researcher"], ["side"])


def test_nothing_is_due_the_second_time(topology: Topology) -> None:
    wanted = roster.wanted(topology)
    assert roster.due(wanted, []) == wanted
    assert roster.due(wanted, stored(wanted)) == []


def test_what_differs_is_written_again(topology: Topology) -> None:
    wanted = roster.wanted(topology)
    present = stored(wanted)
    present[3] = {**present[3], "federations": []}
    assert roster.due(wanted, present) == [wanted[3]]


def test_whom_the_file_no_longer_names_is_disabled_once_and_people_are_left_alone(topology: Topology) -> None:
    wanted = roster.wanted(topology)
    person = {**wanted[1], "name": "somebody", "kind": "person"}
    gone = {**wanted[-1], "name": "pipeline-weekly"}
    found = roster.due(wanted, stored([*wanted, person, gone]))
    assert [(item["name"], item["enabled"]) for item in found] == [("pipeline-weekly", False)]
    assert "aid" not in found[0]
    assert roster.due(wanted, stored([*wanted, person, {**gone, "enabled": False}])) == []


def test_the_list_of_people_is_written_once_and_the_disabled_are_stopped(
    project: Project, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SuperLink's list of people is played by a list here; the real one is tried end to end."""
    known: list[dict[str, Any]] = []
    written: list[list[dict[str, Any]]] = []
    stopped: list[str] = []
    monkeypatch.setattr(people, "everybody", lambda _: known)
    monkeypatch.setattr(people, "put", lambda _, accounts: written.append(accounts) or accounts)
    monkeypatch.setattr(people, "stop", lambda _, name: stopped.append(name) or [])
    lines = roster.ensure_roster(project, topology)
    assert lines[0] == "enrolled kit account flowerbed"
    assert len(lines) == len(written[0]) == 10
    known += stored([*roster.wanted(topology), {**roster.wanted(topology)[-1], "name": "pipeline-weekly"}])
    assert roster.ensure_roster(project, topology) == ["disabled pipeline account pipeline-weekly"]
    assert stopped == ["pipeline-weekly"]
    known.pop()
    assert roster.ensure_roster(project, topology) == []
    assert len(written) == 2


class Listed:
    """Plays the SuperLink's list of people and its runs; a stop can be the moment at which `up` is killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *accounts: dict[str, Any]) -> None:
        self.accounts = {item["name"]: item for item in stored(list(accounts))}
        self.runs: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.killed = False
        for name in ("everybody", "put", "stop"):
            monkeypatch.setattr(people, name, getattr(self, name))

    def everybody(self, _: Topology) -> list[dict[str, Any]]:
        return list(self.accounts.values())

    def put(self, topology: Topology, accounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.accounts |= {item["name"]: item for item in stored(accounts)}
        return self.everybody(topology)

    def stop(self, _: Topology, name: str) -> list[int]:
        self.asked.append(name)
        if self.killed:
            raise KeyboardInterrupt
        return self.runs.pop(name, [])

    def disabled(self) -> set[str]:
        return {name for name, item in self.accounts.items() if not item["enabled"]}


def test_killed_before_the_stop_the_next_up_stops_the_runs_and_then_no_more(
    project: Project, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = roster.wanted(topology)
    there = Listed(monkeypatch, *wanted, {**wanted[-1], "name": "pipeline-weekly"})
    there.runs, there.killed = {"pipeline-weekly": [17]}, True
    with pytest.raises(KeyboardInterrupt):
        roster.ensure_roster(project, topology)
    assert there.disabled() == {"pipeline-weekly"}
    there.killed = False
    assert roster.ensure_roster(project, topology) == ["stopped run 17 of pipeline-weekly"]
    there.asked.clear()
    assert roster.ensure_roster(project, topology) == []
    assert there.asked == []


def test_who_is_named_again_before_the_stop_keeps_their_runs(
    project: Project, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Listed(monkeypatch, *roster.wanted(topology))
    there.runs, there.killed = {"pipeline-nightly": [17]}, True
    with pytest.raises(KeyboardInterrupt):
        roster.ensure_roster(project, topology.model_copy(update={"pipelines": ()}))
    there.killed = False
    assert roster.ensure_roster(project, topology) == ["enrolled pipeline account pipeline-nightly"]
    assert there.runs == {"pipeline-nightly": [17]}


def test_demo_people_come_back_with_the_file_but_not_whom_an_operator_disabled(
    project: Project, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = parse(YAML.replace("demo_people: true", "demo_people: false"))
    there = Listed(monkeypatch, *roster.wanted(topology))
    monkeypatch.setattr(realm, "disable", lambda *_: None)
    users.disable(project, topology, "auditor-north")
    roster.ensure_roster(project, without)
    assert len(there.disabled()) == 8
    users.disable(project, topology, "auditor-south")  # again, by hand
    assert len(roster.ensure_roster(project, topology)) == 6
    assert there.disabled() == {"auditor-north", "auditor-south"}
    assert roster.ensure_roster(project, topology) == []
