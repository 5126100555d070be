"""The recipe for FastAPI and httpx, as an application in front of emulated engines."""

import asyncio
import importlib.util
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import irouter
from serving.support import Server, assert_idle, eventually

ROOT = Path(__file__).parents[2]
PROFILE = "llama-3.1-8b@h100"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    lengths = tmp_path_factory.mktemp("lengths") / "lengths.json"
    lengths.write_text(json.dumps({"short": 12, "long": 200}))
    arguments = ("engine", "--profile", PROFILE, "--port", "0", "--speed", "4", "--lengths", str(lengths))
    with Server(*arguments) as first, Server(*arguments) as second:
        yield [first.url, second.url]


@pytest.fixture
def proxy(engines: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("IROUTER_ENGINES", ",".join(engines))
    spec = importlib.util.spec_from_file_location("fastapi_proxy", ROOT / "examples" / "fastapi_proxy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def body(number: int, length: str, *, stream: bool) -> dict[str, Any]:
    content = f"Question {number} [irouter-length:{length}]"
    return {
        "model": "m",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 300,
        "stream": stream,
        "stream_options": {"include_usage": True},
    }


async def serve(app: Any) -> tuple[Any, asyncio.Task[None], str]:
    import uvicorn  # noqa: PLC0415 - starts fast without it

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    task = asyncio.create_task(server.serve())
    await asyncio.to_thread(eventually, lambda: server.started, 30)
    return server, task, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


async def settled(router: irouter.Router) -> None:
    await asyncio.to_thread(eventually, lambda: router.statistics.in_flight == 0)
    assert_idle(router)


def test_answers_are_those_of_engines_and_leases_come_back(proxy: Any, engines: list[str]) -> None:
    async def ask() -> None:
        server, task, url = await serve(proxy)
        async with httpx.AsyncClient(timeout=60) as client:
            for stream in (False, True):
                asked = body(1, "short", stream=stream)
                answers = [
                    await client.post(base + "/v1/chat/completions", json=asked) for base in (url, engines[0])
                ]
                assert answers[0].status_code == 200
                assert answers[0].content == answers[1].content
                assert answers[0].headers["content-type"].partition(";")[0] in {
                    "text/event-stream",
                    "application/json",
                }
            router: irouter.Router = proxy.state.router
            await settled(router)
            assert router.statistics.endings == {irouter.serving.Ending.FINISHED: 2}
            refused = await client.post(url + "/v1/chat/completions", json={"messages": []})
            assert refused.status_code == 400
            assert "expected a list with at least one message" in refused.json()["error"]["message"]
        server.should_exit = True
        await task

    asyncio.run(ask())


def test_clients_that_go_away_leave_nothing_behind(proxy: Any) -> None:
    draws = random.Random(7)

    async def one(client: httpx.AsyncClient, url: str, number: int) -> str:
        asked = body(number, "long", stream=number % 3 > 0)
        leaves_s = draws.uniform(0.0, 0.5) if number % 2 else 60
        try:
            async with asyncio.timeout(leaves_s):
                return str((await client.post(url + "/v1/chat/completions", json=asked)).status_code)
        except TimeoutError:
            return "left"

    async def ask() -> None:
        server, task, url = await serve(proxy)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            outcomes = await asyncio.gather(*(one(client, url, number) for number in range(60)))
            assert set(outcomes) == {"200", "left"}
            router: irouter.Router = proxy.state.router
            await settled(router)
            assert router.statistics.submitted >= outcomes.count("200")
        server.should_exit = True
        await task

    asyncio.run(ask())
