"""Which certificates a federation needs: the table "Certificates" of docs/contracts.md as data. Pure.

Not for deciding which of them are due; `authority` compares the plan with the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import PlanInvalid

if TYPE_CHECKING:  # the model costs 0.1 s to import, and whoever calls `certificate_plan` has it already
    from flowerbed_topology import Topology

SERVER, CLIENT, OPERATOR = "server", "client", "operator"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One certificate that should exist, under `name` in the store."""

    name: str
    profile: str
    organisation: str
    unit: str
    common_name: str
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()


def certificate_plan(topology: Topology, supernode_keys: Mapping[str, str]) -> tuple[Leaf, ...]:
    """Every leaf of the federation, the centre's first.

    `supernode_keys` maps a site to the lower-case SHA-256 of its SuperNode key's DER SubjectPublicKeyInfo. A site
    without one gets no client certificate yet, because that certificate is bound to the key.
    """
    return (*_centre(topology), *(leaf for site in _sites(topology, supernode_keys) for leaf in site))


def supernode_fingerprint(public_key: bytes) -> str:
    """The lower-case SHA-256 of the DER SubjectPublicKeyInfo of a SuperNode's public key, in PEM or OpenSSH format.

    Raises PlanInvalid where it is neither.
    """
    from cryptography.hazmat.primitives import serialization

    loader = serialization.load_pem_public_key
    if not public_key.lstrip().startswith(b"-----"):
        loader = serialization.load_ssh_public_key
    try:
        key = loader(public_key)
    except ValueError as error:
        raise PlanInvalid(
            "a SuperNode's public key is neither PEM nor OpenSSH; hand in the .pub file made with it."
        ) from error
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(encoding, form)).hexdigest()


def _centre(topology: Topology) -> Iterator[Leaf]:
    names = ("edge", "localhost", topology.domain, *topology.hostnames)
    yield Leaf("edge", SERVER, topology.title, "edge", "edge", names, ("127.0.0.1",))
    for name in ("superlink", "postgres", "keycloak"):
        yield Leaf(name, SERVER, topology.title, name, name, (name, "localhost"))
    yield Leaf("operator", OPERATOR, topology.title, "operator", "operator")


def _sites(topology: Topology, supernode_keys: Mapping[str, str]) -> Iterator[list[Leaf]]:
    for organisation in topology.organisations:
        name, title = organisation.name, organisation.title
        leaves = [_inner(role, name, title) for role in ("gateway", "supernode")]
        if name in supernode_keys:
            uri = f"https://{topology.domain}/supernode/{supernode_keys[name]}"
            leaves.append(Leaf(name, CLIENT, title, "site", name, uris=(uri,)))
        yield leaves


def _inner(role: str, site: str, title: str) -> Leaf:
    name = f"{role}-{site}"
    return Leaf(name, SERVER, title, role, name, (role, name, "localhost"))
