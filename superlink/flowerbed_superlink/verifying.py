"""Whether a request of the Runtime API is whose it says, found out without using anything up; Flower decides once more itself.

Flower's routes there authenticate as their dependencies, further in than a middleware can be. Each answer here is Flower's own
check with a look in place of what it changes. What does not pass is no refusal: it goes on to Flower at once, to be refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.auth import derive_auth_secret, verify_superexec_request
from flwr.supercore.constant import (
    MAX_TIMESTAMP_DIFF_SECONDS,
    SUPEREXEC_AUTH_BODY_SHA256_HEADER,
    SUPEREXEC_AUTH_NONCE_HEADER,
    SUPEREXEC_AUTH_SIGNATURE_HEADER,
    SUPEREXEC_AUTH_TIMESTAMP_HEADER,
    TASK_TOKEN_HEADER,
)
from flwr.supercore.sql_mixin import SqlMixin

from flowerbed_superlink.looking import nonce_used

METHOD = "/flwr.proto.Runtime/AcquireTask"
NAMESPACE = f"superexec:{METHOD}"
_SIGNED = (
    SUPEREXEC_AUTH_TIMESTAMP_HEADER,
    SUPEREXEC_AUTH_NONCE_HEADER,
    SUPEREXEC_AUTH_BODY_SHA256_HEADER,
    SUPEREXEC_AUTH_SIGNATURE_HEADER,
)

Headers = Mapping[str, list[str]]


def task_token(headers: Headers) -> str | None:
    """Return the only task token of a request, or None."""
    return _only(headers, TASK_TOKEN_HEADER)


def executor_nonce(headers: Headers) -> str | None:
    """Return the only nonce of a request, or None."""
    return _only(headers, SUPEREXEC_AUTH_NONCE_HEADER)


def is_executor(state: SqlMixin, secret: bytes, headers: Headers, request: AcquireTaskRequest, wait_s: float) -> bool:
    """Return whether Flower will take this for a SuperExec's after so many seconds: fresh, signed, and its nonce not used.

    Raises:
        SQLAlchemyError: the database is away.
    """
    timestamp, nonce, digest, signature = (_only(headers, name) for name in _SIGNED)
    if timestamp is None or nonce is None or digest is None or signature is None:
        return False
    return _stays_fresh(timestamp, wait_s) and verify_superexec_request(
        request=request,
        method=METHOD,
        auth_secret=derive_auth_secret(secret),
        timestamp_raw=timestamp,
        nonce=nonce,
        body_sha256_header=digest,
        signature=signature,
        nonce_store=_Looks(state),
    )


class _Looks:
    """Stands where Flower reserves a nonce: says whether it could."""

    def __init__(self, state: SqlMixin) -> None:
        self._state = state

    def reserve_nonce(self, namespace: str, nonce: str, expires_at: float) -> bool:
        """Return whether nobody has used it; `expires_at` is what Flower would write down."""
        _ = expires_at
        return not nonce_used(self._state, namespace, nonce)


def _stays_fresh(timestamp: str, wait_s: float) -> bool:
    try:
        return time.time() + wait_s - int(timestamp) < MAX_TIMESTAMP_DIFF_SECONDS
    except (ValueError, OverflowError):
        return False


def _only(headers: Headers, name: str) -> str | None:
    values = headers.get(name, [])
    return values[0] if len(values) == 1 and values[0] else None
