"""The list of people: what `put` takes, ids of accounts, and how the serving SuperLink reads it; PostgreSQL is elsewhere."""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, NoReturn

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from flowerbed_superlink import kit, people, stopping
from flowerbed_superlink.directory import MAX_AGE_S, MIN_AGE_S, Directory
from flowerbed_superlink.errors import PeopleError
from flowerbed_superlink.people import Entry, new_aid, parse

GOOD = {"name": "researcher-north", "kind": "demo", "organisation": "north", "roles": ["researcher"]}


def test_an_entry_needs_little_and_takes_all_of_the_contract() -> None:
    entry = parse(json.dumps([GOOD]))[0]
    assert (entry.email, entry.federations, entry.enabled) == (None, [], True)
    full = GOOD | {
        "email": "n@example.org",
        "first_name": "N",
        "last_name": "O",
        "federations": ["main"],
        "enabled": False,
    }
    assert parse(json.dumps([full]))[0].model_dump() == full


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is wrong at the input: Invalid JSON"),
        ("{}", "is wrong at the input: Input should be a valid"),
        (json.dumps([GOOD | {"name": "Upper"}]), r"is wrong at \[0\]\.name: .*, found \"Upper\"\."),
        (json.dumps([GOOD | {"kind": "robot"}]), r"at \[0\]\.kind: .* found \"robot\""),
        (json.dumps([GOOD | {"roles": ["root"]}]), r"at \[0\]\.roles\[0\]: .* found \"root\""),
        (json.dumps([GOOD | {"enabled": "yes"}]), r"at \[0\]\.enabled: "),
        (json.dumps([GOOD | {"password": "x"}]), r"at \[0\]\.password: Extra inputs"),
        (json.dumps([GOOD, GOOD]), "names 'researcher-north' twice"),
        (json.dumps([{"name": "a"}]), r"at \[0\]\.kind: Field required"),
    ],
)
def test_wrong_input_is_one_sentence(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PeopleError, match=said) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("arguments", [[], ["list", "more"], ["stop"], ["drop"], ["put", "x"]])
def test_wrong_arguments_are_one_sentence_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert people.main(arguments) == 2
    assert capsys.readouterr().err == "Use it as: python -m flowerbed_superlink.people list | put | stop NAME.\n"


@given(st.text(max_size=200))
def test_garbage_is_a_sentence(text: str) -> None:
    try:
        assert isinstance(parse(text), list)
    except PeopleError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017  either is right


def test_ids_of_people_are_random_and_those_of_machines_are_their_clients() -> None:
    ids = {new_aid(Entry(**GOOD)) for _ in range(50)}  # type: ignore[arg-type]  # a dictionary of several types
    assert len(ids) == 50
    assert all(re.fullmatch(r"p-[0-9a-f]{20}", aid) for aid in ids)
    assert new_aid(Entry(name="pipeline-demo", kind="pipeline", roles=[])) == "pipeline-demo"
    assert new_aid(Entry(name="flowerbed", kind="kit", roles=["operator"])) == "flowerbed"


class List:
    """The table, its readings counted; away when told so."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = [("p-1", "one", True, ["main"])]
        self.read, self.now, self.away = 0, 100.0, False

    def __call__(self) -> list[tuple[Any, ...]]:
        self.read += 1
        if self.away:
            raise psycopg.OperationalError("away")
        return self.rows

    def directory(self) -> Directory:
        return Directory(self, lambda: self.now)


def test_the_list_is_read_every_two_seconds_and_not_per_request() -> None:
    table = List()
    directory = table.directory()
    assert not directory.settled("p-1")
    for _ in range(100):
        assert directory.problem("p-1") is None
        assert directory.settled("p-1")
    assert table.read == 1
    table.rows = [("p-1", "one", False, ["main"])]
    assert directory.problem("p-1") is None
    table.now += MAX_AGE_S
    assert directory.problem("p-1") == "This account is disabled: ask an operator."
    assert table.read == 2


def test_somebody_who_was_added_just_now_may_come_in() -> None:
    table = List()
    directory = table.directory()
    directory.accounts()
    table.rows.append(("p-2", "two", True, []))
    assert "not in the federation's list" in str(directory.problem("p-2"))
    table.now += MIN_AGE_S
    assert not directory.settled("p-2")
    assert directory.problem("p-2") is None


def test_without_the_database_the_last_list_holds_and_none_is_an_error() -> None:
    table = List()
    directory = table.directory()
    directory.accounts()
    table.away, table.now = True, table.now + MAX_AGE_S
    assert directory.problem("p-1") is None
    assert "p-1" in directory.accounts()
    with pytest.raises(PeopleError, match="cannot be read"):
        table.directory().accounts()


def test_callers_who_waited_for_a_database_that_hangs_take_what_came_of_it() -> None:
    table, going_on = List(), threading.Event()
    table.away = True

    def hang() -> list[tuple[Any, ...]]:
        going_on.wait(10)
        table.now += MAX_AGE_S + 1  # the time that the try takes
        return table()

    directory = Directory(hang, lambda: table.now)
    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(directory.problem, "p-1") for _ in range(4)]
        time.sleep(0.3)  # so that the others wait
        going_on.set()
        for caller in callers:
            with pytest.raises(PeopleError, match="cannot be read"):
                caller.result(20)
    assert table.read == 1


def test_a_list_at_hand_waits_for_nobody_who_reads_it_anew() -> None:
    table, reading, going_on = List(), threading.Event(), threading.Event()

    def slow() -> list[tuple[Any, ...]]:
        if table.read:
            reading.set()
            going_on.wait(10)
        return table()

    directory = Directory(slow, lambda: table.now)
    directory.accounts()
    table.now += MIN_AGE_S
    with ThreadPoolExecutor(1) as pool:
        stranger = pool.submit(directory.problem, "p-2")
        assert reading.wait(10)
        assert directory.settled("p-1")
        assert directory.problem("p-1") is None  # while the other reads
        assert not stranger.done()
        going_on.set()
        assert stranger.result(10)


def test_a_query_that_took_too_long_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def execute(query: bytes, _values: object) -> NoReturn:
        asked.append(query)
        raise psycopg.errors.QueryCanceled("statement timeout")

    monkeypatch.setattr(kit, "open_kit", lambda: SimpleNamespace(execute=execute, close=lambda: None))
    one = kit.Kit()
    for _ in range(2):
        with pytest.raises(psycopg.errors.QueryCanceled):
            one.rows("SELECT 1")
    assert len(asked) == 2


def test_runs_that_cannot_be_stopped_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away() -> NoReturn:
        raise OperationalError("SELECT", {}, Exception("connection refused"))

    monkeypatch.setattr(stopping, "_state", away)
    monkeypatch.setattr(people, "open_kit", nullcontext)
    monkeypatch.setattr(people, "aid_of", lambda _connection, name: name)
    assert people.main(["stop", "somebody"]) == 2
    assert capsys.readouterr().err.startswith("Flower's database does not answer, so runs of 'somebody' may go on: ")


def test_machines_need_no_entry_but_can_be_disabled() -> None:
    table = List()
    directory = table.directory()
    assert directory.problem("pipeline-demo") is None
    assert directory.settled("pipeline-demo")
    table.rows.append(("pipeline-demo", "demo", False, []))
    table.now += MAX_AGE_S
    assert directory.problem("pipeline-demo") is not None
