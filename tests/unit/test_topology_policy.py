"""The reachability table: it misses no pair, and allows exactly what the design names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from flowerbed_topology import Topology, load
from flowerbed_topology.policy import HOST, OUTSIDE, Rule, containers, endpoints, reachability

SITES = ("north", "south", "west")


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load(Path(__file__).resolve().parents[2] / "federation.yaml")


@pytest.fixture(scope="module")
def rules(topology: Topology) -> tuple[Rule, ...]:
    return reachability(topology)


def test_exactly_the_connections_of_the_design_are_allowed(rules: tuple[Rule, ...]) -> None:
    expected = {
        ("superlink", "postgres", 5432),
        ("postgres", "superlink", 8000),  # neighbours on the data network's bridge
        ("edge", "superlink", 8000),
        ("serverapp", "superlink", 8000),
        ("edge", "keycloak", 8443),
        ("keycloak", "postgres", 5432),
        ("superlink", "edge", 443),  # the issuer, by its public name
        ("superlink", "keycloak", 8443),  # neighbours on the services network's bridge
        ("keycloak", "superlink", 8000),
        ("keycloak", "edge", 443),
        ("cli", "edge", 443),
    }
    for site in SITES:
        expected |= {
            (f"gateway-{site}", "edge", 443),
            (f"supernode-{site}", f"gateway-{site}", 9443),
            (f"clientapp-{site}", f"supernode-{site}", 9094),
        }
    assert {(rule.source, rule.target, rule.port) for rule in rules if rule.allowed} == expected


def test_every_ordered_pair_is_in_the_table(topology: Topology, rules: tuple[Rule, ...]) -> None:
    everyone = set(containers(topology))
    assert everyone == {"postgres", "keycloak", "superlink", "edge", "serverapp", "cli"} | {
        f"{role}-{site}" for role in ("gateway", "supernode", "clientapp") for site in SITES
    }
    pairs = {(rule.source, rule.target) for rule in rules}
    assert pairs == {(a, b) for a in everyone for b in (everyone | {HOST, OUTSIDE}) if a != b}
    assert max(Counter((r.source, r.target, r.address, r.port) for r in rules).values()) == 1


def test_an_allowed_connection_needs_a_network_in_common_and_an_address(
    topology: Topology, rules: tuple[Rule, ...]
) -> None:
    networks = containers(topology)
    for rule in rules:
        assert rule.why.endswith(".")
        if rule.allowed:
            assert rule.network in networks[rule.source]
            assert rule.network in networks[rule.target]
            assert rule.address is not None
            assert rule.port is not None


def test_what_listens_towards_a_neighbour_is_reachable_by_it(topology: Topology, rules: tuple[Rule, ...]) -> None:
    """Containers on one bridge reach each other's open ports, so the table may not claim otherwise."""
    allowed = {(rule.source, rule.address, rule.port) for rule in rules if rule.allowed}
    for end in endpoints(topology):
        neighbours = [name for name, on in containers(topology).items() if end.network in on and name != end.container]
        assert all(((name, end.address, end.port) in allowed) == end.listens for name in neighbours)


def test_nothing_reaches_host_or_outside(topology: Topology, rules: tuple[Rule, ...]) -> None:
    for name, networks in containers(topology).items():
        mine = [rule for rule in rules if rule.source == name and rule.target in (HOST, OUTSIDE)]
        assert [rule.network for rule in mine if rule.target == HOST] == list(networks)
        assert not any(rule.allowed for rule in mine)


def test_the_host_is_tried_at_the_bridge_of_each_network(rules: tuple[Rule, ...]) -> None:
    tried = {str(rule.address) for rule in rules if rule.source == "supernode-south" and rule.target == HOST}
    assert tried == {"172.23.2.1", "172.23.2.129"}
