"""A gate around a recording application, and requests to it, for the SuperLink's unit tests."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import psycopg

from flowerbed_superlink.arrivals import Arrivals
from flowerbed_superlink.gate import Gate
from flowerbed_superlink.material import Material
from flowerbed_superlink.trail import Trail
from superlink_support import Authority, TestSite, write_material


class Inner:
    """The application behind the gate: remembers what reached it and answers as it is told."""

    def __init__(self) -> None:
        self.reached: list[dict[str, Any]] = []
        self.bytes = 0
        self.status = 200
        self.wait: asyncio.Event | None = None
        self.error: Exception | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope)
        if self.error is not None:
            raise self.error
        if scope["method"] == "POST":
            message = await receive()
            assert not message["more_body"]
            self.bytes += len(message["body"])
        if self.wait is not None:
            await self.wait.wait()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"inner"})


class ConnectionInMemory:
    """Stands for the audit trail's connection to PostgreSQL: keeps what is inserted, or is away."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.batches: list[int] = []
        self.opened = 0
        self.error: Exception | None = None

    def open(self) -> Any:
        if self.error is not None:
            raise self.error
        self.opened += 1
        return self

    def execute(self, _statement: str, values: list[list[str]]) -> None:
        if self.error is not None:
            raise self.error
        self.texts += values[0]
        self.batches.append(len(values[0]))

    def close(self) -> None: ...

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.texts]


AWAY = psycopg.OperationalError("the server is away")


class World:
    """One gate with its files, and requests to it."""

    def __init__(self, directory: Path, authority: Authority, sites: list[TestSite]) -> None:
        self.authority, self.sites = authority, sites
        self.secrets, self.config = write_material(directory, authority, sites)
        self.inner = Inner()
        self.audit = ConnectionInMemory()
        self.trail = Trail(self.audit.open)
        self.use(Material(self.secrets, self.config))

    def use(self, material: Material) -> None:
        """Put a new gate before the application, with these files."""
        self.gate = Gate(self.inner, material, Arrivals(self.trail, material))

    def recorded(self) -> list[dict[str, Any]]:
        """Return what is in the audit trail, once everything that waits is in it."""
        self.trail.close()
        return self.audit.records

    def call(self, path: str, headers: Any = None, method: str = "POST", content: bytes = b"") -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.gate, raise_app_exceptions=False, client=("192.0.2.9", 1))
            async with httpx.AsyncClient(transport=transport, base_url="https://superlink") as client:
                return await client.request(method, path, headers=headers, content=content)

        return asyncio.run(send())

    def scope(self, path: str, **changes: Any) -> list[dict[str, Any]]:
        """Send a scope that httpx would not, and return what was sent back."""
        return asyncio.run(self.send(path, **changes))

    async def send(self, path: str, receive: Any = None, **changes: Any) -> list[dict[str, Any]]:
        """Do what `scope` does, in a loop that runs already; without `receive`, the body is what the scope says."""
        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "headers": [(b"content-length", b"0")],
            "client": None,
        }

        async def collect(message: Any) -> None:
            sent.append(message)

        scope |= changes
        await self.gate(scope, receive or Body(_length(scope["headers"])), collect)
        return sent


class Body:
    """A client that sends so many bytes, waits where it is told to, and then stays."""

    def __init__(self, size: int, pause: asyncio.Event | None = None, chunk: int = 1024 * 1024) -> None:
        self.left, self.pause, self.chunk = size, pause, chunk

    async def __call__(self) -> dict[str, Any]:
        size = min(self.left, self.chunk)
        if self.pause is not None and size == self.left:
            await self.pause.wait()
        self.left -= size
        return {"type": "http.request", "body": bytes(size), "more_body": self.left > 0}


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    lengths = [value for name, value in headers if name == b"content-length"]
    return int(lengths[0]) if lengths and lengths[0].isdigit() else 0
