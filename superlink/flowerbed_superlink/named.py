"""What a Control request names: a run, a federation, a SuperNode; not whether its sender may (`access`).

Read from the same protobuf messages that Flower reads, so that both see the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import Any

from flwr.proto import control_pb2 as pb
from google.protobuf.message import DecodeError, Message

from flowerbed_superlink.errors import Refused
from flowerbed_superlink.status import fingerprint


@dataclass(frozen=True)
class Named:
    """What a request is about, as the trail says it."""

    object: str = ""
    run: int | None = None
    detail: str = ""


def named(verb: str, body: bytes) -> Named:
    """Return what the request of a verb names; for a bundle of 10 MiB it takes tens of milliseconds.

    Raises:
        Refused: 400, the body is not that verb's message.
    """
    kind, read = _READERS.get(verb, (None, None))
    if kind is None or read is None:
        return Named()
    try:
        return read(kind.FromString(body))
    except DecodeError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "The request is not a message of this route.", "not protobuf") from error


def answered(before: Named, response: object) -> Named:
    """Return what is known of a request's object once Flower has answered: the run or node that it made."""
    if isinstance(response, pb.StartRunResponse) and response.run_id:
        return Named(_federation(response.federation), response.run_id, before.detail)
    if isinstance(response, pb.RegisterNodeResponse) and response.node_id:
        return Named(before.object, None, f"{before.detail} node {response.node_id}".strip())
    return before


def _run(request: Any) -> Named:  # noqa: ANN401  one of several messages with a run_id
    return Named(f"run {request.run_id}", request.run_id)


def _listed(request: pb.ListRunsRequest) -> Named:
    return _run(request) if request.HasField("run_id") else Named()


def _started(request: pb.StartRunRequest) -> Named:
    return Named(_federation(request.federation), None, f"app {sha256(request.fab.content).hexdigest()}")


def _registered(request: pb.RegisterNodeRequest) -> Named:
    return Named(f"supernode {request.name}".strip(), None, f"key {fingerprint(request.public_key) or 'unreadable'}")


def _unregistered(request: pb.UnregisterNodeRequest) -> Named:
    return Named(f"node {request.node_id}")


def _shown(request: pb.ShowFederationRequest) -> Named:
    return Named(_federation(request.federation_name))


def _federation(federation_id: str) -> str:
    return f"federation {federation_id}" if federation_id else ""


_READERS: Mapping[str, tuple[type[Message], Callable[[Any], Named]]] = {
    "start-run": (pb.StartRunRequest, _started),
    "stop-run": (pb.StopRunRequest, _run),
    "list-runs": (pb.ListRunsRequest, _listed),
    "stream-logs": (pb.StreamLogsRequest, _run),
    "pull-artifacts": (pb.PullArtifactsRequest, _run),
    "register-node": (pb.RegisterNodeRequest, _registered),
    "unregister-node": (pb.UnregisterNodeRequest, _unregistered),
    "show-federation": (pb.ShowFederationRequest, _shown),
}
