"""Objects travel with a task's messages, in the task's own process; what takes them is the SuperNode or the SuperLink.

Flower's programs send a message first and each of its objects after it. Here the objects are remembered when the tree of the
message's objects is made, which is right before it is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

from flowerbed_wire import carried

from .spec import CLIENT_APP, SERVER_APP

_PROGRAMS = {CLIENT_APP: "flwr.supernode.runtime.run_clientapp", SERVER_APP: "flwr.superlink.grid.http_grid"}
_NAMES = ("get_object_tree", "get_all_nested_objects", "RuntimeHttpClient")


class Outgoing:
    """The objects of the messages that are about to be sent."""

    def __init__(self) -> None:
        self._objects: dict[str, Any] = {}

    def remember(self, objects: dict[str, Any]) -> None:
        """Keep these objects of Flower's, by their ids, until they are sent."""
        self._objects.update(objects)

    def content(self, object_id: str) -> bytes | None:
        """Return what a small object consists of; None for another, which travels by itself. Forgets it."""
        found = self._objects.pop(object_id, None)
        if found is None or len(getattr(found, "data", b"")) > carried.MOST:
            return None
        return bytes(found.deflate())

    def forget(self) -> None:
        """Keep nothing."""
        self._objects.clear()


def install(program: str) -> str:
    """Have the program's messages take their objects along; return what does not fit, empty if all did."""
    # Here, as what imports this module early must import neither Flower nor numpy, which starts threads (see `preload`).
    from flowerbed_wire import client

    module: Any = import_module(_PROGRAMS[program])
    if any(not callable(getattr(module, name, None)) for name in _NAMES) or not client.fits(module.RuntimeHttpClient):
        return f"{_PROGRAMS[program]} or its RuntimeHttpClient"
    outgoing = Outgoing()
    client.install(module.RuntimeHttpClient, outgoing.content)
    module.RuntimeHttpClient.PushMessages = _then(module.RuntimeHttpClient.PushMessages, outgoing.forget)
    module.get_object_tree = _remembering(module.get_object_tree, module.get_all_nested_objects, outgoing)
    return ""


def _remembering(tree: Callable[[Any], Any], nested: Callable[[Any], Any], outgoing: Outgoing) -> Callable[[Any], Any]:
    @wraps(tree)
    def tree_and_remember(message: Any) -> Any:  # noqa: ANN401 - Flower's own signature
        outgoing.remember(nested(message))
        return tree(message)

    return tree_and_remember


def _then(push: Callable[..., Any], forget: Callable[[], None]) -> Callable[..., Any]:
    @wraps(push)
    def push_and_forget(self: Any, request: Any) -> Any:  # noqa: ANN401 - Flower's own signature
        try:
            return push(self, request)
        finally:
            forget()

    return push_and_forget
