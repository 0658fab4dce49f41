"""Has a client of Flower's take a message's objects with it and send them with it; the other side may know nothing of it.

For the classes that speak the Fleet API and the Runtime API, whose methods for this have the same names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse

from . import trees
from .carried import ask, attach, detach, within

WRAPPED = ("PullMessages", "PullObject", "PushMessages")
_CAME_WITH = "_flowerbed_came_with"


def fits(client: type) -> bool:
    """Return whether a class has the methods that `install` wraps, each of one request."""
    found = [getattr(client, name, None) for name in WRAPPED]
    return all(each is not None and tuple(inspect.signature(each).parameters) == ("self", "request") for each in found)


def install(client: type, content: Callable[[str], bytes | None]) -> None:
    """Wrap a class of clients; `content` returns what an object to be sent consists of, None if it is not to go along."""
    of: Any = client
    pull, pull_object, push = of.PullMessages, of.PullObject, of.PushMessages

    @wraps(pull)
    def pull_with_objects(self: Any, request: Any) -> Any:  # noqa: ANN401 - Flower's own messages
        asking = copy_of(request)
        ask(asking)
        response = pull(self, asking)
        setattr(self, _CAME_WITH, detach(response))
        return response

    @wraps(pull_object)
    def pull_unless_here(self: Any, request: PullObjectRequest) -> PullObjectResponse:  # noqa: ANN401
        here = getattr(self, _CAME_WITH, {}).get(request.object_id)
        if here is None:
            return pull_object(self, request)  # type: ignore[no-any-return]
        return PullObjectResponse(object_found=True, object_available=True, object_content=here)

    @wraps(push)
    def push_with_objects(self: Any, request: Any) -> Any:  # noqa: ANN401
        loaded = copy_of(request)
        attach(loaded, within(contents(request, content)))
        return push(self, loaded)

    of.PullMessages, of.PullObject, of.PushMessages = pull_with_objects, pull_unless_here, push_with_objects


def copy_of(request: Any) -> Any:  # noqa: ANN401
    """Return a copy: Flower sends the same request again if it fails, and it must not grow with each attempt."""
    copied = type(request)()
    copied.CopyFrom(request)
    return copied


def contents(message: Any, content: Callable[[str], bytes | None]) -> Iterator[bytes]:  # noqa: ANN401
    """Yield the contents of the objects that a push, or the answer to a pull, names; `content` gives none of one that is away."""
    for object_id in trees.ids(message.message_object_trees):
        if found := content(object_id):
            yield found
