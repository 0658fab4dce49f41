"""The shell scripts pass shellcheck, and what pins the images pins them whole. Needs no Docker."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from images_support import KIT, VERSIONS, run

SHELLCHECK = Path(sys.executable).with_name("shellcheck")
SCRIPTS = [*sorted(KIT.glob("scripts/*.sh")), KIT / "postgres/entrypoint.sh", KIT / "apps/seed"]
DOCKERFILES = sorted(KIT.glob("*/Dockerfile"))
LOCKS = sorted(KIT.glob("*/requirements*.lock"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    done = run(SHELLCHECK, "--external-sources", script.relative_to(KIT), check=False, cwd=KIT)
    assert done.stdout == ""


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_a_dockerfile_needs_no_registry_but_for_the_base(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"^#\s*syntax=", text, re.MULTILINE), "BuildKit would pull a frontend from a registry"
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE)) | {"python-${TORCH}"}
    sources = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    assert sources <= stages | {"debian:${DEBIAN_SUITE}-slim"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_every_package_by_hash_and_names_no_index(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    for requirement in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[a-z0-9._-]+==\S+( ; .*)? \\\n\s+--hash=sha256:[0-9a-f]{64}", requirement), requirement[:200]


def test_the_locks_agree_with_versions_env_and_each_other() -> None:
    pinned = {lock.name: dict(re.findall(r"^(\S+)==(\S+)", lock.read_text(), re.MULTILINE)) for lock in LOCKS}
    for packages in pinned.values():
        assert packages["flwr"] == VERSIONS["FLWR_VERSION"]
        assert "uv" not in packages
    assert pinned["requirements.lock"]["psycopg"] == VERSIONS["PSYCOPG_VERSION"]
    for variant in ("requirements-cpu.lock", "requirements-cuda.lock"):
        assert pinned[variant]["opacus"] == VERSIONS["OPACUS_VERSION"]
        assert pinned[variant]["scikit-learn"] == VERSIONS["SCIKIT_LEARN_VERSION"]
    assert pinned["requirements-cuda.lock"]["torch"] == VERSIONS["TORCH_CUDA_VERSION"]
    # SuperLink, SuperNode and executors speak one protocol: what both images have is the same release in both.
    runtime, training = pinned["requirements.lock"], pinned["requirements-cpu.lock"]
    differ = {name for name in runtime.keys() & training.keys() if runtime[name] != training[name]}
    assert differ == set()
