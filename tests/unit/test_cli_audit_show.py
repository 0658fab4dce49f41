"""`flowerbed audit show`: a table that fits a terminal and that no record can steer."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from flowerbed_cli.audit_show import Wanted, _parsed, table

RECORD: dict[str, Any] = {
    "at": "2026-01-02T03:04:05.000006+00:00",
    "who": "researcher-north",
    "aid": "p-0123456789abcdef0123",
    "organisation": "north",
    "verb": "refresh-auth-tokens",
    "object": "supernode " + "0123456789ab" + "c" * 52,
    "outcome": "refused",
    "source": "192.0.2.9",
    "run": 2**64 - 1,
    "detail": "403 " + "word " * 60,
}


def shown(*records: dict[str, Any]) -> str:
    console = Console(width=80, file=StringIO(), force_terminal=False)
    console.print(table([(12345678 + number, record) for number, record in enumerate(records)]))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_every_line_fits_80_columns_and_nothing_is_lost_but_the_rest_of_sums() -> None:
    printed = shown(RECORD, RECORD | {"who": "", "run": None, "organisation": ""})
    assert max(map(len, printed.splitlines())) <= 80
    words = "".join(printed.split())
    for word in (
        "12345678",
        "2026-01-02",
        "03:04:05",
        "researcher-north",
        "refused",
        "18446744073709551615",
        "192.0.2.9",
    ):
        assert word in words
    assert "ccccc" not in printed
    assert words.count("word") == 120


def test_a_record_written_by_hand_cannot_steer_the_terminal() -> None:
    printed = shown(RECORD | {"who": "\x1b[2J[red]x[/red]\u202e", "detail": "\x07", "verb": ["odd"], "outcome": 7})
    assert not {"\x1b", "\x07", "\u202e"} & set(printed)
    assert "[red]x[/red]" in "".join(printed.split()).replace("\ufffd", "")


def test_a_row_that_is_no_record_is_shown_as_it_is() -> None:
    assert _parsed(b"rubbish") == (0, {"detail": "rubbish"})
    assert _parsed(b'{"seq":7,"record":{no json},"hash":"' + b"0" * 64 + b'"}') == (7, {"detail": "{no json}"})
    assert "rubbish" in shown({"detail": "rubbish"})


def test_records_are_chosen_by_name_or_id_and_verb_and_run() -> None:
    assert Wanted(1).matches(RECORD)
    assert Wanted(1, "researcher-north", "refresh-auth-tokens", str(2**64 - 1)).matches(RECORD)
    assert Wanted(1, RECORD["aid"]).matches(RECORD)
    for wanted in (Wanted(1, "researcher"), Wanted(1, verb="login"), Wanted(1, run="1"), Wanted(1, run="None")):
        assert not wanted.matches(RECORD)
