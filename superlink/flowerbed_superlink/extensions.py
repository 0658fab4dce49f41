"""The module that Flower finds as `flwr.ee.superlink.extensions`: middleware, routes and lifespan; none of their work.

The gate is the outermost middleware, through Flower's hook. The check of submissions must run *after* Flower has
authenticated and parsed a request, for which there is no hook: `configure_app` adds it as the innermost one, around it what
lets objects travel with their messages, and around that what keeps pulls waiting.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from anyio import to_thread
from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.middleware import Middleware

from flowerbed_superlink import artifacts, views
from flowerbed_superlink.access import Access
from flowerbed_superlink.arrivals import Arrivals
from flowerbed_superlink.carrying import Carrying
from flowerbed_superlink.directory import directory
from flowerbed_superlink.gate import Gate
from flowerbed_superlink.health import prove_alive
from flowerbed_superlink.holds import Holds, release_at_stop
from flowerbed_superlink.kit import close_all
from flowerbed_superlink.looking import look
from flowerbed_superlink.material import Material
from flowerbed_superlink.narrow import narrowed
from flowerbed_superlink.routes import check_routes
from flowerbed_superlink.settings import settings
from flowerbed_superlink.submissions import Submissions
from flowerbed_superlink.tokens import tokens
from flowerbed_superlink.trail import trail
from flowerbed_superlink.waiting import Waiting

THREADS = 160  # beside uvicorn's and the executor's own, below the container's limit of 300

LifespanContext = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any] | None]]


def get_middleware() -> tuple[Middleware, ...]:
    """Return the gate and, within it, access control; Flower puts them in front of everything of its own."""
    material = Material(settings().secrets, settings().config)
    return (
        Middleware(Gate, material=material, arrivals=Arrivals(trail(), material)),
        Middleware(Access, tokens=tokens(), directory=directory(), trail=trail()),
    )


def configure_app(app: FastAPI) -> None:
    """Add our routes and the innermost middleware, then compare the app's routes with the allow-list.

    Raises:
        StartupError: Flower has a route that we do not know, or lacks one that we need.
    """
    app.include_router(artifacts.router)
    app.include_router(views.router)
    app.user_middleware[:] = narrowed(app.user_middleware, event_log=settings().event_log)
    if settings().held_pulls:
        app.state.waiting = Waiting(lambda question: look(app.state.linkstate_factory.state(), question))
        app.user_middleware += [Middleware(Holds, waiting=app.state.waiting), Middleware(Carrying)]
    app.user_middleware.append(Middleware(Submissions))
    check_routes(path for context in iter_route_contexts(app.routes) if (path := _path(context)))


def get_lifespan_contexts() -> tuple[LifespanContext, ...]:
    """Return what runs as long as the SuperLink serves."""
    return (_widen_threads, prove_alive, _close_kit, release_at_stop)


@asynccontextmanager
async def _widen_threads(_app: FastAPI) -> AsyncIterator[None]:
    """Raise the number of handlers at work: each followed log holds a thread, and 40 of them would stop everything."""
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield None


@asynccontextmanager
async def _close_kit(_app: FastAPI) -> AsyncIterator[None]:
    """Write the audit records that still wait, and close the connections to the kit's database, at the end."""
    yield None
    await to_thread.run_sync(trail().close)
    close_all()


def _path(context: RouteContext) -> str:
    return str(context.path or getattr(context.route, "path", ""))
