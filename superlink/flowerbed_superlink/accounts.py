"""The module that Flower finds as `flwr.ee.utils`: names of accounts by id; not for logging anybody in."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID


def resolve_account_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return a name for every id asked for; an id that nobody knows is its own name, since Flower looks up each."""
    return {aid: NOOP_ACCOUNT_NAME if aid == NOOP_FLWR_AID else aid for aid in ids}
