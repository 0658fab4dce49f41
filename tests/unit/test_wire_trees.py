"""Trees of objects: those of Flower's own messages are taken, and none that cannot be followed to an end in short time."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_wire.trees import MOST_NODES, problem

TWO_THINGS = "its object tree says two things of one object"


def node(name: str, *below: ObjectTree) -> ObjectTree:
    return ObjectTree(object_id=name, children=below)


@given(st.lists(st.sampled_from([0.0, 1.0]), max_size=6), st.integers(0, 3))
def test_flowers_own_trees_are_taken(numbers: list[float], records: int) -> None:
    arrays = [np.full(3, number, dtype=np.float32) for number in numbers]
    content = RecordDict({f"a{at}": ArrayRecord(arrays) for at in range(records)} | {"c": ConfigRecord({"n": 1})})
    tree = get_object_tree(content)
    assert problem(tree, content.object_id) is None
    assert problem(tree, "another") == "the root of its object tree is not the message"


@given(
    st.recursive(
        st.sampled_from("abcd").map(node), lambda below: st.builds(node, st.sampled_from("abcd"), below, below)
    )
)
def test_what_is_taken_has_one_set_of_children_for_each_object(tree: ObjectTree) -> None:
    said: dict[str, set[frozenset[str]]] = {}
    for each in iterate_object_tree(tree):
        said.setdefault(each.object_id, set()).add(frozenset(child.object_id for child in each.children))
    consistent = all(len(sets) == 1 for sets in said.values())
    assert (problem(tree, tree.object_id) is None) == consistent


@pytest.mark.parametrize(
    "tree",
    [
        node("root", node("a"), node("a", node("b"))),
        node("root", node("a", node("b", node("a")))),
        node("root", node("a", node("root"))),
        node("root", node("a", node("b"), node("b")), node("a", node("c"))),
    ],
    ids=["leaf and not", "cycle", "itself", "others"],
)
def test_a_tree_that_would_become_a_graph_is_not_taken(tree: ObjectTree) -> None:
    assert problem(tree, "root") == TWO_THINGS


def test_a_tree_has_a_largest_size() -> None:
    assert problem(node("root", *(node(str(at)) for at in range(MOST_NODES - 1))), "root") is None
    assert "more than 10000 objects" in str(problem(node("root", *(node("a") for _ in range(MOST_NODES))), "root"))
