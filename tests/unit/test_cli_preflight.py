"""Preflight findings that need no Engine: each one sentence with its remedy."""

from __future__ import annotations

import json
import os
import socket
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from flowerbed_ca.authority import Authority
from flowerbed_cli import health, images, owned, preflight
from flowerbed_cli.errors import DockerError, PreflightError
from flowerbed_cli.project import Project
from flowerbed_topology import Topology, load

YAML = """
name: example
domain: example.localhost
edge: {https_port: 38443, http_port: 38080}
organisations:
  - {name: north, title: North Clinic, site: {number: 1, data: {directory: DIRECTORY}}}
federations:
  - {name: main, organisations: [north]}
"""


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    path = tmp_path / "federation.yaml"
    path.write_text(YAML.replace("DIRECTORY", str(tmp_path / "rows")))
    return load(path)


def network(name: str, subnet: str, project: str = "") -> dict[str, Any]:
    labels = {owned.PROJECT: project} if project else None
    return {"Name": name, "Labels": labels, "IPAM": {"Config": [{"Subnet": subnet}]}}


def test_a_missing_data_directory_is_named(topology: Topology, tmp_path: Path) -> None:
    (found,) = preflight.data_problems(topology)
    assert f"organisations[0].site.data.directory is '{tmp_path}/rows': north has no such directory" in found
    (tmp_path / "rows").mkdir()
    assert list(preflight.data_problems(topology)) == []


@pytest.mark.parametrize(
    ("labels", "refused"),
    [
        ({"flowerbed.share": "breast-cancer 1/3"}, False),
        ({"flowerbed.share": "breast-cancer 1/2"}, True),
        ({"flowerbed.share": "breast-cancer 2/3"}, True),
        (None, False),
    ],
)
def test_another_share_than_was_seeded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: dict[str, str] | None, refused: bool
) -> None:
    path = tmp_path / "federation.yaml"
    path.write_text(YAML.replace("directory: DIRECTORY", "sample: breast-cancer, part: 1, of: 3"))
    volume = {"Name": "example-north-data", "Labels": labels}
    monkeypatch.setattr(preflight.docker, "inspect", lambda _kind, names: [volume] if volume["Name"] in names else [])
    found = list(preflight.share_problems(load(path)))
    assert len(found) == refused
    for sentence in found:
        assert sentence.startswith("Volume example-north-data holds breast-cancer ")
        assert "gives north breast-cancer 1/3" in sentence
        assert "docker volume rm example-north-data" in sentence


def test_a_taken_port_is_named(topology: Topology) -> None:
    assert list(preflight.port_problems(topology)) == []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 38443))
        listener.listen()
        (found,) = preflight.port_problems(topology)
    assert "Port 38443 on 127.0.0.1 is taken" in found
    assert "edge.https_port" in found


def test_overlaps_name_the_key_to_change(topology: Topology) -> None:
    taken = [
        ("Docker network other", IPv4Network("172.21.4.0/24")),
        ("a route of this host", IPv4Network("10.0.0.0/8")),
    ]
    assert list(preflight.overlaps(topology, taken)) == [
        "Subnet 172.21.0.0/16 overlaps 172.21.4.0/24, Docker network other: set networks.clients in federation.yaml "
        "to a free one."
    ]


def test_a_vpn_that_takes_all_traffic_is_no_overlap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    routes = ["default", "0.0.0.0/1", "128.0.0.0/1", "172.21.4.0/24", "10.0.0.0/8", "172.20.0.1"]
    ip = tmp_path / "ip"
    ip.write_text(f"#!/bin/sh\necho '{json.dumps([{'dst': route, 'dev': 'tun0'} for route in routes])}'\n")
    ip.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = [str(net) for _, net in preflight.host_routes()]
    assert found == ["172.21.4.0/24", "10.0.0.0/8", "172.20.0.1/32"]


def test_what_the_authority_would_refuse_is_found_before_anything_is_made(topology: Topology, tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert list(preflight.authority_problems(project, topology)) == []
    assert not project.pki.exists()
    Authority(project.pki).ensure_root("Another Consortium")
    (found,) = preflight.authority_problems(project, topology)
    assert "ca.crt: its subject is" in found
    assert not project.secrets.exists()


def test_a_network_that_would_have_to_move_is_named(topology: Topology) -> None:
    name = topology.network_name("data")
    assert list(preflight.moved(topology, [network(name, "172.25.0.0/24"), network("other", "10.1.0.0/16")])) == []
    (found,) = preflight.moved(topology, [network(name, "172.29.0.0/24")])
    assert found == f"Network {name} exists and is not 172.25.0.0/24, as federation.yaml says: run make down first."


@pytest.mark.parametrize(
    ("name", "project", "own"),
    [
        ("example-fl-data-network", "example", True),
        ("example-fl-site-north", "example-north", True),
        ("example-fl-site-gone-app", "example-gone", True),
        ("example-fl-data-network", "", False),
        ("example-fl-site-north", "other", False),
        ("example-two-fl-data-network", "example-two", False),
        ("example-default", "example", False),
        ("bridge", "", False),
    ],
)
def test_whose_a_network_is(name: str, project: str, own: bool) -> None:
    assert owned.is_own_network("example", network(name, "10.0.0.0/24", project)) is own


def test_too_little_memory_is_said_in_megabytes(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_memory_mb", lambda: 512)
    monkeypatch.setattr(preflight.docker, "run", lambda *_: "/nowhere\n")
    (found,) = preflight.capacity_problems(topology)
    assert found == "512 MB of memory are available and 2000 MB are needed: stop something, or remove a site."


def test_too_little_disk_is_said(topology: Topology, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "available_memory_mb", lambda: None)
    monkeypatch.setattr(preflight.docker, "run", lambda *_: f"{tmp_path}\n")
    monkeypatch.setattr(preflight, "DISK_GB", 10**9)
    (found,) = preflight.capacity_problems(topology)
    assert f"GB of disk are free in {tmp_path}" in found


def test_stale_images_name_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = {f"FLOWERBED_SOURCE_{name.upper()}": "new" for name in images.NAMES}
    project = Project(tmp_path)
    tag = project.versions["FLOWERBED_VERSION"]

    def found(_kind: str, names: list[str]) -> list[dict[str, Any]]:
        label = {"flowerbed/app": "old"}
        return [
            {"RepoTags": [name], "Config": {"Labels": {"flowerbed.source": label.get(name.split(":")[0], "new")}}}
            for name in names
            if name != f"flowerbed/nginx:{tag}"
        ]

    monkeypatch.setattr(images, "source_hashes", lambda _torch: wanted)
    monkeypatch.setattr(images.docker, "inspect", found)
    assert list(images.problems(project, gpu=False)) == [
        "Images are missing or older than this clone (nginx, app): run make images."
    ]


@pytest.mark.parametrize("name", ["o'brien", "a:b", "$HOME", 'quo"ted', "has#hash"])
def test_a_directory_that_compose_cannot_mount_is_refused(name: str) -> None:
    (found,) = preflight.place_problems(Project(Path("/srv") / name))
    assert found.endswith("which Compose cannot mount: rename it.")
    assert list(preflight.place_problems(Project(Path("/srv/two words/é")))) == []


def test_several_problems_are_several_lines() -> None:
    assert str(PreflightError(["One.", "Two."])) == "One.\nTwo."


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('{"level":"WARN","message":"slow","exception":{"frames":[]}}', "WARN slow"),
        ('{"message":"no level"}', "no level"),
        ('{"event":"refused"}', '{"event":"refused"}'),
        ("[1]", "[1]"),
        ("plain", "plain"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_what_a_container_logged_is_shown_for_people(line: str, shown: str) -> None:
    assert health.plain(line) == shown


def container(name: str, status: str, restarts: int = 0) -> dict[str, Any]:
    return {"Id": name, "Name": f"/{name}", "RestartCount": restarts, "State": {"Health": {"Status": status}}}


def test_a_container_that_keeps_stopping_is_not_waited_for(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter(range(4, 100))
    monkeypatch.setattr(health.docker, "containers", lambda _: [container("edge", "starting", next(counts))])
    monkeypatch.setattr(health.docker, "capture", lambda _: "nginx: cannot bind\n")
    monkeypatch.setattr(health.time, "sleep", lambda _: None)
    with pytest.raises(DockerError, match=r"edge stops again and again\. It logged last:\nnginx: cannot bind"):
        health.wait_healthy(topology, ["edge"])


def test_earlier_restarts_do_not_count(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([[container("edge", "starting", 40)], [container("edge", "healthy", 40)]])
    monkeypatch.setattr(health.docker, "containers", lambda _: next(answers))
    monkeypatch.setattr(health.time, "sleep", lambda _: None)
    health.wait_healthy(topology, ["edge"])
