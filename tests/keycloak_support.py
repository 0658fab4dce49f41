"""A real Keycloak on a real PostgreSQL, hardened as the core stack has them, with the kit's own configuration and no edge.

The host speaks to Keycloak itself, on its fixed address, under the names that the edge has in a federation. Everything carries
a name of the test's own and is removed.
"""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from ca_support import authority
from flowerbed_ca.plan import SERVER, Leaf
from flowerbed_keycloak import Access, Report, State, desired_state, keycloak_conf, reconcile
from flowerbed_topology import Topology
from images_support import HARDENED, docker, image, run, unique

NET = "10.231"
PORT = 8443
NETWORKS = {
    name: f"{NET}.{octet}.0/24"
    for octet, name in enumerate(("services", "clients", "monitoring", "notebooks", "data", "serverapp", "edge"))
} | {"sites": f"{NET}.64.0/18"}
SECRETS = {name: f"{name}-".ljust(48, "s") for name in ("kit", "hub", "grafana", "pipeline-demo")}


def topology(**changes: Any) -> Topology:
    """A small federation whose edge would be at Keycloak's own port."""
    organisations = [
        {
            "name": name,
            "title": f"Hospital {name}",
            "site": {"number": number, "data": {"directory": f"/srv/{name}"}},
        }
        for number, name in enumerate(("north", "south"), 1)
    ]
    return Topology.model_validate(
        {
            "name": "flowerbed-test-kc",
            "edge": {"https_port": PORT},
            "networks": NETWORKS,
            "organisations": organisations,
            "federations": [
                {"name": "main", "organisations": ["north", "south"]},
                {"name": "pilot", "organisations": ["north"]},
            ],
            "identity": {"demo_people": True},
            "pipelines": [{"name": "demo", "organisation": "north", "roles": ["researcher"]}],
        }
        | changes
    )


def people(made: Topology) -> list[dict[str, Any]]:
    """The list of people as the SuperLink keeps it, for demo people, with the kit's and pipelines' accounts."""
    listed = [
        account(person.name, "demo", f"p-{number:020x}", person.organisation, [person.role], person.federations)
        for number, person in enumerate(made.demo_people)
    ]
    federations = [item.name for item in made.federations]
    machines = [account("flowerbed", "kit", "flowerbed", None, ["operator"], federations)]
    return listed + machines


def account(name: str, kind: str, aid: str, organisation: str | None, roles: Any, federations: Any) -> dict[str, Any]:
    return {
        "aid": aid,
        "name": name,
        "kind": kind,
        "email": f"{name}@flowerbed.localhost",
        "first_name": name,
        "last_name": organisation,
        "organisation": organisation,
        "roles": list(roles),
        "federations": list(federations),
        "enabled": True,
    }


def password(name: str) -> str:
    return f"{name}-has-This-password-1"


class Keycloak:
    """Two containers on two networks of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.topology = folder, topology()
        self.name = unique("kc")
        self.keycloak, self.postgres = f"{self.name}-keycloak", f"{self.name}-postgres"
        self.people = people(self.topology)
        self.started_in: dict[str, float] = {}
        self.access = Access(
            url=self.topology.url("admin"),
            address=str(self.topology.address("keycloak", "services")),
            ca=folder / "pki" / "ca.crt",
            operator=None,
            kit_secret="k" * 64,
            bootstrap_secret="b" * 64,
        )

    def prepare(self) -> None:
        """Certificates, secrets and networks."""
        names = ("keycloak", *(f"{host}.{self.topology.domain}" for host in ("auth", "admin")))
        leaves = [
            Leaf("keycloak", SERVER, "Consortium", "keycloak", "keycloak", names),
            Leaf("postgres", SERVER, "Consortium", "postgres", "postgres", ("postgres",)),
        ]
        authority(self.folder / "pki", plan=leaves)
        secret = "d" * 48
        conf = keycloak_conf(self.topology, secret, self.access.bootstrap_secret)
        self.lay_out("postgres", 9701, {"keycloak.password": secret})
        self.lay_out("keycloak", 9706, {"keycloak.conf": conf})
        for zone in ("services", "data"):
            subnet = str(self.topology.subnet(zone))
            docker("network", "create", "--internal", "--subnet", subnet, f"{self.name}-{zone}")

    def lay_out(self, consumer: str, uid: int, texts: Mapping[str, str]) -> None:
        folder = self.folder / consumer
        folder.mkdir(mode=0o755)
        pki = self.folder / "pki"
        for source, name in (
            (pki / "ca.crt", "ca.crt"),
            (pki / "issued" / f"{consumer}.crt", "tls.crt"),
            (pki / "private" / f"{consumer}.key", "tls.key"),
        ):
            shutil.copyfile(source, folder / name)
        for name, text in texts.items():
            (folder / name).write_text(text)
        script = f"chown -R {uid}:{uid} /s && chmod 0400 /s/* && chmod 0755 /s"
        docker("run", "--rm", "--network", "none", "-v", f"{folder}:/s", image("tools"), "sh", "-c", script)

    def start(self) -> None:
        """Start both, as compose/core.yaml does, and wait until Keycloak is ready."""
        data = str(self.topology.address("postgres", "data"))
        docker(
            *("run", "-d", "--name", self.postgres, *HARDENED, "--user", "9701:9701", "--stop-signal", "SIGINT"),
            *("--network", f"{self.name}-data", "--ip", data, "--network-alias", "postgres"),
            *("--tmpfs", "/tmp:uid=9701,gid=9701,mode=0700", "--tmpfs", "/run/postgresql:uid=9701,gid=9701,mode=0755"),
            *("--tmpfs", "/var/lib/postgresql/data:uid=9701,gid=9701,mode=0700"),
            *("-v", f"{self.folder}/postgres:/secrets:ro", image("postgres"), "-c", "fsync=off"),
        )
        docker(
            *("create", "--name", self.keycloak, *HARDENED, "--user", "9706:9706", "--memory", "1g"),
            *("--network", f"{self.name}-services", "--ip", self.access.address),
            *("--tmpfs", "/tmp:size=128m,uid=9706,gid=9706,mode=0700"),
            *("--tmpfs", "/opt/keycloak/data:size=64m,uid=9706,gid=9706,mode=0700"),
            *("-v", f"{self.folder}/keycloak:/secrets:ro", image("keycloak")),
        )
        docker("network", "connect", f"{self.name}-data", self.keycloak)
        self.started_in["empty"] = self.begin()

    def begin(self) -> float:
        """Start Keycloak's container; seconds until its health check succeeds."""
        began = time.monotonic()
        docker("start", self.keycloak)
        self.wait()
        return time.monotonic() - began

    def wait(self, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while run("docker", "exec", self.keycloak, "flowerbed-keycloak-healthy", check=False).returncode:
            assert time.monotonic() < end, docker("logs", "--tail", "40", self.keycloak)
            time.sleep(1)

    def empty(self) -> None:
        """Throw Keycloak's database away and start it on a new one."""
        docker("stop", self.keycloak)
        psql = ("exec", self.postgres, "psql", "-qh", "/run/postgresql", "-U", "postgres", "-c")
        docker(*psql, "DROP DATABASE keycloak")
        docker(*psql, "CREATE DATABASE keycloak OWNER keycloak")
        self.begin()

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.keycloak, self.postgres, check=False)
        for zone in ("services", "data"):
            docker("network", "rm", f"{self.name}-{zone}", check=False)
        docker("run", "--rm", "-v", f"{self.folder}:/f", image("tools"), "chmod", "-R", "a+rwX", "/f", check=False)

    def wanted(self, listed: list[dict[str, Any]] | None = None, made: Topology | None = None) -> State:
        return desired_state(made or self.topology, self.people if listed is None else listed, SECRETS)

    def reconcile(self, wanted: State | None = None, *, dry_run: bool = False) -> Report:
        wanted = self.wanted() if wanted is None else wanted
        return reconcile(self.access, wanted, password_for=lambda name: (password(name), False), dry_run=dry_run)

    def http(self, host: str = "auth") -> httpx.Client:
        """What a browser or a client of the realm would be."""
        name = f"{host}.{self.topology.domain}"
        return httpx.Client(
            base_url=f"https://{self.access.address}:{PORT}",
            headers={"Host": self.topology.authority(host)},
            verify=_context(self.access.ca),
            trust_env=False,
            # A busy host takes its time over the first page.
            timeout=120,
            event_hooks={"request": [lambda request: request.extensions.update(sni_hostname=name)]},
        )

    def token(self, client: str, **form: str) -> httpx.Response:
        """Ask the token endpoint as a client; without `grant_type`, by client credentials."""
        form = {"client_id": client, "grant_type": "client_credentials"} | form
        if client in SECRETS:
            form["client_secret"] = SECRETS[client]
        with self.http() as http:
            return http.post("/realms/flowerbed/protocol/openid-connect/token", data=form)


@contextmanager
def running(root: Path) -> Iterator[Keycloak]:
    """Run a Keycloak that nobody has told anything yet; what it needed is removed at the end."""
    made = Keycloak(root)
    try:
        made.prepare()
        made.start()
        yield made
    finally:
        made.remove()


def _context(ca: Path) -> Any:
    import ssl

    return ssl.create_default_context(cafile=str(ca))


def claims(token: str) -> dict[str, Any]:
    """A token's claims, unverified: Keycloak is the test's own."""
    payload = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found
