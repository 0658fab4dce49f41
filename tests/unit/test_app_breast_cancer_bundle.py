"""The app bundle: small, code only, and as `flwr run` builds it."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "apps" / "breast-cancer"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("bundle")
    quiet = {"FLWR_HOME": str(folder / "home"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    flwr = Path(sys.executable).with_name("flwr")
    subprocess.run([flwr, "build", "--app", APP], cwd=folder, env=os.environ | quiet, check=True, capture_output=True)
    (built,) = folder.glob("*.fab")
    return zipfile.ZipFile(built)


def test_the_bundle_holds_code_and_no_data(bundle: zipfile.ZipFile) -> None:
    names = [name for name in bundle.namelist() if not name.startswith(".info/")]

    assert {Path(name).suffix for name in names} <= {".py", ".toml", ".md"}
    assert "breast_cancer/client_app.py" in names
    assert sum(info.file_size for info in bundle.infolist()) < 100_000


def test_the_bundle_has_a_serverapp_and_a_clientapp_only() -> None:
    components = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]

    assert sorted(components) == ["clientapp", "serverapp"]
