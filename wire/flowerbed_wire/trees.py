"""What the tree of a message's objects must be, before anybody stores or follows it; not what the objects are.

A tree names each object with those below it. Whoever stores it keeps one set of children for each object, so a tree that says
two things of one object would become a graph: of 9 kB with 2^n ways through it, or with none out of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

MOST_NODES = 10_000
"""Objects in one message's tree, each counted as often as it is named; a model has one for each of its arrays."""


def ids(trees: Iterable[ObjectTree]) -> list[str]:
    """Return the objects that trees name, each once."""
    return list(dict.fromkeys(node.object_id for tree in trees for node in iterate_object_tree(tree)))


def problem(tree: ObjectTree, message_id: str) -> str | None:
    """Return why a tree is not the one of this message's objects, or None if it is."""
    if tree.object_id != message_id:
        return "the root of its object tree is not the message"
    children: dict[str, frozenset[str]] = {}
    left, named = [tree], 0
    while left:
        node = left.pop()
        named += 1
        if named > MOST_NODES:
            return f"its object tree names more than {MOST_NODES} objects"
        below = frozenset(child.object_id for child in node.children)
        if children.setdefault(node.object_id, below) != below:
            return "its object tree says two things of one object"
        left.extend(node.children)
    return None
