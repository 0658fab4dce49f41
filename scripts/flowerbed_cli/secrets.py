"""Secrets: made once, kept, and laid out per container (docs/contracts.md, "Images, users").

The operator's own copies are in `secrets/kit/`; each container's directory is deployed from them, owned by that image's
user. A stamp per consumer says what was deployed: a deployed file is unreadable to an operator who is not root. Not for
what a container gets: that is `consumers`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets as random
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flowerbed_topology import Topology

from . import docker
from .files import write
from .project import Project


@dataclass(frozen=True)
class Consumer:
    """What one container finds at `/secrets`: file contents, and the user (uid and gid) that owns them, mode 0400."""

    name: str
    uid: int
    files: Mapping[str, bytes]

    @property
    def sums(self) -> dict[str, str]:
        """SHA-256 of every file, in hexadecimal."""
        return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(self.files.items())}


def ensure_kept(project: Project, name: str, make: Callable[[], bytes]) -> bytes:
    """Return the secret `name`; make it if there is none. One that exists is never changed."""
    path = project.secrets / "kit" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        write(path, make(), 0o600)
    return path.read_bytes()


def token() -> bytes:
    """Return 256 random bits as 64 hexadecimal digits."""
    return random.token_hex(32).encode()


def supernode_key() -> bytes:
    """Return a new P-384 key in OpenSSH's format, which is what `flower-supernode` reads."""
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def ensure_project_id(project: Project) -> str:
    """Return the id that this project's volumes are labelled with."""
    return ensure_kept(project, "project-id", lambda: random.token_hex(8).encode()).decode()


def ensure_supernode_keys(project: Project, topology: Topology) -> dict[str, str]:
    """Make every site's SuperNode key; return site to lower-case SHA-256 of its DER SubjectPublicKeyInfo."""
    for site in topology.sites:
        key = ensure_kept(project, f"supernode-{site.name}.key", supernode_key)
        public = serialization.load_ssh_private_key(key, None).public_key()
        line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        write(project.build / "supernode-keys" / f"{site.name}.pub", line + b"\n", 0o644)
    return supernode_keys(project, topology)


def supernode_keys(project: Project, topology: Topology) -> dict[str, str]:
    """Return the same for the keys that are there; makes none."""
    paths = {site.name: project.secrets / "kit" / f"supernode-{site.name}.key" for site in topology.sites}
    return {site: fingerprint(path.read_bytes()) for site, path in paths.items() if path.is_file()}


def fingerprint(key: bytes) -> str:
    """Return the lower-case SHA-256 of the DER SubjectPublicKeyInfo of a private key in OpenSSH's format."""
    public = serialization.load_ssh_private_key(key, None).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def ensure_deployed(
    project: Project, consumers: list[Consumer], before: Callable[[dict[str, set[str]]], None]
) -> dict[str, set[str]]:
    """Lay out what is missing or out of date; return consumer to the names of the files that changed.

    `before` is called with the same, when nothing has been touched yet.
    """
    changed = {consumer.name: names for consumer in consumers if (names := difference(project, consumer))}
    if not changed:
        return {}
    before(changed)
    due = [consumer for consumer in consumers if consumer.name in changed]
    (deploy_as_root if os.geteuid() == 0 else deploy_through_container)(project, due)
    for consumer in due:
        write(stamp(project, consumer.name), json.dumps(consumer.sums).encode(), 0o600)
        stamp(project, consumer.name).touch()  # its time counts even where its content is the same: see `reload`
    return changed


def stamp(project: Project, consumer: str) -> Path:
    """Return the file that says what was deployed for `consumer`."""
    return project.secrets / "kit" / "deployed" / f"{consumer}.json"


def difference(project: Project, consumer: Consumer) -> set[str]:
    """Return the names of the files of `consumer` that are not deployed as they should be."""
    path = stamp(project, consumer.name)
    deployed: dict[str, str] = json.loads(path.read_bytes()) if path.is_file() else {}
    there = {entry.name for entry in (project.secrets / consumer.name).glob("*")}
    return {name for name, digest in consumer.sums.items() if deployed.get(name) != digest or name not in there}


def deploy_as_root(project: Project, consumers: list[Consumer]) -> None:
    """Write each file by rename, owned by its container's user."""
    for consumer in consumers:
        directory = project.secrets / consumer.name
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        for name, content in consumer.files.items():
            target, fresh = directory / name, directory / f".{name}.new"
            fresh.unlink(missing_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
                os.fchown(file.fileno(), consumer.uid, consumer.uid)
                file.write(content)
            fresh.replace(target)


def deploy_through_container(project: Project, consumers: list[Consumer]) -> None:
    """Do the same in a one-shot container: an operator who may use Docker but is not root cannot give files away."""
    project.secrets.mkdir(parents=True, exist_ok=True)
    docker.unpack(project, project.secrets, archive(consumers))


def archive(consumers: list[Consumer]) -> bytes:
    """Return a tar archive of the consumers' directories, owners and modes included."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for consumer in consumers:
            for name, content in consumer.files.items():
                entry = tarfile.TarInfo(f"{consumer.name}/{name}")
                entry.size, entry.mode, entry.uid, entry.gid = len(content), 0o400, consumer.uid, consumer.uid
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
