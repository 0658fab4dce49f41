"""What is in Keycloak's image and what is not, and that it starts nothing without its configuration."""

from __future__ import annotations

import pytest

from images_support import VERSIONS, docker, image, inside, inspect

pytestmark = pytest.mark.docker


def shell(script: str, user: str = "9706:9706") -> str:
    return inside("keycloak", "-c", script, options=("--entrypoint", "bash", "--user", user))


def test_it_is_the_pinned_version_built_for_postgresql() -> None:
    said = inside(
        "keycloak", "show-config", options=("--tmpfs", "/opt/keycloak/data", "--entrypoint", "/opt/keycloak/bin/kc.sh")
    )
    assert "kc.db =  postgres" in said
    assert f"Keycloak {VERSIONS['KEYCLOAK_VERSION']}" in inside(
        "keycloak", "--version", options=("--entrypoint", "/opt/keycloak/bin/kc.sh")
    )


def test_it_runs_as_its_own_user_and_owns_nothing_of_itself() -> None:
    assert inspect(image("keycloak"))["Config"]["User"] == "9706:9706"
    assert shell("find /opt/keycloak /usr/lib/jvm -xdev \\( ! -user root -o -perm /022 \\) ! -type l") == ""
    assert (
        shell("touch /opt/keycloak/x 2>&1; touch /opt/keycloak/data/x 2>&1; true").count("Read-only file system") == 2
    )


def test_nothing_of_the_build_stays() -> None:
    assert shell("command -v mvn javac curl wget || true") == ""
    assert shell("ls /opt/keycloak/conf /opt/keycloak/data /opt/keycloak/providers | grep -v README || true") == (
        "/opt/keycloak/conf:\n\n/opt/keycloak/data:\n\n/opt/keycloak/providers:"
    )
    listed = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image("keycloak"))
    assert "changeit" not in listed


def test_without_a_configuration_it_says_so_and_ends() -> None:
    options = ("--read-only", "--network", "none", "--tmpfs", "/tmp:uid=9706", "--tmpfs", "/opt/keycloak/data:uid=9706")
    said = docker("run", "--rm", *options, image("keycloak"), check=False)
    assert "'--config-file'" in said
    assert "does not exist" in said


def test_it_is_not_healthy_before_it_answers() -> None:
    assert shell("flowerbed-keycloak-healthy 2>/dev/null; echo $?") == "1"
