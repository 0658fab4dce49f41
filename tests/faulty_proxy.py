"""A TCP proxy that now and then ends a connection in place of passing an answer on; it does not look into TLS.

It spares what comes before a connection's second request, so that no handshake fails: Flower's clients take that for a wrong
certificate and give up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random

_PATIENCE_S = 25.0
_SPARED = 3  # bursts from the client: ClientHello, the first request, and the second, whose answer may be lost


class FaultyProxy:
    """Forwards connections to a port of this host."""

    def __init__(self, port: int, share: float, seed: int) -> None:
        self._upstream, self._share, self._random = port, share, Random(seed)  # noqa: S311  no secret
        self.port, self.lost = 0, 0
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

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
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
            writer.write(data)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: list[int]) -> None:
        answered = 1
        while data := await reader.read(65536):
            if asked[0] >= _SPARED and asked[0] != answered and self._random.random() < self._share:
                self.lost += 1
                return
            answered = asked[0]
            writer.write(data)
            await writer.drain()
