"""A PostgreSQL container of the kit's image, as the core stack starts it, for tests: with TLS and a volume of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from images_support import HARDENED, docker, image, inspect, run, unique, wait_until

USER = "9701:9701"
DATA = "/var/lib/postgresql/data"


class Server:
    """One PostgreSQL container with a volume and a secrets directory of its own."""

    def __init__(self, folder: Path, name: str = "") -> None:
        self.folder, self.secrets = folder, folder / "secrets"
        self.container = self.volume = name or unique("postgres")
        self.secrets.mkdir(mode=0o755)
        self.renew()

    def renew(self) -> None:
        """Lay out a new key and certificate, as `make up` does: by rename."""
        run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes"),
            *("-days", "2", "-subj", "/CN=postgres", "-addext", "subjectAltName=DNS:postgres"),
            *("-keyout", self.folder / "tls.key", "-out", self.folder / "ca.crt"),
        )
        self.lay_out("tls.key", (self.folder / "tls.key").read_text())
        self.lay_out("tls.crt", (self.folder / "ca.crt").read_text())

    def lay_out(self, name: str, content: str) -> None:
        new = self.secrets / "new"
        new.write_text(content)
        new.chmod(0o400)
        # Through a container, because the tests may not run as root.
        docker("run", "--rm", "--network", "none", "-v", f"{self.secrets}:/s", image("tools"), "chown", USER, "/s/new")
        new.rename(self.secrets / name)

    def start(self) -> None:
        docker(
            *("run", "--detach", "--name", self.container, *HARDENED, "--user", USER, "--stop-signal", "SIGINT"),
            *("--tmpfs", "/tmp:uid=9701,gid=9701,mode=0700", "--tmpfs", "/run/postgresql:uid=9701,gid=9701,mode=0755"),
            *("-v", f"{self.volume}:{DATA}", "-v", f"{self.secrets}:/secrets:ro", image("postgres")),
        )

    def restart(self, *, after: str) -> None:
        """End the server with `docker stop` or `docker kill` and start the same container again."""
        docker(after, self.container)
        assert inspect(self.container)["State"]["ExitCode"] == {"stop": 0, "kill": 137}[after]
        docker("start", self.container)
        self.wait()

    def wait(self) -> None:
        probe = ("exec", self.container, "pg_isready", "-q", "-h", "/run/postgresql")
        wait_until(lambda: run("docker", *probe, check=False).returncode == 0, 180)

    def connect(self, role: str, password: str, **settings: str) -> psycopg.Connection[tuple[str, ...]]:
        address = inspect(self.container)["NetworkSettings"]["IPAddress"]
        wanted = {"dbname": role, "sslmode": "verify-full", "sslrootcert": str(self.folder / "ca.crt")} | settings
        return psycopg.connect(host="postgres", hostaddr=address, user=role, password=password, **wanted)

    def logs(self) -> str:
        return docker("logs", self.container)

    def superuser(self, database: str, *commands: str, check: bool = True) -> str:
        """Run statements as the operator does: on the socket inside the container; return what was printed."""
        words = [word for command in commands for word in ("--command", command)]
        return docker(
            *("exec", self.container, "psql", "--host=/run/postgresql", "--username=postgres", f"--dbname={database}"),
            *("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", *words),
            check=check,
        )

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.container, check=False)
        docker("volume", "rm", "--force", self.volume, check=False)


@contextmanager
def serving(folder: Path, name: str = "", **passwords: str) -> Iterator[Server]:
    """Run a server with these roles until the block ends; `name` is its container's."""
    made = Server(folder, name)
    try:
        for role, password in passwords.items():
            made.lay_out(f"{role}.password", password)
        made.start()
        made.wait()
        yield made
    finally:
        made.remove()
