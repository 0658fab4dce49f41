"""The module that Flower finds as `flwr.ee.utils`: names of accounts by id; not for logging anybody in."""

from __future__ import annotations

from collections.abc import Iterable

from flowerbed_superlink.directory import directory
from flowerbed_superlink.errors import PeopleError
from flowerbed_superlink.log import event


def resolve_account_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return a name for every id asked for; an id that nobody knows is its own name, since Flower looks up each."""
    try:
        accounts = directory().accounts()
    except PeopleError as error:
        event("people-not-read", error=str(error))
        accounts = {}
    return {aid: accounts[aid].name if aid in accounts else aid for aid in ids}
