"""`GET /v1/flowerbed/runs` and `/v1/flowerbed/sites`: what an account may see across accounts, as JSON; changes nothing.

`access` has authenticated whoever asks and found a role; what is shown is cut to that account by `sight`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run

from flowerbed_superlink import asking, sight
from flowerbed_superlink.accounts import resolve_account_ids
from flowerbed_superlink.federations import FlowerbedFederationManager
from flowerbed_superlink.routes import OURS
from flowerbed_superlink.status import HEARTBEAT_PATIENCE, fingerprint
from flowerbed_superlink.tokens import Claims

router = APIRouter(prefix=OURS.rstrip("/"), tags=["flowerbed"])


@router.get("/runs")
def flowerbed_runs(request: Request) -> dict[str, list[dict[str, Any]]]:
    """Return the newest runs that the account may see, newest first."""
    manager, claims = _manager(request), _claims()
    found = sight.runs(manager, claims)
    names = resolve_account_ids({run.flwr_aid for run in found})
    places = sight.ran().sites([run.run_id for run in found])
    return {"runs": [_run(run, names[run.flwr_aid], places[run.run_id]) for run in found]}


@router.get("/sites")
def flowerbed_sites(request: Request) -> dict[str, list[dict[str, Any]]]:
    """Return the sites that the account may see, with their registered SuperNodes."""
    manager, claims = _manager(request), _claims()
    nodes = {manager.site_of(node.node_id): node for node in manager.linkstate.get_node_info() if _registered(node)}
    return {"sites": [_site(manager, claims, name, nodes.get(name)) for name in sight.sites(manager, claims)]}


def _manager(request: Request) -> FlowerbedFederationManager:
    manager = request.app.state.linkstate_factory.state().manager
    assert isinstance(manager, FlowerbedFederationManager)  # noqa: S101  for the type checker; start-up asserts it
    return manager


def _claims() -> Claims:
    if (claims := asking.claims()) is None:
        raise RuntimeError("nobody was authenticated: `access` is not in force")
    return claims


def _run(run: Run, account: str, sites: list[str]) -> dict[str, Any]:
    return {
        "id": run.run_id,
        "app": run.fab_id,
        "version": run.fab_version,
        "federation": run.federation_id,
        "account": account,
        "status": run.status.status,
        "sub_status": run.status.sub_status or None,
        "sites": sites,
        "pending_at": run.pending_at or None,
        "running_at": run.running_at or None,
        "finished_at": run.finished_at or None,
    }


def _site(manager: FlowerbedFederationManager, claims: Claims, name: str, node: NodeInfo | None) -> dict[str, Any]:
    site = manager.topology.sites[name]
    now = datetime.now(UTC).timestamp()
    online = node is not None and node.status == "online" and node.online_until > now
    seen = node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval if node is not None and online else None
    return {
        "name": name,
        "organisation": site.organisation,
        "federations": sight.federations(manager, claims, name),
        "supernode": site.supernode,
        "node": node.node_id if node is not None else None,
        "online": online,
        "last_heartbeat": datetime.fromtimestamp(seen, UTC).isoformat(timespec="seconds") if seen else None,
        "registered_at": node.registered_at if node is not None else None,
    }


def _registered(node: NodeInfo) -> bool:
    return node.status != "unregistered" and fingerprint(node.public_key) is not None
