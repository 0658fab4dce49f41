"""How every container of the stack is confined, what is mounted into it, and where secrets are and are not."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowerbed_topology import Topology
from flowerbed_topology.policy import containers

from .federation import FEDERATION, KIT, STACK, Federation, docker

TOPOLOGY = Topology.model_validate(FEDERATION)
SITES = [site.name for site in TOPOLOGY.sites]
# Service (as in a container's name) to user and consumer of secrets (docs/contracts.md, "Images, users").
USERS = {"postgres": 9701, "keycloak": 9706, "superlink": 9703, "serverapp": 0, "edge": 9702}
USERS |= {f"{site}-gateway": 9702 for site in SITES}
USERS |= {f"{site}-supernode": 9704 for site in SITES}
USERS |= {f"{site}-clientapp": 0 for site in SITES}
EXECUTORS = {service for service, uid in USERS.items() if uid == 0}
SETUID_AND_SETGID = 0xC0  # capabilities(7): CAP_SETGID is bit 6, CAP_SETUID bit 7
PUBLIC = {"tls.crt", "ca.crt", "crl.pem", "client.crt"}
NO_SECRETS = {"project-id", "left-federation.json", "audit-checkpoint.json"}
IMAGES = ("postgres", "nginx", "flower", "app", "tools", "keycloak")
# Keycloak compares its clients' secrets with what its database holds; people's passwords are hashed there.
IN_THE_DATABASE = ("client-*.secret", "keycloak-*.secret")
Inspected = dict[str, dict[str, Any]]


def contracted(name: str) -> set[str]:
    """The files of a consumer as the table "consumer | files" of docs/contracts.md lists them."""
    table = (KIT / "docs" / "contracts.md").read_text().partition("| consumer | files |")[2]
    role = name if name in USERS or name == "cli" else f"{name.partition('-')[0]}-<site>"
    row = re.search(rf"^\| `{re.escape(role)}` \| `([^`]+)`", table, re.MULTILINE)
    assert row, f"docs/contracts.md has no row for {role}"
    return set(row.group(1).split())


def consumer(service: str) -> str:
    site, _, role = service.rpartition("-")
    return f"{role}-{site}" if site else service


@pytest.fixture(scope="module")
def inspected(federation: Federation) -> Inspected:
    names = docker("ps", "-a", "--filter", f"label=flowerbed.stack={STACK}", "--format", "{{.Names}}").split()
    assert sorted(names) == sorted(federation.container(service) for service in USERS)
    found = json.loads(docker("inspect", *names))
    return {item["Name"].removeprefix(f"/{STACK}-"): item for item in found}


@pytest.mark.parametrize("service", USERS)
def test_a_container_has_a_user_of_its_own_and_no_privileges(inspected: Inspected, service: str) -> None:
    item = inspected[service]
    config, host = item["Config"], item["HostConfig"]
    assert config["User"] == f"{USERS[service]}:{USERS[service]}"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    added = {name.removeprefix("CAP_") for name in host["CapAdd"] or []}
    assert added == ({"SETUID", "SETGID"} if service in EXECUTORS else set())
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Privileged"] is False
    assert not host["Devices"]
    assert not host["VolumesFrom"]
    assert not host["GroupAdd"]


@pytest.mark.parametrize("service", USERS)
def test_the_kernel_agrees(federation: Federation, service: str) -> None:
    """What process 1 of the container really holds, and that its root file system really refuses to be written."""
    script = "cat /proc/1/status; for d in / /etc /usr /opt /var /home; do touch $d/probe 2>&1; done; true"
    answer = federation.sh(service, script)
    status = dict(re.findall(r"^(\w+):\t(.*)$", answer, re.MULTILINE))
    allowed = SETUID_AND_SETGID if service in EXECUTORS else 0
    assert int(status["CapBnd"], 16) == allowed
    assert int(status["CapEff"], 16) | int(status["CapPrm"], 16) | int(status["CapInh"], 16) in (0, allowed)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Uid"].split() == [str(USERS[service])] * 4
    assert len(re.findall("Read-only file system|Permission denied", answer)) == 6


@pytest.mark.parametrize("service", USERS)
def test_a_container_shares_no_namespace_with_the_host(inspected: Inspected, service: str) -> None:
    host = inspected[service]["HostConfig"]
    assert (host["PidMode"], host["UTSMode"], host["UsernsMode"], host["IpcMode"]) == ("", "", "", "private")
    assert host["CgroupnsMode"] == "private"
    assert host["NetworkMode"] not in ("host", "none", "bridge", "default")
    assert not host["NetworkMode"].startswith("container:")
    networks = set(inspected[service]["NetworkSettings"]["Networks"])
    assert networks == set(containers(TOPOLOGY)[consumer(service)])
    assert not host["ExtraHosts"]
    assert host["Dns"] == ["127.0.0.1"]


@pytest.mark.parametrize("service", USERS)
def test_a_container_is_limited_watched_and_started_again(inspected: Inspected, service: str) -> None:
    config, host = inspected[service]["Config"], inspected[service]["HostConfig"]
    assert 0 < host["Memory"] <= 8 * 2**30
    assert host["NanoCpus"] > 0
    assert 0 < host["PidsLimit"] <= 4096
    assert config["Healthcheck"]["Test"][0] in ("CMD", "CMD-SHELL")
    assert inspected[service]["State"]["Health"]["Status"] == "healthy"
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"]["Type"] == "json-file"
    assert {"max-size", "max-file"} <= set(host["LogConfig"]["Config"])
    assert config["StopTimeout"] >= 10


def mounts(federation: Federation, service: str) -> dict[str, tuple[str, str, bool]]:
    """What docs/contracts.md lets be mounted: destination to kind, source, and whether it may be written."""
    root, name = federation.root, consumer(service)
    expected = {"/secrets": ("bind", str(root / "secrets" / name), False)}
    if (root / "build" / name).is_dir():
        expected["/config"] = ("bind", str(root / "build" / name), False)
    site = service.rpartition("-")[0]
    volumes = {
        "postgres": {"/var/lib/postgresql/data": ("volume", f"{STACK}-postgres", True)},
        "superlink": {"/results": ("volume", f"{STACK}-results", False)},
        "serverapp": {"/results": ("volume", f"{STACK}-results", True)},
        "clientapp": {
            "/data": ("volume", f"{STACK}-{site}-data", False),
            "/state": ("volume", f"{STACK}-{site}-state", True),
        },
    }
    return expected | volumes.get(service.rpartition("-")[2], {})


@pytest.mark.parametrize("service", USERS)
def test_only_what_the_contracts_name_is_mounted(federation: Federation, inspected: Inspected, service: str) -> None:
    found = {
        mount["Destination"]: (mount["Type"], mount.get("Name") or mount["Source"], mount["RW"])
        for mount in inspected[service]["Mounts"]
        if mount["Type"] != "tmpfs"
    }
    assert found == mounts(federation, service)
    assert "docker.sock" not in json.dumps(inspected[service]["Mounts"])
    assert set(inspected[service]["HostConfig"]["Tmpfs"] or {}) <= {
        "/tmp", "/run/postgresql", "/run/flowerbed", "/run/nginx", "/tasks", "/opt/keycloak/data",
    }  # fmt: skip


def test_no_two_containers_share_a_secrets_directory_but_by_contract(inspected: Inspected) -> None:
    sources = [m["Source"] for item in inspected.values() for m in item["Mounts"] if m["Destination"] == "/secrets"]
    assert len(sources) == len(set(sources)) == len(USERS)


def consumers() -> Iterator[tuple[str, int, set[str]]]:
    for service, uid in (USERS | {"cli": 9705}).items():
        yield consumer(service), uid, contracted(consumer(service))


@pytest.mark.parametrize(("name", "uid", "files"), list(consumers()))
def test_secrets_are_files_that_their_container_alone_can_read(
    federation: Federation, name: str, uid: int, files: set[str]
) -> None:
    directory = federation.root / "secrets" / name
    assert {path.name for path in directory.iterdir()} == files
    for path in directory.iterdir():
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o400, uid, uid), path


def test_the_operators_copies_are_the_operators_alone(federation: Federation) -> None:
    kept, people = federation.root / "secrets" / "kit", federation.root / "secrets" / "people"
    private = federation.root / "ca" / "pki" / "private"
    assert stat.S_IMODE(kept.stat().st_mode) == stat.S_IMODE(people.stat().st_mode) == 0o700
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    for path in (*kept.rglob("*"), *people.rglob("*"), *private.rglob("*")):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE((private / "ca.key").stat().st_mode) == 0o400


def marks(path: Path) -> list[str]:
    """Return what gives a secret away wherever it turns up: its value, or the middle lines of a key."""
    text = path.read_text()
    if "PRIVATE KEY" in text:
        return text.splitlines()[2:4]
    return [text] if path.parent.name == "people" else re.findall(r"[0-9a-f]{64}", text)


@pytest.fixture(scope="module")
def secret_marks(federation: Federation) -> dict[str, str]:
    """Every secret of the federation: what gives it away, and where it lies."""
    root = federation.root
    files = [path for path in (root / "secrets").rglob("*") if path.is_file() and path.name not in PUBLIC]
    files = [path for path in files if "deployed" not in path.parts and path.name not in NO_SECRETS]
    files += (root / "ca" / "pki" / "private").glob("*.key")
    assert all(marks(path) for path in files)
    found = {mark: str(path.relative_to(root)) for path in files for mark in marks(path)}
    assert "ca/pki/private/ca.key" in found.values()
    assert len(found) > 2 * len(USERS)
    return found


@pytest.mark.parametrize("service", USERS)
def test_no_secret_stands_in_the_environment_command_labels_or_log(
    federation: Federation, inspected: Inspected, secret_marks: dict[str, str], service: str
) -> None:
    running = federation.sh(service, "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; true")
    places = {
        "docker inspect": json.dumps(inspected[service]),
        "processes": running,
        "log": federation.logs(service),
    }
    leaks = {(place, where) for place, text in places.items() for mark, where in secret_marks.items() if mark in text}
    assert leaks == set()
    assert len(running) > 10


def test_no_secret_stands_in_generated_files_or_networks_and_volumes(
    federation: Federation, secret_marks: dict[str, str]
) -> None:
    texts = {str(p): p.read_text() for p in (federation.root / "build").rglob("*") if p.is_file()}
    for kind in ("network", "volume"):
        names = docker(kind, "ls", "--format", "{{.Name}}", "--filter", f"name={STACK}-").split()
        texts[kind] = docker(kind, "inspect", *names)
    leaks = {(place, where) for place, text in texts.items() for mark, where in secret_marks.items() if mark in text}
    assert leaks == set()


# Every place of a container that does not come from its image. Patterns come on standard input, so that the search does
# not find its own command line.
SEARCH = "cat > /dev/shm/marks; grep -rlaF -f /dev/shm/marks PLACES 2>/dev/null; rm /dev/shm/marks; true"


@pytest.mark.parametrize("service", USERS)
def test_the_authoritys_key_and_other_containers_secrets_are_in_no_container(
    federation: Federation, secret_marks: dict[str, str], service: str
) -> None:
    own = consumer(service)
    allowed = {mark for path in (federation.root / "secrets" / own).iterdir() for mark in marks(path)}
    if service == "postgres":
        kept = [path for pattern in IN_THE_DATABASE for path in (federation.root / "secrets" / "kit").glob(pattern)]
        allowed |= {mark for path in kept for mark in marks(path)}
    foreign = [mark for mark in secret_marks if mark not in allowed]
    assert any(secret_marks[mark] == "ca/pki/private/ca.key" for mark in foreign)
    places = {"/secrets", "/config", "/tmp", "/run", "/tasks", "/var/lib/postgresql", "/results", "/state", "/data"}
    script = SEARCH.replace("PLACES", " ".join(sorted(places)))
    container = federation.container(service)
    found = docker("exec", "-i", container, "bash", "-c", script, stdin="\n".join(foreign) + "\n")
    assert found == ""
    # The search finds what is there: this container's own secrets.
    if allowed:
        found = docker("exec", "-i", container, "bash", "-c", script, stdin="\n".join(allowed) + "\n")
        assert "/secrets/" in found
    assert [line for line in docker("diff", container).splitlines() if line.startswith("A") and "." in line] == []


IMAGE = r"""
cd /
places=$(ls -d /* | grep -vE '^/(proc|sys|dev)$')
grep -rlaE -e '-----BEGIN ([A-Z]+ )?PRIVATE KEY-----' $places 2>/dev/null | while read -r file; do
    grep -aA1 -e '-----BEGIN .*PRIVATE KEY-----' "$file" | grep -qaE '^[A-Za-z0-9+/]{60,}=*$' && echo "key $file"
done
grep -rlaF -e 17.99,10.38,122.8 $places 2>/dev/null | sed 's/^/rows /'
find $places -xdev -type f \( -iname '*.csv' -o -iname '*.csv.gz' -o -iname '*.npz' -o -iname '*.arff' -o -iname '*.parquet' \) \
    -size +1k 2>/dev/null | sed 's/^/table /'
"""
# Numbers that SciPy computes with, not anybody's data.
CONSTANTS = "scipy/stats/_sobol_direction_numbers.npz"


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_no_key_and_no_data_set(inspected: Inspected, secret_marks: dict[str, str], image: str) -> None:
    tag = str(inspected["superlink"]["Config"]["Image"]).partition(":")[2]
    reference = f"flowerbed/{image}:{tag}"
    found = docker("run", "--rm", "--network", "none", "-u", "0", "--entrypoint", "bash", reference, "-c", IMAGE)
    assert [line for line in found.splitlines() if not line.endswith(CONSTANTS)] == []
    described = docker("image", "inspect", reference) + docker("history", "--no-trunc", reference)
    assert [where for mark, where in secret_marks.items() if mark in described] == []
    assert not re.search(r"(?i)(password|secret|token|https?_proxy)=[^ \"]+", described)


def test_the_command_line_container_is_confined_too(federation: Federation) -> None:
    answer = federation.flwr(
        "id -u; cat /proc/self/status /proc/self/mounts; ls /secrets; touch /etc/x || echo refused"
    )
    status = dict(re.findall(r"^(\w+):\t(.*)$", answer, re.MULTILINE))
    assert answer.startswith("9705") or "\n9705\n" in answer
    assert (int(status["CapBnd"], 16), status["NoNewPrivs"]) == (0, "1")
    assert "refused" in answer
    assert re.search(r" /secrets \S+ ro,", answer)
    assert "docker.sock" not in answer
    assert "ca.crt" in answer
    assert ".key" not in answer
