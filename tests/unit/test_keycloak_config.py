"""Keycloak's configuration file, and the sentences for what Keycloak answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keycloak.exceptions import KeycloakConnectionError, KeycloakGetError, KeycloakPostError

from flowerbed_keycloak import Access, KeycloakDownError, KeycloakRefusedError, keycloak_conf
from flowerbed_keycloak.errors import sentences
from keycloak_support import topology

PASSWORD, BOOTSTRAP = "d" * 64, "b" * 64
TOPOLOGY = topology(domain="flower.example.org", edge={"https_port": 9443, "http_port": 9080})


def options(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_it_speaks_tls_on_both_sides_and_trusts_the_edge_alone() -> None:
    made = options(keycloak_conf(TOPOLOGY, PASSWORD, BOOTSTRAP))
    assert made["db-url"] == "jdbc:postgresql://postgres:5432/keycloak?sslmode=verify-full&sslrootcert=/secrets/ca.crt"
    assert (made["http-enabled"], made["https-certificate-file"]) == ("false", "/secrets/tls.crt")
    assert (made["proxy-headers"], made["proxy-trusted-addresses"]) == (
        "xforwarded",
        str(TOPOLOGY.address("edge", "services")),
    )
    assert made["http-host"] == str(TOPOLOGY.address("keycloak", "services"))
    assert (made["http-management-scheme"], made["http-management-host"]) == ("http", "127.0.0.1")


def test_its_names_are_the_edges() -> None:
    made = options(keycloak_conf(TOPOLOGY, PASSWORD, BOOTSTRAP))
    assert made["hostname"] == "https://auth.flower.example.org:9443"
    assert made["hostname-admin"] == "https://admin.flower.example.org:9443"
    assert TOPOLOGY.issuer == f"{made['hostname']}/realms/flowerbed"


def test_the_bootstrap_is_a_client_and_no_person() -> None:
    made = options(keycloak_conf(TOPOLOGY, PASSWORD, BOOTSTRAP))
    assert (made["bootstrap-admin-client-id"], made["bootstrap-admin-client-secret"]) == (
        "flowerbed-bootstrap",
        BOOTSTRAP,
    )
    assert not any(key in made for key in ("bootstrap-admin-username", "bootstrap-admin-password"))


@given(
    st.text(max_size=80).filter(lambda text: not (text.isascii() and text.replace("-", "").replace("_", "").isalnum()))
)
def test_a_secret_that_would_change_the_file_is_refused(secret: str) -> None:
    for given_secrets in ((secret, BOOTSTRAP), (PASSWORD, secret)):
        with pytest.raises(ValueError, match="delete its file in secrets/kit"):
            keycloak_conf(TOPOLOGY, *given_secrets)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            KeycloakConnectionError("Can't connect"),
            "The edge cannot be reached, and Keycloak is behind it: run make up.",
        ),
        (KeycloakGetError("bad gateway", 502), "Keycloak does not answer behind the edge: make status says"),
        (KeycloakPostError(b"Bootstrap in progress", 503), "Keycloak does not answer behind the edge"),
    ],
)
def test_a_keycloak_that_is_down_is_a_sentence(error: Exception, sentence: str) -> None:
    with pytest.raises(KeycloakDownError, match=sentence), sentences("something"):
        raise error


def test_a_refusal_says_what_and_why() -> None:
    said = r"^Keycloak refused a client: 409 Client x already exists\. Run"
    with pytest.raises(KeycloakRefusedError, match=said), sentences("a client"):
        raise KeycloakPostError(b"Client x\n already exists", 409)


def test_certificates_and_time_outs_are_told_apart() -> None:
    for cause, sentence in (("CERTIFICATE_VERIFY_FAILED", "is another stack up"), ("timed out", "no answer in time")):
        with pytest.raises(KeycloakDownError, match=sentence), sentences("something"):
            raise KeycloakConnectionError("Can't connect") from OSError(cause)


def test_nothing_that_is_logged_holds_a_secret() -> None:
    shown = repr(Access("https://a", "127.0.0.1", Path("ca"), None, "kit-secret", "bootstrap-secret"))
    assert "secret-" not in shown
    assert "kit-secret" not in shown
    assert "bootstrap-secret" not in shown
