"""The audit trail: who did what to what, from where, and how it ended; one line on standard output, one row in PostgreSQL.

Not for what happened inside Flower, which is its log's, and not for reading the trail, which `flowerbed audit` does: the
role that writes here may insert and nothing else. The table and its chain of hashes are `postgres/audit.sql`.
"""

from __future__ import annotations

import asyncio
import json
import queue
import re
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, NoReturn

import psycopg

from flowerbed_superlink.database import connect
from flowerbed_superlink.errors import TrailUnavailable
from flowerbed_superlink.log import event
from flowerbed_superlink.settings import settings

__all__ = ["UNRECORDED", "Trail", "TrailUnavailable", "clean", "compose", "trail"]

UNRECORDED = "The audit trail cannot be written, so nothing was done: try again."  # what a refused sender reads
PATIENCE_S = 4.0  # a caller waits no longer for its record to be committed
CLOSING_S = 10.0  # a stop waits no longer for the records that wait
BATCH = 500  # records in one transaction
MAX_WAITING = 10_000  # records; what comes on top is refused at once

LENGTHS = {"object": 500, "detail": 1000}  # characters; what is longer is cut and ends in …
LENGTH = 200  # of every other value

# Written in one statement, so that a batch is one round trip and one commit. The trigger gives each its number and hash.
_INSERT = "INSERT INTO audit.trail (record) SELECT unnest(%s::text[])"
_TIMES = {
    "connect_timeout": 3,
    "tcp_user_timeout": 3000,
    "options": "-c timezone=UTC -c statement_timeout=3000",
    "application_name": "superlink-audit",
}
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # they break lines, hide or reorder what a reader sees, or are not UTF-8
# What no caller should hand in: JSON Web Tokens, bearer headers, PEM.
_SECRET = re.compile(r"bearer\s+\S+|-----BEGIN [A-Z ]+-----.*", re.IGNORECASE | re.ASCII)
_RUN = re.compile(
    r"[\w.-]{10,}", re.ASCII
)  # one may hold a token; a pattern for tokens takes a time that grows as the square


@dataclass(frozen=True)
class _Entry:
    text: str
    written: Future[None]


class Trail:
    """Writes records for any number of threads at once, through one thread and one connection of its own.

    Records that wait while a transaction commits go into the next one together. A connection that broke is opened again
    by the next record. A record is in the table at least once if no error was raised: one that was committed while the
    connection broke is written again.
    """

    def __init__(self, open_connection: Callable[[], psycopg.Connection[Any]]) -> None:
        self._open = open_connection
        self._waiting: queue.Queue[_Entry | None] = queue.Queue(MAX_WAITING)
        self._printing, self._starting = threading.Lock(), threading.Lock()
        self._writer: threading.Thread | None = None

    def record(
        self,
        *,
        who: str,
        aid: str,
        organisation: str,
        verb: str,
        object: str,  # noqa: A002  the record's own key
        outcome: str,
        source: str,
        run: int | None,
        detail: str = "",
    ) -> None:
        """Write one record and return once it is committed; from a thread, since it waits (see `record_async`).

        `outcome` is started, done, refused or failed. Values are cleaned and cut (see `clean`); hand in no secrets.

        Raises:
            TrailUnavailable: it was not committed within 4 s.
        """
        given = {"who": who, "aid": aid, "organisation": organisation, "verb": verb, "object": object}
        written = self.submit(**given, outcome=outcome, source=source, run=run, detail=detail)
        try:
            written.result(PATIENCE_S)
        except NotYet as error:
            _give_up(written, error)

    async def record_async(self, **values: Any) -> None:  # noqa: ANN401  those of `record`
        """Do what `record` does, for callers in an event loop: no thread waits.

        Raises:
            TrailUnavailable: it was not committed within 4 s.
        """
        written = self.submit(**values)
        try:
            await asyncio.wait_for(asyncio.wrap_future(written), PATIENCE_S)
        except TimeoutError as error:
            _give_up(written, error)

    def note(self, **values: Any) -> None:  # noqa: ANN401  those of `record`
        """Write a record of what was not allowed anyway: never waits and never raises, a loss is logged."""
        with suppress(TrailUnavailable):
            self.submit(**values)

    def submit(self, **values: Any) -> Future[None]:  # noqa: ANN401  those of `record`
        """Print a record and queue it; the future ends when it is committed, or with `TrailUnavailable`."""
        text = compose(datetime.now(UTC), **values)
        self._print(text)
        self._ensure_writer()
        entry = _Entry(text, Future())
        try:
            self._waiting.put_nowait(entry)
        except queue.Full as error:
            event("audit-unavailable", error="too many records wait", lost=1)
            raise TrailUnavailable("The audit trail cannot keep up, try again.") from error
        return entry.written

    def close(self) -> None:
        """Write what waits and end the writer; what is not written within 10 s, the database being away, is logged as lost."""
        if self._writer is None:
            return
        self._waiting.put(None)
        self._writer.join(CLOSING_S)
        if self._writer.is_alive():
            event("audit-unavailable", error="the SuperLink stops", lost=self._waiting.qsize())

    def _print(self, text: str) -> None:
        line = '{"component":"superlink","event":"audit",' + text[1:] + "\n"
        with (
            self._printing,
            suppress(OSError, ValueError),
        ):  # the table is the trail; a closed output is no reason to stop
            sys.stdout.write(line)
            sys.stdout.flush()

    def _ensure_writer(self) -> None:
        with self._starting:
            if self._writer is None or not self._writer.is_alive():
                self._writer = threading.Thread(target=self._write_all, name="audit-trail", daemon=True)
                self._writer.start()

    def _write_all(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        for batch in self._batches():
            connection = self._write(batch, connection)
        if connection is not None:
            connection.close()

    def _batches(self) -> Iterator[list[_Entry]]:
        """Yield what waits, until `close`; leaves out what a caller has given up."""
        closing = False
        while not closing:
            taken = [self._waiting.get()]
            with suppress(queue.Empty):
                while len(taken) < BATCH:
                    taken.append(self._waiting.get_nowait())
            closing = None in taken
            batch = [entry for entry in taken if entry is not None and entry.written.set_running_or_notify_cancel()]
            if batch:
                yield batch

    def _write(self, batch: list[_Entry], used: psycopg.Connection[Any] | None) -> psycopg.Connection[Any] | None:
        """Commit one batch and tell its callers; return the connection, or None if there is none that works."""
        texts = [entry.text for entry in batch]
        try:
            connection = self._insert(texts, used)
        except Exception as error:  # noqa: BLE001  whatever it is, callers must be told and the thread must live
            event("audit-unavailable", error=" ".join(f"{type(error).__name__}: {error}".split()), lost=len(batch))
            for entry in batch:
                _settle(entry.written, TrailUnavailable("The audit trail cannot be written, try again."))
            return None
        for entry in batch:
            _settle(entry.written, None)
        return connection

    def _insert(self, texts: list[str], used: psycopg.Connection[Any] | None) -> psycopg.Connection[Any]:
        if used is not None:
            try:
                used.execute(_INSERT, [texts])
            except psycopg.Error:  # PostgreSQL may have been started again since
                used.close()
            else:
                return used
        connection = self._open()
        try:
            connection.execute(_INSERT, [texts])
        except psycopg.Error:
            connection.close()
            raise
        return connection


def compose(at: datetime, **values: Any) -> str:  # noqa: ANN401  those of `Trail.record`
    """Return the text of a record: compact JSON in UTF-8, keys in the order of docs/contracts.md; pure.

    Times are UTC in ISO 8601 with microseconds, `run` is a number or null, all else are strings.
    """
    names = ("who", "aid", "organisation", "verb", "object", "outcome", "source")
    record: dict[str, Any] = {"at": at.astimezone(UTC).isoformat(timespec="microseconds")}
    record |= {name: clean(values.get(name), LENGTHS.get(name, LENGTH)) for name in names}
    record |= {"run": values.get("run"), "detail": clean(values.get("detail"), LENGTHS["detail"])}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def clean(value: object, length: int) -> str:
    """Return a value as text of at most `length` characters, without what must not be in a trail.

    Control and formatting characters, line separators and lone surrogates become U+FFFD; what looks like a token or a
    PEM becomes [removed].
    """
    text = "" if value is None else str(value)[: 16 * length]
    text = _RUN.sub(_without_token, _SECRET.sub("[removed]", text))
    text = "".join("\ufffd" if unicodedata.category(c) in _INVISIBLE else c for c in text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _without_token(run: re.Match[str]) -> str:
    before, found, after = run[0].partition("eyJ")
    return before + "[removed]" if found and "." in after[6:] else run[0]


def _settle(written: Future[None], error: TrailUnavailable | None) -> None:
    with suppress(InvalidStateError):
        written.set_result(None) if error is None else written.set_exception(error)


def _give_up(written: Future[None], error: BaseException) -> NoReturn:
    written.cancel()  # one that still waits is not written any more
    event("audit-unavailable", error=f"no answer within {PATIENCE_S:.0f} s", lost=1)
    raise TrailUnavailable("The audit trail does not answer, try again.") from error


@cache
def trail() -> Trail:
    """Return the trail of this process, on FLOWERBED_AUDIT_DATABASE."""
    place = settings()
    return Trail(lambda: connect(place.audit_database, place.secrets, **_TIMES))
