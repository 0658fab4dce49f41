"""Bodies that arrive slowly or are too large, from somebody who has not logged in: the edge keeps none of them."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from .client import PROTOBUF, Edge, bearer
from .federation import Federation

MIB = 1024 * 1024
START_RUN = "/v1/control/start-run"


def begin(edge: Edge, path: str, length: int, sent: bytes) -> http.client.HTTPSConnection:
    """Announce a body of `length` bytes and send a part of it."""
    connection = edge.connection("superlink")
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    connection.sock.sendall(sent)
    return connection


@pytest.fixture
def unfinished(edge: Edge) -> Iterator[list[http.client.HTTPSConnection]]:
    with ExitStack() as open_ones:
        yield [open_ones.enter_context(closing(begin(edge, START_RUN, 10 * MIB, b"x" * MIB))) for _ in range(24)]


@pytest.mark.usefixtures("unfinished")
def test_unfinished_bodies_wait_in_no_memory_of_the_edge(edge: Edge, federation: Federation) -> None:
    """Ten such bodies of 16 MiB used to fill the edge's memory, and the kernel then ended it."""
    kept = int(federation.sh("edge", "du -sk /run/nginx | cut -f1"))
    assert kept < 1024
    assert federation.inspect("edge")["State"]["OOMKilled"] is False
    assert edge.ask("superlink", "/v1/control/list-federations", **bearer(federation), **PROTOBUF).status == 200


@pytest.mark.parametrize(
    ("path", "size"),
    [(START_RUN, 12 * MIB), ("/v1/control/list-runs", 2 * MIB), ("/v1/control/get-auth-tokens", 2 * MIB)],
)
def test_a_body_larger_than_the_verb_needs_is_refused_unread(edge: Edge, path: str, size: int) -> None:
    with closing(begin(edge, path, size, b"")) as connection:
        assert connection.getresponse().status == 413
