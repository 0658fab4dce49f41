"""Objects travel with the messages that name them, where the other side can do that; not what is deliverable.

Runs within what keeps pulls waiting: Flower's route has answered, and its answer is not on its way yet. What is pushed with a
message is stored as if each object had been pushed by itself, and what a pull answers gets its objects along. An object that
is not stored or not sent here, for whatever reason, is pushed or asked for by itself, as with stock Flower.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from sqlalchemy.exc import SQLAlchemyError

from flowerbed_superlink.log import event
from flowerbed_superlink.routes import FLEET, RUNTIME
from flowerbed_wire import carried, trees

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ROUTES = frozenset(api + verb for api in (FLEET, RUNTIME) for verb in ("pull-messages", "push-messages"))


class Carrying:
    """Store what came with a pushed message, and send along what belongs to a pulled one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as the ASGI specification 3.0 says."""
        if scope["type"] != "http" or scope["path"] not in ROUTES:
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.OK:
                await _complete(scope)
            await send(message)

        await self._app(scope, receive, sending)


async def _complete(scope: Scope) -> None:
    request, response = (scope["state"].get(name) for name in ("protobuf_request", "protobuf_response"))
    state = scope["app"].state.linkstate_factory.state()
    if response is None:
        return
    # In a thread also where nothing is to be done: what somebody else has put into a request takes time to look through.
    if isinstance(request, PushMessagesRequest | PushAppMessagesRequest):
        if response.objects_to_push:
            await to_thread.run_sync(_store, state, request, response)
    elif response.messages_list:
        await to_thread.run_sync(_send_along, state, request, response)


def _store(state: Any, request: Any, response: Any) -> None:  # noqa: ANN401  Flower's messages
    """Store what is awaited of the objects that came along, and ask for the others only."""
    objects, awaited = carried.detach(request), list(response.objects_to_push)
    arrived = {object_id: objects[object_id] for object_id in awaited if _is_valid(objects.get(object_id))}
    run_id = request.messages_list[0].metadata.run_id
    try:
        stored = state.store_objects(run_id, response.session_id, arrived)
    except SQLAlchemyError as error:
        event("carried-not-stored", run_id=run_id, error=type(error).__name__)
        return
    del response.objects_to_push[:]
    response.objects_to_push.extend(object_id for object_id in awaited if object_id not in stored)


def _is_valid(content: bytes | None) -> bool:
    """Return whether Flower's store would take the content; its id is its hash already."""
    if content is None:
        return False
    try:
        validate_object_content(content)
    except UnexpectedObjectContentError:
        return False
    return True


def _send_along(state: Any, request: Any, response: Any) -> None:  # noqa: ANN401  Flower's messages
    """Add the objects of the messages if they are asked for; to a SuperNode they are traffic of the run, as Flower counts it."""
    if not carried.asks(request):
        return
    run_id = response.messages_list[0].metadata.run_id
    try:
        contents = state.object_store.contents(trees.ids(response.message_object_trees), carried.MOST)
        if contents and isinstance(request, PullMessagesRequest):
            state.store_traffic(run_id, bytes_sent=sum(map(len, contents)), bytes_recv=0)
    except (SQLAlchemyError, ValueError) as error:
        event("nothing-carried", run_id=run_id, error=type(error).__name__)
        return
    carried.attach(response, contents)
