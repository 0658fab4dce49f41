"""The plan is the table "Certificates" of docs/contracts.md."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import serialization

from flowerbed_ca import profiles
from flowerbed_ca.errors import PlanInvalid
from flowerbed_ca.plan import Leaf, certificate_plan, supernode_fingerprint
from flowerbed_topology import Topology, parse

FEDERATION = """
title: Consortium
domain: fed.example.org
organisations:
  - {name: charite, title: Charité, site: {number: 1, data: {directory: /data/1}}}
  - {name: north, title: North, site: {number: 2, data: {directory: /data/2}}}
federations: [{name: all, organisations: [charite, north]}]
"""
KEY = "cd" * 32


@pytest.fixture(scope="module")
def topology() -> Topology:
    return parse(FEDERATION)


def test_every_leaf_of_the_table_is_planned(topology: Topology) -> None:
    plan = certificate_plan(topology, {"charite": KEY, "north": "ef" * 32})
    hosts = ("fleet", "superlink", "auth", "admin", "hub", "grafana")
    public = ("edge", "localhost", "fed.example.org", *(f"{host}.fed.example.org" for host in hosts))
    assert plan[:8] == (
        Leaf("edge", "server", "Consortium", "edge", "edge", public, ("127.0.0.1",)),
        Leaf("superlink", "server", "Consortium", "superlink", "superlink", ("superlink", "localhost")),
        Leaf("postgres", "server", "Consortium", "postgres", "postgres", ("postgres", "localhost")),
        Leaf("keycloak", "server", "Consortium", "keycloak", "keycloak", ("keycloak", "localhost")),
        Leaf("operator", "operator", "Consortium", "operator", "operator"),
        _inner("gateway", "charite", "Charité"),
        _inner("supernode", "charite", "Charité"),
        Leaf("charite", "client", "Charité", "site", "charite", uris=(f"https://fed.example.org/supernode/{KEY}",)),
    )
    assert [leaf.name for leaf in plan[8:]] == ["gateway-north", "supernode-north", "north"]


def _inner(role: str, site: str, title: str) -> Leaf:
    return Leaf(f"{role}-{site}", "server", title, role, f"{role}-{site}", (role, f"{role}-{site}", "localhost"))


def test_a_site_without_supernode_key_gets_no_client_certificate(topology: Topology) -> None:
    names = [leaf.name for leaf in certificate_plan(topology, {"north": KEY})]
    assert "north" in names
    assert "charite" not in names
    assert "gateway-charite" in names


def test_another_site_changes_no_leaf(topology: Topology) -> None:
    smaller = parse(FEDERATION.replace(FEDERATION.splitlines()[5], "").replace("[charite, north]", "[charite]"))
    assert set(certificate_plan(smaller, {"charite": KEY})) < set(certificate_plan(topology, {"charite": KEY}))


@pytest.mark.parametrize("form", ["OpenSSH", "PEM"])
def test_the_fingerprint_is_of_the_der_key_in_either_format(form: str) -> None:
    key = profiles.new_key().public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.public_bytes(serialization.Encoding.DER, spki)
    texts = {
        "OpenSSH": key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        "PEM": key.public_bytes(serialization.Encoding.PEM, spki),
    }
    assert supernode_fingerprint(texts[form]) == hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize("junk", [b"", b"hello", b"-----BEGIN PUBLIC KEY-----\n"])
def test_junk_is_no_public_key(junk: bytes) -> None:
    with pytest.raises(PlanInvalid, match="neither PEM nor OpenSSH"):
        supernode_fingerprint(junk)
