"""Flower's middlewares narrowed to the paths where they do something: elsewhere they do nothing, and are not run."""

from __future__ import annotations

import asyncio
from typing import Any

import flwr.superlink.main  # noqa: F401  it sets an environment variable, so before any test begins
import pytest
from fastapi import FastAPI, Request, Response
from flwr.proto.control_pb2 import PullArtifactsRequest, StartRunRequest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.main import _get_middleware
from starlette.middleware import Middleware

from flowerbed_superlink.narrow import EVENT_LOG, ONLY, Only, narrowed
from flowerbed_superlink.routes import ALLOWED, CONTROL, FLEET
from flowerbed_superlink.submissions import UNCHECKED

PATHS = sorted(ALLOWED - {"/artifacts/{token}"})


def test_the_table_names_middlewares_that_flower_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flwr.superlink.extensions.get_middleware", lambda: ())
    used = _get_middleware()
    assert set(ONLY) <= {one.cls for one in used}
    made = narrowed(used, event_log=True)
    assert [one.kwargs["which"] if one.cls is Only else one for one in made] == used
    assert len([one for one in made if one.cls is Only]) == len(ONLY)
    without = [one.kwargs["which"] if one.cls is Only else one for one in narrowed(used, event_log=False)]
    assert [one for one in used if one not in without] == [one for one in used if one.cls in EVENT_LOG]
    assert len(without) == len(used) - 2


def test_what_passes_the_check_of_submissions_holds_nothing_that_it_checks() -> None:
    checked = (StartRunRequest, PushMessagesRequest, PullArtifactsRequest, ConfirmMessageReceivedRequest)
    unchecked = {path for (_, path), kind in PROTOBUF_REQUEST_TYPES.items() if kind not in checked}
    assert unchecked >= UNCHECKED
    assert {path for (_, path), kind in PROTOBUF_REQUEST_TYPES.items() if kind in checked} & UNCHECKED == set()


@pytest.mark.parametrize("which", ONLY, ids=lambda which: which.__name__)
def test_each_does_nothing_elsewhere(which: Any) -> None:
    """Called on a path of another API, it passes request and response on as they are, whatever is configured."""
    app = FastAPI()
    for name in ("control_event_log_plugin", "fleet_event_log_plugin", "account_access_dep"):
        setattr(app.state, name, object())
    middleware = which(app)
    if hasattr(middleware, "_license_plugin"):
        middleware._license_plugin = object()
    answer = Response("as it was")
    before = list(answer.headers.raw)

    async def call_next(request: Request) -> Response:
        assert request.state.protobuf_request == PullMessagesRequest()
        return answer

    for path in PATHS:
        if path.startswith(ONLY[which]):
            continue
        state = {"protobuf_request": PullMessagesRequest()}
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "state": state, "app": app}
        assert asyncio.run(middleware.dispatch(Request(scope), call_next)) is answer
        assert (answer.headers.raw, state) == (before, {"protobuf_request": PullMessagesRequest()})


@pytest.mark.parametrize(("path", "through"), [(FLEET + "get-run", False), (CONTROL + "list-runs", True), ("", False)])
def test_it_is_run_for_its_own_paths_alone(path: str, through: bool) -> None:
    seen: list[str] = []

    class Marks:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append("middleware")
            await self.app(scope, receive, send)

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        seen.append("app")

    only = Only(app, Middleware(Marks), CONTROL)
    asyncio.run(only({"type": "http" if path else "lifespan", "path": path}, None, None))  # type: ignore[arg-type]
    expected_middleware = through or not path  # a lifespan is everybody's
    assert seen == (["middleware"] if expected_middleware else []) + ["app"]
