"""The audit trail's database on the real image: what its role may do, what nobody may, and how rows are chained."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import errors

from images_support import docker, wait_until
from postgres_server import Server, serving

pytestmark = pytest.mark.docker

PASSWORD = "audit-Password"
ROWS = "SELECT seq || '|' || encode(hash, 'hex') || '|' || record FROM audit.trail ORDER BY seq"
INSERT = "INSERT INTO audit.trail (record) SELECT unnest(%s::text[])"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("audit")
    with serving(folder, audit=PASSWORD, superlink="other") as running:
        yield running


@pytest.fixture
def role(server: Server) -> Iterator[psycopg.Connection[Any]]:
    with server.connect("audit", PASSWORD) as connection:
        connection.autocommit = True
        yield connection


def rows(server: Server) -> list[tuple[int, str, str]]:
    lines = server.superuser("audit", ROWS).splitlines()
    return [(int(seq), hash_, record) for seq, hash_, record in (line.split("|", 2) for line in lines)]


def check_chain(found: list[tuple[int, str, str]]) -> None:
    """Compute the chain anew, with nothing of the kit's."""
    previous = bytes(32)
    for expected, (seq, hash_, record) in enumerate(found, 1):
        previous = hashlib.sha256(previous + f"{seq}:{record}".encode()).digest()
        assert (seq, hash_) == (expected, previous.hex())


def test_rows_are_numbered_and_chained_one_by_one_and_many_at_once(
    server: Server, role: psycopg.Connection[Any]
) -> None:
    before = len(rows(server))
    texts = [json.dumps({"who": f'é漢"\\ {n}'}, ensure_ascii=n % 2 == 0) for n in range(50)]
    role.execute("INSERT INTO audit.trail (record) VALUES (%s)", [texts[0]])
    role.execute(INSERT, [texts[1:]])
    with pytest.raises(errors.InvalidTextRepresentation), role.transaction():
        role.execute(INSERT, [['{"a":1}', "{no json}"]])
    with role.transaction(force_rollback=True):
        role.execute(INSERT, [['{"rolled":"back"}']])
    role.execute(INSERT, [['{"last":1}']])

    found = rows(server)
    check_chain(found)
    assert [record for _, _, record in found[before:]] == [*texts, '{"last":1}']


def test_many_who_insert_at_once_make_one_chain(server: Server) -> None:
    before = len(rows(server))

    def insert(number: int) -> None:
        with server.connect("audit", PASSWORD) as connection:
            connection.autocommit = True
            for turn in range(10):
                connection.execute(INSERT, [[json.dumps({"n": number, "t": turn, "i": i}) for i in range(5)]])

    threads = [threading.Thread(target=insert, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = rows(server)
    assert len(found) == before + 300
    check_chain(found)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM audit.trail",
        "SELECT count(*) FROM audit.trail",
        "TABLE audit.turn",
        "COPY audit.trail TO STDOUT",
        "INSERT INTO audit.trail (seq, record) VALUES (1, '{}')",
        "INSERT INTO audit.trail (record, hash) VALUES ('{}', sha256('x'))",
        "INSERT INTO audit.trail VALUES (1, '{}', sha256('x'))",
        "INSERT INTO audit.trail (record) VALUES ('{}') RETURNING seq",
        "INSERT INTO audit.trail (record) VALUES ('{}') ON CONFLICT (seq) DO UPDATE SET record = '{}'",
        "UPDATE audit.trail SET record = '{}'",
        "DELETE FROM audit.trail",
        "TRUNCATE audit.trail",
        "DROP TABLE audit.trail",
        "DROP SCHEMA audit CASCADE",
        "ALTER TABLE audit.trail DISABLE TRIGGER ALL",
        "ALTER TABLE audit.trail OWNER TO audit",
        "CREATE TRIGGER mine BEFORE INSERT ON audit.trail EXECUTE FUNCTION audit.refuse()",
        "CREATE OR REPLACE FUNCTION audit.chain() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "SELECT audit.chain()",
        "GRANT SELECT ON audit.trail TO audit",
        "BEGIN; LOCK TABLE audit.trail",
        "BEGIN; LOCK TABLE audit.turn",
        "CREATE TABLE audit.mine ()",
        "CREATE TABLE public.mine ()",
        "CREATE TEMPORARY TABLE trail (record text)",
        "CREATE SCHEMA mine",
        "SELECT lo_create(0)",
        "SET session_replication_role = replica",
        "SET ROLE postgres",
        "ALTER ROLE audit SUPERUSER",
        "ALTER DATABASE audit OWNER TO audit",
        "COPY audit.trail (record) FROM PROGRAM 'echo {}'",
        "SELECT pg_read_file('/etc/passwd')",
    ],
)
def test_the_role_may_insert_and_nothing_else(server: Server, role: psycopg.Connection[Any], statement: str) -> None:
    before = rows(server)
    with pytest.raises(errors.InsufficientPrivilege):
        role.execute(statement)
    assert rows(server) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit.trail SET record = '{}'",
        "DELETE FROM audit.trail",
        "DELETE FROM audit.trail WHERE false",
        "TRUNCATE audit.trail",
        "TRUNCATE audit.trail CASCADE",
        "SET session_replication_role = replica; DELETE FROM audit.trail",
    ],
)
def test_not_even_the_owner_changes_a_row(server: Server, role: psycopg.Connection[Any], statement: str) -> None:
    role.execute(INSERT, [['{"kept":true}']])
    before = rows(server)
    said = server.superuser("audit", statement, check=False)
    assert "the audit trail is only ever added to" in said
    assert rows(server) == before != []


@pytest.mark.parametrize(
    "record", ["", "[]", '"text"', "{", " {}", '{"a":\n1}', '{"a":"\x7f"}', f'{{"a":"{"x" * 16384}"}}']
)
def test_a_record_is_one_json_object_on_one_line(role: psycopg.Connection[Any], record: str) -> None:
    with pytest.raises((errors.CheckViolation, errors.InvalidTextRepresentation)):
        role.execute(INSERT, [[record]])


def test_a_backup_under_way_does_not_keep_records_out(server: Server, role: psycopg.Connection[Any]) -> None:
    holds = "BEGIN; LOCK TABLE audit.trail, audit.turn IN ACCESS SHARE MODE; SELECT pg_sleep(8)"  # as pg_dump does
    with ThreadPoolExecutor() as pool:
        backup = pool.submit(server.superuser, "audit", holds)
        waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'audit.turn'::regclass"
        wait_until(lambda: server.superuser("audit", waiting) == "1", 5)
        role.execute("SET statement_timeout = 2000")
        role.execute(INSERT, [['{"during":"backup"}']])
        assert not backup.done()


def test_each_role_reaches_its_own_database_alone(server: Server) -> None:
    for name, password, database in (
        ("audit", PASSWORD, "superlink"),
        ("audit", PASSWORD, "postgres"),
        ("superlink", "other", "audit"),
    ):
        with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects"):
            server.connect(name, password, dbname=database)
    owners = server.superuser("audit", "SELECT datname || ' ' || datdba::regrole FROM pg_database ORDER BY 1")
    assert {"audit postgres", "superlink superlink"} <= set(owners.splitlines())


def test_a_restart_keeps_the_trail_and_puts_back_what_guards_it(server: Server, role: psycopg.Connection[Any]) -> None:
    role.execute(INSERT, [['{"before":"restart"}']])
    role.close()
    before = rows(server)
    tampered = "GRANT ALL ON audit.trail TO audit; DROP TRIGGER refuse ON audit.trail; "
    server.superuser("audit", tampered + "ALTER DATABASE audit OWNER TO audit")
    server.restart(after="stop")

    assert rows(server) == before
    with server.connect("audit", PASSWORD) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM audit.trail")
    assert "only ever added to" in server.superuser("audit", "DELETE FROM audit.trail", check=False)
    with server.connect("audit", PASSWORD) as connection:
        connection.execute(INSERT, [['{"after":"restart"}']])
    check_chain(rows(server))
    assert PASSWORD not in docker("logs", server.container)
