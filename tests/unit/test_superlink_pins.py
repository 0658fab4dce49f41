"""What our LinkState and ObjectStore override or call of Flower's is there under that name; a renamed hook is never called."""

from __future__ import annotations

import inspect

import pytest
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.sql_mixin import SqlMixin

from flowerbed_superlink.delivering import ConfirmedObjectStore, DeliveringLinkState
from flowerbed_superlink.objects import LevelObjectStore
from flowerbed_superlink.owned import OwnedLinkState
from flowerbed_superlink.state import PostgresLinkState, PostgresMixin

# Ours, and not in Flower: an upgrade that brings such a name would be overridden by accident.
OWN = {
    PostgresMixin: {"reading"},
    PostgresLinkState: {"_expiry_due", "_left_something", "has_object"},
    OwnedLinkState: {"manager", "adopt"},
    DeliveringLinkState: {
        *("was_sent", "store_objects", "_reaches", "_stored_before", "_reply", "_in_federation", "_clean_up"),
        *("_end_given_up", "_end_all", "_end"),
    },
    ConfirmedObjectStore: set(),
    LevelObjectStore: {"contents", "put_all", "_delete_from"},
}
BASES = {ConfirmedObjectStore: SqlObjectStore, LevelObjectStore: SqlObjectStore, PostgresMixin: SqlMixin}
# Used, not overridden.
CALLED = {
    SqlLinkState: {
        "_cleanup_push_session": ("self", "session_id", "cleanup_messages"),
        "_store_generated_message": ("self", "message"),
        "start_session": ("self", "run_id"),
        "store_traffic": ("self", "run_id", "bytes_sent", "bytes_recv"),
        "preregister_object_tree": ("self", "object_tree", "session_id"),
    },
    SqlObjectStore: {"_mutation_session": ("self",)},
}


def defined(ours: type) -> set[str]:
    return {name for name in vars(ours) if not name.startswith("__") and name != "_abc_impl"}


@pytest.mark.parametrize("ours", OWN, ids=lambda ours: str(ours.__name__))
def test_what_is_overridden_is_flowers_and_what_is_ours_is_not(ours: type) -> None:
    base = BASES.get(ours, SqlLinkState)
    flowers = {name for name in defined(ours) if hasattr(base, name) or hasattr(SqlLinkState, name)}
    assert defined(ours) - flowers == OWN[ours]


@pytest.mark.parametrize(("base", "name"), [(base, name) for base, names in CALLED.items() for name in names])
def test_what_is_called_takes_what_it_is_given(base: type, name: str) -> None:
    assert tuple(inspect.signature(getattr(base, name)).parameters) == CALLED[base][name]
