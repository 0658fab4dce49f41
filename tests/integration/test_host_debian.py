"""`host.sh ensure` on an empty Debian: a bare container becomes a Docker host of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from images_support import KIT, VERSIONS, docker, run, unique

pytestmark = pytest.mark.docker

HOST = "/kit/scripts/host.sh"


@pytest.fixture(scope="module")
def machine() -> Iterator[str]:
    """A container that may run an engine inside, with a disk of its own for it."""
    name = unique("host")
    powers = ("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--security-opt", "seccomp=unconfined")
    docker(
        *("run", "--detach", "--init", "--name", name, *powers, "--security-opt", "apparmor=unconfined"),
        *("-v", f"{KIT}:/kit:ro", "-v", f"{name}:/var/lib/docker", f"debian:{VERSIONS['DEBIAN_SUITE']}-slim"),
        *("sleep", "1800"),
    )
    yield name
    docker("rm", "--force", name)
    docker("volume", "rm", "--force", name)


def on(machine: str, command: str) -> tuple[int, str]:
    done = run("docker", "exec", machine, "bash", "-c", command, check=False)
    return done.returncode, done.stdout + done.stderr


def test_check_changes_nothing_and_ensure_makes_a_docker_host(machine: str) -> None:
    status, said = on(machine, f"{HOST} check; code=$?; command -v docker dockerd make python3; exit $code")
    assert status == 2
    assert "no docker command" in said
    assert "/usr" not in said

    status, said = on(machine, f"{HOST} ensure")
    assert status == 0, said
    assert "installing from the distribution:" in said
    assert "starting dockerd" in said
    assert (
        on(machine, "docker version && docker compose version && docker buildx version && mmdebstrap --version")[0] == 0
    )

    status, said = on(machine, f"{HOST} ensure")
    assert status == 0
    assert "installing" not in said
    assert "starting" not in said

    # Who is not root and lacks the plugins gets Debian 13's, signed, in a directory of their own.
    status, said = on(
        machine,
        "rm -r /usr/libexec/docker/cli-plugins && useradd --create-home --groups docker someone"
        f" && su someone -c '{HOST} ensure && docker compose version && ls -l ~/.docker/cli-plugins'",
    )
    assert status == 0, said
    assert "unpacking docker-compose docker-buildx of Debian 13 into /home/someone/.docker/cli-plugins" in said
    assert said.count("-rwxr-xr-x") == 2


def test_the_base_image_comes_from_the_mirror_where_no_registry_answers(machine: str) -> None:
    status, said = on(machine, f"{HOST} ensure && /kit/scripts/base-image.sh --bootstrap")
    assert status == 0, said
    assert "bootstrapping debian:" in said
    base = f"debian:{VERSIONS['DEBIAN_SUITE']}-slim"
    status, size = on(machine, f"docker image inspect --format '{{{{.Size}}}}' {base}")
    assert status == 0
    assert 50_000_000 < int(size) <= 90_000_000
    assert on(machine, "/kit/scripts/base-image.sh")[1] == f"base image: {base} is there\n"
