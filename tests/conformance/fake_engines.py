"""Engines that compute nothing: HTTP servers on the loopback address that answer polls and hold requests.

A gateway under test gets their addresses as its workers. Each request stays open until the test releases it, so that
the requests in flight on every engine are under the test's control, and the engine that a request reaches is the
decision.
"""

import asyncio
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "conformance"
HEAD_LIMIT_BYTES = 65_536


@dataclass
class Load:
    """What an engine says of itself when it is polled."""

    running: int = 0
    waiting: int = 0
    queued_prefill_tokens: int = 0
    kv_usage: float = 0.0


@dataclass
class Engine:
    """One of them."""

    number: int
    port: int = 0
    load: Load = field(default_factory=Load)
    polls: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class FakeEngines:
    """Several engines in one event loop; use as an asynchronous context manager."""

    def __init__(self, count: int, dialect: str | None) -> None:
        self._dialect = dialect
        self.engines = [Engine(number) for number in range(count)]
        self.arrivals: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self._numbers = itertools.count()
        self._held: dict[int, asyncio.Event] = {}
        self._polled = asyncio.Condition()
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def urls(self) -> list[str]:
        """Addresses by number."""
        return [engine.url for engine in self.engines]

    async def __aenter__(self) -> Self:
        for engine in self.engines:
            server = await asyncio.start_server(self._client(engine), "127.0.0.1", 0)
            engine.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def release(self, request: int) -> None:
        """Lets the engine answer the request."""
        self._held.pop(request).set()

    def polls(self, path: str) -> list[int]:
        """How often each engine has been asked for `path`."""
        return [engine.polls[path] for engine in self.engines]

    async def polled(self, path: str, before: list[int]) -> None:
        """Waits until every engine has been asked for `path` more often than before."""
        async with self._polled:
            await self._polled.wait_for(
                lambda: all(now > then for now, then in zip(self.polls(path), before, strict=True))
            )

    def _client(self, engine: Engine) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            try:
                while (request := await read_request(reader)) is not None:
                    path, body = request
                    status, answer = await self._answer(engine, path, body)
                    writer.write(response(status, answer))
                    await writer.drain()
            except (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                self._connections.discard(task)
                writer.close()

        return serve

    async def _answer(self, engine: Engine, path: str, body: bytes) -> tuple[int, Any]:
        if path in {"/v1/chat/completions", "/v1/completions", "/generate"}:
            return 200, await self._complete(engine)
        answer = page(path, engine.load, body, self._dialect)
        async with self._polled:
            engine.polls[path] += 1
            self._polled.notify_all()
        return (404, {"error": f"no such page: {path}"}) if answer is None else (200, answer)

    async def _complete(self, engine: Engine) -> dict[str, Any]:
        request = next(self._numbers)
        released = self._held[request] = asyncio.Event()
        self.arrivals.put_nowait((request, engine.number))
        await released.wait()
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        message = {"role": "assistant", "content": "ok"}
        choice = {"index": 0, "message": message, "text": "ok", "finish_reason": "stop", "logprobs": None}
        return {
            "id": f"r{request}",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [choice],
            "usage": usage,
        }


def page(path: str, load: Load, body: bytes, dialect: str | None) -> Any:
    """What an engine of that kind answers on a page; None where it has no such page."""
    pages: dict[str, Callable[[], Any]] = {
        "/health": dict,
        "/v1/models": lambda: {
            "object": "list",
            "data": [{"id": MODEL, "object": "model", "owned_by": "vllm"}],
        },
        "/v1/loads": lambda: {
            "timestamp": "",
            "version": "1",
            "dp_rank_count": 1,
            "loads": [scheduler_load(load)],
        },
        "/tokenize": lambda: tokenized(json.loads(body)["prompt"]),
    }
    if dialect is not None:
        pages["/get_load"] = lambda: polled_load(load, dialect)
    return pages[path]() if path in pages else None


def tokenized(prompt: str) -> dict[str, Any]:
    """A prompt as tokens, one a character."""
    tokens = [ord(character) for character in prompt]
    return {"count": len(tokens), "max_model_len": 1_000_000, "tokens": tokens, "token_strs": None}


def scheduler_load(load: Load) -> dict[str, Any]:
    """What a rank of an engine says of its scheduler."""
    return {
        "dp_rank": 0,
        "num_running_reqs": load.running,
        "num_waiting_reqs": load.waiting,
        "num_waiting_uncached_tokens": load.queued_prefill_tokens,
        "num_total_reqs": load.running + load.waiting,
        "num_used_tokens": 0,
        "max_total_num_tokens": 1_000_000,
        "token_usage": load.kv_usage,
        "gen_throughput": 0.0,
        "cache_hit_rate": 0.0,
        "utilization": 0.0,
        "max_running_requests": 256,
    }


def polled_load(load: Load, dialect: str) -> Any:
    """Load as the older routers poll it. SGLang lists ranks, whose tokens its router adds up; one a request here."""
    requests = load.running + load.waiting
    rank = {"dp_rank": 0, "num_reqs": requests, "num_waiting_reqs": load.waiting, "num_tokens": requests}
    return [rank] if dialect == "sglang" else {"load": requests}


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes] | None:
    """Path and body of the next request; None at the end, or where HTTP/2 is offered."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head.splitlines()
    if line.startswith("pri "):
        return None
    headers = {name: value.strip() for name, _, value in (header.partition(":") for header in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return line.split()[1].partition("?")[0], body


def response(status: int, answer: Any) -> bytes:
    text = isinstance(answer, str)
    body = answer.encode() if text else json.dumps(answer).encode()
    kind = "text/plain" if text else "application/json"
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
