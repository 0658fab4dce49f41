"""`flowerbed runs` and `flowerbed sites`: asked with a token, through the edge, and shown in 80 columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli_edge import Answer, Asked, edge, project
from flowerbed_cli import views
from flowerbed_cli.errors import AccountError
from flowerbed_cli.project import Project
from flowerbed_topology import Topology

RUN = {
    "id": 18446744073709551615,
    "app": "flowerbed/breast-cancer",
    "federation": "@flowerbed/main",
    "account": "researcher-north",
    "status": "finished",
    "sub_status": "completed",
    "sites": ["north", "south", "west"],
    "pending_at": "2026-11-22T08:00:00+00:00",
}
SITE = {
    "name": "north",
    "organisation": "North\x1b[2J Clinic",
    "federations": ["main"],
    "node": 17,
    "online": True,
    "last_heartbeat": "2026-11-22T08:00:00+00:00",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Topology]:
    return project(tmp_path_factory.mktemp("project"))


def answers(asked: Asked) -> Answer:
    if asked.path.endswith("/token"):
        return 200, {"access_token": "the-token", "expires_in": 300}
    return 200, {"runs": [RUN], "sites": [SITE, {"name": "west", "node": None, "online": False}]}


def shown(table: object) -> str:
    out = io.StringIO()
    Console(file=out, width=80).print(table)
    assert max(map(len, out.getvalue().splitlines())) <= 80
    return out.getvalue()


def test_runs_are_asked_for_as_the_kit_and_shown_whole(made: tuple[Project, Topology]) -> None:
    with edge(*made, answers) as running:
        text = shown(views.runs(views.view(*made, "runs")))
    asked = running.asked[-1]
    assert (asked.method, asked.path, asked.authorization) == ("GET", "/v1/flowerbed/runs", "Bearer the-token")
    assert (asked.host, asked.server_name) == (made[1].authority("superlink"), f"superlink.{made[1].domain}")
    for part in ("18446744073709551615", "completed", "researcher-north", "main", "north", "south", "west"):
        assert part in text
    assert "@flowerbed" not in text


def test_sites_say_which_are_online_and_which_never_registered(made: tuple[Project, Topology]) -> None:
    with edge(*made, answers):
        text = shown(views.sites(views.view(*made, "sites", "demo")))
    assert "not registered" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((403, {"detail": "A researcher may not."}), "does not show runs to kit: A researcher may not."),
        ((401, {"detail": "Authentication failed."}), "does not show runs to kit"),
        ((503, ""), "The SuperLink does not answer behind the edge: make status says what is wrong"),
        ((404, ""), "The SuperLink knows no such address"),
    ],
)
def test_a_refusal_is_one_sentence(made: tuple[Project, Topology], answer: Answer, sentence: str) -> None:
    def refusing(asked: Asked) -> Answer:
        return answers(asked) if asked.path.endswith("/token") else answer

    with edge(*made, refusing), pytest.raises(AccountError) as caught:
        views.view(*made, "runs")
    assert sentence in str(caught.value)
    assert "the-token" not in str(caught.value)


@pytest.mark.parametrize("content", [[], {}, {"runs": None}, {"runs": [5]}, "text"])
def test_an_answer_that_is_none_is_an_empty_table(content: object) -> None:
    assert views.listed(content, "runs") == []


def test_a_pipeline_that_is_none_is_refused_before_anything_is_asked(
    made: tuple[Project, Topology],
) -> None:
    with edge(*made, answers) as running, pytest.raises(AccountError, match="no pipeline 'night'"):
        views.view(*made, "runs", "night")
    assert running.asked == []
