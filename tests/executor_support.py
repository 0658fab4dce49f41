"""What tests of the executor share: certificates, app bundles, an executor beside a Runtime API in containers.

The executor runs in the kit's image with the flags of compose/site.yaml; its code is mounted from this checkout.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import textwrap
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from flwr.cli.build import build_fab_from_files

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = "/opt/flower/lib/python3.13/site-packages"
SECRET = "5ecre7" * 8

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "probe"
version = "1.0.0"
description = "Tries what a task may not do"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "flowerbed"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "probe.app:server"
clientapp = "probe.app:client"
"""

APP = """
import json, os, sys, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client, server = ClientApp(), ServerApp()

@client.train()
def train(message, context):
    work(context)
    return Message(RecordDict({"c": ConfigRecord({"n": 1})}), reply_to=message)

@server.main()
def main(grid, context):
    work(context)

def tell(**facts):
    print("FACTS " + json.dumps(facts), flush=True)

def attempt(action):
    try:
        return repr(action())[:300]
    except BaseException as error:
        return f"{type(error).__name__}: {error}"

"""


def bundle(work: str) -> bytes:
    """Return an app bundle whose task runs ``work`` with ``context`` at hand."""
    source = APP + "def work(context):\n" + textwrap.indent(textwrap.dedent(work), "    ")
    files = {"pyproject.toml": PROJECT.encode(), "README.md": b"# probe\n", "LICENSE": b"Apache-2.0\n"}
    files |= {"probe/__init__.py": b"", "probe/app.py": source.encode()}
    with warnings.catch_warnings():
        # Flower's own use of pathspec.
        warnings.simplefilter("ignore", DeprecationWarning)
        return build_fab_from_files(files)[0]


def certificates(directory: Path, *names: str) -> None:
    """Write a root and one server leaf: ca.crt, tls.crt, tls.key."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])

    def built(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(ca_name, subject, public, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )

    signing = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    ca = (
        built(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signing, critical=True)
        .sign(ca_key, hashes.SHA384())
    )
    leaf = (
        built(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    pem = serialization.Encoding.PEM
    write_secret(directory / "ca.crt", ca.public_bytes(pem))
    write_secret(directory / "tls.crt", leaf.public_bytes(pem))
    encoded = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_secret(directory / "tls.key", encoded)


def write_secret(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o400)


def docker(*arguments: str, check: bool = True) -> str:
    command = ["docker", *arguments]
    pipe, joined = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, stdout=pipe, stderr=joined, text=True, check=False, timeout=300)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments[:3])}…: {done.stdout}")
    return done.stdout


def image() -> str:
    versions = dict(line.split("=", 1) for line in (ROOT / "versions.env").read_text().splitlines() if "=" in line)
    return f"flowerbed/app:{versions['FLOWERBED_VERSION']}"


class Bench:
    """One executor beside one Runtime API."""

    def __init__(self, root: Path, role: str, **environment: str) -> None:
        self.root, self.role = root, role
        self.name = f"fbexec-{uuid.uuid4().hex[:8]}"
        self._runs = 1000
        for name in ("secrets", "jobs", "out", "state", "results", "data"):
            (root / name).mkdir(parents=True)
        certificates(root / "secrets", "localhost")
        write_secret(root / "secrets" / "superexec.secret", SECRET.encode())
        (root / "data" / "breast-cancer.csv").write_text("canary,1\n")
        self._start_api()
        self._start_executor({"FLOWERBED_RUNTIME_ADDRESS": "localhost:9094", **environment})

    def _mount(self, where: str, there: str, mode: str) -> tuple[str, str]:
        return "-v", f"{self.root / where}:{there}:{mode}"

    def _start_api(self) -> None:
        kit = ROOT / "supernode" / "flowerbed_supernode"
        docker(
            *("run", "-d", "--name", f"{self.name}-api", "--network", "none", "--tmpfs", "/tmp"),
            *(
                "-v",
                f"{ROOT}/tests/runtime_api.py:/runtime_api.py:ro",
                "-v",
                f"{kit}:{PACKAGES}/flowerbed_supernode:ro",
            ),
            *self._mount("secrets", "/secrets", "ro"),
            *self._mount("jobs", "/jobs", "ro"),
            *self._mount("out", "/out", "rw"),
            *(image(), "python", "/runtime_api.py", "/secrets", "/jobs", "/out"),
        )

    def _start_executor(self, environment: dict[str, str]) -> None:
        variables = [part for name, value in environment.items() for part in ("-e", f"{name}={value}")]
        code = [("supernode", "flowerbed_executor"), ("apps", "flowerbed_app")]
        docker(
            *("run", "-d", "--name", self.name, "--network", f"container:{self.name}-api", "--init", "--user", "0:0"),
            *("--cap-drop", "ALL", "--cap-add", "SETUID", "--cap-add", "SETGID", "--read-only"),
            *("--security-opt", "no-new-privileges:true", "--tmpfs", "/tasks:size=256m,mode=1711"),
            *("--tmpfs", "/tmp:size=64m,mode=1777", "--tmpfs", "/run/flowerbed:size=1m,mode=0755"),
            *("--memory", "2g", "--pids-limit", "512", *variables),
            *(
                part
                for folder, package in code
                for part in ("-v", f"{ROOT}/{folder}/{package}:{PACKAGES}/{package}:ro")
            ),
            *self._mount("secrets", "/secrets", "ro"),
            *self._mount("data", "/data", "ro"),
            *self._mount("state", "/state", "rw"),
            *self._mount("results", "/results", "rw"),
            *(image(), "python", "-m", "flowerbed_executor", self.role),
        )

    def submit(self, work: str, kind: str = "") -> int:
        """Add a run whose task does ``work``; return its id."""
        self._runs += 1
        fab = self.root / "jobs" / f"{self._runs}.fab"
        fab.write_bytes(bundle(work))
        job = {"run_id": self._runs, "type": kind or f"flwr-{self.role}", "fab": fab.name}
        part = self.root / "jobs" / f"{self._runs}.part"
        part.write_text(json.dumps(job))
        part.replace(part.with_suffix(".json"))
        return self._runs

    def finished(self, run_id: int, seconds: float = 180) -> dict[str, Any]:
        """Wait until the run's task has finished; return how."""
        path, deadline = self.root / "out" / f"{run_id}.json", time.monotonic() + seconds
        while time.monotonic() < deadline:
            if path.exists():
                standing: dict[str, Any] = json.loads(path.read_text())
                if standing["status"] == "finished" and (standing["reply"] or "serverapp" in self.role):
                    return standing
            assert docker("ps", "-q", "--filter", f"name={self.name}-api"), docker("logs", f"{self.name}-api")
            time.sleep(0.2)
        raise AssertionError(f"run {run_id} did not finish: {path.read_text() if path.exists() else ''}\n{self.logs()}")

    def facts(self, run_id: int) -> dict[str, Any]:
        """Return what the run's task has told so far."""
        found: dict[str, Any] = {}
        for line in self.logs().splitlines():
            if f" run {run_id} " in line and "FACTS " in line:
                found |= json.loads(line.split("FACTS ", 1)[1])
        return found

    def told(self, run_id: int, key: str, seconds: float = 120) -> Any:
        """Wait until the run's task has told ``key``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if key in (facts := self.facts(run_id)):
                return facts[key]
            time.sleep(0.2)
        raise AssertionError(f"run {run_id} did not tell {key}:\n{self.logs()}")

    def warmed(self, seconds: float = 300) -> None:
        """Wait until tasks are forked from a warm parent."""
        deadline = time.monotonic() + seconds
        while "The warm parent is ready" not in self.logs():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        return docker("logs", self.name)

    def inside(self, script: str) -> str:
        """Run a shell script in the executor's container, as its root and with its capabilities."""
        return docker("exec", self.name, "sh", "-c", script, check=False)

    def settled(self, seconds: float = 60) -> None:
        """Wait until no task directory is left."""
        deadline = time.monotonic() + seconds
        while self.inside("ls /tasks").strip():
            assert time.monotonic() < deadline, self.inside("ls -lR /tasks; ps -ef") + self.logs()
            time.sleep(0.2)

    def close(self) -> None:
        docker("rm", "-f", self.name, f"{self.name}-api", check=False)


def is_root() -> bool:
    return os.geteuid() == 0
