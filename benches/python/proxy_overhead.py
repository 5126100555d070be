"""What `irouter serve` adds: latency at a steady rate, direct and through the proxy in turns, and its ceiling.

Two engines answer after 50 ms, in one piece. Run it on a quiet machine: engines, proxy and clients share its cores.
"""

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

import aiohttp
import uvloop

_RESPONSE_S: Final = 0.05
_BODY: Final = b'{"model":"m","prompt":"Why is the sky blue?","max_tokens":20}'
_ENGINE: Final = f"""
import asyncio, sys, uvloop
from aiohttp import web
BODY = b'{{"choices":[{{"text":" Because"}}],"usage":{{"prompt_tokens":5,"completion_tokens":20}}}}'
async def answer(request):
    await request.read()
    await asyncio.sleep({_RESPONSE_S})
    return web.Response(body=BODY, content_type="application/json")
async def main():
    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    app.router.add_get("/health", lambda _: asyncio.sleep(0, web.Response()))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"engine at http://127.0.0.1:{{runner.addresses[0][1]}}", flush=True)
    await asyncio.Event().wait()
uvloop.run(main())
"""


@contextlib.contextmanager
def server(*command: str) -> Iterator[str]:
    """A process that says where it listens at the end of its first line."""
    process = subprocess.Popen(  # noqa: S603 - our own commands
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.communicate()


async def ask(session: aiohttp.ClientSession, url: str) -> float:
    """Milliseconds of one request."""
    started = time.perf_counter()
    async with session.post(url + "/v1/completions", data=_BODY) as answer:
        await answer.read()
        assert answer.status == 200
    return (time.perf_counter() - started) * 1000


async def at_rate(session: aiohttp.ClientSession, url: str, rate: float, requests: int) -> list[float]:
    """Milliseconds of requests that are sent at a steady rate."""
    tasks = []
    for _ in range(requests):
        tasks.append(asyncio.create_task(ask(session, url)))
        await asyncio.sleep(1 / rate)
    return list(await asyncio.gather(*tasks))


async def ceiling(session: aiohttp.ClientSession, url: str, connections: int, requests: int) -> float:
    """Requests per second of clients that each send the next one when they have an answer."""

    async def client() -> None:
        for _ in range(requests // connections):
            await ask(session, url)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return requests / (time.perf_counter() - started)


async def measure(engine: str, proxy: str, *, rate: float, turns: int, connections: int) -> None:
    """Prints the figures."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        times: dict[str, list[float]] = {engine: [], proxy: []}
        for _ in range(turns):
            for url in times:
                times[url] += await at_rate(session, url, rate, 100)
        for name, quantile in (("p50", 49), ("p99", 98)):
            direct, through = (
                statistics.quantiles(collected, n=100)[quantile] for collected in times.values()
            )
            added = f"direct {direct:.2f} ms, proxy {through:.2f} ms, added {through - direct:.2f} ms"
            print(f"{name} at {rate:g} requests/s: {added}")
        reached = await ceiling(session, proxy, connections, 30 * connections)
        print(f"ceiling at {connections} connections: {reached:,.0f} requests/s")


def main() -> None:
    """Starts everything and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--connections", type=int, default=200)
    arguments = parser.parse_args()
    with server("-c", _ENGINE) as first, server("-c", _ENGINE) as second:
        instances = ("--instance", first, "--instance", second)
        with server("-m", "irouter.cli", "serve", "--port", "0", *instances) as proxy:
            uvloop.run(
                measure(
                    first,
                    proxy,
                    rate=arguments.rate,
                    turns=arguments.turns,
                    connections=arguments.connections,
                )
            )


if __name__ == "__main__":
    main()
