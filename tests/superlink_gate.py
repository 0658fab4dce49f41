"""A gate around a recording application, and requests to it, for the SuperLink's unit tests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from flowerbed_superlink.gate import Gate
from flowerbed_superlink.material import Material
from superlink_support import Authority, TestSite, write_material


class Inner:
    """The application behind the gate: remembers what reached it and answers as it is told."""

    def __init__(self) -> None:
        self.reached: list[dict[str, Any]] = []
        self.status = 200
        self.wait: asyncio.Event | None = None
        self.error: Exception | None = None

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        self.reached.append(scope)
        if self.error is not None:
            raise self.error
        if self.wait is not None:
            await self.wait.wait()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"inner"})


class World:
    """One gate with its files, and requests to it."""

    def __init__(self, directory: Path, authority: Authority, sites: list[TestSite]) -> None:
        self.authority, self.sites = authority, sites
        self.secrets, self.config = write_material(directory, authority, sites)
        self.inner = Inner()
        self.gate = Gate(self.inner, Material(self.secrets, self.config))

    def call(self, path: str, headers: Any = None, method: str = "POST", content: bytes = b"") -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.gate, raise_app_exceptions=False, client=("192.0.2.9", 1))
            async with httpx.AsyncClient(transport=transport, base_url="https://superlink") as client:
                return await client.request(method, path, headers=headers, content=content)

        return asyncio.run(send())

    def scope(self, path: str, **changes: Any) -> list[dict[str, Any]]:
        """Send a scope that httpx would not, and return what was sent back."""
        return asyncio.run(self.send(path, **changes))

    async def send(self, path: str, **changes: Any) -> list[dict[str, Any]]:
        """Do what `scope` does, in a loop that runs already."""
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

        await self.gate(scope | changes, None, collect)  # type: ignore[arg-type]  # no body is read
        return sent
