"""Which secrets are laid out again, with which owner and mode, and what is noted for reloading."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_cli import consumers, reload, secrets
from flowerbed_cli.consumers import pem
from flowerbed_cli.project import Project
from flowerbed_cli.secrets import Consumer, archive, difference, ensure_deployed, ensure_kept, stamp
from flowerbed_topology import Topology, parse


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def consumer() -> Consumer:
    return Consumer("edge", os.getuid(), {"tls.crt": b"certificate", "tls.key": b"key"})


@pytest.fixture(autouse=True)
def written_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out as this user: the container that does it for others is tried end to end."""
    monkeypatch.setattr(secrets, "deploy_through_container", secrets.deploy_as_root)


def nothing(_changed: dict[str, set[str]]) -> None:
    """For layouts after which nothing has to be reloaded."""


def test_everything_is_laid_out_once(project: Project, consumer: Consumer) -> None:
    assert ensure_deployed(project, [consumer], before=nothing) == {"edge": {"tls.crt", "tls.key"}}
    path = project.secrets / "edge" / "tls.key"
    assert path.read_bytes() == b"key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert ensure_deployed(project, [consumer], before=nothing) == {}


def test_a_changed_file_is_replaced_by_rename_and_named(project: Project, consumer: Consumer) -> None:
    ensure_deployed(project, [consumer], before=nothing)
    inode = (project.secrets / "edge" / "tls.crt").stat().st_ino
    renewed = Consumer("edge", consumer.uid, {**consumer.files, "tls.crt": b"renewed"})
    assert ensure_deployed(project, [renewed], before=nothing) == {"edge": {"tls.crt"}}
    assert (project.secrets / "edge" / "tls.crt").read_bytes() == b"renewed"
    assert (project.secrets / "edge" / "tls.crt").stat().st_ino != inode


def test_a_deleted_file_and_a_deleted_stamp_are_noticed(project: Project, consumer: Consumer) -> None:
    ensure_deployed(project, [consumer], before=nothing)
    (project.secrets / "edge" / "tls.crt").unlink()
    assert difference(project, consumer) == {"tls.crt"}
    stamp(project, "edge").unlink()
    assert difference(project, consumer) == {"tls.crt", "tls.key"}


def test_an_unfinished_layout_is_due_again(
    project: Project, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(secrets, "deploy_as_root", dies)
        context.setattr(secrets, "deploy_through_container", dies)
        with pytest.raises(KeyboardInterrupt):
            ensure_deployed(project, [consumer], before=lambda due: reload.note(project, due))
    assert json.loads((reload.directory(project) / "edge.json").read_text()) == ["tls.crt", "tls.key"]
    assert difference(project, consumer) == {"tls.crt", "tls.key"}


def test_notes_add_up(project: Project) -> None:
    reload.note(project, {"superlink": {"crl.pem"}})
    reload.note(project, {"superlink": {"tls.crt"}})
    assert json.loads((reload.directory(project) / "superlink.json").read_text()) == ["crl.pem", "tls.crt"]


@pytest.mark.parametrize(
    ("consumer", "container"),
    [("edge", "edge"), ("gateway-north", "north-gateway"), ("supernode-a-b", "a-b-supernode"), ("cli", "cli")],
)
def test_consumers_and_containers(consumer: str, container: str) -> None:
    assert reload.consumer_container(consumer) == container


def test_a_secret_that_exists_is_never_changed(project: Project) -> None:
    first = ensure_kept(project, "token", secrets.token)
    assert ensure_kept(project, "token", secrets.token) == first
    assert len(first) == 64
    path = project.secrets / "kit" / "token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)


@given(
    st.dictionaries(NAMES, st.dictionaries(NAMES, st.binary(max_size=2000), max_size=4), max_size=4),
    st.integers(0, 2**16),
)
def test_the_archive_holds_every_file_with_owner_and_mode(files: dict[str, dict[str, bytes]], uid: int) -> None:
    consumers = [Consumer(name, uid, content) for name, content in files.items()]
    with tarfile.open(fileobj=io.BytesIO(archive(consumers))) as tar:
        found = {}
        for member in tar.getmembers():
            assert (member.mode, member.uid, member.gid) == (0o400, uid, uid)
            file = tar.extractfile(member)
            assert file
            found[member.name] = file.read()
    assert found == {f"{name}/{key}": value for name, own in files.items() for key, value in own.items()}


def test_text_before_a_certificate_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "leaf.crt"
    path.write_text("Certificate:\n    Data:\n-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n")
    assert pem(path).startswith(b"-----BEGIN CERTIFICATE-----\nMII")


START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def laid_out_at(project: Project, consumer: Consumer, moment: datetime) -> None:
    """Lay out a consumer's secrets as if the clock said `moment`."""
    ensure_deployed(project, [consumer], before=nothing)
    os.utime(stamp(project, consumer.name), (moment.timestamp(),) * 2)


@pytest.mark.parametrize(("laid_out", "reloaded"), [(timedelta(minutes=1), True), (-timedelta(minutes=1), False)])
def test_a_container_takes_up_what_was_laid_out_after_its_start(
    project: Project, consumer: Consumer, monkeypatch: pytest.MonkeyPatch, laid_out: timedelta, reloaded: bool
) -> None:
    """Whenever it was noted: `up` may be killed after its note, and the container start again before the next `up`."""
    reload.note(project, {"edge": {"tls.crt"}})
    os.utime(reload.directory(project) / "edge.json", (0, 0))
    laid_out_at(project, consumer, START + laid_out)
    done: list[str] = []
    monkeypatch.setattr(reload, "started_at", lambda _topology: {"example-edge": START})
    monkeypatch.setattr(reload, "reload", done.append)
    topology = cast("Topology", SimpleNamespace(name="example"))
    assert reload.ensure_reloaded(project, topology) == []
    assert done == (["example-edge"] if reloaded else [])
    assert not list(reload.directory(project).glob("*.json"))


@pytest.mark.parametrize(
    ("name", "files", "reloaded"),
    [
        ("postgres", {"tls.crt"}, True),
        ("postgres", {"audit.password"}, False),  # it makes roles at its start
        ("gateway-north", {"client.crt"}, True),
        ("keycloak", {"keycloak.conf"}, False),
        ("superlink", {"pgpass"}, False),
    ],
)
def test_what_is_read_only_at_a_start_needs_one(name: str, files: set[str], reloaded: bool) -> None:
    assert reload.reloads(name, files) is reloaded


@pytest.fixture
def authority(project: Project) -> Project:
    """A project whose certificates are stood in for by texts."""
    for directory in ("issued", "private"):
        (project.pki / directory).mkdir(parents=True)
    for name in ("ca.crt", "crl.pem"):
        (project.pki / name).write_text(name)
    for leaf in ("edge", "superlink", "postgres", "keycloak"):
        (project.pki / "issued" / f"{leaf}.crt").write_text("-----BEGIN CERTIFICATE-----\n")
        (project.pki / "private" / f"{leaf}.key").write_text(f"key of {leaf}")
    return project


@pytest.fixture
def topology() -> Topology:
    return parse("""
organisations: [{name: north, title: North, site: {number: 1, data: {directory: /srv}}}]
federations: [{name: main, organisations: [north]}]
pipelines: [{name: nightly, organisation: north}]
""")


def test_each_container_finds_what_it_needs_and_no_more(authority: Project, topology: Topology) -> None:
    found = {item.name: item for item in consumers.core_consumers(authority, topology)}
    served = {"tls.crt", "tls.key", "ca.crt"}
    assert {name: set(item.files) for name, item in found.items()} == {
        "postgres": served | {f"{role}.password" for role in ("superlink", "keycloak", "flowerbed", "audit")},
        "keycloak": served | {"keycloak.conf"},
        "edge": served | {"crl.pem", "edge-header.conf"},
        "superlink": served | {"crl.pem", "edge.token", "superexec.secret", "pgpass"},
        "serverapp": {"ca.crt", "superexec.secret"},
        "cli": {"ca.crt"},
    }
    assert found["keycloak"].uid == 9706
    assert found["keycloak"].files["tls.key"] == b"key of keycloak"


def test_passwords_reach_both_sides_and_nobody_else(authority: Project, topology: Topology) -> None:
    found = {item.name: item.files for item in consumers.core_consumers(authority, topology)}
    kept = {path.stem: path.read_text() for path in (authority.secrets / "kit").glob("*.password")}
    assert len(set(kept.values())) == 4
    lines = found["superlink"]["pgpass"].decode().splitlines()
    assert lines == [f"postgres:5432:{role}:{role}:{kept[role]}" for role in ("superlink", "flowerbed", "audit")]
    assert f"db-password={kept['keycloak']}\n" in found["keycloak"]["keycloak.conf"].decode()
    for role, holders in {"keycloak": {"postgres", "keycloak"}, "audit": {"postgres", "superlink"}}.items():
        assert {
            name for name, files in found.items() if any(kept[role].encode() in text for text in files.values())
        } == holders


def test_every_confidential_client_has_a_secret_of_its_own_for_good(project: Project, topology: Topology) -> None:
    found = consumers.client_secrets(project, topology)
    assert set(found) == {"kit", "hub", "grafana", "pipeline-nightly"}
    assert len(set(found.values())) == 4
    assert consumers.client_secrets(project, topology) == found


def test_laying_out_again_what_the_stamp_says_already_counts_as_now(project: Project, consumer: Consumer) -> None:
    laid_out_at(project, consumer, START)
    (project.secrets / "edge" / "tls.crt").unlink()
    ensure_deployed(project, [consumer], before=nothing)
    assert stamp(project, "edge").stat().st_mtime > START.timestamp()
