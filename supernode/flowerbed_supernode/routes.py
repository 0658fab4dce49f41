"""Which routes of the SuperNode's Runtime API exist: those that SuperExec and a ClientApp need, and no other.

Flower's SuperNode has no hook for middleware, so its `create_app` is wrapped (`install`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from .bodies import BoundedBodies

ALLOWED = frozenset(
    {("GET", "/health"), ("HEAD", "/health")}
    | {
        ("POST", f"/v1/runtime/{name}")
        for name in (
            "acquire-task",
            "send-task-heartbeat",
            "pull-task-input",
            "push-task-output",
            "pull-messages",
            "push-messages",
            "pull-object",
            "push-object",
            "confirm-message-received",
        )
    }
)
"""Not here, so refused: create-task, task messages, connectors, automations, agents' events, responses, the docs."""


class AllowedRoutes:
    """Outermost middleware: 404 for every request that is not exactly an allowed method and path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on or refuse it."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and (scope["method"], scope["path"]) in ALLOWED):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1000})


def install(add_inner: Callable[[FastAPI], None] = lambda _app: None) -> None:
    """Wrap the `create_app` that `flower-supernode` imports when it starts its Runtime API.

    `add_inner` may add middleware that sees only allowed requests with a bounded body.
    """
    module = import_module("flwr.supernode.main")
    create_app = module.create_app

    @wraps(create_app)
    def create_allowed_app(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Flower's own signature
        app = create_app(*args, **kwargs)
        # The last one added is the first to see a request.
        add_inner(app)
        app.add_middleware(BoundedBodies)
        app.add_middleware(AllowedRoutes)
        return app

    module.create_app = create_allowed_app  # type: ignore[attr-defined]  # wrapped on purpose
