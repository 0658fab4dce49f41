"""The writer of the audit trail and the command that verifies it, against the real PostgreSQL image."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from audit_support import VALUES, Operator
from flowerbed_cli import audit, audit_show
from flowerbed_cli.audit_rows import rows
from flowerbed_cli.errors import FlowerbedError, Tampered
from flowerbed_cli.main import app
from flowerbed_cli.project import Project
from flowerbed_superlink.database import connect
from flowerbed_superlink.trail import _TIMES, Trail, TrailUnavailable
from images_support import docker, inspect
from postgres_server import Server, serving

pytestmark = pytest.mark.docker

PASSWORD = "audit-Password"
KIT = Path(__file__).resolve().parents[2]


class World:
    """A project with an operator's key, a PostgreSQL of the name that it expects, and a trail that writes there."""

    def __init__(self, root: Path, server: Server) -> None:
        self.server, self.operator = server, Operator(root)
        self.root, self.project = root, Project(root)
        self.stack = server.container.removesuffix("-postgres")
        file = (KIT / "federation.yaml").read_text()
        (root / "federation.yaml").write_text(f"{file}\nname: {self.stack}\n")
        secrets = root / "superlink"
        secrets.mkdir()
        (secrets / "pgpass").write_text(f"*:*:*:audit:{PASSWORD}\n")
        (secrets / "pgpass").chmod(0o400)
        (secrets / "ca.crt").write_bytes((server.folder / "ca.crt").read_bytes())
        self.secrets = secrets
        self.trail = Trail(self.open)

    def open(self) -> psycopg.Connection[Any]:
        address = inspect(self.server.container)["NetworkSettings"]["IPAddress"]
        if not address:
            raise psycopg.OperationalError("the container is stopped")
        return connect("postgresql://audit@postgres:5432/audit", self.secrets, hostaddr=address, **_TIMES)

    def flowerbed(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["--project", str(self.root), "audit", *arguments])

    def said(self, *arguments: str, code: int = 0) -> str:
        done = self.flowerbed(*arguments)
        assert done.exit_code == code, (done.output, done.exception)
        return " ".join(done.output.split())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("server"), f"fb-audit-{uuid.uuid4().hex[:8]}-postgres", audit=PASSWORD
    ) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, server: Server) -> Iterator[World]:
    server.superuser("audit", "ALTER TABLE audit.trail DISABLE TRIGGER refuse", "TRUNCATE audit.trail")
    server.superuser("audit", "ALTER TABLE audit.trail ENABLE ALWAYS TRIGGER refuse")
    made = World(tmp_path, server)
    yield made
    made.trail.close()


def test_what_many_threads_record_is_one_chain(world: World, tmp_path: Path) -> None:
    def write(number: int) -> None:
        for turn in range(25):
            world.trail.record(**VALUES | {"who": f"w{number}", "run": turn})

    threads = [threading.Thread(target=write, args=[number]) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "The audit trail is whole: 400 records" in world.said("verify")
    export = tmp_path / "audit.jsonl"
    assert "Wrote 400 records and a signed checkpoint" in world.said("export", str(export))
    assert "The export is whole: 400 records" in world.said("verify", str(export))
    records = [json.loads(line)["record"] for line in export.read_text().splitlines()[:-1]]
    for number in range(16):
        assert [r["run"] for r in records if r["who"] == f"w{number}"] == list(range(25))
    assert export.stat().st_mode & 0o777 == 0o600


def test_any_text_is_recorded_exported_and_verified(world: World, tmp_path: Path) -> None:
    @settings(max_examples=60)
    @given(who=st.text(max_size=300), detail=st.text(max_size=1100))
    def record(who: str, detail: str) -> None:
        world.trail.record(**VALUES | {"who": who}, detail=detail)

    record()
    for text in ("\\", "\\\\", "\\N", '"', "\\n", "a\\.", "%s {} \x7f\x80\u2028", "É漢😀"):
        world.trail.record(**VALUES, detail=text)
    export = tmp_path / "audit.jsonl"
    world.said("export", str(export))
    world.said("verify", str(export))
    last = [json.loads(line)["record"]["detail"] for line in export.read_text().splitlines()[-5:-1]]
    assert last == ["\\n", "a\\.", "%s {} \ufffd\ufffd\ufffd", "É漢😀"]


def test_postgresql_that_is_away_or_hangs_is_said_within_five_seconds_and_its_return_noticed(world: World) -> None:
    world.trail.record(**VALUES)
    container = world.server.container

    def refused() -> None:
        began = time.monotonic()
        with pytest.raises(TrailUnavailable):
            world.trail.record(**VALUES | {"who": "lost"})
        assert time.monotonic() - began < 5

    docker("pause", container)
    try:
        refused()
        refused()
    finally:
        docker("unpause", container)
    world.trail.record(**VALUES | {"who": "after the pause"})
    docker("stop", container)
    refused()
    refused()
    docker("start", container)
    world.server.wait()
    world.trail.record(**VALUES | {"who": "after the restart"})
    docker("restart", container)
    world.server.wait()
    world.trail.record(**VALUES | {"who": "on a connection that broke"})
    names = [r["who"] for _, r in audit_show.last(world.stack, audit_show.Wanted(3))]
    assert names[-1] == "on a connection that broke"
    assert "The audit trail is whole" in world.said("verify")


def as_superuser(world: World, statement: str) -> None:
    switches = ("ALTER TABLE audit.trail DISABLE TRIGGER USER", "ALTER TABLE audit.trail ENABLE TRIGGER USER")
    try:
        world.server.superuser("audit", switches[0], statement)
    finally:
        world.server.superuser("audit", switches[1])


REWRITE = """
UPDATE audit.trail SET record = '{}' WHERE seq = 2;
DO $$ DECLARE head bytea := decode(repeat('00', 32), 'hex'); r record; BEGIN
    FOR r IN SELECT * FROM audit.trail ORDER BY seq LOOP
        head := sha256(head || convert_to(r.seq || ':' || r.record, 'UTF8'));
        UPDATE audit.trail SET hash = head WHERE seq = r.seq;
    END LOOP;
END $$"""


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE audit.trail SET record = replace(record, 'north', 'south') WHERE seq = 3", "Record 3 was changed"),
        (r"UPDATE audit.trail SET record = replace(record, ' ', '\n') WHERE seq = 3", "Record 3 was changed"),
        (
            "ALTER TABLE audit.trail DROP CONSTRAINT trail_record_check;"
            "UPDATE audit.trail SET record = record || E'\\n' WHERE seq = 3",
            "Record 3 was changed",
        ),
        ("DELETE FROM audit.trail WHERE seq = 4", "Record 4 was removed or moved"),
        (
            "DELETE FROM audit.trail WHERE seq > 6",
            "Record 7 was removed, with all that followed: the trail had 8 records",
        ),
        ("DELETE FROM audit.trail", "Record 1 was removed, with all that followed"),
        ("UPDATE audit.trail SET seq = 100 - seq", "Record 1 was removed or moved"),
        (REWRITE, "Record 8 or one before it was changed"),
        ("INSERT INTO audit.trail VALUES (9, '{}', sha256('x'))", "Record 9 was changed or inserted"),
    ],
)
def test_a_superuser_who_tampers_with_the_table_is_noticed(
    world: World, tmp_path: Path, statement: str, said: str
) -> None:
    for number in range(8):
        world.trail.record(**VALUES | {"run": number})
    world.said("verify")
    as_superuser(world, statement)
    assert said in world.said("verify", code=1)
    assert said in world.said("export", str(tmp_path / "audit.jsonl"), code=1)
    assert not (tmp_path / "audit.jsonl").exists()
    assert list(tmp_path.glob(".audit*")) == []
    assert said in world.said("verify", code=1), "a finding does not become the new truth"


def test_a_trail_that_is_cut_and_goes_on_is_noticed(world: World) -> None:
    for number in range(8):
        world.trail.record(**VALUES | {"run": number})
    world.said("verify")
    as_superuser(world, "DELETE FROM audit.trail WHERE seq > 5")
    for number in range(8):
        world.trail.record(**VALUES | {"run": number, "who": "nobody"})
    assert "Record 8 or one before it was changed" in world.said("verify", code=1)


def test_the_checkpoint_that_is_kept_is_guarded_too(world: World) -> None:
    world.trail.record(**VALUES)
    world.said("verify")
    path = audit.kept(world.project)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes().replace(b'"count":1', b'"count":0'))
    assert "audit-checkpoint.json is not as it was kept" in world.said("verify", code=1)


def test_show_has_the_last_records_that_match(world: World) -> None:
    for number in range(30):
        world.trail.record(**VALUES | {"run": number, "who": f"w{number % 2}"})
    world.trail.record(**VALUES | {"verb": "activate-node", "run": None, "who": "north", "object": "k" * 96})
    wanted: dict[tuple[str, ...], Callable[[dict[str, Any]], bool]] = {
        ("--who", "w1", "--last", "3"): lambda r: r["run"] in (25, 27, 29),
        ("--run", "7"): lambda r: r["run"] == 7,
        ("--verb", "activate-node"): lambda r: r["who"] == "north",
    }
    for options, matches in wanted.items():
        pairs = dict(zip(options[::2], options[1::2], strict=True))
        asked = audit_show.Wanted(
            int(pairs.get("--last", 20)), *(pairs.get(f"--{n}", "") for n in ("who", "verb", "run"))
        )
        found = audit_show.last(world.stack, asked)
        assert found
        assert all(matches(record) for _, record in found)
        assert [number for number, _ in found] == sorted(number for number, _ in found)
    done = world.flowerbed("show")
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 80
    assert "activate-node" in done.output
    assert "No record matches." in world.said("show", "--who", "nobody")
    with closing(
        rows(world.stack, newest_first=True)
    ) as newest:  # a query that is not read to its end ends all the same
        assert b"activate-node" in next(newest)


def test_without_a_database_or_key_one_sentence_says_what_to_do(world: World, tmp_path: Path) -> None:
    world.trail.record(**VALUES)
    stranger = Project(tmp_path / "none")
    with pytest.raises(FlowerbedError, match="run make up first"):
        list(rows("flowerbed-no-such-stack"))
    with pytest.raises(FlowerbedError, match=r"ca\.crt cannot be read as a certificate"):
        audit.last_seen(stranger, audit.certificate(stranger.pki / "ca.crt"))
    target = tmp_path / "notes.txt"
    target.write_text("not to be lost")
    done = world.flowerbed("export", str(target))
    assert "is no export of an audit trail: give another file" in str(done.exception)
    assert target.read_text() == "not to be lost"
    (world.project.pki / "private" / "operator.key").unlink()
    done = world.flowerbed("export", str(tmp_path / "audit.jsonl"))
    assert "operator.key cannot be read: run make up" in str(done.exception)
    assert not isinstance(done.exception, Tampered)
    assert not (tmp_path / "audit.jsonl").exists()
