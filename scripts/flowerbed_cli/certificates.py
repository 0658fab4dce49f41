"""Keeps certificates as the topology wants them, through the authority; not for how a certificate is made."""

from __future__ import annotations

from collections.abc import Mapping

from flowerbed_ca.authority import Authority
from flowerbed_ca.errors import CaError, CaKeyLocked
from flowerbed_ca.plan import certificate_plan
from flowerbed_ca.reporting import Status
from flowerbed_topology import Topology

from .project import Project


def authority(project: Project, topology: Topology) -> Authority:
    """Return the project's authority, with the lifetimes that federation.yaml gives."""
    return Authority(project.pki, root_days=topology.ca.root_years * 365, leaf_days=topology.ca.leaf_days)


def ensure(project: Project, topology: Topology, keys: Mapping[str, str]) -> list[str]:
    """Create the root, issue or renew what is due, sign the revocation list if it is due; return a line for each.

    Where the CA key cannot be opened now, what was signed before is used for as long as it is valid.

    Raises:
        flowerbed_ca.errors.CaError: drift, a broken store, or a locked key with nothing valid to go on with.
    """
    used = authority(project, topology)
    lines = [f"created the certificate authority of {topology.title}"] if used.ensure_root(topology.title) else []
    try:
        lines += [
            f"{one.action} certificate {one.name}" for one in used.ensure_leaves(certificate_plan(topology, keys))
        ]
        lines += ["signed the revocation list"] if used.ensure_crl() else []
    except CaKeyLocked as error:
        if used.missing(certificate_plan(topology, keys)) or not used.status().crl_valid:
            raise
        lines.append(f"signed nothing, since {error}")
    return lines


def refuse_drift(project: Project, topology: Topology, keys: Mapping[str, str]) -> None:
    """Look whether the authority and what it issued are as planned; changes nothing.

    Raises:
        flowerbed_ca.errors.CaError: what `ensure` would refuse.
    """
    authority(project, topology).refuse_drift(topology.title, certificate_plan(topology, keys))


def shut_out(project: Project, topology: Topology) -> list[str]:
    """Return the sites without a client certificate: those whose certificate was revoked and not issued again."""
    issued = project.pki / "issued"
    return [site.name for site in topology.sites if not (issued / f"{site.name}.crt").is_file()]


def operator_revoked(project: Project) -> bool:
    """Return whether the operator has no certificate, with which Keycloak's administration is reached."""
    return not (project.pki / "issued" / "operator.crt").is_file()


def state(project: Project) -> Status | None:
    """Return how long root, leaves and list last, or None without an authority that can be read."""
    try:
        return Authority(project.pki).status()
    except CaError:
        return None


def days_left(found: Status | None) -> dict[str, int]:
    """Return the days left of each certificate by name, that of the root as `ca`; empty without an authority."""
    return {} if found is None else {leaf.name: leaf.days_left for leaf in found.leaves} | {"ca": found.root_days_left}
