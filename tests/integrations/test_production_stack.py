"""Our routing logic in a stand-in of the production stack's router: its package is not on PyPI."""

import abc
import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import fastapi
import httpx
import pytest

import irouter
from irouter.integrations.production_stack import IrouterRouting, LeaseMiddleware
from irouter.serving import Ending
from serving.support import URLS, assert_idle


@dataclasses.dataclass
class EndpointInfo:
    """Of the stack, as far as routing sees it."""

    url: str


class SingletonMeta(abc.ABCMeta):
    """As the stack's classes have one."""


class SessionRouter(metaclass=SingletonMeta):
    """The stack asks its kind with the body, and awaits the answer."""


class Routing(IrouterRouting, SessionRouter):
    pass


def host(routing: Routing, endpoints: list[EndpointInfo]) -> fastapi.FastAPI:
    """What the stack does of a request: it asks for a URL, and streams what that answers."""
    app = fastapi.FastAPI()
    app.add_middleware(LeaseMiddleware)
    app.state.router = routing

    @app.post("/v1/completions")
    async def complete(request: fastapi.Request) -> fastapi.Response:
        body = json.loads(await request.body())
        assert isinstance(routing, SessionRouter)
        url = await routing.route_request(endpoints, {}, {}, request, body)
        headers = {"x-engine": url}
        if body.get("breaks"):
            raise ZeroDivisionError
        if not body.get("stream"):
            usage = {"completion_tokens": 7}
            return fastapi.responses.JSONResponse({"usage": usage}, body.get("status", 200), headers)

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b'data: {"choices":[{"text":" a"}]}\n\n'
                await asyncio.sleep(body.get("pause_s", 0))
            yield b"data: [DONE]\n\n"

        return fastapi.responses.StreamingResponse(pieces(), 200, headers, "text/event-stream")

    return app


@pytest.fixture
def router() -> Any:
    with irouter.Router(policy="least_work", profile="llama-3.1-8b@h100") as router:
        yield router


def ask(app: fastapi.FastAPI, *bodies: dict[str, Any], headers: Any = None) -> list[httpx.Response]:
    async def together() -> list[Any]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://stack") as client:
            whole = [{"prompt": "Hello", **body} for body in bodies]
            calls = (client.post("/v1/completions", json=body, headers=headers) for body in whole)
            return await asyncio.gather(*calls)

    return asyncio.run(together())


def test_requests_go_where_the_router_says_and_their_ends_are_told(router: irouter.Router) -> None:
    app = host(Routing(router), [EndpointInfo(url) for url in URLS])
    answers = ask(app, *({"stream": number % 2 == 0, "max_tokens": 40} for number in range(10)))
    assert {answer.headers["x-engine"] for answer in answers} == set(URLS)
    assert router.statistics.endings == {Ending.FINISHED: 10}
    assert_idle(router)


def test_streamed_tokens_are_told_while_they_come(router: irouter.Router) -> None:
    app = host(Routing(router), [EndpointInfo(URLS[0])])

    async def watch() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://stack") as client:
            body = {"prompt": "Hello", "stream": True, "max_tokens": 40, "pause_s": 0.01}
            call = asyncio.create_task(client.post("/v1/completions", json=body))
            most = 0
            while not call.done():
                most = max([most, *(entry.produced_tokens for entry in router.instances)])
                await asyncio.sleep(0.001)
            return most

    assert asyncio.run(watch()) >= 16
    assert_idle(router)


def test_failures_and_clients_that_leave_end_their_leases(router: irouter.Router) -> None:
    app = host(Routing(router), [EndpointInfo(url) for url in URLS])
    codes = [answer.status_code for answer in ask(app, {"breaks": True}, {"status": 503}, {"status": 404})]
    assert codes == [500, 503, 404]
    assert router.statistics.endings == {Ending.FAILED: 2, Ending.FINISHED: 1}

    async def leave() -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/completions",
            "headers": [],
            "query_string": b"",
        }
        body = json.dumps({"prompt": "Hello", "stream": True, "pause_s": 0.02}).encode()
        messages: Iterator[dict[str, Any]] = iter(
            [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]
        )

        async def receive() -> Any:
            message = next(messages)
            await asyncio.sleep(0.05 if message["type"] == "http.disconnect" else 0)
            return message

        async def send(_message: Any) -> None:
            pass

        await app(scope, receive, send)

    asyncio.run(leave())
    assert router.statistics.endings[Ending.CANCELLED] == 1
    assert_idle(router)


def test_only_endpoints_that_the_stack_finds_healthy_are_chosen(router: irouter.Router) -> None:
    endpoints = [EndpointInfo(url) for url in URLS]
    app = host(Routing(router), endpoints)
    ask(app, {}, {})
    endpoints.pop()
    assert {answer.headers["x-engine"] for answer in ask(app, *[{}] * 8)} == {URLS[0]}
    endpoints.clear()
    assert ask(app, {})[0].status_code == 500
    assert_idle(router)


def test_sessions_stay_together() -> None:
    with irouter.Router(policy="session_affinity", profile="llama-3.1-8b@h100") as router:
        app = host(Routing(router, "x-user-id"), [EndpointInfo(url) for url in URLS])
        for user in range(4):
            answers = ask(app, *[{}] * 6, headers={"x-user-id": str(user)})
            assert len({answer.headers["x-engine"] for answer in answers}) == 1
