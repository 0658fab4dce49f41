"""From nothing to a small federation and back: interrupted starts, planted garbage, and what `clean` removes."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator

import pytest

from .federation import STACK, Federation, docker
from .operating import SMALL, SMALL_FEDERATION, containers, interrupted, named


@pytest.fixture(scope="module")
def small(federation: Federation) -> Iterator[Federation]:
    """A project of its own, nothing started; whatever a test leaves is removed."""
    project = Federation(federation.root.with_name(SMALL))
    remove(project)
    project.write(SMALL_FEDERATION)
    yield project
    remove(project)


def remove(project: Federation) -> None:
    for name in containers(SMALL):
        docker("rm", "-f", name)
    for kind in ("network", "volume"):
        for name in docker(kind, "ls", "--format", "{{.Name}}", "--filter", f"name={SMALL}-").split():
            docker(kind, "rm", name)
    shutil.rmtree(project.root, ignore_errors=True)


def test_an_up_interrupted_anywhere_is_finished_by_the_next(small: Federation) -> None:
    # In the authority's work, in laying out, in NGINX's check, in the first containers, while waiting.
    for seconds, number in (
        (1.0, signal.SIGKILL),
        (1.5, signal.SIGINT),
        (2.5, signal.SIGKILL),
        (4.0, signal.SIGINT),
        (7.0, signal.SIGKILL),
        (12.0, signal.SIGKILL),
    ):
        interrupted(small.root, seconds, number)
    small.flowerbed("up")
    assert set(containers(SMALL)) == {
        f"{SMALL}-{name}"
        for name in [
            "postgres",
            "keycloak",
            "superlink",
            "serverapp",
            "edge",
            "north-gateway",
            "north-supernode",
            "north-clientapp",
        ]
    }
    assert "Nothing changed." in small.flowerbed("up").stdout
    status = small.flowerbed("status", check=False)
    assert status.returncode == 0, status.stdout


def test_planted_garbage_is_harmless(small: Federation) -> None:
    before = containers(SMALL)
    (small.root / "build" / "edge" / "old.conf").write_text("not nginx at all {")
    (small.root / "build" / "site-gone.env").write_text("SITE='gone\n")
    (small.root / "secrets" / "kit" / "notes").write_text("an operator's own file")
    script = "echo theirs > /data/notes.txt; echo '1,2' >> /data/breast-cancer.csv; md5sum /data/*"
    volume = ["-v", f"{SMALL}-north-data:/data", "--network", "none"]
    sums = docker("run", "--rm", *volume, "debian:trixie-slim", "bash", "-c", script)
    # marker gone: the seeding is tried again, and what is there is left as it is
    shutil.rmtree(small.root / "build" / "seeded")
    small.flowerbed("up")
    assert containers(SMALL) == before
    assert docker("run", "--rm", *volume, "debian:trixie-slim", "bash", "-c", "md5sum /data/*") == sums
    assert (small.root / "secrets" / "kit" / "notes").read_text() == "an operator's own file"


def test_a_rendered_file_that_was_edited_is_rendered_again(small: Federation) -> None:
    path = small.root / "build" / "superlink" / "federation.json"
    good = path.read_text()
    path.write_text("{}")
    assert "rendered superlink/federation.json" in small.flowerbed("up").stdout
    assert path.read_text() == good


def test_clean_removes_everything_of_the_stack_and_only_that(small: Federation) -> None:
    others = named(STACK)
    foreign = f"{SMALL}-somebodys"
    docker("volume", "create", foreign)
    try:
        asked = small.flowerbed("clean", check=False)
        assert asked.returncode != 0
        assert containers(SMALL)
        small.flowerbed("clean", "--yes", "--identity")
        assert named(SMALL) == {foreign}
        assert named(STACK) == others
        assert f"flowerbed_{SMALL}" not in tables()
        assert f"flowerbed_{STACK}" in tables()
        assert sorted(path.name for path in small.root.iterdir() if any(path.rglob("*")) or path.is_file()) == [
            "federation.yaml"
        ]
    finally:
        docker("volume", "rm", foreign)


def tables() -> list[str]:
    """Return the names of the host's nftables tables."""
    image = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "flowerbed/tools").split()[0]
    listed = docker("run", "--rm", "--network", "host", "--cap-add", "NET_ADMIN", image, "nft", "list", "tables")
    return [line.split()[-1] for line in listed.splitlines()]
