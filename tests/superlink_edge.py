"""A stand-in for the edge, as a process: terminates TLS and forwards with the headers that NGINX sets.

NGINX has tests of its own. Reads one JSON object from standard input: port, upstream, headers, files (a directory).
"""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

DROPPED = ("connection", "transfer-encoding", "server", "date")


def make_app(upstream: str, headers: dict[str, str], files: str) -> Starlette:
    """Forward every request to the upstream, with these headers set over what came in."""
    trust = ssl.create_default_context(cafile=f"{files}/ca.crt")
    client = httpx.AsyncClient(base_url=upstream, verify=trust, timeout=120, trust_env=False)

    async def forward(request: Request) -> StreamingResponse:
        kept = {k: v for k, v in request.headers.items() if k not in ("host", *DROPPED, *headers)}
        body = await request.body()
        forwarded = client.build_request(request.method, request.url.path, headers=kept | headers, content=body)
        answer = await client.send(forwarded, stream=True)

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
            finally:
                await answer.aclose()

        answered = {k: v for k, v in answer.headers.items() if k not in DROPPED}
        return StreamingResponse(chunks(), answer.status_code, answered)

    return Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "HEAD", "POST", "PUT", "DELETE"])])


def main() -> None:
    """Serve until terminated."""
    given: dict[str, Any] = json.load(sys.stdin)
    files = given["files"]
    uvicorn.run(
        make_app(given["upstream"], given["headers"], files),
        port=given["port"],
        ssl_certfile=f"{files}/tls.crt",
        ssl_keyfile=f"{files}/tls.key",
        log_level="error",
        timeout_graceful_shutdown=1,
        ws="none",
    )


if __name__ == "__main__":
    main()
