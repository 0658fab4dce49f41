"""What an operator gets from a federation.yaml: the kit's default, and one sentence for each mistake."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowerbed_topology import Topology, TopologyError, load, parse
from flowerbed_topology.schema import SCHEMA_PATH, schema

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = {"sample": "breast-cancer", "part": 1, "of": 3}


def organisation(name: str = "north", number: Any = 1, /, **site: Any) -> dict[str, Any]:
    data = {**SAMPLE, "part": number}
    return {"name": name, "title": f"{name} clinic", "site": {"number": number, "data": data} | site}


def document(**changes: Any) -> dict[str, Any]:
    base = {
        "organisations": [organisation("north", 1), organisation("south", 2)],
        "federations": [{"name": "main", "organisations": ["north", "south"]}],
    }
    return {**base, **changes}


def problems(content: dict[str, Any] | str | bytes) -> list[tuple[str, str]]:
    """The key and the whole sentence of each problem."""
    text = yaml.safe_dump(content) if isinstance(content, dict) else content
    with pytest.raises(TopologyError) as caught:
        parse(text)
    return [(problem.key, str(problem)) for problem in caught.value.problems]


def test_the_default_file_describes_three_sites_on_the_documented_addresses() -> None:
    topology = load(ROOT / "federation.yaml")

    assert [(site.name, site.number) for site in topology.sites] == [("north", 1), ("south", 2), ("west", 3)]
    assert [(site.data.sample, site.data.part, site.data.of) for site in topology.sites] == [
        ("breast-cancer", part, 3) for part in (1, 2, 3)
    ]
    assert topology.sites[1].subnet == IPv4Network("172.23.2.0/25")
    assert topology.sites[1].app_subnet == IPv4Network("172.23.2.128/25")
    assert topology.address("edge", "services") == IPv4Address("172.20.0.2")
    assert topology.ip_range("data") == IPv4Network("172.25.0.128/25")
    assert topology.network_name("services") == "flowerbed-fl-services-network"
    assert topology.sites[0].app_network_name == "flowerbed-fl-site-north-app"
    assert topology.hostnames[0] == "fleet.flowerbed.localhost"


def test_defaults_are_those_of_the_design() -> None:
    assert {key: str(subnet) for key, subnet in parse(yaml.safe_dump(document())).networks.model_dump().items()} == {
        "services": "172.20.0.0/16",
        "clients": "172.21.0.0/16",
        "monitoring": "172.22.0.0/16",
        "sites": "172.23.0.0/16",
        "notebooks": "172.24.0.0/16",
        "data": "172.25.0.0/24",
        "serverapp": "172.26.0.0/24",
        "edge": "172.27.0.0/24",
    }


def test_a_url_names_the_port_unless_it_is_443() -> None:
    assert parse(yaml.safe_dump(document())).url("fleet") == "https://fleet.flowerbed.localhost"
    moved = parse(yaml.safe_dump(document(edge={"https_port": 8443})))
    assert moved.url("superlink") == "https://superlink.flowerbed.localhost:8443"
    with pytest.raises(ValueError, match="no public name"):
        moved.url("elsewhere")


def test_a_role_has_no_address_where_it_does_not_live() -> None:
    topology = parse(yaml.safe_dump(document()))
    with pytest.raises(ValueError, match="postgres is not on the services network"):
        topology.address("postgres", "services")


def test_a_topology_cannot_be_changed() -> None:
    topology = parse(yaml.safe_dump(document()))
    with pytest.raises(ValueError, match="frozen"):
        topology.name = "other"


def test_node_config_carries_the_partition_of_the_number() -> None:
    given = document(organisations=[organisation("north", 2, node_config={"scanner": "a b", "beds": 4, "icu": True})])
    given["federations"][0]["organisations"] = ["north"]
    assert parse(yaml.safe_dump(given)).site("north").node_config == {
        "partition-id": 1,
        "scanner": "a b",
        "beds": 4,
        "icu": True,
    }


def with_site(**site: Any) -> dict[str, Any]:
    return document(organisations=[organisation("north", 1, **site), organisation("south", 2)])


PIPELINE = {"name": "nightly", "organisation": "north"}


def with_pipeline(**changes: Any) -> dict[str, Any]:
    """One pipeline, and a federation that south is not part of."""
    only = [{"name": "main", "organisations": ["north"]}]
    return document(federations=only, pipelines=[{**PIPELINE, **changes}])


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (document(colour="red"), "colour", "take it out or correct it to one of name, title"),
    (document(name="Flower_Bed"), "name", "lower-case letters"),
    (document(name="x" * 25), "name", "at most 24 characters"),
    (document(name=5), "name", "give a text"),
    (document(domain="flowerbed"), "domain", "two labels or more"),
    (document(domain="10.0.0.1"), "domain", "DNS name"),
    (document(domain=".".join(["a" * 60] * 4) + ".b"), "domain", "at most 243"),
    (document(title="two\nlines"), "title", "one line"),
    (document(title="Charite\u0301"), "title", "NFC"),
    (document(title="North Clinic"), "organisations[0].title", "the consortium has that title"),
    (document(edge={"bind": "224.0.0.1"}), "edge.bind", "an address of this host"),
    (document(edge={"bind": "::1"}), "edge.bind", "IPv4 address"),
    (document(edge={"https_port": 80}), "edge.http_port", "https_port has that port already"),
    (document(edge={"https_port": 70000}), "edge.https_port", "65535 or less"),
    (document(edge={"https_port": True}), "edge.https_port", "whole number"),
    (document(networks={"data": "172.20.9.0/24"}), "networks.data", "overlaps services (172.20.0.0/16)"),
    (document(networks={"data": "10.1.0.0/27"}), "networks.data", "too small"),
    (document(networks={"sites": "10.1.0.0/24"}), "networks.sites", "too small"),
    (document(networks={"data": "8.8.8.0/24"}), "networks.data", "private range"),
    (document(networks={"data": "10.1.0.1/24"}), "networks.data", "no host bits"),
    (document(networks={"data": 5}), "networks.data", "give a text"),
    (document(organisations=[]), "organisations", "at least one"),
    (document(organisations=[organisation("north"), organisation("north", 2)]), "organisations[1].name", "has it"),
    (
        document(organisations=[organisation("north"), organisation("south", 1)]),
        "organisations[1].site.number",
        "has it",
    ),
    (with_site(number=0), "organisations[0].site.number", "1 or more"),
    (with_site(number=256), "organisations[0].site.number", "room for 1 to 255"),
    (with_site(resources={"memory": "2 GB"}), "organisations[0].site.resources.memory", "512m or 2g"),
    (with_site(resources={"cpus": 0}), "organisations[0].site.resources.cpus", "0.1 or more"),
    (with_site(gpu="all"), "organisations[0].site.gpu", "true or false"),
    (with_site(node_config={"partition-id": 7}), "organisations[0].site.node_config.partition-id", "the kit sets"),
    (with_site(node_config={"a": [1]}), "organisations[0].site.node_config.a", "finite number"),
    (with_site(node_config={"a": "it's"}), "organisations[0].site.node_config.a", "quotes"),
    (with_site(node_config={"a": 2**63}), "organisations[0].site.node_config.a", "64 bits"),
    (with_site(node_config={"A b": 1}), "organisations[0].site.node_config.A b", "start the key with a letter"),
    (with_site(data={**SAMPLE, "part": 4}), "organisations[0].site.data.part", "from 1 to 3"),
    (with_site(data={**SAMPLE, "part": 2}), "organisations[1].site.data.part", "organisations[0] holds that part"),
    (with_site(data={**SAMPLE, "of": 2}), "organisations[1].site.data.of", "rows are shared"),
    (with_site(data={"sample": "iris", "part": 1, "of": 3}), "organisations[0].site.data.sample", "breast-cancer"),
    (with_site(data={"sample": "breast-cancer"}), "organisations[0].site.data.part", "which share"),
    (with_site(data={}), "organisations[0].site.data.sample", "either a sample"),
    (with_site(data={**SAMPLE, "directory": "/srv"}), "organisations[0].site.data.directory", "not both"),
    (with_site(data={"directory": "/srv", "part": 1}), "organisations[0].site.data.part", "only a sample"),
    (with_site(data={"directory": "srv/rows"}), "organisations[0].site.data.directory", "absolute path"),
    (with_site(data={"directory": "/srv/../etc"}), "organisations[0].site.data.directory", "no part called '..'"),
    (with_site(data={"directory": "/"}), "organisations[0].site.data.directory", "below /"),
    (with_site(data={"directory": "/srv:/etc"}), "organisations[0].site.data.directory", "leave out"),
    (document(federations=[{"name": "main", "organisations": ["nord"]}]), "federations[0].organisations[0]", "north"),
    (document(federations=[{"name": "m", "organisations": ["north"] * 2}]), "federations[0].organisations[1]", "twice"),
    (document(federations=[{"name": "m", "organisations": ["north"]}] * 2), "federations[1].name", "has it already"),
    (document(ca={"leaf_days": 398}), "ca.leaf_days", "397 or less"),
    (document(identity={"demo_people": "yes"}), "identity.demo_people", "true or false"),
    (document(identity={"access_token_minutes": 61}), "identity.access_token_minutes", "60 or less"),
    (document(identity={"session_hours": 0}), "identity.session_hours", "1 or more"),
    (document(identity={"password": "x"}), "identity.password", "one of demo_people, access_token_minutes"),
    (with_pipeline(name="kit"), "pipelines[0].name", "the kit uses that name"),
    (with_pipeline(name="researcher-north"), "pipelines[0].name", "those of demo people"),
    (with_pipeline(name="pipeline-a"), "pipelines[0].name", "leave that out"),
    (with_pipeline(name="Night Job"), "pipelines[0].name", "lower-case letters"),
    (with_pipeline(organisation="nord"), "pipelines[0].organisation", "give one of north, south"),
    (with_pipeline(organisation="south"), "pipelines[0].organisation", "part of no federation"),
    (with_pipeline(roles=["boss"]), "pipelines[0].roles[0]", "'operator', 'custodian', 'researcher' or 'auditor'"),
    (with_pipeline(roles=["auditor", "auditor"]), "pipelines[0].roles[1]", "twice"),
    (with_pipeline(roles=[]), "pipelines[0].roles", "at least one"),
    (with_pipeline(federations=["man"]), "pipelines[0].federations[0]", "give one of main"),
    (with_pipeline(federations=["main", "main"]), "pipelines[0].federations[1]", "twice"),
    (with_pipeline(federations=[]), "pipelines[0].federations", "at least one"),
    (document(pipelines=[PIPELINE, PIPELINE]), "pipelines[1].name", "pipelines[0] has it already"),
]


@pytest.mark.parametrize(
    ("content", "key", "remedy"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_mistake_is_one_sentence_with_file_key_value_and_remedy(
    content: dict[str, Any], key: str, remedy: str
) -> None:
    found = dict(problems(content))
    assert key in found
    sentence = found[key]
    assert sentence.startswith("federation.yaml:")
    assert f"{key} is " in sentence
    assert remedy in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "name", ["edge", "operator", "core", "gateway-north", "north-app", "North", "a--b", "9th", "x" * 41]
)
def test_names_that_the_kit_or_dns_cannot_take_are_refused(name: str) -> None:
    found = problems(document(organisations=[{**organisation(), "name": name}]))
    assert [key for key, _ in found] == ["organisations[0].name"]


@pytest.mark.parametrize(
    ("key", "value"), [("epsilon", -0.1), ("delta", -1e-9), ("delta", 1), ("epsilon", float("nan"))]
)
def test_budgets_out_of_range_are_refused(key: str, value: float) -> None:
    found = problems(document(organisations=[{**organisation(), "budget": {key: value}}]))
    assert [where for where, _ in found] == [f"organisations[0].budget.{key}"]


def test_the_superlink_needs_room_for_its_threads() -> None:
    assert [key for key, _ in problems(document(superlink={"pids": 299}))] == ["superlink.pids"]
    topology = parse(yaml.safe_dump(document(superlink={"pids": 300}, serverapp={"pids": 32})))
    assert (topology.superlink.pids, topology.superlink.memory) == (300, "1g")


@pytest.mark.parametrize("other", ["/srv/rows", "/srv", "/srv/rows/north", "/srv/./rows"])
def test_two_sites_cannot_read_the_same_directory(other: str) -> None:
    both = [
        organisation("north", 1, data={"directory": "/srv/rows"}),
        organisation("south", 2, data={"directory": other}),
    ]
    assert [key for key, _ in problems(document(organisations=both))] == ["organisations[1].site.data.directory"]


def test_the_clients_network_limits_the_number_of_sites_too() -> None:
    small = document(networks={"clients": "10.9.0.0/26"})
    assert parse(yaml.safe_dump(small))
    small["organisations"][1]["site"]["number"] = 17
    assert "room for 1 to 16" in dict(problems(small))["organisations[1].site.number"]


def test_several_mistakes_come_at_once_with_their_lines() -> None:
    text = "name: A\nedge:\n  bind: 224.0.0.1\n  http_port: 443\nfederations: []\n"
    found = problems(text)
    assert [key for key, _ in found] == ["name", "edge.bind", "edge.http_port", "organisations", "federations"]
    assert [sentence.split(" ")[0] for _, sentence in found] == [
        "federation.yaml:1:",
        "federation.yaml:3:",
        "federation.yaml:4:",
        "federation.yaml:",
        "federation.yaml:5:",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name: a\nname: b\n", "federation.yaml:2: name is given twice; keep one of them."),
        ("edge: {bind: 127.0.0.1, bind: 127.0.0.2}", "bind is given twice"),
        ("name: [a\n", "not valid YAML"),
        ("name: !!python/object:os.system a\n", "not valid YAML"),
        ("name: !!int north\n", "'north' is no int"),
        ("", "it is empty"),
        ("- a\n", "it holds ['a']"),
        (b"\xff\xfe\xff", "save it as UTF-8"),
        ("[" * 500_000, "nested too deeply"),
        ("{a: " * 50_000, "nested too deeply"),
        ("- " * 50_000, "nested too deeply"),
        ("\n".join(f"{' ' * depth}a:" for depth in range(3000)), "nested too deeply"),
        ("name: '\ud800'", "save it as UTF-8"),
        ("a: &a [*a]\norganisations: *a\n", "organisations"),
        ("a: b\n---\nc: d\n", "not valid YAML"),
    ],
)
def test_what_is_no_yaml_mapping_gets_a_sentence(content: str | bytes, expected: str) -> None:
    found = problems(content)
    assert expected in "\n".join(sentence for _, sentence in found)
    assert all("\n" not in sentence for _, sentence in found)


def test_aliases_that_unfold_to_gigabytes_are_reported_in_a_line() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert all(len(sentence) < 300 for _, sentence in problems("\n".join(lines)))


def test_a_missing_file_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="it cannot be read \\(no such file or directory\\)"):
        load(tmp_path / "federation.yaml")


def test_the_schema_on_disk_is_current_and_the_default_file_names_it() -> None:
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema(), "run: python -m flowerbed_topology.schema"
    first = (ROOT / "federation.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema={SCHEMA_PATH.relative_to(ROOT)}"


def test_every_key_is_described_in_the_schema_and_closed() -> None:
    document = json.loads(schema())
    for model in [document, *document["$defs"].values()]:
        assert model["additionalProperties"] is False
        assert all(field.get("description") for field in model["properties"].values())


def test_the_model_itself_refuses_without_the_loader() -> None:
    with pytest.raises(ValueError, match="an address of this host"):
        Topology.model_validate(document(edge={"bind": "224.0.0.1"}))


@pytest.mark.parametrize(("bind", "local"), [("127.0.0.2", "127.0.0.2"), ("0.0.0.0", "127.0.0.1"), ("10.1.1.1",) * 2])
def test_the_edge_may_be_published_anywhere_and_is_reached_from_this_host(bind: str, local: str) -> None:
    assert parse(yaml.safe_dump(document(edge={"bind": bind}))).edge.local == IPv4Address(local)


def test_the_issuer_is_the_realm_at_auth() -> None:
    topology = parse(yaml.safe_dump(document(edge={"https_port": 8443})))
    assert topology.issuer == "https://auth.flowerbed.localhost:8443/realms/flowerbed"


def test_demo_people_are_one_per_organisation_and_role_and_only_on_request() -> None:
    given = document(federations=[{"name": "main", "organisations": ["north"]}])
    assert parse(yaml.safe_dump(given)).demo_people == ()
    people = parse(yaml.safe_dump({**given, "identity": {"demo_people": True}})).demo_people
    assert [person.name for person in people] == [
        f"{role}-{name}" for name in ("north", "south") for role in ("operator", "custodian", "researcher", "auditor")
    ]
    assert {person.federations for person in people if person.organisation == "north"} == {("main",)}
    assert {person.federations for person in people if person.organisation == "south"} == {()}


def test_a_pipeline_is_a_researcher_in_all_federations_of_its_organisation_unless_it_says_otherwise() -> None:
    federations = [{"name": name, "organisations": ["north", "south"]} for name in ("main", "side")]
    pipelines = [PIPELINE, {**PIPELINE, "name": "other", "roles": ["auditor"], "federations": ["side"]}]
    topology = parse(yaml.safe_dump(document(federations=federations, pipelines=pipelines)))
    found = [(one.roles, topology.pipeline_federations(one)) for one in topology.pipelines]
    assert found == [(("researcher",), ("main", "side")), (("auditor",), ("side",))]


def test_a_federation_that_the_pipelines_organisation_is_not_part_of_is_refused() -> None:
    federations = [{"name": "main", "organisations": ["north"]}, {"name": "side", "organisations": ["south"]}]
    found = problems(document(federations=federations, pipelines=[{**PIPELINE, "federations": ["side"]}]))
    assert [key for key, _ in found] == ["pipelines[0].federations[0]"]
    assert "north is not part of it, so give one of main" in found[0][1]
