"""A LinkState on a PostgreSQL of the tests' own, and what SuperNodes and ServerApps do to it through Flower's handlers.

Not through HTTP: `superlink_processes` runs the real SuperLink.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import getrandbits

import pytest
from flwr.app import ArrayRecord, Error, MetricRecord, RecordDict
from flwr.app.message import Message, make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.constant import TaskType
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.sql_mixin import SqlMixin
from flwr.supercore.utils import uint64_to_int64
from sqlalchemy import text

from flowerbed_superlink.directory import directory, disabled
from flowerbed_superlink.hooks import get_ee_federation_manager, get_ee_linkstate_factory, get_ee_objectstore_factory
from flowerbed_superlink.kit import close_all, ensure_schema, open_kit
from flowerbed_superlink.settings import settings
from flowerbed_superlink.sight import ran
from flowerbed_superlink.state import PostgresLinkState
from superlink_postgres import Postgres
from superlink_support import Authority, TestSite, federation, new_site, public_pem, write_material

INTERVAL_S = 1800.0
"""Between heartbeats, which nobody sends either: Flower's longest."""
MAIN, AID = "@testers/main", "p-" + "0" * 20


@dataclass
class States:
    """A PostgreSQL with LinkStates on it."""

    postgres: Postgres
    sites: list[TestSite]
    opened: list[PostgresLinkState] = field(default_factory=list)

    def new(self) -> PostgresLinkState:
        """Open a LinkState, as a SuperLink that starts would."""
        url = settings().database
        manager, store = get_ee_federation_manager(), get_ee_objectstore_factory(url)
        state = get_ee_linkstate_factory(url, manager, store).state()
        manager.linkstate = state
        assert isinstance(state, PostgresLinkState)
        self.opened.append(state)
        return state

    def close(self, state: PostgresLinkState) -> None:
        """Close a LinkState's connections, which Flower leaves to the end of the process."""
        self.opened.remove(state)
        for one in (state, state.object_store):
            assert isinstance(one, SqlMixin)
            assert one._engine is not None
            one._engine.dispose()

    def site(self) -> TestSite:
        """Return a site that has no node yet."""
        return self.sites.pop()


@contextmanager
def serving(root: Path, sites: int = 24) -> Iterator[States]:
    """Run a PostgreSQL with the settings of this process pointed at it; everything is undone at the end."""
    authority = Authority()
    server = Postgres(authority)
    found = States(server, [new_site(authority, f"site{number}", "A") for number in range(sites)])
    try:
        server.start()
        server.create_database()
        server.create_kit()
        secrets, config = write_material(root, authority, found.sites)
        (config / "federation.json").write_text(json.dumps(federation(found.sites)))
        with pytest.MonkeyPatch.context() as patch:
            point_settings_at(patch, server, secrets, config)
            with open_kit() as connection:
                ensure_schema(connection)
            yield found
    finally:
        for state in list(found.opened):
            found.close(state)
        close_all()
        server.remove()
        for cached in (settings, ran, directory, disabled):
            cached.cache_clear()


def point_settings_at(patch: pytest.MonkeyPatch, server: Postgres, secrets: Path, config: Path) -> None:
    """Have this process's settings name the server's databases, as the SuperLink's environment would."""
    roles = ("superlink", "flowerbed", "audit")
    (secrets / "pgpass").write_text("".join(f"localhost:*:*:{role}:{server.password}\n" for role in roles))
    (secrets / "pgpass").chmod(0o400)
    patch.setenv("FLOWERBED_DATABASE", server.url)
    patch.setenv("FLOWERBED_KIT_DATABASE", server.url_of("flowerbed"))
    patch.setenv("FLOWERBED_AUDIT_DATABASE", server.url_of("audit"))
    patch.setenv("FLOWERBED_ISSUER", "https://auth.flowerbed.test/realms/flowerbed")
    patch.setenv("FLOWERBED_CONFIG", str(config))
    patch.setenv("FLOWERBED_PUBLIC_URL", "https://superlink.flowerbed.test")
    patch.setenv("FLOWERBED_SECRETS", str(secrets))
    settings.cache_clear()


def new_run(state: PostgresLinkState) -> tuple[int, int]:
    """Create a run whose ServerApp is at work; return it and its task."""
    run_id = state.create_run("a/b", "1.0.0", None, {}, MAIN, None, AID, TaskType.SERVER_APP)
    task_id = state.get_run_info(run_ids=[run_id])[0].primary_task_id
    assert task_id is not None
    assert state.claim_task(task_id)
    assert state.activate_task(task_id)
    with state.session() as session:
        # Nobody sends its heartbeats, and a test on a busy host may outlast the minute that it would have without.
        session.execute(
            text("UPDATE task SET active_until = now() + interval '1 day' WHERE task_id = :task"),
            {"task": uint64_to_int64(task_id)},
        )
    return run_id, task_id


def new_node(state: PostgresLinkState, site: TestSite, interval_s: float = INTERVAL_S) -> int:
    """Register the SuperNode of a site and sign it on."""
    node_id = state.create_node(AID, "somebody", public_pem(site.key), interval_s)
    assert state.activate_node(node_id, interval_s)
    return node_id


def instruction(run_id: int, node_id: int, number: int = 0, ttl_s: float = 3600) -> Message:
    """Return a message with arrays, so with objects below its own."""
    content = RecordDict({"m": MetricRecord({"number": number, "unique": getrandbits(60)}), "a": ArrayRecord()})
    return identified(
        make_message(
            content=content,
            metadata=Metadata(
                run_id=run_id,
                message_id="",
                src_node_id=SUPERLINK_NODE_ID,
                dst_node_id=node_id,
                reply_to_message_id="",
                group_id="1",
                created_at=now().timestamp(),
                ttl=ttl_s,
                message_type="train",
            ),
        )
    )


def reply_to(message: Message, error: str = "") -> Message:
    """Return a SuperNode's reply, with its content or an error."""
    said = (
        {"error": Error(code=0, reason=error)}
        if error
        else {"content": RecordDict({"m": MetricRecord({"unique": getrandbits(60)})})}
    )
    metadata = message.metadata
    return identified(
        make_message(
            metadata=Metadata(
                run_id=metadata.run_id,
                message_id="",
                src_node_id=metadata.dst_node_id,
                dst_node_id=metadata.src_node_id,
                reply_to_message_id=metadata.message_id,
                group_id=metadata.group_id,
                created_at=now().timestamp(),
                ttl=metadata.created_at + metadata.ttl - now().timestamp(),
                message_type=metadata.message_type,
            ),
            **said,
        )
    )


def identified(message: Message) -> Message:
    """Give a message the id of its object, as Flower's clients do."""
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def contents_of(message: Message) -> dict[str, bytes]:
    """Return a message's objects as they travel."""
    return {name: found.deflate() for name, found in get_all_nested_objects(message).items()}


def push(state: PostgresLinkState, message: Message, leave_out: int = 0) -> bool:
    """Store a message or a reply and send its objects, but for so many; return whether it was taken."""
    run_id = message.metadata.run_id
    session = state.start_session(run_id)
    taken, missing = state.store_message_and_object_tree(message, get_object_tree(message), session)
    objects = get_all_nested_objects(message)
    for each in missing[: len(missing) - leave_out]:
        state.store_object(run_id, session, each, objects[each].deflate())
    return taken
