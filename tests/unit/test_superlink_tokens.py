"""Access tokens: each way in which one is not valid, keys that change, an identity provider that is away, and the cost."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_superlink import provider as module
from flowerbed_superlink.errors import ProviderError, TokenError
from flowerbed_superlink.provider import MAX_KEYS_AGE_S, MIN_REFETCH_S, Provider
from flowerbed_superlink.tokens import MAX_REMEMBERED, SKEW_S, Tokens
from superlink_identity import AUDIENCE, FORGERIES, Issuer, Person, b64, person

NORTH = person("researcher-north", "researcher", federations=["main", "rare"])


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Asked:
    """An issuer behind a transport of httpx's, which can be away."""

    def __init__(self) -> None:
        self.issuer, self.clock, self.away, self.age = Issuer(), Clock(), False, 0.0
        http = httpx.Client(transport=httpx.MockTransport(self._answer))
        self.provider = Provider(self.issuer.issuer, Path("ca.crt"), self.clock, http)
        self.tokens = Tokens(self.provider, lambda: time.time() + self.age)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("away", request=request)
        status, content = self.issuer.answer(urlsplit(str(request.url)).path, dict(parse_qsl(request.content.decode())))
        return httpx.Response(status, json=content)

    def fetches(self) -> int:
        return sum(path.endswith("/certs") for path in self.issuer.asked)


@pytest.fixture
def asked() -> Asked:
    return Asked()


def refused(asked: Asked, token: str) -> str:
    with pytest.raises(TokenError) as caught:
        asked.tokens.validate(token)
    assert len(token) < 20 or token not in str(caught.value)  # a few letters of it may stand there by chance
    return str(caught.value)


def test_a_valid_token_names_its_account(asked: Asked) -> None:
    claims = asked.tokens.validate(asked.issuer.token(NORTH))
    assert (claims.aid, claims.name, claims.organisation) == (NORTH.aid, "researcher-north", "north")
    assert (claims.federations, claims.roles) == ({"main", "rare"}, {"researcher"})


def test_an_elliptic_key_will_do(asked: Asked) -> None:
    asked.issuer.new_key(elliptic=True)
    assert asked.tokens.validate(asked.issuer.token(NORTH)).aid == NORTH.aid


Change = Callable[[Issuer], str]


def _changed(**changes: Any) -> Change:
    return lambda issuer: issuer.token(NORTH, **changes)


def _forged(why: str, issuer: Issuer) -> str:
    return FORGERIES[why](issuer, NORTH)


def _crit(issuer: Issuer) -> str:
    return issuer.token(NORTH, headers={"crit": ["exp"]})


def _pss(issuer: Issuer) -> str:
    """Rightly signed, by a key that the issuer publishes for this algorithm: it is ours that is not allowed."""
    kid, key = next(iter(issuer.keys.items()))
    payload = jwt.decode(issuer.token(NORTH), options={"verify_signature": False})
    keys = {"keys": [jwk | {"alg": "PS256"} for jwk in issuer.jwks()["keys"]]}
    issuer.jwks = lambda: keys  # type: ignore[method-assign]
    return jwt.encode(payload, key, "PS256", headers={"kid": kid})


NOW = int(time.time())
REFUSED: dict[str, tuple[Change, str]] = {
    "expired": (_changed(exp=NOW - 3600), "has expired"),
    "not yet valid": (_changed(nbf=NOW + 3600), "not valid yet"),
    "wrong audience": (_changed(aud="account"), "not for this SuperLink"),
    "no audience": (_changed(aud=None), "is not valid"),
    "wrong issuer": (_changed(iss="https://auth.flowerbed.test/realms/master"), "another issuer"),
    "no end": (_changed(exp=None), "is not valid"),
    "an algorithm that is not allowed": (_pss, "is not valid"),
    **{why: (partial(_forged, why), "is not valid") for why in FORGERIES},
    "unknown key": (lambda issuer: issuer.token(NORTH, headers={"kid": "unknown"}), "does not know"),
    "critical extension": (_crit, "is not valid"),
    "no account id": (_changed(flowerbed_aid=None), "no id of the federation"),
    "account id of another kind": (_changed(flowerbed_aid=["p-" + "0" * 20]), "is not valid"),
    "a person as the kit": (_changed(flowerbed_aid="flowerbed"), "not issued to a client"),
    "a person as a pipeline": (_changed(flowerbed_aid="pipeline-demo"), "not issued to a client"),
    "a client that is not ours": (_changed(azp="account-console"), "not issued to a client"),
    "no client": (_changed(azp=None), "not issued to a client"),
    "a pipeline as another": (_changed(azp="pipeline-a", flowerbed_aid="pipeline-b"), "not issued to a client"),
    "two organisations": (
        _changed(flowerbed_groups=["/organisations/north", "/organisations/south"]),
        "more than one organisation",
    ),
    "groups that are no list": (_changed(flowerbed_groups="/federations/main"), "is not valid"),
    "an identity token": (_changed(typ="ID"), "not another kind of token"),
    "too long": (_changed(padding="x" * 20_000), "is not valid"),
    "empty": (lambda _: "", "is not valid"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_token_that_is_not_valid_is_refused_with_a_sentence(asked: Asked, why: str) -> None:
    make, said = REFUSED[why]
    assert said in refused(asked, make(asked.issuer))


@pytest.mark.parametrize(
    ("client", "aid"), [("kit", "flowerbed"), ("pipeline-demo", "pipeline-demo"), ("hub", "p-" + "0" * 20)]
)
def test_the_kit_pipelines_and_the_hub_are_known_by_their_clients(asked: Asked, client: str, aid: str) -> None:
    account = Person(f"service-account-{client}", aid, ["researcher"], client=client)
    claims = asked.tokens.validate(asked.issuer.token(account))
    assert claims.aid == aid
    assert claims.name == (account.name if client == "hub" else aid)


@pytest.mark.parametrize("age", [-SKEW_S + 5, SKEW_S - 5])
def test_clocks_may_differ_by_half_a_minute(asked: Asked, age: int) -> None:
    now = int(time.time())
    assert asked.tokens.validate(asked.issuer.token(NORTH, exp=now - age, nbf=now - 3600 if age > 0 else now - age))


def test_roles_and_groups_that_nobody_knows_are_left_out(asked: Asked) -> None:
    groups = ["/organisations/north", "/federations/main", "/federations/main/sub", "/federations/A B", "main", "/x/y"]
    token = asked.issuer.token(NORTH, flowerbed_groups=groups, flowerbed_roles=["auditor", "offline_access", "admin"])
    claims = asked.tokens.validate(token)
    assert (claims.federations, claims.roles) == ({"main"}, {"auditor"})


@pytest.mark.parametrize("client", ["flwr", "hub"])
@pytest.mark.parametrize("groups", [[], ["/federations/main"], ["/organisations/A B", "/federations/main"]])
def test_a_person_of_no_organisation_has_no_role(asked: Asked, client: str, groups: list[str]) -> None:
    former = person("operator-gone", "operator", "auditor", client=client)
    claims = asked.tokens.validate(asked.issuer.token(former, flowerbed_groups=groups))
    assert (claims.aid, claims.organisation, claims.roles) == (former.aid, "", frozenset())


def test_the_kit_has_its_role_without_an_organisation(asked: Asked) -> None:
    kit = Person("service-account-kit", "flowerbed", ["operator"], client="kit", organisation="")
    assert asked.tokens.validate(asked.issuer.token(kit)).roles == {"operator"}


@given(st.text(max_size=300) | st.from_regex(r"\A[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}\Z"))
def test_garbage_is_refused_and_never_fetches_keys(garbage: str) -> None:
    asked = Asked()
    refused(asked, garbage)
    assert asked.fetches() == 0


@given(
    st.fixed_dictionaries(
        {"alg": st.sampled_from(["RS256", "none", "HS256", None, 5]), "kid": st.sampled_from(["k", None, 7, ["k"]])}
    ),
    st.binary(max_size=60),
)
def test_headers_of_every_kind_are_refused(header: dict[str, Any], payload: bytes) -> None:
    refused(Asked(), f"{b64(json.dumps(header).encode())}.{b64(payload)}.{b64(b'signature')}")


@given(
    st.sampled_from(
        ["exp", "nbf", "iat", "iss", "aud", "azp", "typ", "flowerbed_aid", "flowerbed_groups", "flowerbed_roles"]
    ),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_claims_of_every_type_end_in_claims_or_a_refusal(name: str, value: Any) -> None:
    payload = json.loads(base64.urlsafe_b64decode(SIGNED.issuer.token(NORTH).split(".")[1] + "==")) | {name: value}
    kid, key = next(iter(SIGNED.issuer.keys.items()))
    signed = jwt.api_jws.encode(json.dumps(payload).encode(), key, "RS256", headers={"kid": kid})
    with contextlib.suppress(TokenError):
        assert SIGNED.tokens.validate(signed).aid == NORTH.aid


SIGNED = Asked()


def test_a_new_key_is_fetched_when_a_token_names_it(asked: Asked) -> None:
    asked.tokens.validate(asked.issuer.token(NORTH))
    asked.issuer.new_key()
    assert "does not know" in refused(asked, asked.issuer.token(NORTH))  # within the pause
    asked.clock.now += MIN_REFETCH_S
    assert asked.tokens.validate(asked.issuer.token(NORTH)).aid == NORTH.aid


def test_made_up_keys_do_not_hammer_the_identity_provider(asked: Asked) -> None:
    asked.tokens.validate(asked.issuer.token(NORTH))
    before = asked.fetches()
    for number in range(50):
        refused(asked, asked.issuer.token(NORTH, headers={"kid": f"made-up-{number}"}))
        asked.clock.now += 0.1
    assert asked.fetches() - before <= 1


def test_callers_who_waited_for_a_provider_that_hangs_take_what_came_of_it(asked: Asked) -> None:
    asking, going_on = [], threading.Event()

    def hang(request: httpx.Request) -> httpx.Response:
        asking.append(request)
        going_on.wait(10)
        asked.clock.now += MIN_REFETCH_S + 0.2  # the time that the try takes
        raise httpx.ReadTimeout("hangs", request=request)

    provider = Provider(
        asked.issuer.issuer, Path("ca.crt"), asked.clock, httpx.Client(transport=httpx.MockTransport(hang))
    )
    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(provider.key, "unknown") for _ in range(4)]
        time.sleep(0.3)  # so that the others wait
        going_on.set()
        for caller in callers:
            with pytest.raises(ProviderError, match="cannot be reached"):
                caller.result(20)
    assert len(asking) == 1


def test_a_provider_that_is_asked_too_often_is_busy_and_not_strange(asked: Asked) -> None:
    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(429, content=b"busy")))
    with pytest.raises(ProviderError, match="Too many logins at the moment"):
        Provider(asked.issuer.issuer, Path("ca.crt"), asked.clock, http).start_login()


def test_an_answer_that_drips_is_given_up(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)

    class Drip(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(100):
                time.sleep(0.05)
                yield b" "

    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Drip())))
    began = time.monotonic()
    with pytest.raises(ProviderError):
        Provider(asked.issuer.issuer, Path("ca.crt"), asked.clock, http).start_login()
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("body", [b"[" * 200_000, b"\xff\xfe\xfa", b"", b"[]"])
def test_what_is_no_answer_of_a_provider_is_said_to_be_none(asked: Asked, body: bytes) -> None:
    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=body)))
    with pytest.raises(ProviderError, match="not OpenID Connect"):
        Provider(asked.issuer.issuer, Path("ca.crt"), asked.clock, http).start_login()


def test_a_withdrawn_key_is_forgotten(asked: Asked) -> None:
    old = next(iter(asked.issuer.keys))
    asked.tokens.validate(asked.issuer.token(NORTH))
    stolen = asked.issuer.token(NORTH, kid=old, jti="stolen")
    asked.issuer.new_key()
    del asked.issuer.keys[old]
    asked.clock.now += MAX_KEYS_AGE_S
    assert "does not know" in refused(asked, stolen)


def test_with_the_identity_provider_away_known_keys_go_on(asked: Asked) -> None:
    asked.tokens.validate(asked.issuer.token(NORTH))
    asked.away = True
    asked.clock.now += MAX_KEYS_AGE_S
    assert asked.tokens.validate(asked.issuer.token(NORTH)).aid == NORTH.aid
    assert "does not know" in refused(asked, asked.issuer.token(NORTH, headers={"kid": "other"}))


def test_an_identity_provider_that_was_never_there_is_no_fault_of_the_token(asked: Asked) -> None:
    asked.away = True
    token = asked.issuer.token(NORTH)
    with pytest.raises(ProviderError, match="cannot be reached"):
        asked.tokens.validate(token)
    asked.away = False
    asked.clock.now += MIN_REFETCH_S
    assert asked.tokens.validate(token).aid == NORTH.aid


@pytest.mark.parametrize(
    "endpoints",
    [
        {"issuer": "https://elsewhere.test/realms/flowerbed"},
        {"jwks_uri": "https://elsewhere.test/certs"},
        {"jwks_uri": "http://auth.flowerbed.test/certs"},
        {"token_endpoint": None},
    ],
)
def test_a_discovery_that_leads_elsewhere_is_not_followed(asked: Asked, endpoints: dict[str, Any]) -> None:
    asked.issuer.endpoints = endpoints
    with pytest.raises(ProviderError):
        asked.tokens.validate(asked.issuer.token(NORTH))
    assert asked.fetches() == 0


def test_a_token_is_checked_once_and_asks_nothing_again(asked: Asked) -> None:
    token = asked.issuer.token(NORTH)
    first, before = asked.tokens.validate(token), len(asked.issuer.asked)
    asked.away = True
    assert asked.tokens.remembered(token) is first
    assert asked.tokens.validate(token) is first
    assert len(asked.issuer.asked) == before
    asked.age = asked.issuer.lifetime_s + SKEW_S
    assert asked.tokens.remembered(token) is None


def test_what_is_remembered_is_bounded(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowerbed_superlink.tokens.MAX_REMEMBERED", 3)
    assert MAX_REMEMBERED > 1000
    first = asked.issuer.token(NORTH)
    for token in [first, *(asked.issuer.token(NORTH) for _ in range(4))]:
        asked.tokens.validate(token)
    assert len(asked.tokens._valid) == 3
    assert asked.tokens.remembered(first) is None


def test_a_refused_token_is_not_remembered(asked: Asked) -> None:
    token = asked.issuer.token(NORTH, aud="account")
    refused(asked, token)
    assert asked.tokens.remembered(token) is None
    assert AUDIENCE not in token
