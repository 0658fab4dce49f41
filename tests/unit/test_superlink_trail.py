"""The audit trail's writer: what a record is, how records share a commit, and what happens when nobody can write."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import unicodedata
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_support import VALUES
from flowerbed_superlink import trail as module
from flowerbed_superlink.trail import Trail, TrailUnavailable, clean, compose
from superlink_gate import AWAY, ConnectionInMemory
from superlink_support import wait_until

AT = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
KEYS = ["at", "who", "aid", "organisation", "verb", "object", "outcome", "source", "run", "detail"]


@pytest.fixture
def memory() -> ConnectionInMemory:
    return ConnectionInMemory()


@pytest.fixture
def trail(memory: ConnectionInMemory) -> Trail:
    return Trail(memory.open)


def test_a_record_has_its_keys_in_their_order_and_its_time_in_utc() -> None:
    text = compose(AT.astimezone(timezone(timedelta(hours=5))), **VALUES)
    assert json.loads(text) == VALUES | {"at": "2026-01-02T03:04:05.000006+00:00", "detail": ""}
    assert list(json.loads(text)) == KEYS
    assert compose(AT.replace(microsecond=0), **VALUES).startswith('{"at":"2026-01-02T03:04:05.000000+00:00",')


@given(values=st.fixed_dictionaries({name: st.text(max_size=2500) for name in (*VALUES.keys() - {"run"}, "detail")}))
def test_whatever_is_handed_in_a_record_is_one_short_line_that_can_be_stored(values: dict[str, str]) -> None:
    text = compose(AT, run=7, **values)
    assert len(text.encode()) <= 16384
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in text)
    record = json.loads(text)
    assert list(record) == KEYS
    assert len(record["who"]) <= 200
    assert len(record["object"]) <= 500
    assert len(record["detail"]) <= 1000


def test_what_is_too_long_says_so() -> None:
    assert clean("a" * 200, 200) == "a" * 200
    assert clean("a" * 201, 200) == "a" * 199 + "…"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("two\nlines\x00", "two\ufffdlines\ufffd"),
        ("\x1b[31mred", "\ufffd[31mred"),
        ("north\u202etxt.exe", "north\ufffdtxt.exe"),
        ("lone \udc80", "lone \ufffd"),
        ("Uniklinik Köln 漢", "Uniklinik Köln 漢"),
        ("Bearer abc.def", "[removed]"),
        ("token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln tail", "token [removed] tail"),
        ("token=x_eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln", "token=x_[removed]"),
        ("-----BEGIN PRIVATE KEY-----MIG", "[removed]"),
    ],
)
def test_what_must_not_be_in_a_trail_is_replaced(given: str, kept: str) -> None:
    assert clean(given, 200) == kept


def test_a_record_is_printed_and_committed(
    trail: Trail, memory: ConnectionInMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    trail.record(**VALUES, detail="by hand")
    assert [record | {"at": ""} for record in memory.records] == [VALUES | {"at": "", "detail": "by hand"}]
    line = json.loads(capsys.readouterr().out)
    assert line == {"component": "superlink", "event": "audit"} | memory.records[0]


def test_who_waits_together_is_committed_together(trail: Trail, memory: ConnectionInMemory) -> None:
    go = threading.Event()
    execute = memory.execute
    memory.execute = lambda *given: (go.wait(10), execute(*given))[1]  # type: ignore[method-assign]  # the slow disk
    threads = [threading.Thread(target=trail.record, kwargs=VALUES) for _ in range(40)]
    for thread in threads:
        thread.start()
    wait_until(lambda: trail._waiting.qsize() == 40 - 1 or trail._waiting.qsize() >= 30, 10, "the queue")
    go.set()
    for thread in threads:
        thread.join()
    assert len(memory.texts) == 40
    assert len(memory.batches) <= 11
    assert memory.opened == 1


def test_a_server_that_is_away_is_said_at_once_and_its_return_noticed(
    trail: Trail, memory: ConnectionInMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.error = AWAY
    began = time.monotonic()
    with pytest.raises(TrailUnavailable, match="cannot be written, try again"):
        trail.record(**VALUES)
    assert time.monotonic() - began < 1
    trail.note(**VALUES)
    assert json.loads(capsys.readouterr().err.splitlines()[0])["event"] == "audit-unavailable"
    memory.error = None
    trail.record(**VALUES | {"who": "afterwards"})
    assert memory.records[-1]["who"] == "afterwards"


def test_a_connection_that_broke_is_opened_again_without_a_refusal(trail: Trail, memory: ConnectionInMemory) -> None:
    trail.record(**VALUES)
    broken, memory.execute = memory.execute, _raise_away  # type: ignore[method-assign]
    memory.open = lambda: setattr(memory, "execute", broken) or memory  # type: ignore[method-assign]
    trail._open = memory.open
    trail.record(**VALUES)
    assert len(memory.texts) == 2


def _raise_away(*_: object) -> None:
    raise AWAY


def test_a_server_that_hangs_is_given_up_and_what_waited_is_not_written_later(
    trail: Trail, memory: ConnectionInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)
    go = threading.Event()
    execute = memory.execute
    memory.execute = lambda *given: (go.wait(10), execute(*given))[1]  # type: ignore[method-assign]
    with pytest.raises(TrailUnavailable, match="does not answer"):
        trail.record(**VALUES | {"who": "in flight"})
    with pytest.raises(TrailUnavailable, match="does not answer"):
        trail.record(**VALUES | {"who": "given up"})
    with pytest.raises(TrailUnavailable, match="does not answer"):
        asyncio.run(trail.record_async(**VALUES | {"who": "given up"}))
    go.set()
    trail.record(**VALUES | {"who": "afterwards"})
    assert [record["who"] for record in memory.records] == ["in flight", "afterwards"]


def test_a_stop_waits_for_a_server_that_hangs_no_longer_than_it_must(
    trail: Trail, memory: ConnectionInMemory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "CLOSING_S", 0.2)
    go = threading.Event()
    memory.execute = lambda *_: go.wait(10)  # type: ignore[method-assign]
    trail.note(**VALUES)
    began = time.monotonic()
    trail.close()
    assert time.monotonic() - began < 5
    assert "the SuperLink stops" in capsys.readouterr().err
    go.set()


def test_more_than_can_wait_is_refused(
    trail: Trail, memory: ConnectionInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "_ensure_writer", lambda: None)
    trail._waiting.maxsize = 2
    trail.note(**VALUES)
    trail.note(**VALUES)
    with pytest.raises(TrailUnavailable, match="cannot keep up"):
        trail.record(**VALUES)
    trail.note(**VALUES)
    assert trail._waiting.qsize() == 2
    assert memory.texts == []


def test_a_loop_waits_without_a_thread(trail: Trail, memory: ConnectionInMemory) -> None:
    async def many() -> None:
        await asyncio.gather(*(trail.record_async(**VALUES) for _ in range(100)))

    asyncio.run(many())
    assert len(memory.texts) == 100
