"""What holds for every topology: it survives a round trip, addresses never collide, growth disturbs nobody."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations
from typing import Any

import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from flowerbed_topology import ROLES, Topology, TopologyError, Zone, parse
from flowerbed_topology.policy import endpoints

NAMES = (
    st.from_regex(r"\A[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,6})?\Z")
    .map(lambda name: f"o{name}")
    .filter(lambda name: not name.endswith("-app") and name not in {"operator", "outside"})
)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", categories=["L", "N", "Zs"]), max_size=10).filter(str.isprintable),
)
MARKUP = "[]{}:,-?&*!|>'\"%@` \n\t#\\<=~.a0\xe9\x85\ufeff"
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["north", "1e-5", "no"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def subnets(draw: st.DrawFn) -> dict[str, str]:
    """Disjoint subnets of all sizes: one /16 of 10.0.0.0/8 each, of which any valid part is taken."""
    places = draw(st.permutations(range(40)))
    found = {}
    for place, key in zip(places, [*Zone, "sites"], strict=False):
        prefix = draw(st.integers(16, 20 if key in ("sites", "clients") else 26))
        found[str(key)] = str(next(IPv4Network(f"10.{place}.0.0/16").subnets(new_prefix=prefix)))
    return found


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    numbers = draw(st.lists(st.integers(1, 15), min_size=len(names), max_size=len(names), unique=True))
    sampled = draw(st.booleans())
    organisations = []
    for part, (name, number) in enumerate(zip(names, numbers, strict=True), start=1):
        data = {"sample": "breast-cancer", "part": part, "of": len(names)} if sampled else {"directory": f"/srv/{name}"}
        config = draw(st.dictionaries(st.from_regex(r"\A[a-z]{1,6}\Z"), SCALARS, max_size=2))
        site = {"number": number, "data": data, "gpu": draw(st.booleans()), "node_config": config}
        budget = {"epsilon": draw(st.floats(0, 100)), "delta": draw(st.floats(0, 0.5))}
        organisations.append({"name": name, "title": f"Clinic {name}", "site": site, "budget": budget})
    members = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    owners = draw(st.lists(st.sampled_from(members), max_size=3))
    roles = st.lists(st.sampled_from(ROLES), min_size=1, unique=True)
    pipelines = [
        {"name": f"job{place}", "organisation": name, "roles": draw(roles), "federations": ["main"]}
        for place, name in enumerate(owners)
    ]
    ports = draw(st.lists(st.integers(1, 65535), min_size=2, max_size=2, unique=True))
    return {
        "edge": {"https_port": ports[0], "http_port": ports[1]},
        "networks": draw(subnets()),
        "organisations": organisations,
        "federations": [{"name": "main", "organisations": members}],
        "identity": {"demo_people": draw(st.booleans()), "session_hours": draw(st.integers(1, 168))},
        "pipelines": pipelines,
    }


def read(document: dict[str, Any]) -> Topology:
    return parse(yaml.safe_dump(document, allow_unicode=True))


def paths(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path for key, value in items for path in [(*at, key), *paths(value, (*at, key))]]


def check_refusal(error: TopologyError) -> None:
    assert error.problems
    for problem in error.problems:
        sentence = str(problem)
        assert sentence.startswith("federation.yaml:")
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert "{" not in problem.remedy
        assert problem.remedy


@given(documents())
def test_a_valid_file_loads_and_survives_a_round_trip(document: dict[str, Any]) -> None:
    topology = read(document)
    assert read(topology.model_dump(mode="json")) == topology


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), st.data())
def test_any_changed_value_is_accepted_or_refused_in_sentences(document: dict[str, Any], data: st.DataObject) -> None:
    *parents, last = data.draw(st.sampled_from(paths(document)))
    changed = copy.deepcopy(document)
    target = changed
    for key in parents:
        target = target[key]
    if data.draw(st.booleans()):
        target[last] = data.draw(JUNK)
    else:
        del target[last]
    try:
        read(changed)
    except TopologyError as error:
        check_refusal(error)


@settings(max_examples=150)
@given(documents(), st.data())
def test_any_changed_text_is_accepted_or_refused_in_sentences(document: dict[str, Any], data: st.DataObject) -> None:
    text = yaml.safe_dump(document)
    start = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 12))
    inserted = data.draw(
        st.text(max_size=4) | st.sampled_from(["&a ", "*a", "!!int ", "? ", "- ", "<<: ", ": ", "[", "\t"])
    )
    try:
        parse(text[:start] + inserted + text[start + length :])
    except TopologyError as error:
        check_refusal(error)


@given(st.binary(max_size=200) | st.text(MARKUP, max_size=80).map(str.encode))
def test_any_bytes_are_refused_in_sentences(content: bytes) -> None:
    try:
        parse(content)
    except TopologyError as error:
        check_refusal(error)


def places(topology: Topology) -> list[tuple[IPv4Network, IPv4Network, set[IPv4Address]]]:
    """Every Docker network: subnet, the part that Docker hands out, and the fixed addresses of our containers."""
    fixed: dict[str, set[IPv4Address]] = {}
    for end in endpoints(topology):
        if end.address is not None:
            fixed.setdefault(end.network, set()).add(end.address)
    found = [(topology.subnet(zone), topology.ip_range(zone), topology.network_name(zone)) for zone in Zone]
    for site in topology.sites:
        found.append((site.subnet, site.ip_range, site.network_name))
        found.append((site.app_subnet, site.app_ip_range, site.app_network_name))
    return [(subnet, pool, fixed.get(name, set())) for subnet, pool, name in found]


@given(documents())
def test_addresses_never_collide(document: dict[str, Any]) -> None:
    topology = read(document)
    networks = places(topology)
    for subnet, pool, addresses in networks:
        assert pool.subnet_of(subnet)
        for address in addresses:
            assert address in subnet
            assert address not in pool
            assert address not in (subnet[0], subnet[1], subnet[-1]), "the network's, the bridge's and the broadcast's"
    assert not any(one.overlaps(other) for (one, *_), (other, *_) in combinations(networks, 2))
    owners: dict[IPv4Address, set[str]] = {}
    for end in endpoints(topology):
        if end.address is not None:
            owners.setdefault(end.address, set()).add(end.container)
    assert all(len(containers) == 1 for containers in owners.values())


@given(documents(), st.integers(0, 5))
def test_a_site_more_or_less_changes_no_other_site(document: dict[str, Any], place: int) -> None:
    before = read(document)
    assume(len(before.sites) > 1)
    leaving = before.sites[place % len(before.sites)].name
    document["organisations"] = [one for one in document["organisations"] if one["name"] != leaving]
    document["federations"][0]["organisations"] = [document["organisations"][0]["name"]]
    document["pipelines"] = []
    after = read(document)
    assert after.sites == tuple(site for site in before.sites if site.name != leaving)
    assert all(after.subnet(zone) == before.subnet(zone) for zone in Zone)


@given(documents())
def test_every_account_has_a_name_of_its_own_and_an_organisation_of_the_file(document: dict[str, Any]) -> None:
    topology = read(document)
    names = [one.name for one in (*topology.demo_people, *topology.pipelines)]
    assert len(names) == len(set(names))
    assert {one.organisation for one in (*topology.demo_people, *topology.pipelines)} <= {
        organisation.name for organisation in topology.organisations
    }
    for pipeline in topology.pipelines:
        assert set(topology.pipeline_federations(pipeline)) <= set(topology.federations_of(pipeline.organisation))
