"""A wire between proxy and engine that keeps what the engine sent."""

import asyncio
import threading
from typing import Self

import aiohttp
from aiohttp import web


class Tap:
    """Passes everything on to an engine, and keeps the bodies of its answers to POST.

    Attributes:
        url: Where it listens.
        bodies: What the engine sent, in the order in which the answers ended.
        under_way: Answers that have not ended.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.bodies: list[bytes] = []
        self.under_way = 0
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> str:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        self.under_way += 1
        try:
            return await self._answer(request)
        finally:
            self.under_way -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"content-type": request.headers.get("content-type", "application/json")}
        async with self._session.request(
            request.method, self._upstream + request.path_qs, data=body, headers=headers
        ) as answer:
            passed = web.StreamResponse(
                status=answer.status,
                headers={"content-type": answer.headers.get("content-type", "text/plain")},
            )
            await passed.prepare(request)
            kept = b""
            async for piece in answer.content.iter_any():
                kept += piece
                await passed.write(piece)
            # Before the end is told: whoever has seen it may look here.
            if request.method == "POST":
                self.bodies.append(kept)
            await passed.write_eof()
        return passed
