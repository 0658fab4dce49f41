"""`host.sh names`, `forget-names` and what it says where it may not act: in a bare Debian container."""

from __future__ import annotations

import pytest

from images_support import KIT, VERSIONS, docker, run

pytestmark = pytest.mark.docker

BASE = f"debian:{VERSIONS['DEBIAN_SUITE']}-slim"
HOST = "/kit/scripts/host.sh"


def debian(script: str, *options: str) -> str:
    return docker("run", "--rm", "--network", "none", "-v", f"{KIT}:/kit:ro", *options, BASE, "bash", "-c", script)


def test_names_resolve_once_written_and_no_longer_once_forgotten() -> None:
    said = debian(
        f"""cp /etc/hosts /before
        {HOST} names --mark a fleet.x.localhost superlink.x.localhost >/dev/null
        {HOST} names --mark b --address 127.0.0.2 z.test >/dev/null
        getent hosts superlink.x.localhost z.test
        {HOST} names --mark a fleet.x.localhost superlink.x.localhost
        {HOST} forget-names a >/dev/null; grep -c z.test /etc/hosts; {HOST} forget-names b >/dev/null
        {HOST} forget-names b
        cmp /before /etc/hosts && echo as-before"""
    ).splitlines()
    assert said[0].split() == ["127.0.0.1", "fleet.x.localhost", "superlink.x.localhost"]
    assert said[1].split() == ["127.0.0.2", "z.test"]
    assert said[2] == "host: /etc/hosts: unchanged"
    assert said[3] == "1", "another block stays"
    assert said[-2:] == ["host: /etc/hosts: unchanged", "as-before"]


def test_a_changed_list_of_names_replaces_the_block() -> None:
    said = debian(f"{HOST} names one.test >/dev/null; {HOST} names two.test; cat /etc/hosts")
    assert "two.test" in said
    assert "one.test" not in said


def test_new_shells_keep_the_names_out_of_a_proxy() -> None:
    shell = "NO_PROXY=old bash -lc 'echo seen: $NO_PROXY $no_proxy'"
    script = f"{HOST} names a.test b.test; {shell}; {HOST} forget-names; {shell}"
    said = debian(script).splitlines()
    assert [line for line in said if line.startswith("seen:")] == [
        "seen: a.test,b.test,old a.test,b.test,old",
        "seen: old",
    ]


def test_who_is_not_root_is_told_the_lines() -> None:
    script = f"{HOST} names a.test; grep -c a.test /etc/hosts || true"
    said = debian(script, "--user", "1000:1000", "-e", "HTTPS_PROXY=http://127.0.0.1:1").splitlines()
    assert said[:2] == ["host: not root, so nothing is written. For /etc/hosts:", "127.0.0.1 a.test"]
    assert 'export NO_PROXY="a.test,${NO_PROXY:-${no_proxy:-}}"' in said
    assert said[-1] == "0"


def missing(*options: str, before: str = "true") -> tuple[int, str]:
    command = ("run", "--rm", "--network", "none", "-v", f"{KIT}:/kit:ro", *options, BASE, "bash", "-c")
    done = run("docker", *command, f"{before}; {HOST} ensure", check=False)
    return done.returncode, done.stdout + done.stderr


def test_without_root_it_names_what_is_missing_and_how_to_get_it() -> None:
    status, said = missing("--user", "1000:1000")
    assert status == 2
    assert f"Docker Engine    MISSING: no docker command: as root: {HOST} ensure, or apt-get install docker.io" in said
    assert "Python           MISSING: needed 3.11 or newer" in said
    assert f"make             MISSING: as root: {HOST} ensure, or apt-get install make" in said
    assert "make simulate" in said


def test_on_another_distribution_it_says_where_to_get_it() -> None:
    status, said = missing(before="rm /etc/os-release && echo ID=fedora >/etc/os-release")
    assert status == 2
    assert "install Docker Engine or Docker Desktop: https://docs.docker.com/engine/install/" in said


def test_a_clone_on_a_windows_drive_is_refused_before_anything_happens() -> None:
    """A stand-in for findmnt, as there is no WSL here: its answer is the one that WSL 2 gives for /mnt/c."""
    fake = r"""printf '#!/bin/sh\necho "9p drvfs rw,noatime,aname=drvfs;path=C:\\\\;uid=1000"\n' >/usr/local/bin/findmnt
    chmod +x /usr/local/bin/findmnt"""
    status, said = missing(before=fake)
    assert status == 2
    assert "/kit lies on a Windows drive, which keeps no file modes" in said
    assert "installing" not in said


def test_docker_desktop_is_told_apart_once_and_plainly() -> None:
    """A stand-in for the docker command, answering as Docker Desktop does."""
    fake = r"""cat >/usr/local/bin/docker <<'END'
#!/bin/sh
case "$*" in
  *OperatingSystem*) echo 'Docker Desktop' ;; *SecurityOptions*) echo '[]' ;;
  version*) echo 28.0.0 ;; compose*) echo 2.30.0 ;; buildx*) echo 'github.com/docker/buildx v0.19.0 x' ;;
esac
END
    for name in docker make python3; do [ -e /usr/local/bin/$name ] || printf '#!/bin/sh\n' >/usr/local/bin/$name; done
    chmod +x /usr/local/bin/*"""
    status, said = missing(before=fake)
    assert status == 0
    assert said.count("NOTE: Docker Desktop runs containers in a virtual machine") == 1
