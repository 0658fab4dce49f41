"""The SuperNode's settings, Flower's arguments made of them, and its pins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode
from hypothesis import given
from hypothesis import strategies as st

from flowerbed_supernode import pinned
from flowerbed_supernode.settings import Settings, SettingsError, check, load

ROOT = Path(__file__).resolve().parents[2]
HOST = {"FLOWERBED_RUNTIME_HOST": "172.23.1.130"}


def test_flower_understands_the_arguments() -> None:
    settings = load({**HOST, "FLOWERBED_NODE_CONFIG": 'partition-id=0 site="north"'})
    parsed = _parse_args_run_supernode().parse_args(settings.arguments()[1:])
    assert (parsed.superlink, parsed.isolation, parsed.host, parsed.port) == (
        "gateway:9443",
        "process",
        "172.23.1.130",
        9094,
    )
    assert not parsed.insecure
    assert not parsed.runtime_dependency_install
    assert parsed.auth_supernode_private_key == "/secrets/supernode.key"
    assert parsed.superexec_auth_secret_file == "/secrets/superexec.secret"
    assert parsed.root_certificates == parsed.ssl_ca_certfile == "/secrets/ca.crt"
    assert parse_config_args([parsed.node_config]) == {"partition-id": 0, "site": "north"}


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "supernode", "224.0.0.1", "172.23.1.130:9094"])
def test_the_runtime_api_listens_on_one_named_address_only(host: str) -> None:
    with pytest.raises(SettingsError, match="FLOWERBED_RUNTIME_HOST"):
        load({"FLOWERBED_RUNTIME_HOST": host})


@pytest.mark.parametrize("config", ["partition-id", "a=1 b", "a=north", "config.toml", "=1", "a=1 a=2"])
def test_node_configuration_that_flower_would_lose_is_refused(config: str) -> None:
    with pytest.raises(SettingsError, match="FLOWERBED_NODE_CONFIG"):
        load({**HOST, "FLOWERBED_NODE_CONFIG": config})


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True), st.integers() | st.booleans()))
def test_node_configuration_survives(pairs: dict[str, int]) -> None:
    raw = " ".join(f"{name}={str(value).lower()}" for name, value in pairs.items())
    kept = load({**HOST, "FLOWERBED_NODE_CONFIG": raw}).node_config
    assert parse_config_args([kept] if kept else None) == pairs


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"ca\.crt cannot be read"):
        check(Settings("10.0.0.1", secrets=tmp_path))


def test_the_installed_flower_is_the_pinned_one() -> None:
    pinned.check()
    assert f"FLWR_VERSION={pinned.FLWR_VERSION}\n" in (ROOT / "versions.env").read_text()


def test_another_flower_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flwr.supernode.start_client_internal._push_messages", lambda other: other)
    with pytest.raises(pinned.PinError, match="_push_messages"):
        pinned.check()
    monkeypatch.setattr("flwr.__version__", "1.42.0")
    with pytest.raises(pinned.PinError, match=r"flwr 1\.42\.0 is installed"):
        pinned.check()


def test_every_setting_is_documented() -> None:
    readme = (ROOT / "supernode" / "README.md").read_text()
    for package in ("flowerbed_supernode", "flowerbed_executor"):
        source = (ROOT / "supernode" / package / "settings.py").read_text()
        for name in set(re.findall(r'"(FLOWERBED_[A-Z_]+)"', source)):
            assert f"`{name}`" in readme, name
