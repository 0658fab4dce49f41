"""The operator's commands on a running federation: what changes, what stays, and what is said."""

from __future__ import annotations

import copy
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from flowerbed_cli import consumers, reload, secrets
from flowerbed_cli import docker as kit_docker
from flowerbed_cli.project import Project

from .federation import FEDERATION, KIT, STACK, Federation, docker
from .operating import changed, containers, generated, in_terminal, named, served_serial
from .running import kill, started_again, superlink_status, wait_for


def test_a_second_up_changes_nothing(federation: Federation) -> None:
    federation.flowerbed("up")
    before, files = containers(), generated(federation.root)
    assert "Nothing changed." in federation.flowerbed("up").stdout
    assert containers() == before
    assert generated(federation.root) == files


def test_a_changed_setting_recreates_exactly_the_changed_service(federation: Federation) -> None:
    before = containers()
    content = copy.deepcopy(FEDERATION)
    content["organisations"][0]["site"]["resources"] = {"pids": 500}
    with changed(federation, content) as printed:
        after = containers()
        assert {name for name in before if before[name] != after[name]} == {f"{STACK}-north-clientapp"}
        assert "rendered site-north.env" in printed
        assert f"started {STACK}-north-clientapp" in printed
        assert "2 changes." in printed


@pytest.fixture(scope="module")
def four_sites(federation: Federation) -> Iterator[dict[str, Any]]:
    """A federation.yaml with a fourth site that has a data directory; its traces are removed afterwards."""
    directory = federation.root / "rows of east"
    directory.mkdir(exist_ok=True)
    content = copy.deepcopy(FEDERATION)
    content["organisations"].append(
        {"name": "east", "title": "East Clinic", "site": {"number": 4, "data": {"directory": str(directory)}}}
    )
    content["federations"][0]["organisations"].append("east")
    yield content
    docker("volume", "rm", "-f", f"{STACK}-east-state", f"{STACK}-east-data")


def test_a_fourth_site_leaves_the_others_untouched(federation: Federation, four_sites: dict[str, Any]) -> None:
    before, files = containers(), generated(federation.root)
    with changed(federation, four_sites):
        after, files_after = containers(), generated(federation.root)
        east = {f"{STACK}-east-{service}" for service in ("gateway", "supernode", "clientapp")}
        assert set(after) - set(before) == east
        assert {name: after[name] for name in before} == before
        differing = {name for name in files if files_after.get(name) != files[name]}
        assert differing == {"build/superlink/federation.json"}
        (mount,) = [
            mount for mount in federation.inspect("east-clientapp")["Mounts"] if mount["Destination"] == "/data"
        ]
        assert mount["Source"].endswith("/rows of east")
        assert not mount["RW"]
        wait_for(
            "the fourth SuperNode is online",
            lambda: any(node["name"] == "east" and node["online"] for node in superlink_status(federation)["nodes"]),
            60,
        )
    assert containers() == before
    assert not {name for name in named(STACK) if "-east" in name} - {f"{STACK}-east-state", f"{STACK}-east-data"}
    assert generated(federation.root)["build/superlink/federation.json"] == files["build/superlink/federation.json"]


def test_a_renewed_certificate_is_taken_up_in_place_and_a_reloaded_edge_still_comes_back(
    federation: Federation,
) -> None:
    before, topology = containers(), federation.topology
    name, port = f"superlink.{topology.domain}", topology.edge.https_port
    old = served_serial(port, name)
    federation.flowerbed("ca", "renew", "edge", "north")
    printed = federation.flowerbed("up").stdout
    assert "laid out secrets of edge" in printed
    assert "laid out secrets of gateway-north" in printed
    wait_for("the edge serves its new certificate", lambda: served_serial(port, name) != old, 10, 0.2)
    assert containers() == before
    assert federation.flowerbed("status").returncode == 0
    was = federation.inspect("edge")
    kill(federation, "edge")
    started_again(federation, "edge", was)


def test_a_revoked_certificate_reaches_edge_and_superlink_in_place(federation: Federation) -> None:
    before = containers()
    federation.flowerbed("ca", "revoke", "operator", "--reason", "superseded")
    crl = (federation.root / "ca" / "pki" / "crl.pem").read_text()
    federation.flowerbed("up")
    for service in ("edge", "superlink"):
        assert federation.sh(service, "cat /secrets/crl.pem") == crl
    assert containers() == before
    assert "Nothing changed." in federation.flowerbed("up").stdout
    federation.flowerbed("ca", "issue", "operator")


def test_an_up_that_was_killed_before_the_reload_is_finished_by_the_next(federation: Federation) -> None:
    topology = federation.topology
    name, port = f"superlink.{topology.domain}", topology.edge.https_port
    federation.flowerbed("ca", "renew", "edge")
    old = served_serial(port, name)
    # What `up` has done when it dies between laying out and reloading: the kit's own steps, in its own order.
    project = Project(federation.root)
    laid_out = consumers.core_consumers(project, topology)
    secrets.ensure_deployed(project, laid_out, before=lambda due: reload.note(project, due))
    assert served_serial(port, name) == old
    federation.flowerbed("up")
    wait_for("the edge serves its new certificate", lambda: served_serial(port, name) != old, 10, 0.2)


def test_status_has_a_line_for_every_service_and_site(federation: Federation) -> None:
    lines = federation.flowerbed("status").stdout.splitlines()
    rows = {line.split("│")[1].strip(): line for line in lines if line.startswith("│")}
    services = ["postgres", "keycloak", "superlink", "serverapp", "edge"]
    assert list(rows) == [*services, "site north", "site south", "site west"]
    assert all("healthy" in row for row in rows.values())
    for site in ("north", "south", "west"):
        assert re.search(r"│ 39\d d +│ \d+ s ago", rows[f"site {site}"])


def test_status_names_what_is_stopped_and_up_starts_it_again(federation: Federation) -> None:
    docker("stop", f"{STACK}-west-gateway")
    done = federation.flowerbed("status", check=False)
    assert done.returncode == 1
    assert "gateway exited" in done.stdout
    assert "Traceback" not in done.stderr
    assert f"started {STACK}-west-gateway" in federation.flowerbed("up").stdout
    wait_for("all is well again", lambda: federation.flowerbed("status", check=False).returncode == 0, 60)


def everything() -> set[str]:
    """Return the names of all that Docker has whose name begins as the tests' stacks' do."""
    listed = docker("ps", "-a", "--format", "{{.Names}}")
    listed += docker("volume", "ls", "-q") + docker("network", "ls", "--format", "{{.Name}}")
    return {name for name in listed.split() if name.startswith(STACK)}


def refused(federation: Federation) -> str:
    """Run an `up` that must start nothing; return what it says."""
    before = everything()
    files = sorted(federation.root.rglob("*"))
    done = federation.flowerbed("up", check=False)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    assert everything() == before
    assert sorted(federation.root.rglob("*")) == files
    return done.stderr


@pytest.fixture
def other(federation: Federation) -> Iterator[Federation]:
    """Another clone's project on the same host."""
    project = Federation(federation.root.with_name(f"{STACK}-other"))
    yield project
    shutil.rmtree(project.root, ignore_errors=True)


def test_volumes_of_another_clone_are_left_alone(other: Federation) -> None:
    other.write(FEDERATION)
    said = refused(other)
    assert f"Volume {STACK}-postgres was made by another clone" in said
    assert "give this one another `name` in federation.yaml" in said


def test_everything_in_the_way_is_said_at_once(other: Federation, federation: Federation) -> None:
    content = copy.deepcopy(FEDERATION)
    content |= {"name": f"{STACK}b"}
    content["organisations"][0]["site"]["data"] = {"directory": "/nowhere/at-all"}
    content["edge"]["http_port"] = 18780
    other.write(content)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 18780))
        listener.listen()
        said = refused(other).splitlines()
    port, network = federation.topology.edge.https_port, federation.topology.subnet("services")
    for expected in (
        f"Port {port} on 127.0.0.1 is taken: stop what listens there",
        "Port 18780 on 127.0.0.1 is taken",
        "organisations[0].site.data.directory is '/nowhere/at-all': north has no such directory on this host",
        f"Subnet {network} overlaps {network}, Docker network {STACK}-fl-services-network: set networks.services",
    ):
        assert [line for line in said if expected in line], (expected, said)


def test_a_network_with_another_subnet_is_found_before_anything_changes(federation: Federation) -> None:
    before = containers()
    content = copy.deepcopy(FEDERATION)
    content["networks"]["data"] = content["networks"]["data"].replace(".4.0/24", ".7.0/24")
    federation.write(content)
    try:
        said = refused(federation)
    finally:
        federation.write(FEDERATION)
    assert f"Network {STACK}-fl-data-network exists and is not" in said
    assert "run make down first" in said
    assert containers() == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("domain: [", "federation.yaml"),
        (yaml.safe_dump(FEDERATION | {"colour": "green"}), "colour"),
        (yaml.safe_dump(FEDERATION | {"organisations": []}), "organisations"),
    ],
)
def test_a_bad_federation_file_is_refused_by_every_verb(other: Federation, text: str, expected: str) -> None:
    other.root.mkdir(parents=True)
    (other.root / "federation.yaml").write_text(text)
    assert expected in refused(other)
    for verb in ("status", "down"):
        done = other.flowerbed(verb, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert expected in done.stderr


def test_a_missing_federation_file_is_one_sentence(other: Federation) -> None:
    done = other.flowerbed("up", check=False)
    assert done.returncode == 2
    assert "federation.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_gpu_overlay_gives_the_executor_alone_a_gpu(federation: Federation) -> None:
    project = Project(federation.root)
    services = yaml.safe_load(kit_docker.run(kit_docker.compose(project, "north", "config", overlay=True)))["services"]
    reservations = {
        name: service.get("deploy", {}).get("resources", {}).get("reservations") for name, service in services.items()
    }
    assert reservations["clientapp"]["devices"] == [{"capabilities": ["gpu"], "driver": "nvidia", "count": -1}]
    assert reservations["gateway"] is reservations["supernode"] is None
    assert services["clientapp"]["image"].endswith("-cuda")
    assert services["clientapp"]["read_only"] is True


def test_help_fits_80_columns_with_a_line_per_verb() -> None:
    lines = in_terminal("--help")
    assert max(map(len, lines)) <= 80
    verbs = dict(line.strip().split(maxsplit=1) for line in lines[lines.index("Commands:") + 1 :] if line.strip())
    assert set(verbs) >= {"up", "down", "status", "logs", "run", "demo", "clean", "images", "certificates", "ca"}
    assert not [text for text in verbs.values() if text.endswith("...")]


def test_make_help_lists_the_operators_verbs() -> None:
    command = ["make", "--no-print-directory", "help"]
    lines = subprocess.run(command, cwd=KIT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {line.split()[1] for line in lines} >= {"demo", "up", "down", "status", "logs", "run", "clean", "help", "ca"}
    assert max(map(len, lines)) <= 80
