"""The PostgreSQL image as the core stack starts it: a real server, real TLS, connections from outside the container."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from images_support import docker, image, inspect, wait_until
from postgres_server import DATA, Server

pytestmark = pytest.mark.docker


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.lay_out("superlink.password", "first-Password'\\")
    try:
        yield made
    finally:
        made.remove()


def refused(server: Server, role: str, password: str, **settings: str) -> str:
    with pytest.raises(psycopg.OperationalError) as error, server.connect(role, password, **settings):
        pass
    return str(error.value)


def test_a_role_reaches_its_own_database_over_tls_and_nothing_else(server: Server) -> None:
    password = "first-Password'\\"
    server.lay_out("keycloak.password", "another")
    server.start()
    server.wait()

    with server.connect("superlink", password) as connection:
        found = connection.execute(
            "SELECT version, current_setting('TimeZone'), pg_encoding_to_char(encoding) FROM pg_stat_ssl, pg_database "
            "WHERE pid = pg_backend_pid() AND datname = current_database()"
        ).fetchone()
        assert found == ("TLSv1.3", "UTC", "UTF8")
        stored = connection.execute(
            "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = 'superlink'"
        )
        assert stored.fetchone() == (False,)
        connection.execute("CREATE TABLE runs (id int)")

    assert "no encryption" in refused(server, "superlink", password, sslmode="disable")
    for database in ("keycloak", "postgres", "template1"):
        assert "pg_hba.conf rejects" in refused(server, "superlink", password, dbname=database)
    assert "pg_hba.conf rejects" in refused(server, "postgres", password)
    assert "authentication failed" in refused(server, "superlink", "another")
    assert password not in server.logs()


def test_a_second_start_keeps_data_and_follows_the_secrets(server: Server) -> None:
    server.lay_out("gone.password", "soon-gone")
    server.start()
    server.wait()
    with server.connect("superlink", "first-Password'\\") as connection:
        connection.execute("CREATE TABLE runs (id int)")
        connection.execute("INSERT INTO runs VALUES (7)")
        connection.execute("ALTER ROLE superlink SET default_transaction_read_only = on")
        connection.execute("ALTER ROLE superlink IN DATABASE superlink SET statement_timeout = 1")

    server.lay_out("superlink.password", "second")
    (server.secrets / "gone.password").unlink()
    server.restart(after="stop")

    with server.connect("superlink", "second") as connection:
        assert connection.execute("SELECT id FROM runs").fetchone() == (7,)
        connection.execute("INSERT INTO runs SELECT 8 FROM pg_sleep(0.01)")
    assert "authentication failed" in refused(server, "superlink", "first-Password'\\")
    assert "not permitted to log in" in refused(server, "gone", "soon-gone")


def test_a_killed_server_recovers_what_was_committed(server: Server) -> None:
    server.start()
    server.wait()
    with server.connect("superlink", "first-Password'\\") as connection:
        connection.execute("CREATE TABLE runs AS SELECT generate_series(1, 1000) AS id")

    server.restart(after="kill")

    with server.connect("superlink", "first-Password'\\") as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1000,)


def test_a_first_start_that_was_killed_half_way_is_begun_again(server: Server) -> None:
    leave = f"mkdir {DATA}/17.new && echo 17 >{DATA}/17.new/PG_VERSION"
    docker("run", "--rm", "-v", f"{server.volume}:{DATA}", "--entrypoint", "sh", image("postgres"), "-c", leave)
    server.start()
    server.wait()
    with server.connect("superlink", "first-Password'\\") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_renewed_certificate_is_served_after_sighup(server: Server) -> None:
    server.start()
    server.wait()
    old = server.connect("superlink", "first-Password'\\")

    server.renew()
    docker("kill", "--signal", "HUP", server.container)

    def renewed() -> bool:
        try:
            server.connect("superlink", "first-Password'\\").close()
        except psycopg.OperationalError:
            return False
        return True

    wait_until(renewed, 10)
    assert old.execute("SELECT 1").fetchone() == (1,), "a reload leaves open connections alone"
    old.close()


def test_tls_1_1_is_refused(server: Server) -> None:
    server.start()
    server.wait()
    address = inspect(server.container)["NetworkSettings"]["IPAddress"]
    context = ssl.create_default_context(cafile=str(server.folder / "ca.crt"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((address, 5432), 5) as plain:
        plain.sendall(bytes.fromhex("0000000804d2162f"))  # SSLRequest, PostgreSQL 17 manual, 53.7
        assert plain.recv(1) == b"S"
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
            context.wrap_socket(plain, server_hostname="postgres")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tls.key", None, "/secrets/tls.key is missing or not readable for uid 9701: run make up, which writes it"),
        ("Bad-Role.password", "x", "a role's name is lower-case letters, digits and _"),
        ("hub.password", "", "hub.password is empty"),
    ],
)
def test_what_is_wrong_with_the_secrets_is_said(server: Server, name: str, content: str | None, sentence: str) -> None:
    if content is None:
        (server.secrets / name).unlink()
    else:
        server.lay_out(name, content)
    server.start()
    wait_until(lambda: not inspect(server.container)["State"]["Running"])
    assert inspect(server.container)["State"]["ExitCode"] == 1
    assert sentence in server.logs()


def test_a_stop_during_the_first_start_is_heeded_and_the_next_start_works(server: Server) -> None:
    server.start()
    wait_until(lambda: bool(server.logs()))  # before that the signal may meet Docker's own start-up, which ends with 2
    docker("stop", "--time", "30", server.container)
    assert inspect(server.container)["State"]["ExitCode"] in (0, 143), server.logs()
    docker("start", server.container)
    server.wait()
    with server.connect("superlink", "first-Password'\\") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
