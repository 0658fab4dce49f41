"""The list of people as the serving SuperLink reads it, at most every two seconds; not for changing it (`people`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

import psycopg

from flowerbed_superlink.errors import PeopleError
from flowerbed_superlink.kit import Kit
from flowerbed_superlink.log import event

MAX_AGE_S = 2.0  # disabling somebody bites after this
MIN_AGE_S = 0.2  # for a person who is not in the list
_QUERY = "SELECT aid, name, enabled, federations FROM people"
_DISABLED = "SELECT 1 FROM people WHERE aid = %s AND NOT enabled"

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Account:
    """What is looked up of an account."""

    name: str
    enabled: bool
    federations: tuple[str, ...]


class Directory:
    """Accounts by id, for any number of threads."""

    def __init__(self, read: Callable[[], list[Row]], clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock, self._lock = read, clock, Lock()
        self._accounts: Mapping[str, Account] | None = None
        self._looked = float("-inf")

    def settled(self, aid: str) -> bool:
        """Whether `problem` answers for this account without asking the database."""
        return self._age() < (MAX_AGE_S if aid in (self._accounts or {}) or not _is_person(aid) else MIN_AGE_S)

    def _age(self) -> float:
        return self._clock() - self._looked

    def accounts(self, max_age_s: float = MAX_AGE_S) -> Mapping[str, Account]:
        """Return every account by its id; while the database is away, the last that was read.

        Raises:
            PeopleError: it was never read, and cannot be now.
        """
        if (known := self._accounts) is not None and self._age() < max_age_s:
            return known  # without the lock, which a thread holds for as long as it asks
        with self._lock:
            if self._age() >= max_age_s:
                self._refresh()
            if self._accounts is None:
                raise PeopleError("The list of people cannot be read, try again.")
            return self._accounts

    def problem(self, aid: str) -> str | None:
        """Return why an account may not be used, a sentence, or None.

        People are in the list or nobody; pipelines and the kit itself may use a federation before they are entered.

        Raises:
            PeopleError: the list cannot be read.
        """
        account = self.accounts().get(aid)
        if account is None and _is_person(aid):
            account = self.accounts(MIN_AGE_S).get(aid)  # somebody who was added just now
        if account is None and _is_person(aid):
            return "This account is not in the federation's list of people: ask an operator."
        if account is not None and not account.enabled:
            return "This account is disabled: ask an operator."
        return None

    def _refresh(self) -> None:
        try:
            rows = self._read()
        except psycopg.Error as error:
            event("people-not-read", error=" ".join(str(error).split()))
        else:
            self._accounts = {aid: Account(name, enabled, tuple(theirs)) for aid, name, enabled, theirs in rows}
        finally:
            self._looked = self._clock()  # after the try, however long it took: those who waited do not try again


class Disabled:
    """Whether an account is disabled at this moment, for what outlives a list that is two seconds old: a run."""

    def __init__(self, kit: Kit) -> None:
        self._kit, self._lock = kit, Lock()

    def __contains__(self, aid: str) -> bool:
        """Ask the database.

        Raises:
            psycopg.Error: it is away.
        """
        with self._lock:
            return bool(self._kit.rows(_DISABLED, (aid,)))


def _is_person(aid: str) -> bool:
    return aid.startswith("p-")


@cache
def directory() -> Directory:
    """Return the list of people of this process."""
    kit = Kit()
    return Directory(lambda: kit.rows(_QUERY))


@cache
def disabled() -> Disabled:
    """Return the accounts that are disabled, as this process asks for them."""
    return Disabled(Kit())
