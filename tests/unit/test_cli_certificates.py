"""What `flowerbed up` makes of the authority: a locked key, a shut-out site, drift seen before anything is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ca_support import snapshot
from flowerbed_ca.authority import Authority
from flowerbed_ca.errors import CaError, CaKeyLocked, Drift
from flowerbed_ca.plan import certificate_plan
from flowerbed_cli import certificates
from flowerbed_cli.project import Project
from flowerbed_topology import Topology, load

YAML = """
name: example
title: Example Consortium
domain: example.localhost
organisations:
  - {name: north, title: North Clinic, site: {number: 1, data: {directory: /srv/rows}}}
  - {name: south, title: South Clinic, site: {number: 2, data: {directory: /srv/more}}}
federations:
  - {name: main, organisations: [north, south]}
"""
KEYS = {"north": "a" * 64, "south": "b" * 64}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    (tmp_path / "federation.yaml").write_text(YAML)
    monkeypatch.delenv("FLOWERBED_CA_PASSPHRASE_FILE", raising=False)
    return Project(tmp_path)


@pytest.fixture
def topology(project: Project) -> Topology:
    return load(project.federation_file)


def made(project: Project, topology: Topology, *, ago: timedelta) -> Authority:
    """Return the project's authority with everything signed some time ago; its key has a passphrase."""
    then = datetime.now(UTC).replace(microsecond=0) - ago
    authority = Authority(project.pki, now=lambda: then, ask=lambda: b"secret")
    authority.ensure_root(topology.title, passphrase=b"secret")
    authority.ensure_leaves(certificate_plan(topology, KEYS))
    authority.ensure_crl()
    return authority


def test_a_shut_out_site_and_a_list_with_hours_left_do_not_stop_the_others(
    project: Project, topology: Topology
) -> None:
    made(project, topology, ago=timedelta(days=29, hours=1)).revoke("south")
    (line,) = certificates.ensure(project, topology, KEYS)
    assert line.startswith("signed nothing, since the CA key has a passphrase")
    assert certificates.shut_out(project, topology) == ["south"]


def test_a_list_that_is_over_needs_the_key(project: Project, topology: Topology) -> None:
    made(project, topology, ago=timedelta(days=30, hours=1))
    with pytest.raises(CaKeyLocked):
        certificates.ensure(project, topology, KEYS)


def test_a_leaf_that_was_never_issued_needs_the_key(project: Project, topology: Topology) -> None:
    made(project, topology, ago=timedelta(hours=1))
    (project.pki / "issued" / "edge.crt").unlink()
    with pytest.raises(CaKeyLocked):
        certificates.ensure(project, topology, KEYS)


def test_a_leaf_that_is_over_needs_the_key(project: Project, topology: Topology) -> None:
    made(project, topology, ago=timedelta(days=398))
    with pytest.raises(CaKeyLocked):
        certificates.ensure(project, topology, KEYS)


def test_nothing_is_drift_before_there_is_an_authority(project: Project, topology: Topology) -> None:
    certificates.refuse_drift(project, topology, {})
    assert not project.pki.exists()


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("title: Example Consortium", "title: Another", r"ca\.crt: its subject is"),
        ("title: North Clinic", "title: Another Clinic", r"issued/gateway-north\.crt: its subject is"),
        ("domain: example.localhost", "domain: other.localhost", r"issued/north\.crt: it is bound to another"),
    ],
)
def test_drift_is_seen_by_looking_alone(project: Project, topology: Topology, key: str, value: str, found: str) -> None:
    made(project, topology, ago=timedelta(hours=1))
    before = snapshot(project.pki)
    certificates.refuse_drift(project, topology, KEYS)
    project.federation_file.write_text(YAML.replace(key, value))
    with pytest.raises(Drift, match=found):
        certificates.refuse_drift(project, load(project.federation_file), KEYS)
    assert snapshot(project.pki) == before


def test_a_store_that_is_none_is_said_by_looking_alone(project: Project, topology: Topology) -> None:
    made(project, topology, ago=timedelta(hours=1))
    (project.pki / "ca.crt").write_text("nonsense")
    with pytest.raises(CaError, match=r"ca\.crt"):
        certificates.refuse_drift(project, topology, KEYS)
