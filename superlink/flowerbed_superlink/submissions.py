"""What Flower's handlers would accept and we do not, checked after authentication and parsing; not who may call.

Also what Flower has no hook for: an unfinished run's results, messages confirmed by whom they are not for, and 503 while
the database is away.
"""

from __future__ import annotations

import io
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import psycopg
from anyio import CapacityLimiter, to_thread
from fastapi import HTTPException, Request, Response
from flwr.common.constant import SUPERLINK_NODE_ID, Status
from flwr.proto.control_pb2 import PullArtifactsRequest, PullArtifactsResponse, StartRunRequest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ConfirmMessageReceivedResponse
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.supercore.constant import TASK_TOKEN_HEADER
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from flowerbed_superlink import asking
from flowerbed_superlink.errors import MaterialError
from flowerbed_superlink.log import event
from flowerbed_superlink.routes import FLEET, FLEET_ROUTES, RUNTIME, RUNTIME_ROUTES
from flowerbed_wire import trees

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

CHECKED = frozenset(api + verb for api in (FLEET, RUNTIME) for verb in ("push-messages", "confirm-message-received"))
UNCHECKED = (FLEET_ROUTES | RUNTIME_ROUTES) - CHECKED
COMPONENTS = frozenset({"serverapp", "clientapp"})
# Flower reads a bundle's pyproject.toml whole: bounded here, so that a small bundle cannot unpack to gigabytes.
MAX_PYPROJECT = MAX_PYPROJECT_PACKED = 32 * 1024
# TOML readers take time that grows with the square of a dotted key's parts, here, in Flower and at each SuperNode. Counted
# before it is parsed, with the dots of versions in a list of dependencies on one line.
MAX_DOTS = 64
# Python's zipfile keeps some 500 bytes for each entry it lists, whatever the archive's end says about their number: the
# signatures themselves are counted (PKWARE's APPNOTE 6.3.10, 4.3.12), which no archive can do without.
MAX_ENTRIES, _ENTRY = 5000, b"PK\x01\x02"
_ONE_CHECK = CapacityLimiter(1)  # so that bundles cost memory one after the other

# What reading a hostile archive raises (seen with Hypothesis).
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    struct.error,
)
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeoutError, psycopg.OperationalError)


class BundleError(ValueError):
    """An app bundle is not one that this federation starts; the message is a sentence for the researcher."""


async def check_submission(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Refuse what must not start or be sent, answer `flwr pull` of an unfinished run, say 503 without a database."""
    message = getattr(request.state, "protobuf_request", None)
    with _told(request.scope.get("path", "")):
        if isinstance(message, StartRunRequest):
            await to_thread.run_sync(_check_start_run, message, limiter=_ONE_CHECK)
            _choose_federation(request, message)
        if isinstance(message, PushMessagesRequest):
            _check_push(message)
        if isinstance(message, PushAppMessagesRequest):
            _check_instructions(message)
        if isinstance(message, PullArtifactsRequest) and await run_in_threadpool(_pull_unfinished, request, message):
            return Response()
        if isinstance(message, ConfirmMessageReceivedRequest) and not await run_in_threadpool(_owns, request, message):
            event("confirmation-ignored", run_id=message.run_id, object=message.message_object_id)
            request.state.protobuf_response = ConfirmMessageReceivedResponse()  # as for an object that is gone already
            return Response()
        return await _pass(request, call_next)


class Submissions:
    """The check around Flower's routes; a SuperNode's and a task's requests that hold nothing to check pass at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._checked = app, BaseHTTPMiddleware(app, dispatch=check_submission)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as the ASGI specification 3.0 says."""
        if scope["type"] != "http" or scope["path"] not in UNCHECKED:
            await self._checked(scope, receive, send)
            return
        with _told(scope["path"]):
            await self._app(scope, receive, send)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Say that something is away in a way that makes Flower's clients try again.

    Raises:
        HTTPException: 503.
    """
    try:
        yield
    except MaterialError as error:
        event("not-ready", path=path, error=str(error))
        raise HTTPException(
            HTTPStatus.SERVICE_UNAVAILABLE, "The SuperLink is not ready, try again.", {"Retry-After": "3"}
        ) from error
    except DATABASE_AWAY as error:
        event("database-away", path=path, error=str(error).splitlines()[0])
        raise HTTPException(
            HTTPStatus.SERVICE_UNAVAILABLE, "The SuperLink's database does not answer, try again.", {"Retry-After": "3"}
        ) from error


async def _pass(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Pass a request on, and keep what was answered: Flower takes its own away before the audit trail can look."""
    response = await call_next(request)
    request.state.answered = getattr(request.state, "protobuf_response", None)
    return response


def _check_start_run(message: StartRunRequest) -> None:
    try:
        check_request(message)
    except BundleError as error:
        event("submission-refused", why=str(error))
        raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error


def _choose_federation(request: Request, message: StartRunRequest) -> None:
    """Give a run whose sender named no federation the only one that they are in."""
    if message.federation or (claims := asking.claims()) is None:
        return
    manager = request.app.state.linkstate_factory.state().manager
    message.federation = chosen_federation([manager.id_of(name) for name in manager.names_for(claims)])


def chosen_federation(ids: Sequence[str]) -> str:
    """Return the only federation of an account.

    Raises:
        HTTPException: 400, there is none or more than one; `flwr run` prints the sentence.
    """
    if len(ids) == 1:
        return ids[0]
    found = f"in several federations, so name one: --federation {' or '.join(ids)}" if ids else "in no federation"
    raise HTTPException(HTTPStatus.BAD_REQUEST, f"Your account is {found}.")


def check_request(message: StartRunRequest) -> None:
    """Check that a run is one bundle, sent with the request.

    Raises:
        BundleError: it is not.
    """
    if message.app_spec:
        raise BundleError("Apps from a hub are not started here: run the app's own directory.")
    if message.HasField("series_id"):
        # SuperNodes keep a ClientApp's context by series: a second run in one would share the first one's state.
        raise BundleError("A run cannot join another run's series here: every run starts one of its own.")
    if message.connector_ids or message.connector_refs:
        raise BundleError("Connectors are not offered here.")
    check_bundle(message.fab.content)


def check_bundle(content: bytes) -> None:
    """Check that an app bundle declares a ServerApp and a ClientApp and nothing else.

    Raises:
        BundleError: it does not, or cannot be read.
    """
    if content.count(_ENTRY) > MAX_ENTRIES:
        raise BundleError(f"The app bundle holds more than {MAX_ENTRIES} files.")
    app = _table(_table(_table(_pyproject(content), "tool"), "flwr"), "app")
    components = set(_table(app, "components"))
    if extra := components - COMPONENTS:
        raise BundleError(
            f"This federation runs a serverapp and a clientapp only: take {', '.join(sorted(extra))} "
            "out of [tool.flwr.app.components] in pyproject.toml."
        )
    if missing := COMPONENTS - components:
        raise BundleError(f"pyproject.toml names no {' and no '.join(sorted(missing))} in [tool.flwr.app.components].")


def _pyproject(content: bytes) -> Mapping[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            entry = bundle.getinfo("pyproject.toml")
            _check_packing(entry)
            text = bundle.open(entry).read(MAX_PYPROJECT).decode()
            _check_dots(text)
            return tomllib.loads(text)
    except BundleError:
        raise
    except _UNREADABLE as error:
        raise BundleError("The app bundle is not a readable archive with a valid pyproject.toml.") from error


def _check_packing(entry: zipfile.ZipInfo) -> None:
    if entry.file_size > MAX_PYPROJECT or entry.compress_size > MAX_PYPROJECT_PACKED:
        raise BundleError(f"The bundle's pyproject.toml is larger than {MAX_PYPROJECT // 1024} KiB.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError("The bundle's pyproject.toml is packed in a way that is not accepted.")


def _check_dots(pyproject: str) -> None:
    for number, line in enumerate(pyproject.split("\n"), 1):
        if line.count(".") > MAX_DOTS:
            raise BundleError(
                f"Line {number} of the bundle's pyproject.toml has more than {MAX_DOTS} dots: write it on several lines."
            )


def _table(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    if not isinstance(value, Mapping):
        raise BundleError(f"The bundle's pyproject.toml has no table {name!r} where Flower expects it.")
    return value


def _check_push(message: PushMessagesRequest) -> None:
    if (why := push_problem(message)) is not None:
        event("push-refused", why=why, node=message.node.node_id)
        raise HTTPException(HTTPStatus.FORBIDDEN, f"The SuperNode may send replies of its own only: {why}.")


def _check_instructions(message: PushAppMessagesRequest) -> None:
    """Refuse trees that cannot be followed. Not with 403, which tells a task that its run has ended."""
    for sent, tree in zip(message.messages_list, message.message_object_trees, strict=False):
        if (why := trees.problem(tree, sent.metadata.message_id)) is not None:
            event("push-refused", why=why, run_id=sent.metadata.run_id)
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"The message is not taken: {why}.")


def push_problem(message: PushMessagesRequest) -> str | None:
    """Return why a SuperNode's push is refused, or None.

    Flower authenticates the sender (`node`), but stores what the message says: a reply in another SuperNode's name, or
    an instruction to one in the SuperLink's name.
    """
    if len(message.messages_list) != 1 or len(message.message_object_trees) != 1:
        return "there must be exactly one message"
    metadata = message.messages_list[0].metadata
    if metadata.src_node_id != message.node.node_id:
        return "the message is in another node's name"
    if metadata.dst_node_id != SUPERLINK_NODE_ID or not metadata.reply_to_message_id:
        return "the message is not a reply to the SuperLink"
    return trees.problem(message.message_object_trees[0], metadata.message_id)


def _pull_unfinished(request: Request, message: PullArtifactsRequest) -> bool:
    """Answer for one's own run that has not finished; Flower answers for all others, or refuses."""
    runs = request.app.state.linkstate_factory.state().get_run_info(run_ids=[message.run_id])
    account, provider = request.state.account, request.app.state.artifact_provider
    if not runs or runs[0].status.status == Status.FINISHED or not runs[0].flwr_aid:
        return False
    if runs[0].flwr_aid != account.flwr_aid:
        return False
    request.state.protobuf_response = PullArtifactsResponse(url=provider.get_url(message.run_id))
    return True


def _owns(request: Request, message: ConfirmMessageReceivedRequest) -> bool:
    """Return whether a message is the caller's to confirm; Flower would delete any object that somebody confirms.

    A SuperNode confirms what was sent to it, a ServerApp what is its run's.
    """
    state = request.app.state.linkstate_factory.state()
    if not request.scope["path"].startswith(RUNTIME):
        return bool(state.was_sent(message.node.node_id, message.run_id, message.message_object_id))
    task = state.get_task_by_token(request.headers.get(TASK_TOKEN_HEADER, ""))
    if task is None:
        return True  # not authenticated, which Flower says itself
    return bool(state.has_object(task.run_id, message.message_object_id))
