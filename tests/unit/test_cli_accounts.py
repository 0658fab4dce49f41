"""Tokens by client credentials through the edge, and how they reach `flwr` in a container's shell."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ca_support import authority
from cli_edge import Answer, Asked, Edge, edge, project
from flowerbed_cli import accounts
from flowerbed_cli.errors import AccountError
from flowerbed_cli.project import Project
from flowerbed_topology import Topology

Made = tuple[Project, Topology]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return project(tmp_path_factory.mktemp("project"))


def granted(asked: Asked) -> Answer:
    name = base64.b64decode(asked.authorization.removeprefix("Basic ")).decode()
    return 200, {"access_token": f"token of {name}", "expires_in": 300, "token_type": "Bearer"}


@pytest.fixture
def running(made: Made) -> Iterator[Edge]:
    with edge(*made, granted) as started:
        yield started


def test_a_token_is_asked_for_under_the_issuers_name(made: Made, running: Edge) -> None:
    assert accounts.token(*made, "kit") == "token of kit:secret of kit"
    (asked,) = running.asked
    assert asked.path == "/realms/flowerbed/protocol/openid-connect/token"
    assert asked.host == made[1].authority("auth")
    assert asked.server_name == "auth.flowerbed.localhost"
    assert asked.form == {"grant_type": ["client_credentials"]}


def test_no_proxy_and_no_foreign_root_is_asked(made: Made, running: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/hostname")
    assert accounts.token(*made, "pipeline-demo") == "token of pipeline-demo:secret of pipeline-demo"
    assert len(running.asked) == 1


def test_a_server_of_another_authority_is_told_nothing(made: Made, tmp_path: Path) -> None:
    # The same names and port, but an authority of its own.
    other, _ = project(tmp_path)
    with edge(other, made[1], granted) as started, pytest.raises(AccountError, match="is another stack up"):
        accounts.token(*made, "kit")
    assert started.asked == []


def test_a_server_with_another_name_is_told_nothing(made: Made, tmp_path: Path) -> None:
    authority(tmp_path / "ca" / "pki")
    wrong = Project(tmp_path)
    with edge(wrong, made[1], granted) as started, pytest.raises(AccountError, match="is another stack up"):
        accounts.token(*made, "kit")
    assert started.asked == []


def test_an_edge_that_is_down_is_one_sentence(made: Made) -> None:
    with pytest.raises(AccountError, match=r"^The edge at https://127\.0\.0\.1:\d+ cannot be reached: run make up\.$"):
        accounts.token(*made, "kit")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            (401, {"error": "invalid_client", "error_description": "Invalid client credentials"}),
            "refused the client kit",
        ),
        ((400, {"error": "unauthorized_client"}), "'unauthorized_client'"),
        ((502, "<html>"), "Keycloak does not answer behind the edge: make status"),
        ((503, ""), "Keycloak does not answer behind the edge"),
        ((404, {"error": "Realm does not exist"}), "run make up, which sets it up"),
        ((429, ""), "wait a minute"),
        ((500, "[]"), "Keycloak answered 500: make logs"),
        ((200, "[]"), "Keycloak answered 200"),
    ],
)
def test_every_refusal_is_one_sentence(made: Made, answer: Answer, sentence: str) -> None:
    with edge(*made, lambda _: answer), pytest.raises(AccountError) as caught:
        accounts.token(*made, "kit")
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "secret of kit" not in str(caught.value)


def test_a_client_without_a_secret_names_the_remedy(made: Made) -> None:
    with pytest.raises(AccountError, match=r"no secret of the client pipeline-night .*: run make up\.$"):
        accounts.token(*made, "pipeline-night")


def test_an_unknown_pipeline_is_told_which_there_are(made: Made) -> None:
    assert accounts.pipeline(made[1], "demo") == "pipeline-demo"
    with pytest.raises(AccountError, match=r"^There is no pipeline 'night' in federation\.yaml; there are: demo\.$"):
        accounts.pipeline(made[1], "night")
    none = made[1].model_copy(update={"pipelines": ()})
    with pytest.raises(AccountError, match="add one under pipelines, and run make up"):
        accounts.pipeline(none, "demo")


def test_flwr_reads_the_credentials_as_its_own(made: Made, tmp_path: Path) -> None:
    (tmp_path / "credentials.yaml").write_text(accounts.credentials(made[1], "the token"))
    address = f"superlink.{made[1].domain}:{made[1].edge.https_port}"
    code = (
        "from flwr.cli.utils import load_cli_auth_plugin_from_connection as plugin\n"
        f"it = plugin({address!r}); it.load_tokens(); print(type(it).__name__, it.access_token, it.refresh_token)"
    )
    environment = os.environ | {"FLWR_HOME": str(tmp_path), "FLWR_TELEMETRY_ENABLED": "0"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "OidcCliPlugin the token none"


def shell(tmp_path: Path, script: str, stdin: int) -> subprocess.CompletedProcess[str]:
    """Run what a container's shell would run, its files below a directory of the test's."""
    (tmp_path / "config.toml").write_text("[superlink]\n")
    login = accounts.LOGIN.replace("/config/", f"{tmp_path}/")
    environment = {"PATH": os.environ["PATH"], "FLWR_HOME": str(tmp_path / "home")}
    return subprocess.run(
        ["sh", "-euc", login + script], env=environment, stdin=stdin, capture_output=True, text=True, timeout=30,
        check=True,
    )  # fmt: skip


def test_credentials_are_the_users_alone_and_nothing_is_left_to_read(made: Made, running: Edge, tmp_path: Path) -> None:
    script = 'ls -l "$FLWR_HOME/credentials.yaml"; cat; echo "[${line-}]"; cat "$FLWR_HOME/credentials.yaml"'
    with accounts.fed(*made, "kit") as stdin:
        lines = shell(tmp_path, script, stdin).stdout.splitlines()
    assert lines[0].startswith("-rw------- ")
    assert lines[1] == "[]"
    assert lines[2] == accounts.credentials(made[1], "token of kit:secret of kit")
    assert len(running.asked) == 1


def test_fresh_credentials_come_before_the_last_ones_end(made: Made, tmp_path: Path) -> None:
    tokens = iter(range(100))

    def short(_: Asked) -> Answer:
        return 200, {"access_token": f"token {next(tokens)}", "expires_in": 2}

    script = 'sleep 2.6; cat "$FLWR_HOME/credentials.yaml"; ls -A "$FLWR_HOME"'
    with edge(*made, short), accounts.fed(*made, "kit") as stdin:
        shown = shell(tmp_path, script, stdin).stdout.splitlines()
    assert shown[0] in [accounts.credentials(made[1], f"token {number}") for number in (1, 2)]
    assert shown[1:] == ["config.toml", "credentials.yaml"]


def test_keycloak_away_for_a_while_does_not_end_a_run(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "AGAIN_S", 0.2)
    answers = iter([(200, {"access_token": "first", "expires_in": 2}), *[(502, "")] * 3])

    def away(_: Asked) -> Answer:
        return next(answers, (200, {"access_token": "later", "expires_in": 300}))

    script = 'sleep 3; cat "$FLWR_HOME/credentials.yaml"'
    with edge(*made, away), accounts.fed(*made, "kit") as stdin:
        assert shell(tmp_path, script, stdin).stdout.strip() == accounts.credentials(made[1], "later")


@pytest.mark.parametrize("wrong", [{"access_token": "odd", "expires_in": "soon"}, "\xff"])
def test_an_answer_that_nobody_foresaw_does_not_end_the_renewing(
    wrong: object, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accounts, "AGAIN_S", 0.2)
    answers = iter([(200, {"access_token": "first", "expires_in": 1}), (200, wrong)])

    def odd(_: Asked) -> Answer:
        return next(answers, (200, {"access_token": "later", "expires_in": 300}))  # type: ignore[return-value]

    script = 'sleep 2; cat "$FLWR_HOME/credentials.yaml"'
    with edge(*made, odd), accounts.fed(*made, "kit") as stdin:
        assert shell(tmp_path, script, stdin).stdout.strip() == accounts.credentials(made[1], "later")
    assert ("No fresh token came" in capfd.readouterr().err) is isinstance(wrong, dict)


def test_a_command_that_ends_early_ends_the_feeding(made: Made, running: Edge, tmp_path: Path) -> None:
    begun = time.monotonic()
    with accounts.fed(*made, "kit") as stdin:
        shell(tmp_path, "true", stdin)
    assert time.monotonic() - begun < 5
    assert len(running.asked) == 1


def test_no_token_no_command(made: Made) -> None:
    with (
        edge(*made, lambda _: (401, {"error": "invalid_client"})),
        pytest.raises(AccountError),
        accounts.fed(*made, "kit"),
    ):
        pytest.fail("began without a token")
