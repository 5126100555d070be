"""Breaks things under load and counts what came of it: clients that leave, engines that die or break off, SIGTERM.

    python tools/faults.py --requests 10000

Runs `irouter serve` in front of `irouter engine`s, in processes of their own. Nothing that was accepted may be lost
without an error to its client, and the counters have to equal those of an idle router afterwards.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

PROFILE = "llama-3.1-8b@h100"
AT_A_TIME = 64
HELD = ("irouter_waiting", "irouter_in_flight", "irouter_instance_work_seconds")
# Of requests whose clients leave, the longest that they stay.
STAY_S = 0.4


@contextlib.contextmanager
def server(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A command of irouter that serves: its URL and process."""
    command = [sys.executable, "-m", "irouter.cli", *arguments]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    with subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            yield process.stdout.readline().rpartition(" ")[2].strip(), process
        finally:
            process.kill()


@contextlib.contextmanager
def cluster(engines: int, folder: Path, speed: float) -> Iterator[tuple[Any, Any]]:
    """A proxy in front of engines."""
    lengths = folder / "lengths.json"
    lengths.write_text(json.dumps({"short": 20, "long": 3000}))
    config = folder / "proxy.toml"
    settings = "health_interval_s = 0.5\nopen_s = 0.5\nfailures_to_open = 10\nmax_waiting = 100000\n"
    config.write_text(f'profile = "{PROFILE}"\n{settings}')
    engine = ("engine", "--profile", PROFILE, "--port", "0", "--lengths", str(lengths), "--chunk-tokens", "4")
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(server(*engine, "--speed", str(speed))) for _ in range(engines)]
        instances = [argument for url, _ in made for argument in ("--instance", url)]
        proxy = stack.enter_context(server("serve", "--port", "0", "--config", str(config), *instances))
        yield proxy, made


async def figures(client: aiohttp.ClientSession, url: str) -> collections.Counter[str]:
    """Metrics summed over labels, and endings by name."""
    sums: collections.Counter[str] = collections.Counter()
    async with client.get(url + "/metrics") as answer:
        for line in (await answer.text()).splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                sums[name.partition("{")[0]] += float(value)  # type: ignore[assignment]
                if name.startswith("irouter_endings_total"):
                    sums[name.split('"')[1]] += float(value)  # type: ignore[assignment]
    return sums


async def quiet(
    client: aiohttp.ClientSession, proxy: str, engines: list[str], before: collections.Counter[str]
) -> collections.Counter[str]:
    """What the proxy has counted since `before`, once nothing waits or runs anywhere.

    Raises:
        AssertionError: When that does not come about within a minute.
    """
    deadline = time.monotonic() + 60
    while True:
        found = await figures(client, proxy)
        left = {name: found[name] for name in HELD}
        for url in engines:
            left[url] = (await figures(client, url))["vllm:num_requests_running"]
        if not any(left.values()):
            found.subtract(before)
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"it does not become quiet: {left}")
        await asyncio.sleep(0.1)


async def ask(
    client: aiohttp.ClientSession, url: str, number: int, length: str, leaves_s: float | None
) -> str:
    """One request; what its client sees: `whole`, `left`, an error before the answer or within, or `silently short`."""
    body = {
        "model": "m",
        "prompt": f"Question {number} [irouter-length:{length}]",
        "max_tokens": 3000,
        "stream": number % 4 > 0,
    }
    try:
        async with asyncio.timeout(leaves_s), client.post(url + "/v1/completions", json=body) as answer:
            whole = await answer.read()
    except TimeoutError:
        return "left"
    except aiohttp.ClientConnectorError:
        return "not accepted"
    except aiohttp.ClientError:
        return "broken off"
    if answer.status != 200:
        return f"status {answer.status}"
    if b'"error"' in whole:
        return "error within"
    return "whole" if not body["stream"] or b"[DONE]" in whole else "silently short"


async def many(client: aiohttp.ClientSession, url: str, requests: int, abort_share: float, seed: int) -> Any:
    """Outcomes of so many short requests, of which a share leaves at a random moment."""
    draws = random.Random(seed)  # noqa: S311 - seeded draws, not secrets
    stays = [draws.uniform(0.0, STAY_S) if draws.random() < abort_share else None for _ in range(requests)]
    numbers = iter(range(requests))
    outcomes: collections.Counter[str] = collections.Counter()

    async def work() -> None:
        for number in numbers:
            outcomes[await ask(client, url, number, "short", stays[number])] += 1

    await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
    return outcomes, sum(stay is not None for stay in stays)


def tell(title: str, outcomes: collections.Counter[str], found: collections.Counter[str]) -> None:
    """A line of what clients saw, and one of how leases ended."""
    endings = ("finished", "cancelled", "failed", "dropped", "expired", "lost", "refused", "overdue")
    print(title)
    print("  clients:", ", ".join(f"{name} {count:,}" for name, count in sorted(outcomes.items())))
    print("  leases: ", ", ".join(f"{name} {found[name]:,.0f}" for name in endings if found[name]))
    if outcomes["silently short"]:
        raise AssertionError(f"{outcomes['silently short']} answers ended without an error")


async def aborts(client: aiohttp.ClientSession, proxy: Any, engines: Any, requests: int) -> None:
    """Clients that leave at random moments."""
    before = await figures(client, proxy[0])
    outcomes, leaving = await many(client, proxy[0], requests, 0.3, 1)
    found = await quiet(client, proxy[0], [url for url, _ in engines], before)
    tell(f"{requests:,} requests, {leaving:,} of which leave at a moment within {STAY_S} s", outcomes, found)
    if set(outcomes) != {"whole", "left"}:
        raise AssertionError(f"outcomes are {dict(outcomes)}, expected whole and left only")


async def closes(client: aiohttp.ClientSession, proxy: Any, engines: Any, requests: int) -> None:
    """Engines that close connections in the midst of answers."""
    urls = [url for url, _ in engines]
    before = await figures(client, proxy[0])
    for url in urls:
        await client.post(url + "/faults", json={"close_share": 0.2})
    outcomes, _ = await many(client, proxy[0], requests, 0.0, 2)
    for url in urls:
        await client.post(url + "/faults", json={})
    found = await quiet(client, proxy[0], urls, before)
    tell(f"{requests:,} requests, of which engines close every fifth at half of its answer", outcomes, found)


async def kill(client: aiohttp.ClientSession, proxy: Any, engines: Any, streams: int) -> None:
    """An engine is killed with streams open."""
    (stays, _), (dies, process) = engines
    before = await figures(client, proxy[0])
    numbers = [4 * number + 1 for number in range(2 * streams)]
    running = [asyncio.create_task(ask(client, proxy[0], number, "long", None)) for number in numbers]
    there = 0.0
    while there < streams:
        await asyncio.sleep(0.05)
        there = (await figures(client, dies))["vllm:num_requests_running"]
    process.kill()
    outcomes = collections.Counter(await asyncio.gather(*running))
    found = await quiet(client, proxy[0], [stays], before)
    tell(f"kill -9 of an engine with {streams} streams open, {streams} more on another", outcomes, found)
    told = outcomes["whole"] + outcomes["error within"] + outcomes["broken off"]
    if told != 2 * streams:
        raise AssertionError(
            f"outcomes are {dict(outcomes)}, expected {2 * streams} whole or told of an error"
        )


async def terminate(client: aiohttp.ClientSession, proxy: Any, requests: int) -> None:
    """SIGTERM to the proxy under load."""
    url, process = proxy
    draws = random.Random(3)  # noqa: S311 - seeded draws, not secrets

    async def one(number: int) -> str:
        await asyncio.sleep(draws.uniform(0, 2))
        return await ask(client, url, number, "short", None)

    running = [asyncio.create_task(one(number)) for number in range(requests)]
    await asyncio.sleep(1)
    process.send_signal(signal.SIGTERM)
    outcomes = collections.Counter(await asyncio.gather(*running))
    code = await asyncio.to_thread(process.wait, 60)
    tell(f"SIGTERM among {requests:,} requests within 2 s: exit code {code}", outcomes, collections.Counter())
    if code != 0 or set(outcomes) - {"whole", "status 503", "not accepted", "broken off"}:
        raise AssertionError(f"exit code {code} and {dict(outcomes)}, expected 0, and whole or refused")


async def main(requests: int, streams: int) -> None:
    """Everything, one after the other."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    with tempfile.TemporaryDirectory() as folder:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
            with cluster(2, Path(folder), 8.0) as (proxy, engines):
                await aborts(client, proxy, engines, requests)
                await closes(client, proxy, engines, max(200, requests // 10))
            with cluster(2, Path(folder), 1.0) as (proxy, engines):
                await kill(client, proxy, engines, streams)
                await terminate(client, proxy, max(200, requests // 20))
    print("after each: nothing waits, nothing is in flight, no work is left, and engines are idle")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=100)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.requests, arguments.streams))
