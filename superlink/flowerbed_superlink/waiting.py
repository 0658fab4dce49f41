"""Requests that wait, and what ends their waiting: a change that somebody made, a slow look, a limit, a stop; not the routes.

Everything runs in one event loop. While anything waits, one task asks the database, in a worker thread, one question for all who
wait: at once after a change, and every second for changes that no request of this process made. It claims nothing: whoever is
let go asks Flower's own route. Without a database it lets nobody go, and everybody goes on at the limit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain

import psycopg
from anyio import CapacityLimiter, to_thread
from sqlalchemy.exc import SQLAlchemyError

from flowerbed_superlink.errors import Refused
from flowerbed_superlink.log import event
from flowerbed_superlink.looking import Answer, Question

LIMIT_S = 20.0  # Flower's clients give up after 30 s
LOOK_S = 1.0
LOOKS = 2  # as many slow looks for each decision of the gate's
REST_S = 0.05  # at most, after a question: changes that come in a burst are answered for together
MOST = 1024


class Kind(Enum):
    """Who waits."""

    NODE = auto()  # a SuperNode for a message
    TASK = auto()  # a ServerApp for replies
    EXECUTOR = auto()  # a SuperExec for a task


class End(Enum):
    """How a request's waiting ended."""

    GO_ON = auto()  # ask Flower's route
    EMPTY = auto()  # answer that there is nothing: a newer request took its place, its client has gone, or we stop
    UNKNOWN = auto()  # the node is not registered any more
    REFUSED = auto()  # the gate would not let it in any more


@dataclass(eq=False)
class Hold:
    """One request that waits."""

    kind: Kind
    key: Hashable  # one at most waits for each
    ready: Callable[[Answer], bool]
    asks: Question
    again: Callable[[], Refused | None]
    ended: asyncio.Future[End] = field(init=False)

    def end(self, how: End) -> None:
        """End the waiting, if nothing has yet."""
        if not self.ended.done():
            self.ended.set_result(how)


class Waiting:
    """All requests that wait."""

    def __init__(
        self, look: Callable[[Question], Answer], *, limit_s: float = LIMIT_S, look_s: float = LOOK_S, most: int = MOST
    ) -> None:
        self._look, self._limit_s, self._look_s, self._most = look, limit_s, look_s, most
        self._holds: dict[tuple[Kind, Hashable], Hold] = {}
        self._dirty: set[Kind] = set()
        self._empty: set[tuple[Kind, Hashable]] = set()  # the last slow look found nothing, and no change since
        self._woken = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._one = CapacityLimiter(1)
        self._stopping = self._blind = False

    def __len__(self) -> int:
        return len(self._holds)

    def has_room(self) -> bool:
        """Whether another request may wait."""
        return not self._stopping and len(self._holds) < self._most

    async def wait(self, hold: Hold, gone: Callable[[], Awaitable[object]]) -> End:
        """Wait until there is something for this request, or it must not wait any longer.

        `gone` returns when the client has gone. Call only where `has_room`.
        """
        hold.ended = asyncio.get_running_loop().create_future()
        if (older := self._holds.get((hold.kind, hold.key))) is not None:
            older.end(End.EMPTY)
        self._holds[hold.kind, hold.key] = hold
        if (hold.kind, hold.key) not in self._empty:
            self._dirty.add(hold.kind)
            self._woken.set()
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watching())
        leaving = asyncio.ensure_future(_until(gone, hold))
        try:
            async with asyncio.timeout(turn(hold.key, self._limit_s, time.monotonic())):
                return await hold.ended
        except TimeoutError:
            return End.GO_ON
        finally:
            leaving.cancel()
            if self._holds.get((hold.kind, hold.key)) is hold:
                del self._holds[hold.kind, hold.key]

    def changed(self, kinds: Iterable[Kind]) -> None:
        """Say that there may be something for these now."""
        self._empty = set()
        self._dirty.update(kinds)
        self._woken.set()

    def stop(self) -> None:
        """Let everybody go, with nothing, and let nobody wait any more."""
        self._stopping = True
        for hold in self._holds.values():
            hold.end(End.EMPTY)

    async def _watching(self) -> None:
        due, looks = time.monotonic() + self._look_s, 0
        while self._holds:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await self._woken.wait()
            self._woken.clear()
            kinds, self._dirty = self._dirty, set()
            started = time.monotonic()
            if started >= due:
                due, kinds, looks = started + self._look_s, set(Kind), looks + 1
                if looks % LOOKS == 0:
                    _each(self._holds.values(), _refused)
            try:
                await self._turn(kinds)
            except Exception as error:  # noqa: BLE001  nobody else would wake those who wait; the next look may succeed
                _failed(error)
            await asyncio.sleep(min(REST_S, time.monotonic() - started))

    async def _turn(self, kinds: set[Kind]) -> None:
        """Ask once for those of these kinds who wait; for all kinds it is the slow look."""
        asked = [hold for hold in self._holds.values() if hold.kind in kinds]
        await self._ask(asked)
        if kinds == set(Kind):
            unchanged = not self._dirty and not self._blind
            empty = [one for one in asked if unchanged and not one.ended.done() and one.kind is not Kind.TASK]
            self._empty = {(one.kind, one.key) for one in empty}

    async def _ask(self, holds: list[Hold]) -> None:
        if not holds:
            return
        try:
            answer = await to_thread.run_sync(self._look, together(hold.asks for hold in holds), limiter=self._one)
        except (SQLAlchemyError, psycopg.Error) as error:
            if not self._blind:
                event("holds-blind", error=f"{type(error).__name__}: {error}".splitlines()[0])
            self._blind = True
            return
        self._blind = False
        _each(holds, lambda hold: _answered(hold, answer))


def _each(holds: Iterable[Hold], decide: Callable[[Hold], End | None]) -> None:
    """End the waiting of those for whom that is decided; a decision that fails is the others' no concern."""
    failed: list[Exception] = []
    for hold in holds:
        try:
            if (how := decide(hold)) is not None:
                hold.end(how)
        except Exception as error:  # noqa: BLE001  it waits on; the gate decides again before it goes on
            failed.append(error)
    if failed:
        _failed(failed[0], len(failed))


def _refused(hold: Hold) -> End | None:
    return None if hold.again() is None else End.REFUSED


def _answered(hold: Hold, answer: Answer) -> End | None:
    if hold.kind is Kind.NODE and not hold.asks.nodes <= answer.registered:
        return End.UNKNOWN
    return End.GO_ON if hold.ready(answer) else None


def _failed(error: Exception, times: int = 1) -> None:
    event("holds-failed", times=times, error=" ".join(f"{type(error).__name__}: {error}".split()))


def turn(key: Hashable, limit_s: float, now: float) -> float:
    """Return how long to wait at most: so that those who came together do not leave together for ever.

    Each key has turns of its own, two within the limit: who comes back after one waits until the second next one, which is
    almost the limit, and who comes at another time half of that at least.
    """
    period = 0.475 * limit_s
    return period + period - (now - hash(key) % 1000 / 1000 * period) % period


def together(questions: Iterable[Question]) -> Question:
    """Return one question that asks all of these."""
    asked = list(questions)
    return Question(
        nodes=frozenset(chain.from_iterable(one.nodes for one in asked)),
        tokens=frozenset(chain.from_iterable(one.tokens for one in asked)),
        messages=frozenset(chain.from_iterable(one.messages for one in asked)),
        executors=any(one.executors for one in asked),
    )


async def _until(gone: Callable[[], Awaitable[object]], hold: Hold) -> None:
    await gone()
    hold.end(End.EMPTY)
