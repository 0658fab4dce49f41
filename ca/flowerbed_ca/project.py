"""Where one project keeps what the authority needs: federation.yaml, the store, the SuperNodes' public keys.

The one module of this package that reads the topology's file; the rest is handed what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from . import custody
from .authority import Authority
from .errors import PlanInvalid, UnknownCertificate
from .plan import Leaf, certificate_plan, supernode_fingerprint

if TYPE_CHECKING:
    from flowerbed_topology import Topology

_DAYS_PER_YEAR = 365


@dataclass(frozen=True)
class Project:
    """A directory with a federation.yaml."""

    directory: Path

    @property
    def pki(self) -> Path:
        """The store."""
        return self.directory / "ca" / "pki"

    @cached_property
    def topology(self) -> Topology:
        """The federation. Raises TopologyError."""
        from flowerbed_topology import load  # 0.1 s that `list`, `show` and `revoke` need not spend

        return load(self.directory / "federation.yaml")

    def authority(self, ask: custody.Ask = custody.ask_passphrase) -> Authority:
        """The authority, with the lifetimes of federation.yaml where there is one."""
        if not (self.directory / "federation.yaml").exists():
            return Authority(self.pki, ask=ask)
        root_days = self.topology.ca.root_years * _DAYS_PER_YEAR
        return Authority(self.pki, root_days=root_days, leaf_days=self.topology.ca.leaf_days, ask=ask)

    def key_path(self, site: str) -> Path:
        """Where a site's SuperNode public key lies."""
        return self.directory / "build" / "supernode-keys" / f"{site}.pub"

    def supernode_keys(self) -> dict[str, str]:
        """Fingerprints of the SuperNode keys that are there, by site. Raises PlanInvalid."""
        paths = {name: self.key_path(name) for name in self._sites()}
        return {name: _fingerprint(path) for name, path in paths.items() if path.is_file()}

    def sites_without_key(self) -> list[str]:
        """Sites whose SuperNode key is not there yet."""
        return [name for name in self._sites() if not self.key_path(name).is_file()]

    def _sites(self) -> list[str]:
        return [organisation.name for organisation in self.topology.organisations]

    def leaf(self, name: str, keys: Mapping[str, str] | None = None) -> Leaf:
        """One planned certificate. Raises UnknownCertificate."""
        plan = certificate_plan(self.topology, self.supernode_keys() if keys is None else keys)
        for leaf in plan:
            if leaf.name == name:
                return leaf
        if name in self.sites_without_key():
            raise PlanInvalid(f"{name}: its SuperNode's public key is not there; put it at {self.key_path(name)}.")
        raise UnknownCertificate(f"{name!r} is not in the plan, which has {', '.join(leaf.name for leaf in plan)}.")

    def plan(self) -> tuple[Leaf, ...]:
        """Every certificate that the federation needs and that can be made now."""
        return certificate_plan(self.topology, self.supernode_keys())


def _fingerprint(path: Path) -> str:
    try:
        return supernode_fingerprint(path.read_bytes())
    except PlanInvalid as error:
        raise PlanInvalid(f"{path}: {error}") from error
