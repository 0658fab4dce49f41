"""Which app bundles may start, and what the researcher reads when one may not."""

from __future__ import annotations

import asyncio
import io
import time
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from flowerbed_superlink import submissions
from flowerbed_superlink.submissions import BundleError, check_bundle, check_request, check_submission, push_problem

REPOSITORY = Path(__file__).parents[2]
BOTH = 'serverapp = "a.server:app"\nclientapp = "a.client:app"\n'


def _pyproject(components: str) -> str:
    return f'[project]\nname = "a"\n[tool.flwr.app]\npublisher = "x"\n[tool.flwr.app.components]\n{components}'


def _bundle(pyproject: str | bytes, compression: int = zipfile.ZIP_DEFLATED, name: str = "pyproject.toml") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as bundle:
        bundle.writestr(name, pyproject)
        bundle.writestr("a/server.py", "app = None")
    return buffer.getvalue()


def test_a_serverapp_and_a_clientapp_may_start() -> None:
    check_bundle(_bundle(_pyproject(BOTH)))
    check_bundle(_bundle(_pyproject(BOTH), zipfile.ZIP_STORED))


@pytest.mark.parametrize("extra", ["agentapp", "simulation", "model", "connector", "whatever"])
def test_other_components_are_refused_by_name(extra: str) -> None:
    with pytest.raises(BundleError, match=rf"^This federation runs a serverapp and a clientapp only: take {extra} out"):
        check_bundle(_bundle(_pyproject(BOTH + f'{extra} = "a.x:app"\n')))


@pytest.mark.parametrize(
    ("pyproject", "said"),
    [
        (_pyproject('agentapp = "a.agent:app"'), "take agentapp out"),
        (_pyproject('serverapp = "a.server:app"'), "names no clientapp"),
        (_pyproject(""), "names no clientapp and no serverapp"),
        ("[tool.flwr]\n", "no table 'app'"),
        ("[tool.flwr.app]\ncomponents = 3\n", "no table 'components'"),
        ("not toml =", "not a readable archive"),
        (b"\xff\xfe", "not a readable archive"),
        (_pyproject(BOTH) + "#" * 33_000, "larger than 32 KiB"),
        (_pyproject(BOTH) + ".".join("a" * 66) + " = 1", "Line 8 .* more than 64 dots"),
    ],
)
def test_what_is_wrong_is_said(pyproject: str | bytes, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        check_bundle(_bundle(pyproject))


def test_a_bundle_that_unpacks_to_gigabytes_is_refused_unread() -> None:
    bundle = bytearray(_bundle(_pyproject(BOTH) + "#" * 50_000_000))
    with pytest.raises(BundleError, match="larger than"):
        check_bundle(bytes(bundle))


@pytest.mark.parametrize("start", ["", "[", "x = {", "x = [{"])
def test_a_long_dotted_key_costs_no_time(start: str) -> None:
    """64 KiB of it took 32 s here, and again in Flower and at each SuperNode."""
    key = start + ".".join("a" * 15_000)
    begin = time.process_time()
    with pytest.raises(BundleError, match="more than 64 dots"):
        check_bundle(_bundle(_pyproject(BOTH) + key + " = 1\n"))
    assert time.process_time() - begin < 0.5


def _many(entries: int) -> bytes:
    """Return a bundle with so many empty files beside pyproject.toml."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("pyproject.toml", _pyproject(BOTH))
        for number in range(entries):
            bundle.writestr(f"{number}", b"")
    return buffer.getvalue()


def test_a_bundle_of_very_many_files_is_refused_before_they_are_listed() -> None:
    """Each file costs zipfile some 500 bytes: 10 MiB of them came to 95 MiB."""
    check_bundle(_many(4999))
    bundle = _many(20_000)
    lying = bundle.replace((20_001).to_bytes(2, "little") * 2, (1).to_bytes(2, "little") * 2)  # the archive's end
    assert lying != bundle
    for content in (bundle, lying):
        tracemalloc.start()
        with pytest.raises(BundleError, match="more than 5000 files"):
            check_bundle(content)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1024 * 1024


def test_bundles_are_checked_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, most = 0, 0

    def check(_: StartRunRequest) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        time.sleep(0.05)
        at_work -= 1

    async def answer(_: Request) -> Response:
        return Response()

    async def submit() -> None:
        requests = [Request({"type": "http", "state": {"protobuf_request": StartRunRequest()}}) for _ in range(4)]
        await asyncio.gather(*(check_submission(request, answer) for request in requests))

    monkeypatch.setattr(submissions, "check_request", check)
    asyncio.run(submit())
    assert most == 1


def test_usual_pyprojects_pass() -> None:
    pinned = ", ".join(f'"package-{n}>=1.{n}.0,<2"' for n in range(20))
    check_bundle(_bundle(f"x = [{pinned}]\n" + _pyproject(BOTH)))
    for path in sorted(REPOSITORY.glob("apps/*/pyproject.toml")):
        check_bundle(_bundle(path.read_bytes()))


def test_a_bundle_that_lies_about_its_size_is_read_no_further() -> None:
    honest = _bundle(_pyproject(BOTH) + "#" * 5_000_000)
    size = len(_pyproject(BOTH)) + 5_000_000
    lying = honest.replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    with pytest.raises(BundleError):
        check_bundle(lying)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_the_usual_packing_is_accepted(compression: int) -> None:
    with pytest.raises(BundleError, match="packed in a way"):
        check_bundle(_bundle(_pyproject(BOTH), compression))


def test_a_bundle_without_pyproject_is_refused() -> None:
    with pytest.raises(BundleError, match="not a readable archive"):
        check_bundle(_bundle(_pyproject(BOTH), name="other.toml"))


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    with pytest.raises(BundleError):
        check_bundle(content)


@given(st.data())
def test_no_changed_byte_raises_anything_else(data: st.DataObject) -> None:
    bundle = bytearray(_bundle(_pyproject(BOTH)))
    bundle[data.draw(st.integers(0, len(bundle) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(BundleError):
        check_bundle(bytes(bundle))


def _push(**changes: Any) -> PushMessagesRequest:
    values = {"src_node_id": 7, "dst_node_id": SUPERLINK_NODE_ID, "reply_to_message_id": "a"} | changes
    message = Message(metadata=Metadata(**values))
    return PushMessagesRequest(node=Node(node_id=7), messages_list=[message], message_object_trees=[ObjectTree()])


def test_a_supernode_replies_in_its_own_name_only() -> None:
    assert push_problem(_push()) is None
    assert push_problem(_push(src_node_id=8)) == "the message is in another node's name"
    assert push_problem(_push(src_node_id=SUPERLINK_NODE_ID)) == "the message is in another node's name"
    assert push_problem(_push(dst_node_id=8)) == "the message is not a reply to the SuperLink"
    assert push_problem(_push(reply_to_message_id="")) == "the message is not a reply to the SuperLink"
    assert push_problem(PushMessagesRequest(node=Node(node_id=7))) == "there must be exactly one message"
    twice = _push()
    twice.messages_list.append(twice.messages_list[0])
    assert push_problem(twice) == "there must be exactly one message"


def test_hub_apps_and_connectors_are_refused() -> None:
    fab = Fab(content=_bundle(_pyproject(BOTH)))
    check_request(StartRunRequest(fab=fab))
    with pytest.raises(BundleError, match="from a hub"):
        check_request(StartRunRequest(fab=fab, app_spec="@flwrlabs/quickstart"))
    with pytest.raises(BundleError, match="Connectors"):
        check_request(StartRunRequest(fab=fab, connector_ids=[1]))
    with pytest.raises(BundleError, match="Connectors"):
        check_request(StartRunRequest(fab=fab, connector_refs=["x"]))


@pytest.mark.parametrize("series_id", [0, 1, 2**64 - 1])
def test_a_run_cannot_join_another_runs_series(series_id: int) -> None:
    fab = Fab(content=_bundle(_pyproject(BOTH)))
    with pytest.raises(BundleError, match="cannot join another run's series"):
        check_request(StartRunRequest(fab=fab, series_id=series_id))
