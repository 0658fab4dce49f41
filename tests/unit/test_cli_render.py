"""What `flowerbed up` renders, against golden files. `FLOWERBED_UPDATE_GOLDEN=1 pytest` writes them again: read the diff."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_cli import firewall
from flowerbed_cli.project import Project, read_env
from flowerbed_cli.render import digest, env_file, federation_json, node_config, render
from flowerbed_topology import Topology, load

GOLDEN = Path(__file__).parent / "golden"
YAML = """
name: example
title: Example Consortium
domain: example.localhost
edge: {https_port: 8443, http_port: 8080}
organisations:
  - name: north
    title: North Clinic
    site: {number: 1, data: {sample: breast-cancer, part: 1, of: 2}}
  - name: west
    title: Clinique Été
    site: {number: 7, data: {directory: /srv/rows}, node_config: {max-epsilon: 2.5, share-evaluation: false}}
federations:
  - {name: main, organisations: [west, north]}
"""
KEYS = {"north": "a" * 64, "west": "b" * 64}


def topology_of(directory: Path, text: str = YAML) -> Topology:
    path = directory / "federation.yaml"
    path.write_text(text)
    return load(path)


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    return topology_of(tmp_path)


@pytest.fixture
def rendered(topology: Topology, tmp_path: Path) -> dict[str, str]:
    return files_of(tmp_path, topology)


def files_of(directory: Path, topology: Topology, keys: dict[str, str] = KEYS) -> dict[str, str]:
    """Render a project whose directory is called /srv/flowerbed."""
    project = Project(directory)
    project.pki.mkdir(parents=True, exist_ok=True)
    (project.pki / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    found = render(project, topology, keys, "0123456789abcdef")
    return {name: text.replace(str(directory), "/srv/flowerbed") for name, text in found.items()}


def check_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("FLOWERBED_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, f"{path} differs; if that is meant: FLOWERBED_UPDATE_GOLDEN=1 pytest {__file__}"


@pytest.mark.parametrize(
    "name",
    [
        "core.env",
        "site-west.env",
        "edge/nginx.conf",
        "gateway-west/nginx.conf",
        "superlink/federation.json",
        "cli/config.toml",
        "flwr/config.toml",
    ],
)
def test_rendered_files_are_the_golden_ones(rendered: dict[str, str], name: str) -> None:
    check_golden(name.replace("/", "-"), rendered[name])


def test_the_firewall_table_is_the_golden_one(topology: Topology) -> None:
    check_golden("firewall.nft", firewall.ruleset(topology))


@pytest.mark.parametrize(
    ("bind", "rule"),
    [
        ("127.0.0.2", ""),
        (
            "10.1.2.3",
            "ct status dnat ct original ip daddr 10.1.2.3 ip daddr 172.27.0.2 tcp dport { 8443, 8080 } accept",
        ),
        (
            "0.0.0.0",
            "ct status dnat ct original ip daddr != 127.0.0.0/8 ip daddr 172.27.0.2 tcp dport { 8443, 8080 } accept",
        ),
    ],
)
def test_the_firewall_lets_others_reach_an_edge_that_is_published_for_them(
    tmp_path: Path, bind: str, rule: str
) -> None:
    published = YAML.replace("edge: {", f"edge: {{bind: {bind}, ")
    text = firewall.ruleset(topology_of(tmp_path, published))
    assert ("ct status dnat" in text) == bool(rule)
    assert rule in text


def test_every_golden_file_is_used(rendered: dict[str, str]) -> None:
    assert {path.name for path in GOLDEN.iterdir()} <= {name.replace("/", "-") for name in rendered} | {"firewall.nft"}


def test_rendering_twice_gives_the_same(topology: Topology, rendered: dict[str, str], tmp_path: Path) -> None:
    assert files_of(tmp_path, topology, dict(reversed(KEYS.items()))) == rendered


def test_a_third_site_changes_no_file_of_the_others(tmp_path: Path, rendered: dict[str, str]) -> None:
    east = "  - {name: east, title: East Clinic, site: {number: 2, data: {sample: breast-cancer, part: 2, of: 2}}}\n"
    more = YAML.replace("federations:\n", east + "federations:\n").replace("[west, north]", "[west, north, east]")
    after = files_of(tmp_path, topology_of(tmp_path, more), KEYS | {"east": "c" * 64})
    assert {name for name in rendered if after[name] != rendered[name]} == {"superlink/federation.json"}
    assert {name for name in after if name not in rendered} == {"site-east.env", "gateway-east/nginx.conf"}


def test_a_site_s_files_do_not_speak_of_another(rendered: dict[str, str]) -> None:
    own = rendered["site-west.env"] + rendered["gateway-west/nginx.conf"]
    assert "north" not in own.lower()


def test_no_secret_is_rendered(rendered: dict[str, str]) -> None:
    text = "".join(rendered.values()).lower()
    assert "password" not in text
    assert "private key" not in text


def test_the_digest_is_of_one_container_s_files_alone() -> None:
    files = {"edge/nginx.conf": "a", "gateway-north/nginx.conf": "b"}
    assert digest(files, "edge") == digest({"edge/nginx.conf": "a"}, "edge")
    assert digest(files, "edge") != digest(files | {"edge/nginx.conf": "c"}, "edge")
    assert digest(files, "gateway-n") == digest({}, "gateway-n")


def test_federation_json_holds_what_the_superlink_needs(topology: Topology) -> None:
    content = json.loads(federation_json(topology, KEYS))
    assert content["sites"]["west"] == {"organisation": "Clinique Été", "supernode": "b" * 64}
    assert content["federations"] == {"main": ["north", "west"]}
    assert content["domain"] == "example.localhost"


def test_node_config_is_pairs_of_toml_values(topology: Topology) -> None:
    assert node_config(topology.site("north")) == 'organisation="north" partition-id=0'
    assert (
        node_config(topology.site("west"))
        == 'organisation="west" partition-id=6 max-epsilon=2.5 share-evaluation=false'
    )


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True),
        # What the model lets through: printable text without single quotes.
        st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="'"), max_size=40),
    )
)
def test_env_files_quote_so_that_nothing_is_interpolated(values: dict[str, str]) -> None:
    text = env_file(values)
    lines = text.splitlines()
    assert len(lines) == len(values)
    for line, (key, value) in zip(lines, values.items(), strict=True):
        assert shlex.split(line, posix=True) == [f"{key}={value}"]


def test_env_files_refuse_what_cannot_be_quoted() -> None:
    with pytest.raises(ValueError, match="SITE_DATA"):
        env_file({"SITE_DATA": "/srv/o'brien"})
    with pytest.raises(ValueError, match="SITE"):
        env_file({"SITE": "two\nlines"})


def test_versions_are_read_without_comments(tmp_path: Path) -> None:
    path = tmp_path / "versions.env"
    path.write_text("# comment\n\nA=1\n B=two=2 \n")
    assert read_env(path) == {"A": "1", "B": "two=2"}
