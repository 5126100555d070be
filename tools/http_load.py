"""Clients of the engines that only answer: at a steady rate, or as many requests as an address takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp

from live_routers import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from irouter.serving.demo.processes import Processes
    from live_routers import Started

_ENGINE: Final = Path(__file__).with_name("answering_engine.py")
_OK: Final = 200


async def answering_engines(processes: Processes, count: int) -> list[str]:
    """Starts engines that answer after 50 ms, and returns their URLs."""
    ports = [free_port() for _ in range(count)]
    for port in ports:
        await processes.launch(sys.executable, str(_ENGINE), str(port), port=port)
    return [f"http://127.0.0.1:{port}" for port in ports]


class Client:
    """Sends short completions to one address, streamed or not."""

    def __init__(self, session: aiohttp.ClientSession, target: Started) -> None:
        self._session = session
        self._url = target.urls[0] + "/v1/completions"
        self._headers = {"content-type": "application/json"}
        if target.api_key is not None:
            self._headers["authorization"] = f"Bearer {target.api_key}"

    async def ask(self, *, stream: bool) -> float:
        """Seconds of one request, to the end of its answer.

        Raises:
            RuntimeError: When the answer is an error, or lacks its end.
        """
        body = {"model": "m", "prompt": "Why is the sky blue?", "max_tokens": 20, "stream": stream}
        started = time.perf_counter()
        async with self._session.post(self._url, data=json.dumps(body), headers=self._headers) as answer:
            whole = await answer.read()
        if answer.status != _OK or (stream and b"[DONE]" not in whole):
            raise RuntimeError(
                f"{self._url} answered {answer.status} {whole[-200:]!r}, expected a whole answer"
            )
        return time.perf_counter() - started

    async def at_rate(self, rate: float, requests: int, *, stream: bool) -> list[float]:
        """Seconds of each of some requests that are sent at a steady rate."""
        tasks = []
        started = time.perf_counter()
        for number in range(requests):
            await asyncio.sleep(started + number / rate - time.perf_counter())
            tasks.append(asyncio.create_task(self.ask(stream=stream)))
        return list(await asyncio.gather(*tasks))

    async def ceiling(self, connections: int, seconds: float, *, stream: bool) -> tuple[int, float]:
        """Requests answered to clients that each send the next one when they have an answer, and in what time."""
        started, answered = time.perf_counter(), 0

        async def one() -> None:
            nonlocal answered
            while time.perf_counter() < started + seconds:
                await self.ask(stream=stream)
                answered += 1

        await asyncio.gather(*(one() for _ in range(connections)))
        return answered, time.perf_counter() - started


@contextlib.asynccontextmanager
async def session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    """A session without a limit of connections or time."""
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as made:
        yield made
