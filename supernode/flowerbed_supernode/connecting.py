"""Goes on trying to reach the SuperLink where Flower's client gives up for good; refusals stay Flower's to judge.

Two things end a stock SuperNode that come right by themselves. A connection that breaks while TLS is being negotiated
(a gateway that restarts, a busy host) is taken for a wrong certificate, as its text has "SSL" in it. And a SuperNode
that ended without signing off is refused (412, `FLEET_NODE_ACTIVATION_FAILED`) until its last heartbeat has lapsed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from importlib import import_module
from typing import Any

import httpx

log = logging.getLogger("flowerbed.supernode")

BROKEN = ("eof occurred", "unexpected_eof", "handshake operation timed out")
"""What OpenSSL and Python's `ssl` say of a negotiation that the other side or the time cut off."""

SIGN_ON_SECONDS = 90.0
"""How long a refused activation is repeated: Flower counts a node as online for two heartbeat intervals (60 s)."""

SIGN_ON_PAUSE = 2.0

_CONNECTION = "flwr.supernode.fleet_http_connection"


def install() -> None:
    """Wrap what makes the Fleet connection's retries, and its activation."""
    connection = import_module(_CONNECTION)
    connection.make_simple_http_retry_invoker = patient(connection.make_simple_http_retry_invoker)  # type: ignore[attr-defined]
    client = connection.FleetHttpClient
    client.ActivateNode = repeated(client.ActivateNode)


def patient(make: Callable[[], Any]) -> Callable[[], Any]:
    """Return `make`, whose retries also follow a broken negotiation."""

    @wraps(make)
    def make_patient() -> Any:  # noqa: ANN401 - Flower's RetryInvoker
        invoker = make()
        give_up = invoker.should_giveup
        invoker.should_giveup = lambda error: not broken(error) and give_up(error)
        return invoker

    return make_patient


def broken(error: Exception) -> bool:
    """Return whether a connection broke before TLS was agreed on, and nobody refused anything."""
    return isinstance(error, httpx.TransportError) and any(words in str(error).lower() for words in BROKEN)


def repeated(
    activate: Callable[..., Any],
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[..., Any]:
    """Return `activate`, repeated for `SIGN_ON_SECONDS` while the SuperLink takes the node for one that is online."""

    @wraps(activate)
    def activate_until_lapsed(self: Any, request: Any) -> Any:  # noqa: ANN401 - Flower's own signature
        begun = clock()
        while True:
            try:
                return activate(self, request)
            except httpx.HTTPStatusError as error:
                if error.response.status_code != HTTPStatus.PRECONDITION_FAILED or clock() - begun > SIGN_ON_SECONDS:
                    raise
            log.info("The SuperLink still counts this SuperNode as online; it signs on when that has lapsed.")
            wait(SIGN_ON_PAUSE)

    return activate_until_lapsed
