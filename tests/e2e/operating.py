"""Looking at a stack before and after a command: containers, generated files, served certificates."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509

from .federation import FEDERATION, INDEX, KIT, STACK, Federation, docker

FLOWERBED = Path(sys.executable).parent / "flowerbed"
# A second, smaller stack: made, broken and removed while the first goes on.
SMALL = f"{STACK}small"
SMALL_FEDERATION: dict[str, Any] = {
    **FEDERATION,
    "name": SMALL,
    "domain": f"{SMALL}.localhost",
    "edge": {"https_port": 18643 + INDEX, "http_port": 18680 + INDEX},
    "networks": {zone: subnet.replace("10.2", "10.1", 1) for zone, subnet in FEDERATION["networks"].items()},
    "organisations": FEDERATION["organisations"][:1],
    "federations": [{"name": "alone", "organisations": ["north"]}],
    "pipelines": FEDERATION["pipelines"][:1],
}


@contextmanager
def changed(federation: Federation, content: dict[str, Any]) -> Iterator[str]:
    """Bring the federation in line with another federation.yaml, and back again; give what `up` printed."""
    try:
        federation.write(content)
        yield federation.flowerbed("up").stdout
    finally:
        federation.write(FEDERATION)
        federation.flowerbed("up")


def containers(stack: str = STACK) -> dict[str, tuple[str, str]]:
    """Return every container of a stack: name to id and start time."""
    ids = docker("ps", "-aq", "--filter", f"label=flowerbed.stack={stack}").split()
    found = json.loads(docker("inspect", *ids)) if ids else []
    return {item["Name"].lstrip("/"): (item["Id"], item["State"]["StartedAt"]) for item in found}


def generated(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every rendered file, secret and issued certificate of a project."""
    files = [
        path for top in ("build", "secrets", "ca/pki/issued") for path in (root / top).rglob("*") if path.is_file()
    ]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def named(stack: str) -> set[str]:
    """Return the networks and volumes whose names begin with a stack's, and its containers."""
    found = set(containers(stack))
    for kind in ("network", "volume"):
        found |= {name for name in docker(kind, "ls", "--format", "{{.Name}}").split() if name.startswith(f"{stack}-")}
    return found


def served_serial(port: int, name: str) -> int:
    """Return the serial of the certificate that is served under a name; not for whether it is trusted."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        der = secure.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der).serial_number


def interrupted(root: Path, seconds: float, number: signal.Signals) -> int:
    """Send a signal to `flowerbed up` and what it started, as a terminal does, after some seconds; return the code."""
    command = [str(FLOWERBED), "--project", str(root), "up"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is None:
            os.killpg(process.pid, number)
        return process.wait(timeout=120)


def in_terminal(*arguments: str) -> list[str]:
    """Return the lines that `flowerbed` prints in a terminal of 80 columns."""
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    done = subprocess.run(
        [str(FLOWERBED), *arguments], capture_output=True, text=True, check=True, env=environment, cwd=KIT
    )
    return done.stdout.splitlines()
