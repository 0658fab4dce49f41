"""What tests and benchmarks of the certificate authority share: plans, a clock, the real easy-rsa and openssl.

Brings easy-rsa itself, from Debian's archive through apt with a configuration of its own, into `.cache/easy-rsa`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flowerbed_ca.authority import Authority
from flowerbed_ca.plan import CLIENT, OPERATOR, SERVER, Leaf

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "easy-rsa"
MIRROR = os.environ.get("FLOWERBED_DEBIAN_MIRROR", "http://deb.debian.org/debian")
KEYRINGS = ("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp")
SUITES = {"3.2": "trixie", "3.1": "bookworm"}
TITLE = "Charité, Universitätsmedizin Berlin / 1+1"
SUPERNODE = "ab" * 32

EDGE = Leaf(
    "edge", SERVER, "Consortium", "edge", "edge", ("edge", "localhost", "fleet.flowerbed.localhost"), ("127.0.0.1",)
)
SITE = Leaf("charite", CLIENT, TITLE, "site", "charite", uris=(f"https://flowerbed.localhost/supernode/{SUPERNODE}",))
GATEWAY = Leaf("gateway-charite", SERVER, TITLE, "gateway", "gateway-charite", ("gateway", "localhost"))
OPERATORS = Leaf("operator", OPERATOR, "Consortium", "operator", "operator")
PLAN = (EDGE, SITE, GATEWAY, OPERATORS)


class Clock:
    """A clock that tests set forward; it starts now."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.time

    def forward(self, days: float) -> None:
        self.time += timedelta(days=days)


def authority(pki: Path, clock: Clock | None = None, plan: Iterable[Leaf] = PLAN) -> Authority:
    """An authority with root, leaves and list."""
    made = Authority(pki, now=clock or Clock())
    made.ensure_root("Consortium")
    made.ensure_leaves(tuple(plan))
    made.ensure_crl()
    return made


def snapshot(pki: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of every file, by path."""
    files = sorted(path for path in pki.rglob("*") if path.is_file())
    return {str(path.relative_to(pki)): (path.stat().st_mode, path.read_bytes()) for path in files}


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, data: str = "") -> str:
    """Run a command that must succeed; its stdout."""
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env={**os.environ, **(env or {})}, input=data, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class EasyRsa:
    """The real easyrsa, run in the directory above a store, as its users do."""

    script: Path

    def __call__(self, pki: Path, *arguments: str) -> str:
        env = {"EASYRSA_BATCH": "1", "EASYRSA_PKI": str(pki)}
        if "3.1" in self.script.parts[-5]:
            env["EASYRSA_SSL_CONF"] = str(self.script.with_name("openssl-easyrsa.cnf"))
        return run("sh", self.script, *arguments, cwd=pki.parent, env=env)


def easyrsa(version: str = "3.2") -> EasyRsa:
    """easy-rsa 3.2 from Debian's trixie, or 3.1 from bookworm, fetched once.

    Raises AssertionError naming what is missing.
    """
    cache = CACHE / version
    cache.mkdir(parents=True, exist_ok=True)
    script = cache / "usr" / "share" / "easy-rsa" / "easyrsa"
    with _lock(cache / "lock"):
        if not script.exists():
            _fetch(cache, version)
    assert script.exists(), f"easy-rsa {version} could not be fetched from {MIRROR}"
    return EasyRsa(script)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(cache: Path, version: str) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        assert shutil.which(tool), f"{tool} is missing: easy-rsa {version} is fetched with it from {MIRROR}"
    keyring = next((path for path in KEYRINGS if Path(path).exists()), None)
    assert keyring, "Debian's archive keyring is missing: install debian-archive-keyring"
    _configure_apt(cache, f"deb [signed-by={keyring}] {MIRROR} {SUITES[version]} main\n")
    env = {"APT_CONFIG": str(cache / "apt.conf")}
    run("apt-get", "-qq", "update", cwd=cache, env=env)
    run("apt-get", "-qq", "download", "easy-rsa", cwd=cache, env=env)
    (package,) = cache.glob(f"easy-rsa_{version}*.deb")
    run("dpkg-deb", "-x", package, cache)


def _configure_apt(cache: Path, source: str) -> None:
    for directory in ("lists/partial", "archives/partial"):
        (cache / directory).mkdir(parents=True, exist_ok=True)
    (cache / "status").touch()
    (cache / "sources.list").write_text(source)
    settings = {
        "Dir::State": cache,
        "Dir::State::lists": cache / "lists",
        "Dir::State::status": cache / "status",
        "Dir::Cache": cache,
        "Dir::Etc::sourcelist": cache / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    (cache / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
