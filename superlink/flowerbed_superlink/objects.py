"""Flower's ObjectStore with a statement per level of a message's objects instead of several per object; a part of ours.

What is stored, counted and deleted is what Flower's own would store, count and delete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.utils import uint64_to_int64
from sqlalchemy import text

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
_FORGET_RUN = text("DELETE FROM run_objects WHERE run_id = :run RETURNING object_id")


class LevelObjectStore(SqlObjectStore):
    """ObjectStore on PostgreSQL that reads and deletes trees of objects level by level."""

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
