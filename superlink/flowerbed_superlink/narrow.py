"""Flower's middlewares where they have something to do; all else they pass on, at a fifth of a millisecond each.

A request of a SuperNode's goes through nine, of which four only look at the Control API's paths: more than the handler takes.
Not for middlewares that this table does not name: they stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink.routers.control.middlewares import (
    ControlAuthenticationMiddleware,
    ControlEventLogMiddleware,
    ControlLicenseMiddleware,
    ControlSensitiveResponseMiddleware,
)
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.middleware import Middleware

from flowerbed_superlink.routes import CONTROL, FLEET, RUNTIME

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# The beginning of the paths that each does anything for. The gate lets no path in that means another one once decoded.
ONLY: dict[object, str] = {
    ControlSensitiveResponseMiddleware: CONTROL,
    ControlAuthenticationMiddleware: CONTROL,
    ControlLicenseMiddleware: CONTROL,
    ControlEventLogMiddleware: CONTROL,
    NodeAuthMiddleware: FLEET,
    FleetEventLogMiddleware: FLEET,
    RuntimeTracingMiddleware: RUNTIME,
}
EVENT_LOG: frozenset[object] = frozenset({ControlEventLogMiddleware, FleetEventLogMiddleware})


class Only:
    """One middleware, for some paths."""

    def __init__(self, app: ASGIApp, which: Middleware, prefix: str) -> None:
        self._prefix, self._app = prefix, app
        self._around: Any = which.cls(app, *which.args, **which.kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as the ASGI specification 3.0 says."""
        passes = scope["type"] == "http" and not scope["path"].startswith(self._prefix)
        await (self._app if passes else self._around)(scope, receive, send)


def narrowed(middlewares: list[Middleware], *, event_log: bool) -> list[Middleware]:
    """Return the same middlewares, each around its own paths only; without an event log not those that write it."""
    kept = [one for one in middlewares if event_log or one.cls not in EVENT_LOG]
    return [Middleware(Only, which=one, prefix=ONLY[one.cls]) if one.cls in ONLY else one for one in kept]
