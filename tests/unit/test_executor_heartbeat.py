"""When the executor takes a task's token for refused: only when the Runtime API says so, never when it is away."""

from __future__ import annotations

import httpx
import pytest
from flwr.proto.runtime_pb2 import SendTaskHeartbeatResponse
from flwr.supercore.runtime import RuntimeHttpClient

from flowerbed_executor.report import Reporter


def beat(monkeypatch: pytest.MonkeyPatch, answer: SendTaskHeartbeatResponse | Exception) -> bool:
    class CannedClient:
        def SendTaskHeartbeat(self, _request: object) -> SendTaskHeartbeatResponse:  # noqa: N802 - Flower's name
            if isinstance(answer, Exception):
                raise answer
            return answer

        def close(self) -> None:
            return

    monkeypatch.setattr(RuntimeHttpClient, "from_server_address", lambda *_args, **_kwargs: CannedClient())
    return Reporter("supernode:9094", b"").heartbeat("token")


@pytest.mark.parametrize("success", [True, False])
def test_the_answer_counts(monkeypatch: pytest.MonkeyPatch, success: bool) -> None:
    assert beat(monkeypatch, SendTaskHeartbeatResponse(success=success)) is success


@pytest.mark.parametrize(("status", "alive"), [(401, False), (403, False), (500, True), (502, True), (503, True)])
def test_only_a_refusal_counts_as_one(monkeypatch: pytest.MonkeyPatch, status: int, alive: bool) -> None:
    request = httpx.Request("POST", "https://supernode:9094/")
    error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))
    assert beat(monkeypatch, error) is alive


@pytest.mark.parametrize("error", [httpx.ConnectError("no"), httpx.ReadTimeout("no")])
def test_a_network_that_fails_says_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    assert beat(monkeypatch, error)
