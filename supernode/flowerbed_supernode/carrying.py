"""Objects travel with their message, to and from the SuperLink and the tasks; what else a message needs is Flower's.

With held pulls only. A SuperLink or a task that knows nothing of it skips what came along, and pushes and pulls each object.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.proto.task_pb2 import Task

from flowerbed_wire import carried, client

if TYPE_CHECKING:
    from flwr.supercore.object_store import ObjectStore
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

log = logging.getLogger("flowerbed.supernode")


def install() -> None:
    """Wrap the Fleet API's client, and the handlers that take and give messages; after `replies`, whose checks stay."""
    fleet = import_module("flwr.supernode.fleet_http_client").FleetHttpClient
    if client.fits(fleet):
        client.install(fleet, _of_the_reply())
    else:
        log.warning("Objects travel one by one to and from the SuperLink: %s is not as expected.", fleet.__name__)
    handlers = import_module("flwr.supernode.servicer.runtime.runtime_handlers")
    handlers.push_messages = with_objects(handlers.push_messages, handlers.push_object)  # type: ignore[attr-defined]
    handlers.pull_messages = along(handlers.pull_messages)  # type: ignore[attr-defined]


def _of_the_reply() -> Callable[[str], bytes | None]:
    """Return what looks an object up in the store of the reply that is being sent."""
    loop = import_module("flwr.supernode.start_client_internal")
    push = loop._push_messages  # noqa: SLF001 - see `pinned`
    sending_from: ObjectStore | None = None

    @wraps(push)
    def push_from(state: Any, object_store: ObjectStore, send: Any, push_object: Any) -> None:  # noqa: ANN401 - Flower's
        nonlocal sending_from
        sending_from = object_store
        push(state, object_store, send, push_object)

    loop._push_messages = push_from  # type: ignore[attr-defined]  # noqa: SLF001 - wrapped on purpose
    return lambda object_id: sending_from.get(object_id) if sending_from is not None else None


def with_objects(push_messages: Callable[..., Any], push_object: Callable[..., Any]) -> Callable[..., Any]:
    """Return the handler of a task's reply, which stores the objects that came along as if each had been pushed."""

    @wraps(push_messages)
    def push_and_store(
        request: PushAppMessagesRequest, state: InMemoryNodeState, task: Task
    ) -> PushAppMessagesResponse:
        objects = carried.detach(request)
        response: PushAppMessagesResponse = push_messages(request, state, task)
        awaited = list(response.objects_to_push)
        del response.objects_to_push[:]
        for object_id in awaited:
            given = PushObjectRequest(session_id=response.session_id, object_id=object_id)
            given.object_content = objects.get(object_id, b"")
            if not given.object_content or not push_object(given, state, task).stored:
                response.objects_to_push.append(object_id)
        return response

    return push_and_store


def along(pull_messages: Callable[..., Any]) -> Callable[..., Any]:
    """Return the handler that gives a task its message, with the message's objects if the task can take them."""

    @wraps(pull_messages)
    def pull_with_objects(
        request: PullAppMessagesRequest, state: InMemoryNodeState, task: Task
    ) -> PullAppMessagesResponse:
        response: PullAppMessagesResponse = pull_messages(request, state, task)
        if carried.asks(request):
            carried.attach(response, carried.within(client.contents(response, state.object_store.get)))
        return response

    return pull_with_objects
