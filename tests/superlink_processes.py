"""Real processes for the SuperLink's integration tests: SuperLink, SuperNode, SuperExec, CLI, a stand-in edge."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
from cryptography import x509

from superlink_identity import Issuer, Person, credentials, person
from superlink_postgres import Postgres
from superlink_support import (
    Authority,
    TestSite,
    free_port,
    new_key,
    pem,
    private_pem,
    terminated,
    wait_until,
)

BIN = Path(sys.executable).parent
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "NO_PROXY": "localhost,127.0.0.1"}

PYPROJECT = """\
[project]
name = "probe"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "flowerbed"
[tool.flwr.app.components]
{components}
[tool.flwr.app.config]
rounds = 1
pause = 0
"""
SERVER = """\
import time
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    print("a log line with a NUL: [\\x00]")
    for round_ in range(context.run_config["rounds"]):
        while not (nodes := list(grid.get_node_ids())):
            time.sleep(0.5)
        content = RecordDict({"m": MetricRecord({"round": round_})})
        messages = [Message(content=content, dst_node_id=n, message_type="train") for n in nodes]
        replies = list(grid.send_and_receive(messages))
        answers = [reply.content["m"]["round"] if not reply.has_error() else reply.error for reply in replies]
        print(f"round {round_}: {answers}", flush=True)
        time.sleep(context.run_config["pause"])
"""
CLIENT = """\
from flwr.app import Message
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(msg, context):
    return Message(content=msg.content, reply_to=msg)
"""
COMPONENTS = 'serverapp = "probe.server:app"\nclientapp = "probe.client:app"'


def write_app(directory: Path, components: str = COMPONENTS) -> Path:
    """Write a Flower app that echoes a number for some rounds."""
    (directory / "probe").mkdir(parents=True)
    (directory / "pyproject.toml").write_text(PYPROJECT.format(components=components))
    for name, text in {"__init__": "", "server": SERVER, "client": CLIENT}.items():
        (directory / "probe" / f"{name}.py").write_text(text)
    return directory


class EdgeStandIn:
    """Runs `superlink_edge`, which stands for NGINX, on a port of its own."""

    def __init__(self, upstream: str, headers: dict[str, str], files: Path) -> None:
        self.port = free_port()
        own = {k.lower(): v for k, v in headers.items() if k != "flwr-public-key"}
        self._given = {"port": self.port, "upstream": upstream, "headers": own, "files": str(files)}
        self._stack = ExitStack()

    def __enter__(self) -> EdgeStandIn:
        program = Path(__file__).with_name("superlink_edge.py")
        process = subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE)
        self._stack.enter_context(terminated(process, 5))
        assert process.stdin is not None
        with process.stdin as given:
            given.write(json.dumps(self._given).encode())
        wait_until(self._listens, 20, "the edge's stand-in")
        return self

    def _listens(self) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class World:
    """A directory with everything that one SuperLink and its surroundings need, and the processes themselves."""

    def __init__(self, root: Path, authority: Authority, sites: list[TestSite], secrets: Path, config: Path) -> None:
        self.root, self.authority, self.sites = root, authority, sites
        self.secrets, self.config = secrets, config
        self.results = root / "results"
        self.results.mkdir()
        self.postgres = Postgres(authority)
        key = new_key()
        names: list[x509.GeneralName] = [x509.DNSName("localhost")]
        (secrets / "tls.crt").write_bytes(pem(authority.issue(key, names)))
        (secrets / "tls.key").write_bytes(private_pem(key))
        (secrets / "superexec.secret").write_text(os.urandom(32).hex())
        roles = ("superlink", "flowerbed", "audit")
        (secrets / "pgpass").write_text("".join(f"localhost:*:*:{r}:{self.postgres.password}\n" for r in roles))
        (secrets / "pgpass").chmod(0o400)
        self.port, self.log = free_port(), root / "superlink.log"
        self.issuer_port = free_port()
        self.issuer = Issuer(f"https://localhost:{self.issuer_port}")
        self.logged_in: Person = KIT

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the SuperLink's container."""
        own = {
            "FLOWERBED_DATABASE": self.postgres.url,
            "FLOWERBED_KIT_DATABASE": self.postgres.url_of("flowerbed"),
            "FLOWERBED_AUDIT_DATABASE": self.postgres.url_of("audit"),
            "FLOWERBED_ISSUER": self.issuer.issuer,
            "FLOWERBED_PUBLIC_URL": "https://superlink.flowerbed.test:8443",
            "FLOWERBED_SECRETS": str(self.secrets),
            "FLOWERBED_CONFIG": str(self.config),
            "FLOWERBED_RESULTS": str(self.results),
            "FLOWERBED_ALIVE": str(self.root / "alive"),
            "FLOWERBED_HOST": "127.0.0.1",
            "FLOWERBED_PORT": str(self.port),
            "FLWR_HOME": str(self.root / "superlink-home"),
        }
        return {"PATH": f"{BIN}:/usr/bin:/bin", **own}

    def client(self, local_address: str | None = None) -> httpx.Client:
        """Return a client that talks to the SuperLink around the edge, from an address of this host."""
        trust = ssl.create_default_context(cafile=str(self.secrets / "ca.crt"))
        transport = httpx.HTTPTransport(verify=trust, trust_env=False, local_address=local_address)
        return httpx.Client(base_url=f"https://localhost:{self.port}", transport=transport, timeout=40)

    def healthy(self) -> bool:
        """Whether the SuperLink answers."""
        try:
            with self.client() as client:
                return client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    @contextmanager
    def superlink(self, wait: bool = True, **changes: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run `python -m flowerbed_superlink`."""
        command = [sys.executable, "-m", "flowerbed_superlink"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, env=self.environment | changes, stdout=log, stderr=log)
        with terminated(process):
            if wait:
                wait_until(self.healthy, 40, "the SuperLink's health")
            yield process

    def events(self, name: str) -> list[dict[str, object]]:
        """Return our structured log lines of one kind."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith('{"time"')]
        return [record for record in map(json.loads, lines) if record["event"] == name]

    @contextmanager
    def process(self, name: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run one of Flower's programs with a home of its own."""
        home = self.root / name
        environment = QUIET | {"PATH": f"{BIN}:/usr/bin:/bin", "FLWR_HOME": str(home), "HOME": str(home)}
        home.mkdir(exist_ok=True)
        with (self.root / f"{name}.log").open("ab") as log:
            process = subprocess.Popen([str(BIN / command[0]), *command[1:]], env=environment, stdout=log, stderr=log)
        with terminated(process):
            yield process

    @contextmanager
    def executor(self, name: str, address: str) -> Iterator[None]:
        """Run SuperExec for a Runtime API."""
        trust = ["--root-certificates", str(self.secrets / "ca.crt")]
        secret = ["--superexec-auth-secret-file", str(self.secrets / "superexec.secret")]
        with self.process(name, "flower-superexec", "--runtime-api-address", address, *trust, *secret):
            yield

    @contextmanager
    def supernode(self, site: TestSite, fleet_port: int) -> Iterator[subprocess.Popen[bytes]]:
        """Run a stock SuperNode and its executor."""
        key = self.root / f"{site.name}.key"
        key.write_bytes(_openssh(site))
        port = str(free_port())
        tls = [f"--ssl-{k}={self.secrets / v}" for k, v in TLS_FILES.items()]
        command = ["flower-supernode", "--superlink", f"localhost:{fleet_port}", "--isolation", "process", *tls]
        command += ["--root-certificates", str(self.secrets / "ca.crt"), "--auth-supernode-private-key", str(key)]
        command += ["--superexec-auth-secret-file", str(self.secrets / "superexec.secret"), "--port", port]
        with ExitStack() as stack:
            node = stack.enter_context(self.process(f"supernode-{site.name}", *command))
            stack.enter_context(self.executor(f"clientapp-{site.name}", f"localhost:{port}"))
            yield node

    def configure_cli(self, port: int, home: str = "cli") -> None:
        """Write a home for the CLI that names the stand-in on this port, with whoever is logged in."""
        directory = self.root / home
        directory.mkdir(exist_ok=True)
        (directory / "config.toml").write_text(
            f'[superlink]\ndefault = "test"\n[superlink.test]\naddress = "localhost:{port}"\n'
            f'root-certificates = "{self.secrets / "ca.crt"}"\n'
        )
        account = self.logged_in
        stored = credentials(f"localhost:{port}", self.issuer.token(account), self.issuer.refresh_token(account))
        (directory / "credentials.yaml").write_text(stored)

    @contextmanager
    def as_(self, account: Person) -> Iterator[None]:
        """Use the CLI as another account."""
        before, self.logged_in = self.logged_in, account
        try:
            yield
        finally:
            self.logged_in = before

    def bearer(self, account: Person) -> dict[str, str]:
        """Return the header with which an account asks."""
        return {"authorization": f"Bearer {self.issuer.token(account)}"}

    def people(self, *arguments: str, given: object = None) -> subprocess.CompletedProcess[str]:
        """Run `python -m flowerbed_superlink.people`."""
        command = [sys.executable, "-m", "flowerbed_superlink.people", *arguments]
        stdin = None if given is None else json.dumps(given)
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=self.environment, timeout=60, check=False
        )

    def add(self, *accounts: Person, enabled: bool = True) -> None:
        """Put people into the list, and give them the ids that they got."""
        entries = [_entry(account) | {"enabled": enabled} for account in accounts]
        done = self.people("put", given=entries)
        assert done.returncode == 0, done.stderr
        aids = {row["name"]: row["aid"] for row in json.loads(done.stdout)}
        for account in accounts:
            account.aid = aids[account.name]

    def trail(self, **wanted: object) -> list[dict[str, object]]:
        """Return the audit records in which these keys have these values, oldest first."""
        rows = self.postgres.sql("SELECT record FROM audit.trail ORDER BY seq", "audit").splitlines()
        records: list[dict[str, object]] = [json.loads(row) for row in rows]
        return [record for record in records if wanted.items() <= record.items()]

    def flwr(self, port: int, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the CLI against the stand-in on this port."""
        self.configure_cli(port)
        command = [str(BIN / "flwr"), *arguments]
        home = str(self.root / "cli")
        environment = QUIET | {"PATH": f"{BIN}:/usr/bin:/bin", "FLWR_HOME": home, "HOME": home}
        environment |= {"COLUMNS": "400", "NO_COLOR": "1"}
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=timeout_s, cwd=self.root, check=False
        )

    def register(self, port: int, site: TestSite) -> None:
        """Register a site's SuperNode, as `make up` does."""
        public = self.root / f"{site.name}.pub"
        public.write_bytes(_openssh_public(site))
        with self.as_(KIT):
            done = self.flwr(port, "supernode", "register", str(public), "--name", site.name)
        assert done.returncode == 0, done.stdout + done.stderr


def _entry(account: Person) -> dict[str, object]:
    return {
        "name": account.name,
        "kind": "person",
        "organisation": account.organisation or None,
        "roles": account.roles,
        "federations": account.federations,
    }


KIT = Person("kit", "flowerbed", ["operator"], organisation="", federations=[], client="kit")
RESEARCHER = person("researcher-north", "researcher")

TLS_FILES = {"certfile": "tls.crt", "keyfile": "tls.key", "ca-certfile": "ca.crt"}


def _openssh(site: TestSite) -> bytes:
    from cryptography.hazmat.primitives import serialization as s

    return site.key.private_bytes(s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption())


def _openssh_public(site: TestSite) -> bytes:
    from cryptography.hazmat.primitives import serialization as s

    return site.key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
