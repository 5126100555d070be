"""The proxy in front of scripted engines, in one event loop."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from irouter.serving import Instance
from irouter.serving.proxy import ProxyConfig, make_app

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ANSWER = b'{"choices":[{"text":"Hi"}],"usage":{"prompt_tokens":3,"completion_tokens":7}}'
BODY = {"model": "m", "prompt": "Hello there", "max_tokens": 20}
PROFILE = "llama-3.1-8b@h100"


class Fake:
    """An engine that does what it is told and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.handler: Handler = self.answer
        self.well = True
        self.cards: list[dict[str, Any]] = []
        app = web.Application()
        app.add_routes(
            [
                web.post("/{path:.*}", self.post),
                web.get("/health", self.health),
                web.get("/v1/models", self.models),
            ]
        )
        self.server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self.server.make_url("")).rstrip("/")

    async def post(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({name.lower(): value for name, value in request.headers.items()})
        return await self.handler(request)

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response(status=200 if self.well else 500)

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": self.cards})

    async def answer(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=ANSWER, content_type="application/json")

    async def trouble(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(status=503, body=b"overloaded")

    async def garbage(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\xff garbage", content_type="application/json")

    async def hang_up(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def hang(self, _request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async def break_off(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(2):
            await response.write(b'data: {"choices":[{"text":"a"}]}\n\n')
        await asyncio.sleep(0.05)
        return await self.hang_up(request)


class Bench:
    """A proxy in front of two fakes, and a client."""

    def __init__(self, fakes: list[Fake], proxy: Any, session: aiohttp.ClientSession, state: Any) -> None:
        self.fakes = fakes
        self.session = session
        self.pools = state.pools
        self.url = str(proxy.make_url("")).rstrip("/")
        self._server = proxy

    @property
    def router(self) -> Any:
        """The router of the only pool."""
        (pool,) = self.pools.values()
        return pool.router

    async def ask(
        self, path: str = "/v1/completions", *, raw: bytes | None = None, **options: Any
    ) -> tuple[int, bytes, Any]:
        body = json.dumps(options.pop("body", BODY)).encode() if raw is None else raw
        async with self.session.post(self._server.make_url(path), data=body, **options) as answer:
            return answer.status, await answer.read(), answer.headers

    async def get(self, path: str, **options: Any) -> tuple[int, str]:
        status, text, _ = await self.request("GET", path, **options)
        return status, text

    async def request(self, method: str, path: str, **options: Any) -> tuple[int, str, Any]:
        async with self.session.request(method, self._server.make_url(path), **options) as answer:
            return answer.status, await answer.text(), answer.headers

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until something holds; a test that waits for long fails by its time limit."""
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)

    def quiet(self) -> bool:
        found = [pool.router.statistics for pool in self.pools.values()]
        ended = all(sum(entry.endings.values()) == entry.submitted for entry in found)
        return ended and all(entry.waiting == entry.in_flight == 0 for entry in found)


@contextlib.asynccontextmanager
async def bench(
    arrange: Callable[[list[str]], dict[str, Any]] | None = None, *, engines: int = 2, **changes: Any
) -> AsyncIterator[Bench]:
    """A proxy in front of fakes; `arrange` gets their URLs and says what they are, without it the instances."""
    fakes = [Fake() for _ in range(engines)]
    async with contextlib.AsyncExitStack() as stack:
        for fake in fakes:
            await stack.enter_async_context(fake.server)
        urls = [fake.url for fake in fakes]
        settings: dict[str, Any] = {"retry_delay_s": 0.001, "health_interval_s": 0.05, "open_s": 0.1}
        if arrange is None:
            settings["instances"] = tuple(Instance(url, PROFILE) for url in urls)
        else:
            settings |= arrange(urls)
        settings |= changes
        app, state = make_app(ProxyConfig(**settings))
        server = await stack.enter_async_context(TestServer(app))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Bench(fakes, server, session, state)
