"""Logging in: the device grant's answers, refreshes that race on one rotating token, and what the trail is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from fastapi import HTTPException
from flwr.common.constant import ACCESS_TOKEN_KEY, REFRESH_TOKEN_KEY

from flowerbed_superlink import login
from flowerbed_superlink.asking import Asking, ask_as
from flowerbed_superlink.directory import Directory
from flowerbed_superlink.login import REPEAT_S, OidcLogin
from flowerbed_superlink.provider import AT_ONCE, Provider
from flowerbed_superlink.tokens import Tokens
from flowerbed_superlink.trail import Trail, TrailUnavailable
from superlink_identity import Issuer, Person, person

NORTH = person("researcher-north", "researcher")


class TrailMock(Trail):
    """A mock: remembers records, and is away when told so. The real trail has tests of its own."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.away = False

    def record(self, **values: Any) -> None:
        if self.away:
            raise TrailUnavailable("away")
        self.records.append(values)

    def note(self, **values: Any) -> None:
        self.records.append(values)


class Login:
    """The plugin with an issuer behind a transport of httpx's."""

    def __init__(self) -> None:
        self.issuer, self.trail, self.now, self.away = Issuer(), TrailMock(), 0.0, False
        self.enabled, self.gate = True, threading.Event()
        self.gate.set()
        http = httpx.Client(transport=httpx.MockTransport(self._answer))
        self.provider = Provider(self.issuer.issuer, Path("ca.crt"), lambda: self.now, http)
        self.plugin = OidcLogin.__new__(OidcLogin)
        directory = Directory(lambda: [(NORTH.aid, NORTH.name, self.enabled, ["main"])], lambda: self.now)
        self.plugin._use(self.provider, Tokens(self.provider), directory, self.trail, lambda: self.now)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.gate.wait(10)
        if self.away:
            raise httpx.ConnectError("away", request=request)
        status, content = self.issuer.answer(urlsplit(str(request.url)).path, dict(parse_qsl(request.content.decode())))
        return httpx.Response(status, json=content)

    def refresh(self, token: str) -> tuple[str, str] | None:
        metadata, account = self.plugin.refresh_tokens([(REFRESH_TOKEN_KEY, token)])
        assert (metadata is None) == (account is None)
        if metadata is None:
            return None
        found = dict(metadata)
        return str(found[ACCESS_TOKEN_KEY]), str(found[REFRESH_TOKEN_KEY])

    def refreshes(self) -> int:
        return sum(path.endswith(" refresh_token") for path in self.issuer.asked)

    def said(self) -> list[tuple[str, str, str]]:
        return [(record["verb"], record["outcome"], record["who"]) for record in self.trail.records]


@pytest.fixture
def world() -> Iterator[Login]:
    ask_as(Asking("192.0.2.7"))
    return Login()


def test_a_login_goes_from_the_page_to_tokens_and_the_trail(world: Login) -> None:
    details = world.plugin.get_login_details()
    assert details is not None
    assert details.verification_uri_complete.startswith(
        "https://auth.flowerbed.test/realms/flowerbed/device?user_code="
    )
    assert world.plugin.get_auth_tokens(details.device_code) is None
    world.issuer.approve("slow_down")
    assert world.plugin.get_auth_tokens(details.device_code) is None
    world.issuer.approve(NORTH)
    tokens = world.plugin.get_auth_tokens(details.device_code)
    assert tokens is not None
    valid, account = world.plugin.validate_tokens_in_metadata([(ACCESS_TOKEN_KEY, tokens.access_token)])
    assert valid
    assert account is not None
    assert (account.flwr_aid, account.account_name) == (NORTH.aid, "researcher-north")
    assert world.said() == [("login", "started", ""), ("login", "done", "researcher-north")]
    assert {record["source"] for record in world.trail.records} == {"192.0.2.7"}
    assert not [
        r for r in world.trail.records for v in r.values() if str(v) in (tokens.access_token, details.device_code)
    ]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("access_denied", "was refused on the page"),
        ("expired_token", "took too long"),
        ("invalid_grant", "not valid any more"),
        (person("stranger", "researcher"), "not in the federation's list of people"),
    ],
)
def test_a_login_that_fails_says_why_and_is_recorded(world: Login, result: Person | str, said: str) -> None:
    details = world.plugin.get_login_details()
    assert details is not None
    world.issuer.approve(result)
    with pytest.raises(HTTPException, match=said) as caught:
        world.plugin.get_auth_tokens(details.device_code)
    assert caught.value.status_code == 403
    assert world.said()[-1] == ("login", "refused", "")


def test_a_disabled_person_gets_no_tokens(world: Login) -> None:
    world.enabled = False
    world.plugin.get_login_details()
    world.issuer.approve(NORTH)
    with pytest.raises(HTTPException, match="is disabled"):
        world.plugin.get_auth_tokens(next(iter(world.issuer.logins)))
    assert world.refresh(world.issuer.refresh_token(NORTH)) is None


def test_with_the_identity_provider_away_a_login_says_so(world: Login) -> None:
    world.away = True
    with pytest.raises(HTTPException, match="identity provider cannot be reached") as caught:
        world.plugin.get_login_details()
    assert caught.value.status_code == 503


def test_a_login_that_the_browser_confirmed_outlives_an_identity_provider_that_was_away(world: Login) -> None:
    world.plugin.get_login_details()
    world.issuer.approve(NORTH)
    code = next(iter(world.issuer.logins))
    world.away = True
    assert world.plugin.get_auth_tokens(code) is None
    world.away = False
    assert world.plugin.get_auth_tokens(code) is not None


def test_no_tokens_are_given_out_unrecorded(world: Login) -> None:
    world.plugin.get_login_details()
    world.issuer.approve(NORTH)
    world.trail.away = True
    with pytest.raises(HTTPException, match="audit trail cannot be written") as caught:
        world.plugin.get_auth_tokens(next(iter(world.issuer.logins)))
    assert caught.value.status_code == 503


def test_logins_that_anybody_begins_are_recorded_once_a_minute(world: Login) -> None:
    world.trail.away = True
    with pytest.raises(HTTPException, match="audit trail cannot be written"):
        world.plugin.get_login_details()
    world.trail.away = False
    for _ in range(20):
        assert world.plugin.get_login_details() is not None
    assert world.said() == [("login", "started", "")]
    ask_as(Asking("192.0.2.8"))
    world.plugin.get_login_details()
    assert [record["source"] for record in world.trail.records] == ["192.0.2.7", "192.0.2.8"]
    for _ in range(20):
        assert world.refresh("a.b.c") is None
    assert world.said()[2:] == [("refresh", "refused", "")]


def test_processes_that_race_on_one_refresh_token_all_get_the_same_pair(world: Login) -> None:
    old = world.issuer.refresh_token(NORTH)
    world.gate.clear()
    with ThreadPoolExecutor(10) as pool:
        results = [pool.submit(world.refresh, old) for _ in range(10)]
        world.gate.set()
        pairs = {result.result(20) for result in results}
    assert len(pairs) == 1
    assert None not in pairs
    assert world.refreshes() == 1
    assert world.said() == [("refresh", "done", "researcher-north")]


def test_a_repeat_gets_the_same_pair_for_a_minute_and_no_longer(world: Login) -> None:
    old = world.issuer.refresh_token(NORTH)
    first = world.refresh(old)
    world.now += REPEAT_S - 1
    assert world.refresh(old) == first
    world.now += 1
    assert world.refresh(old) is None
    assert first is not None
    assert world.refresh(first[1]) not in (None, first)
    assert len(world.plugin._refreshes) <= 2


def test_different_tokens_do_not_wait_for_each_other(world: Login) -> None:
    world.refresh(world.issuer.refresh_token(NORTH))
    held = world.plugin._refresh_of(one := world.issuer.refresh_token(NORTH))
    with held as refresh, refresh.lock:
        assert world.refresh(world.issuer.refresh_token(NORTH)) is not None
    assert world.refresh(one) is not None


def test_a_pair_that_could_not_be_recorded_is_not_lost(world: Login) -> None:
    old = world.issuer.refresh_token(NORTH)
    world.trail.away = True
    with pytest.raises(HTTPException):
        world.refresh(old)
    world.trail.away = False
    assert world.refresh(old) is not None
    assert world.refreshes() == 1
    assert world.said() == [("refresh", "done", "researcher-north")]


@pytest.mark.parametrize("token", ["none", "", "a.b", "x" * 20_000, "a.b.c"])
def test_what_is_no_refresh_token_of_ours_gives_nothing_and_is_forgotten(world: Login, token: str) -> None:
    assert world.refresh(token) is None
    assert world.refreshes() == (token == "a.b.c")
    world.now += 5
    world.refresh("d.e.f")
    assert len(world.plugin._refreshes) == 1


def test_repeats_of_a_refresh_that_failed_ask_nobody_for_five_seconds(world: Login) -> None:
    world.away, asked = True, len(world.issuer.asked)
    for _ in range(10):
        with pytest.raises(HTTPException):
            world.refresh("a.b.c")
    world.away = False
    with pytest.raises(HTTPException):
        world.refresh("a.b.c")
    assert len(world.issuer.asked) == asked
    world.now += 5
    assert world.refresh("a.b.c") is None
    assert world.refreshes() == 1


def test_an_identity_provider_that_hangs_holds_a_bounded_number_of_threads(world: Login) -> None:
    world.plugin.get_login_details()
    world.gate.clear()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        hanging = [pool.submit(world.plugin.get_login_details) for _ in range(AT_ONCE)]
        while world.provider._slots._value:  # type: ignore[attr-defined]  # how many are free
            pass
        with pytest.raises(HTTPException, match="Too many logins"):
            world.plugin.get_login_details()
        world.gate.set()
        assert all(result.result(20) for result in hanging)


def test_a_provider_that_refuses_to_rotate_is_no_login(world: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"access_token": world.issuer.token(NORTH)}
    monkeypatch.setattr(world.provider, "login_tokens", lambda _: answer)
    with pytest.raises(HTTPException, match="no access token with a refresh token"):
        world.plugin.get_auth_tokens("code")
    with pytest.raises(HTTPException, match="offers no login for devices"):
        login._details({"device_code": "x"})
