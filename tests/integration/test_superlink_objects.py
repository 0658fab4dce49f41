"""Our ObjectStore does what Flower's does: the same random trees, given to both on a real PostgreSQL, leave the same rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from random import Random

import pytest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from sqlalchemy import text

from delivery_support import States, serving
from flowerbed_superlink.objects import LevelObjectStore
from flowerbed_superlink.state import PostgresObjectStore

# Flower's migrations do not say how their paths are separated.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")

OURS, FLOWERS = LevelObjectStore, SqlObjectStore
TABLES = {
    "objects": "object_id, is_available, ref_count",
    "object_children": "parent_id, child_id",
    "run_objects": "run_id::text, object_id",
}


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[States]:
    with serving(tmp_path_factory.mktemp("objects"), 1) as found:
        yield found


@pytest.fixture(scope="module")
def store(states: States) -> PostgresObjectStore:
    found = states.new().object_store
    assert isinstance(found, PostgresObjectStore)
    return found


def _id(side: type, number: int) -> str:
    return hashlib.sha256(f"{side.__name__} {number}".encode()).hexdigest()


def _tree(side: type, random: Random, number: int, levels: int) -> ObjectTree:
    """Return a tree in which an object, with whatever is below it, may be held several times."""
    shape = Random(number)  # noqa: S311  no secret; one number has the same children always
    below = sorted({shape.randint(0, 9) + 10 * levels for _ in range(shape.randint(0, 3))}) if levels else []
    return ObjectTree(object_id=_id(side, number), children=[_tree(side, random, child, levels - 1) for child in below])


def _rows(store: PostgresObjectStore, side: type) -> dict[str, list[tuple[object, ...]]]:
    """Return what the tables hold of one side, with the other side's names for it."""
    names = {_id(side, number): str(number) for number in range(200)}
    with store.session() as session:
        found = {name: session.execute(text(f"SELECT {columns} FROM {name}")).all() for name, columns in TABLES.items()}  # noqa: S608
    return {
        name: sorted((tuple(names.get(str(value), value) for value in row) for row in rows), key=repr)
        for name, rows in found.items()
    }


@pytest.mark.parametrize("seed", range(6))
def test_both_leave_the_same_rows(store: PostgresObjectStore, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = []
    for side in (OURS, FLOWERS):
        random, seen = Random(seed), []  # noqa: S311  no secret
        store.clear()
        monkeypatch.setattr(PostgresObjectStore, "delete", side.delete)  # which Flower's calls for what is below
        for _ in range(25):
            run, top = random.randint(1, 3), random.randint(100, 104)
            act = random.choice(["register", "register", "arrive", "delete", "end"])
            if act == "register":
                tree = _tree(side, random, top, 3)
                missing = side.preregister(store, run, tree)
                seen.append(sorted({each for each in range(200) if _id(side, each) in missing}))
                assert _names(side.get_object_tree(store, _id(side, top))) == _names(tree)
            elif act == "arrive":
                with store.session() as session:
                    arrived = {"one": _id(side, random.randint(20, 40))}
                    session.execute(text("UPDATE objects SET is_available = 1 WHERE object_id = :one"), arrived)
            elif act == "delete":
                store.delete(_id(side, top))
            else:
                side.delete_objects_in_run(store, run)
            seen.append(_rows(store, side))
        left.append(seen)
    assert left[0] == left[1]
    assert any(left[0])


def _names(tree: ObjectTree) -> object:
    return (tree.object_id, sorted((_names(child) for child in tree.children), key=repr))


def test_what_flower_refuses_is_refused(store: PostgresObjectStore) -> None:
    one, two, three = (_id(OURS, number) for number in (150, 151, 152))
    twice = ObjectTree(object_id=one, children=[ObjectTree(object_id=two)] * 2)
    with pytest.raises(ValueError, match="duplicate children"):
        store.preregister(1, twice)
    with pytest.raises(ValueError, match="Invalid object ID"):
        store.preregister(1, ObjectTree(object_id="x"))
    store.preregister(1, ObjectTree(object_id=one, children=[ObjectTree(object_id=two)]))
    with pytest.raises(ValueError, match="different children"):
        store.preregister(1, ObjectTree(object_id=one, children=[ObjectTree(object_id=three)]))
    with pytest.raises(NoObjectInStoreError):
        store.get_object_tree(three)
