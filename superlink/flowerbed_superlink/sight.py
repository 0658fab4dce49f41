"""Which runs and SuperNodes an account may see across accounts, by the scopes of the table in `roles`; not their form.

A custodian sees what their organisation's SuperNode was given work of, which `ran` in the kit's database remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run

from flowerbed_superlink.kit import Kit
from flowerbed_superlink.roles import VERBS, Scope
from flowerbed_superlink.tokens import Claims

if TYPE_CHECKING:
    from flowerbed_superlink.federations import FlowerbedFederationManager

MAX_RUNS = 200  # the newest
MAX_KNOWN = 100_000  # pairs of run and site kept in memory, so that each is written once

_REMEMBER = "INSERT INTO ran (run, site) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_AT_SITE = "SELECT run FROM ran WHERE site = %s ORDER BY at DESC LIMIT %s"
_SITES = "SELECT run, site FROM ran WHERE run = ANY(%s) ORDER BY site"


class Ran:
    """Which site was given work of which run."""

    def __init__(self, kit: Kit) -> None:
        self._kit, self._lock = kit, Lock()
        self._known: set[tuple[int, str]] = set()

    def remember(self, run: int, site: str) -> None:
        """Write that a site was given work of a run, once.

        Raises:
            psycopg.Error: it could not be written.
        """
        if (run, site) in self._known:
            return
        with self._lock:
            self._kit.rows(_REMEMBER, (run, site))
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known.add((run, site))

    def at_site(self, site: str) -> list[int]:
        """Return the newest runs that a site was given work of."""
        with self._lock:
            return [int(run) for (run,) in self._kit.rows(_AT_SITE, (site, MAX_RUNS))]

    def sites(self, runs: Sequence[int]) -> dict[int, list[str]]:
        """Return the sites that were given work of each of these runs."""
        found: dict[int, list[str]] = {run: [] for run in runs}
        with self._lock:
            for run, site in self._kit.rows(_SITES, (list(runs),)):
                found[int(run)].append(site)
        return found


@cache
def ran() -> Ran:
    """Return the record of this process."""
    return Ran(Kit())


def runs(manager: FlowerbedFederationManager, claims: Claims, only: str | None = None) -> list[Run]:
    """Return the newest runs that an account may see, newest first; `only` is the federation whose runs are asked for."""
    state, scopes = manager.linkstate, VERBS["runs"].scopes_of(claims)
    ids: list[str] | None = None if only is None else [manager.id_of(only)]
    if Scope.ALL not in scopes:
        theirs = [manager.id_of(name) for name in manager.names_for(claims)] if Scope.FEDERATIONS in scopes else []
        ids = [each for each in theirs if ids is None or each in ids]
    found = _by_id(state.get_run_info(federation_ids=ids, order_by="pending_at", ascending=False, limit=MAX_RUNS))
    if Scope.SITE in scopes and claims.organisation:
        found |= _by_id(state.get_run_info(run_ids=ran().at_site(claims.organisation)))
    return sorted(found.values(), key=lambda run: run.pending_at, reverse=True)[:MAX_RUNS]


def nodes(manager: FlowerbedFederationManager, claims: Claims, listed: Sequence[NodeInfo]) -> list[NodeInfo]:
    """Return those SuperNodes of a list that an account may see."""
    scopes = VERBS["list-nodes"].scopes_of(claims)
    return [node for node in listed if Scope.ALL in scopes or _within(manager, claims, scopes, node.node_id)]


def sites(manager: FlowerbedFederationManager, claims: Claims) -> list[str]:
    """Return the sites that an account may see, by name."""
    scopes = VERBS["sites"].scopes_of(claims)
    return [name for name in sorted(manager.topology.sites) if _sees_site(manager, claims, scopes, name)]


def federations(manager: FlowerbedFederationManager, claims: Claims, site: str) -> list[str]:
    """Return those federations of a site that an account may know of: all of its own site's, else those that it is in."""
    scopes = VERBS["sites"].scopes_of(claims)
    everything = Scope.ALL in scopes or (Scope.SITE in scopes and site == claims.organisation)
    seen = manager.topology.federations if everything else manager.names_for(claims)
    return sorted(name for name in seen if site in manager.topology.federations[name])


def _within(manager: FlowerbedFederationManager, claims: Claims, scopes: frozenset[Scope], node_id: int) -> bool:
    site = manager.site_of(node_id)
    return site is not None and _sees_site(manager, claims, scopes, site)


def _sees_site(manager: FlowerbedFederationManager, claims: Claims, scopes: frozenset[Scope], site: str) -> bool:
    if Scope.ALL in scopes or (Scope.SITE in scopes and site == claims.organisation):
        return True
    theirs = (manager.topology.federations[name] for name in manager.names_for(claims))
    return Scope.FEDERATIONS in scopes and any(site in members for members in theirs)


def _by_id(found: Sequence[Run]) -> dict[int, Run]:
    return {run.run_id: run for run in found}
