"""The simulation's runner: what it refuses and what it hands to Flower. The run itself needs torch and Ray."""

import tomllib
from pathlib import Path

import pytest

import simulate


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "NEEDED", ("json", "no_such_package"))

    with pytest.raises(simulate.SimulationError, match=r"no_such_package missing .* run scripts/venv\.sh"):
        simulate.check_packages()


def test_the_environment_is_the_simulations_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWERBED_DATA", "/data")
    monkeypatch.setenv("FLOWERBED_STATE_FD", "3")

    env = simulate.environment(tmp_path, 12345)

    assert {name for name in env if name.startswith("FLOWERBED_")} == {"FLOWERBED_SIMULATION_DIR"}
    assert env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    config = tomllib.loads((Path(env["FLWR_HOME"]) / "config.toml").read_text())
    assert config["superlink"]["simulation"] == {"address": "127.0.0.1:12345", "insecure": True}


def test_a_superlink_that_dies_at_once_says_why(tmp_path: Path) -> None:
    program = tmp_path / "flower-superlink"
    program.write_text("#!/bin/sh\necho the port is taken\nexit 1\n")
    program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}

    with (
        pytest.raises(simulate.SimulationError, match="did not start: the port is taken"),
        simulate.superlink(env, 12345, tmp_path / "log"),
    ):
        raise AssertionError("it never answered")


def test_data_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "KIT", tmp_path)

    with pytest.raises(simulate.SimulationError, match=r"data of site 1 could not be written: .*samples\.py"):
        simulate.write_data(tmp_path / "data")
