"""Tells the Runtime API that a task has failed, with the reason, as the task's own program would (`PushTaskOutput`)."""

from __future__ import annotations

import logging
import threading
import time
from functools import cached_property

import httpx
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import PushTaskOutputRequest, SendTaskHeartbeatRequest
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient

log = logging.getLogger("flowerbed.executor")

_PATIENCE = 90.0
"""Seconds of trying: by then the token has expired and Flower has failed the task itself (2 x 30 s heartbeats)."""
_PAUSE = 2.0
_PASSING = frozenset({502, 503, 504})
_REFUSED = frozenset({401, 403})


class _Token:
    """Puts the calling thread's token on each request: one client, and its connection, serves all tasks."""

    def __init__(self) -> None:
        self._thread = threading.local()

    def use(self, token: str) -> None:
        self._thread.token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        return RuntimeTokenHttpInterceptor(self._thread.token).intercept(context, call_next)


class Reporter:
    """Reports for one executor."""

    def __init__(self, runtime_api: str, root_certificates: bytes) -> None:
        self._runtime_api, self._root_certificates = runtime_api, root_certificates
        self._token = _Token()

    def failed(self, token: str, reason: str) -> bool:
        """Fail the token's task; False if it has ended already (its token is gone) or the API cannot be reached.

        No retry helper of Flower's is used: it answers a refusal by interrupting the whole process.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._push(token, reason)
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in _PASSING:
                    return False
            except httpx.TransportError as error:
                log.warning("The Runtime API cannot be reached: %s", error)
            else:
                log.warning("A task was failed on its behalf: %s", reason)
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)

    def heartbeat(self, token: str) -> bool:
        """Keep the token alive once; False only if it is refused, because its task has ended or its run was stopped.

        Anything else that goes wrong says nothing about the task and is left to the next heartbeat.
        """
        try:
            self._token.use(token)
            return bool(self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
        except httpx.HTTPStatusError as error:
            return error.response.status_code not in _REFUSED
        except httpx.HTTPError:
            return True

    def _push(self, token: str, reason: str) -> None:
        self._token.use(token)
        self._client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=reason))

    @cached_property
    def _client(self) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            self._runtime_api,
            insecure=False,
            root_certificates=self._root_certificates,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                self._token,
            ],
        )
