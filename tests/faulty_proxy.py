"""A TCP proxy that now and then ends a connection in place of passing an answer on; it does not look into TLS.

It spares what comes before a connection's second request, so that no handshake fails: Flower's clients take that for a wrong
certificate and give up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random

_PATIENCE_S = 25.0
_SPARED = 3  # bursts from the client: ClientHello, the first request, and the second, whose answer may be lost


class FaultyProxy:
    """Forwards connections to a port of this host; `lost` counts answers."""

    def __init__(self, port: int, share: float, seed: int, at: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self._upstream, self._share, self._random = port, share, Random(seed)  # noqa: S311  no secret
        (self._host, self.port), self.lost = at, 0
        self._stalled = {"requests": asyncio.Event(), "answers": asyncio.Event()}
        for way in self._stalled.values():
            way.set()
        self.waiting = 0
        self._unanswered: dict[int, float] = {}
        self._busy: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.Server | None = None

    @contextmanager
    def serving(self) -> Iterator[FaultyProxy]:
        """Listen, in a thread, until the end."""
        loop, ready = asyncio.new_event_loop(), threading.Event()

        async def serve() -> None:
            await self._listen()
            ready.set()
            try:
                await asyncio.Event().wait()
            finally:
                await self._refuse()
                for task in self._busy:
                    task.cancel()
                await asyncio.gather(*self._busy, return_exceptions=True)

        self._loop = loop
        main = loop.create_task(serve())

        def work() -> None:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(main)
            loop.close()

        thread = threading.Thread(target=work)
        thread.start()
        ready.wait(5)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(main.cancel)
            thread.join(10)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse new connections, as a host does whose server is away; those that are open stay."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._refuse(), self._loop).result(_PATIENCE_S)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_PATIENCE_S)

    @contextmanager
    def stalling(self, way: str) -> Iterator[None]:
        """Keep what comes one way, `requests` or `answers`, until the end; `waiting` counts what is kept, once it came."""
        assert self._loop is not None
        event = self._stalled[way]
        self._loop.call_soon_threadsafe(event.clear)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(event.set)

    def unanswered_s(self) -> float:
        """Return for how long, in seconds, the oldest request has had no answer; 0 if there is none."""
        current = time.monotonic()
        return max((current - asked for asked in list(self._unanswered.values())), default=0.0)

    async def _pass(self, way: str) -> None:
        if self._stalled[way].is_set():
            return
        self.waiting += 1
        try:
            await self._stalled[way].wait()
        finally:
            self.waiting -= 1

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, self._host, self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._busy.discard(task)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await reader.read(65536)
        up_reader, up_writer, first = await self._connect(hello)
        writer.write(first)
        asked = [1]
        ways = [
            asyncio.create_task(self._requests(reader, up_writer, asked)),
            asyncio.create_task(self._answers(up_reader, writer, asked)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._unanswered.pop(id(asked), None)
            up_writer.transport.abort()

    async def _connect(self, hello: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """Connect until the upstream answers a ClientHello, as a balancer would that knows which upstream is there."""
        end = asyncio.get_running_loop().time() + _PATIENCE_S
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
                writer.write(hello)
                if first := await reader.read(65536):
                    return reader, writer, first
                writer.transport.abort()
            if asyncio.get_running_loop().time() > end:
                raise ConnectionError("the upstream is away")
            await asyncio.sleep(0.2)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: list[int]) -> None:
        while data := await reader.read(65536):
            asked[0] += 1
            self._unanswered[id(asked)] = time.monotonic()
            await self._pass("requests")
            writer.write(data)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: list[int]) -> None:
        answered = 1
        while data := await reader.read(65536):
            self._unanswered.pop(id(asked), None)
            if asked[0] >= _SPARED and asked[0] != answered and self._random.random() < self._share:
                self.lost += 1
                return
            answered = asked[0]
            await self._pass("answers")
            writer.write(data)
            await writer.drain()
