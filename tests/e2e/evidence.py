"""Looks for a value everywhere in a federation, in text and in binary: writable places, logs, the database.

Not for image layers: every root file system is read-only and unchanged (`changed_files`), and the images were built
before the values that are looked for were planted.
"""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass

from .federation import STACK, Federation, docker


@dataclass(frozen=True)
class Value:
    """A number in every form in which it could have been kept."""

    text: str

    @property
    def forms(self) -> dict[str, bytes]:
        """Text, and IEEE 754 doubles and pairs of singles (one alone would be found by chance) of either byte order.

        Hexadecimal as well, since that is how pg_dump writes bytes.
        """
        number = float(self.text)
        plain = {"text": self.text.encode()}
        for order, name in (("<", "little"), (">", "big")):
            plain[f"float64 {name}"] = struct.pack(f"{order}d", number)
            plain[f"float32 {name}"] = struct.pack(f"{order}2f", number, number)
        return plain | {f"{name} in hex": form.hex().encode() for name, form in plain.items()}

    def found_in(self, content: bytes) -> list[str]:
        """Return the forms that occur."""
        return [name for name, form in self.forms.items() if form in content]


def containers() -> list[str]:
    """Return the names of the stack's containers."""
    return docker("ps", "-a", "--filter", f"label=flowerbed.stack={STACK}", "--format", "{{.Names}}").split()


def writable(federation: Federation, container: str) -> list[str]:
    """Return every place of a container that is no part of its image: volumes, mounted directories, tmpfs."""
    found = federation.inspect(container.removeprefix(f"{STACK}-"))
    mounts = [str(mount["Destination"]) for mount in found["Mounts"]]
    return sorted({*mounts, *(found["HostConfig"]["Tmpfs"] or {}), "/dev/shm"})


def content(federation: Federation, container: str, place: str) -> bytes:
    """Return everything below a place of a running container as a tar, read from outside with every right."""
    pid = federation.inspect(container.removeprefix(f"{STACK}-"))["State"]["Pid"]
    read = ["tar", "-cf", "-", "-C", f"/proc/{pid}/root{place}", "."]
    rights = ["--cap-add", "SYS_PTRACE", "--cap-add", "DAC_READ_SEARCH", "--network", "none"]
    done = subprocess.run(
        ["docker", "run", "--rm", "--pid", "host", *rights, "debian:trixie-slim", *read],
        capture_output=True,
        check=False,
        timeout=120,
    )
    # 1: a file changed while it was read
    assert done.returncode in (0, 1), f"{container}:{place}: {done.stderr.decode()}"
    return done.stdout


def changed_files(federation: Federation, container: str) -> list[str]:
    """Return the files by which a container's root file system differs from its image, mount points left out."""
    mounts = {*writable(federation, container), "/usr/sbin/docker-init"}  # the latter is the Engine's, for `init: true`
    added = [line[2:] for line in docker("diff", container).splitlines() if line.startswith("A")]
    return [path for path in added if path not in mounts]


def database() -> bytes:
    """Return a dump of every database."""
    done = subprocess.run(
        ["docker", "exec", f"{STACK}-postgres", "pg_dumpall", "-h", "/run/postgresql", "-U", "postgres"],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout
