"""Flower's ObjectStore with a statement per level of a message's objects, or for all, instead of several per object.

What is stored, counted and deleted is what Flower's own would store, count and delete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import is_valid_sha256_hash, iterate_object_tree
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.utils import uint64_to_int64
from sqlalchemy import text
from sqlalchemy.orm import Session

_TREE = text("""
    WITH RECURSIVE tree(parent_id, object_id) AS (
        SELECT NULL::varchar, object_id FROM objects WHERE object_id = :root
        UNION
        SELECT below.parent_id, below.child_id FROM object_children AS below JOIN tree ON below.parent_id = tree.object_id
    )
    SELECT parent_id, object_id FROM tree
""")
# The rows below what is deleted are in this statement's snapshot; the cascade takes them at its end.
_DELETE = text("""
    WITH deleted AS (DELETE FROM objects WHERE object_id = ANY(:level) AND ref_count = 0 RETURNING object_id),
    below AS (
        SELECT child_id, count(*) AS links FROM object_children
        WHERE parent_id IN (SELECT object_id FROM deleted) GROUP BY child_id
    )
    UPDATE objects SET ref_count = greatest(ref_count - below.links, 0)
    FROM below WHERE objects.object_id = below.child_id
    RETURNING objects.object_id, objects.ref_count
""")
_ADD = text("""
    INSERT INTO objects (object_id, content, is_available, ref_count)
    SELECT object_id, ''::bytea, 0, 0 FROM unnest(CAST(:ids AS varchar[])) AS given(object_id)
    ON CONFLICT (object_id) DO NOTHING RETURNING object_id
""")
_KNOWN = text("""
    SELECT known.object_id, known.is_available, array_remove(array_agg(below.child_id), NULL)
    FROM objects AS known LEFT JOIN object_children AS below ON below.parent_id = known.object_id
    WHERE known.object_id = ANY(:ids) GROUP BY known.object_id
""")
_LINK = text("""
    WITH links AS (
        INSERT INTO object_children (parent_id, child_id)
        SELECT * FROM unnest(CAST(:parents AS varchar[]), CAST(:children AS varchar[])) RETURNING child_id
    ), held AS (SELECT child_id, count(*) AS times FROM links GROUP BY child_id)
    UPDATE objects SET ref_count = ref_count + held.times FROM held WHERE objects.object_id = held.child_id
""")
_REGISTER = text("""
    INSERT INTO run_objects (run_id, object_id)
    SELECT CAST(:run AS bigint), object_id FROM unnest(CAST(:ids AS varchar[])) AS given(object_id) ON CONFLICT DO NOTHING
""")
_FORGET_RUN = text("DELETE FROM run_objects WHERE run_id = :run RETURNING object_id")
_CONTENTS = text("""
    SELECT content FROM (
        SELECT object_id, content, sum(octet_length(content)) OVER (ORDER BY octet_length(content), object_id) AS together
        FROM objects WHERE object_id = ANY(:ids) AND is_available = 1
    ) AS found WHERE together <= :most ORDER BY object_id
""")
# Locked in one order, as two sites may send the same objects at once.
_PUT = text("""
    WITH awaited AS (
        SELECT object_id FROM objects WHERE object_id = ANY(:ids) AND is_available = 0 ORDER BY object_id FOR UPDATE
    )
    UPDATE objects SET content = given.content, is_available = 1
    FROM unnest(CAST(:ids AS varchar[]), CAST(:contents AS bytea[])) AS given(object_id, content) JOIN awaited USING (object_id)
    WHERE objects.object_id = given.object_id
""")


class LevelObjectStore(SqlObjectStore):
    """ObjectStore on PostgreSQL that reads and deletes trees of objects level by level."""

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Register a tree of objects for a run; return, children first, the ids of those that have yet to arrive.

        Raises:
            ValueError: an id is no SHA-256, an object has one child twice, or other children than it had before.
        """
        children = _children(object_tree)
        _check(children)
        ids = list(children)
        with self._mutation_session() as session:
            missing = set(session.scalars(_ADD, {"ids": sorted(ids)}))
            new = frozenset(missing)
            if known := [each for each in ids if each not in new]:
                missing |= _awaited(session, known, children)
            links = [(parent, child) for parent in ids if parent in new for child in children[parent]]
            if links:
                parents, below = zip(*links, strict=True)
                session.execute(_LINK, {"parents": list(parents), "children": list(below)})
            session.execute(_REGISTER, {"run": uint64_to_int64(run_id), "ids": ids})
        return [each for each in ids if each in missing]

    def get_object_tree(self, object_id: str) -> ObjectTree:
        """Return an object's id with those below it.

        Raises:
            NoObjectInStoreError: there is no such object.
        """
        children: defaultdict[str | None, list[str]] = defaultdict(list)
        with self.session() as session:
            for parent, child in session.execute(_TREE, {"root": object_id}):
                children[parent].append(child)
        if not children[None]:
            raise NoObjectInStoreError(f"Object {object_id} was not pre-registered.")
        return _tree(object_id, children)

    def contents(self, object_ids: Sequence[str], most: int) -> list[bytes]:
        """Return the contents of objects that have arrived, the smallest ones, with `most` bytes together."""
        with self.session() as session:
            return [bytes(content) for content in session.scalars(_CONTENTS, {"ids": list(object_ids), "most": most})]

    def put_all(self, contents: Mapping[str, bytes]) -> None:
        """Give objects their verified contents; one that has its own already keeps it, one that is gone stays so."""
        with self._mutation_session() as session:
            session.execute(_PUT, {"ids": list(contents), "contents": list(contents.values())})

    def delete(self, object_id: str) -> None:
        """Delete an object that no other one holds, and those below it that are then held by none."""
        with self._mutation_session():
            self._delete_from([object_id])

    def delete_objects_in_run(self, run_id: int) -> None:
        """Delete a run's objects, but for those that another run's hold."""
        with self._mutation_session() as session:
            registered = session.scalars(_FORGET_RUN, {"run": uint64_to_int64(run_id)}).all()
            self._delete_from(registered)

    def _delete_from(self, level: Sequence[str]) -> None:
        with self.session() as session:
            while level:
                below = session.execute(_DELETE, {"level": list(level)}).all()
                level = [object_id for object_id, holders in below if holders == 0]


def _tree(object_id: str, children: dict[str | None, list[str]]) -> ObjectTree:
    below = [_tree(child, children) for child in children.get(object_id, [])]
    return ObjectTree(object_id=object_id, children=below)


def _children(object_tree: ObjectTree) -> dict[str, list[str]]:
    """Return the ids below each object, which must be the same ones wherever it is named: a graph has no end."""
    children: dict[str, list[str]] = {}
    for node in iterate_object_tree(object_tree):
        below = [child.object_id for child in node.children]
        if set(children.setdefault(node.object_id, below)) != set(below):
            raise ValueError(f"Object {node.object_id} was preregistered with different children.")
    return children


def _check(children: dict[str, list[str]]) -> None:
    for object_id, below in children.items():
        if not is_valid_sha256_hash(object_id):
            raise ValueError(f"Invalid object ID format: {object_id}")
        if len(below) != len(set(below)):
            raise ValueError(f"Object {object_id} has duplicate children.")


def _awaited(session: Session, known: list[str], children: dict[str, list[str]]) -> set[str]:
    """Return which of the objects that were there before have not arrived."""
    awaited = set()
    for object_id, available, below in session.execute(_KNOWN, {"ids": known}):
        if set(below) != set(children[object_id]):
            raise ValueError(f"Object {object_id} was preregistered with different children.")
        if not available:
            awaited.add(object_id)
    return awaited
