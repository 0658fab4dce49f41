"""A PostgreSQL of the test's own, with TLS and SCRAM, from Debian's package; removed with everything it holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from cryptography import x509

from superlink_support import Authority, free_port, new_key, pem, private_pem


class Postgres:
    """A PostgreSQL of the test's own, with TLS and SCRAM, from Debian's package."""

    def __init__(self, authority: Authority) -> None:
        # Not below pytest's directory, which other sessions close to other users.
        directory = Path(tempfile.mkdtemp(prefix="flowerbed-test-postgres-"))
        self.directory, self.port = directory, free_port()
        self.password = os.urandom(16).hex()
        self.programs = _programs()
        self._user = "postgres" if os.getuid() == 0 else None
        key = new_key()
        self._own(directory)
        (directory / "password").write_text(self.password)
        (directory / "tls.crt").write_bytes(pem(authority.issue(key, [x509.DNSName("localhost")])))
        (directory / "tls.key").write_bytes(private_pem(key))
        (directory / "tls.key").chmod(0o600)
        for name in ("password", "tls.crt", "tls.key"):
            self._own(directory / name)
        arguments = ["-U", "superlink", "--auth=scram-sha-256", f"--pwfile={directory}/password", "-E", "UTF8"]
        self._run("initdb", "-D", str(directory / "data"), *arguments, "--no-sync")
        self.url = f"postgresql://superlink@localhost:{self.port}/superlink"

    def _own(self, path: Path) -> None:
        if self._user:
            shutil.chown(path, self._user, self._user)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd="/", timeout=60)

    def start(self) -> None:
        options = (
            f"-p {self.port} -h 127.0.0.1 -k {self.directory} -c ssl=on -c fsync=off "
            f"-c ssl_cert_file={self.directory}/tls.crt -c ssl_key_file={self.directory}/tls.key"
        )
        self._run(
            "pg_ctl",
            "-D",
            str(self.directory / "data"),
            "-l",
            str(self.directory / "log"),
            "-w",
            "-o",
            options,
            "start",
        )

    def create_database(self, name: str = "superlink") -> None:
        self.sql(f"CREATE DATABASE \"{name}\" ENCODING 'UTF8' TEMPLATE template0", "postgres")

    def create_kit(self) -> None:
        """Make the kit's own database and the audit trail's, as the kit's image does."""
        self.sql("CREATE ROLE postgres SUPERUSER", "postgres")
        for role in ("flowerbed", "audit"):
            self.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{self.password}'", "postgres")
        self.create_database("flowerbed")
        self.sql("ALTER DATABASE flowerbed OWNER TO flowerbed", "postgres")
        self.create_database("audit")
        self.sql((Path(__file__).parents[1] / "postgres" / "audit.sql").read_text(), "audit")

    def url_of(self, role: str) -> str:
        """Return the URL of a role's own database."""
        return f"postgresql://{role}@localhost:{self.port}/{role}"

    def sql(self, statement: str, database: str = "superlink") -> str:
        command = [
            "psql",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "superlink",
            "-d",
            database,
            "-At",
            "-v",
            "ON_ERROR_STOP=1",
        ]
        environment = {**os.environ, "PGPASSWORD": self.password}
        done = subprocess.run(
            command, input=statement, check=False, capture_output=True, text=True, env=environment, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.directory / "data"), "-m", "fast", "-w", "stop")

    def remove(self) -> None:
        """Stop, if it runs, and delete everything."""
        if (self.directory / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.directory)


def _programs() -> Path:
    """Return the directory of the newest PostgreSQL on this host."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not found:
        raise RuntimeError("These tests need PostgreSQL: apt-get install postgresql")
    return found[-1]
