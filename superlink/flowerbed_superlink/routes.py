"""Which routes of the pinned SuperLink are open, and which are known and refused; not for who may call them.

Both lists are exact. A route that is in neither stops the start-up, so that an upgrade of Flower cannot open anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from flowerbed_superlink.errors import StartupError

FLEET, CONTROL, RUNTIME, ARTIFACTS = "/v1/fleet/", "/v1/control/", "/v1/runtime/", "/artifacts/"
OURS = "/v1/flowerbed/"
HEALTH = "/health"
ARTIFACT_ROUTE = "/artifacts/{token}"


def _under(prefix: str, names: str) -> frozenset[str]:
    return frozenset(prefix + name for name in names.split())


# register-node and unregister-node of the Fleet API are closed by Flower itself once SuperNodes authenticate.
FLEET_ROUTES = _under(
    FLEET,
    "activate-node deactivate-node send-node-heartbeat pull-messages push-messages get-run get-fab push-object "
    "pull-object confirm-message-received",
)
# What `flwr run|ls|log|stop|pull|login|supernode|federation list` use.
CONTROL_ROUTES = _under(
    CONTROL,
    "start-run list-runs stop-run stream-logs pull-artifacts register-node unregister-node list-nodes "
    "list-federations show-federation get-login-details get-auth-tokens refresh-auth-tokens",
)
# What SuperExec and a ServerApp's Grid use.
RUNTIME_ROUTES = _under(
    RUNTIME,
    "acquire-task send-task-heartbeat pull-task-input push-task-output push-object pull-object "
    "confirm-message-received push-logs push-messages pull-messages get-nodes",
)
# Views of ours across accounts; GET, all others are POST.
OUR_ROUTES = _under(OURS, "runs sites")
ALLOWED = FLEET_ROUTES | CONTROL_ROUTES | RUNTIME_ROUTES | OUR_ROUTES | {HEALTH, ARTIFACT_ROUTE}

REFUSED = (
    _under(FLEET, "register-node unregister-node")
    # automations start runs from a stored account without a login; connectors hold credentials; hub apps download code
    | _under(
        CONTROL,
        "start-automation list-automations stop-automation list-connectors disconnect-connector "
        "begin-connector-oauth complete-connector-oauth list-apps list-app-associations add-app remove-app",
    )
    # conversations of AgentApps
    | _under(
        CONTROL,
        "list-run-series get-run-series update-run-series-description list-run-series-events stream-run-events",
    )
    # federations are kept as code, not changed through the API
    | _under(
        CONTROL,
        "set-federation-icon create-federation archive-federation add-node-to-federation remove-node-from-federation "
        "remove-account-from-federation create-invitation list-invitations accept-invitation reject-invitation "
        "revoke-invitation configure-simulation-federation",
    )
    # tasks that start tasks or automations, connectors, AgentApps and models
    | _under(
        RUNTIME,
        "create-task start-automation get-connector push-task-message pull-task-message push-task-events "
        "record-task-usage get-run-series-events get-compacted-contexts put-compacted-context responses",
    )
    | {"/docs", "/docs/oauth2-redirect", "/openapi.json"}
)


def check_routes(found: Iterable[str]) -> None:
    """Compare the routes that the app really has with the two lists.

    Raises:
        StartupError: a route is unknown to both lists, or an allowed one does not exist.
    """
    routes = set(found)
    if unknown := routes - ALLOWED - REFUSED:
        raise StartupError(
            f"Flower's SuperLink has routes that flowerbed neither allows nor refuses ({', '.join(sorted(unknown))}): "
            "decide on each in flowerbed_superlink/routes.py."
        )
    if missing := ALLOWED - routes:
        raise StartupError(
            f"Flower's SuperLink lacks routes that flowerbed needs ({', '.join(sorted(missing))}): "
            "install the flwr version that versions.env names."
        )
