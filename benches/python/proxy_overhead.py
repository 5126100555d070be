"""What a proxy adds to a request, and how many it carries: `irouter serve`, `vllm-router` and the LiteLLM proxy.

    make bench-serve

Two engines answer after 50 ms. Everyone gets the same requests, in turns within one run, whole answers and streamed
ones; one worker each. Run it on a quiet machine: engines, proxies and clients share its cores.
"""

import argparse
import dataclasses
import math
import statistics
import tempfile
from pathlib import Path

import uvloop

import http_load
import live_routers
from irouter.serving.demo.processes import Processes
from irouter.serving.proxy.config import DEFAULT_PROFILE
from live_routers import Place, Started
from process_figures import cpu_s

PROXIES = {
    "irouter serve": live_routers.serve("guided"),
    "vllm-router": live_routers.vllm_router("cache_aware"),
    "LiteLLM proxy": live_routers.litellm("least-busy"),
}
REQUESTS_A_TURN = 100
WARM_UP_S = 2.0


async def measure(*, rate: float, turns: int, connections: int, seconds: float) -> None:
    """Prints the tables."""
    with tempfile.TemporaryDirectory(prefix="irouter-overhead-") as name:
        folder = Path(name)
        async with Processes(folder) as processes, http_load.session() as session:
            engines = await http_load.answering_engines(processes, 2)
            place = Place(processes, folder, engines, DEFAULT_PROFILE)
            targets = {"direct": Started((engines[0],))}
            pids = {}
            for proxy, start in PROXIES.items():
                targets[proxy] = await start(place)
                pids[proxy] = processes.pids[-1]
            clients = {target: http_load.Client(session, started) for target, started in targets.items()}
            for client in clients.values():
                await client.ceiling(8, WARM_UP_S, stream=False)
            for stream in (False, True):
                times: dict[str, list[float]] = {target: [] for target in clients}
                for _ in range(turns):
                    for target, client in clients.items():
                        times[target] += await client.at_rate(rate, REQUESTS_A_TURN, stream=stream)
                ceilings: dict[str, list[Ceiling]] = {target: [] for target in clients}
                for _ in range(turns):
                    for target, client in clients.items():
                        reached = await ceiling(client, pids.get(target), connections, seconds, stream=stream)
                        ceilings[target].append(reached)
                tell(times, ceilings, rate=rate, connections=connections, stream=stream)


@dataclasses.dataclass(frozen=True, slots=True)
class Ceiling:
    """One measurement of a ceiling.

    Attributes:
        per_s: Requests per second.
        cpu_ms: Processor time of the proxy for a request, in milliseconds; not a number without one.
    """

    per_s: float
    cpu_ms: float


async def ceiling(
    client: http_load.Client, pid: int | None, connections: int, seconds: float, *, stream: bool
) -> Ceiling:
    """Loads an address with all that it takes."""
    before_s = math.nan if pid is None else cpu_s(pid)
    answered, took_s = await client.ceiling(connections, seconds, stream=stream)
    used_s = math.nan if pid is None else cpu_s(pid) - before_s
    return Ceiling(answered / took_s, 1000 * used_s / answered)


def tell(
    times: dict[str, list[float]],
    ceilings: dict[str, list[Ceiling]],
    *,
    rate: float,
    connections: int,
    stream: bool,
) -> None:
    """A table of what each adds, and of the ceilings: the median of the turns, and their range."""
    print(f"\n{'streamed' if stream else 'whole'} answers, ceilings at {connections} connections\n")
    print(f"| | p50 at {rate:g}/s | added | p99 | added | ceiling | range | processor time a request |")
    print("|---|---|---|---|---|---|---|---|")
    direct = quantiles(times["direct"])
    for target, collected in times.items():
        (middle, late), per_s = quantiles(collected), [each.per_s for each in ceilings[target]]
        added = [f"{found - without:.2f} ms" for found, without in zip((middle, late), direct, strict=True)]
        cpu = f"{statistics.median(each.cpu_ms for each in ceilings[target]):.2f} ms"
        if target == "direct":
            added, cpu = ["", ""], ""
        reached = f"{statistics.median(per_s):,.0f}/s | {min(per_s):,.0f} to {max(per_s):,.0f}/s"
        print(f"| {target} | {middle:.2f} ms | {added[0]} | {late:.2f} ms | {added[1]} | {reached} | {cpu} |")


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return 1000 * cuts[49], 1000 * cuts[98]


def main() -> None:
    """Starts everything and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of a ceiling")
    arguments = parser.parse_args()
    uvloop.run(
        measure(
            rate=arguments.rate,
            turns=arguments.turns,
            connections=arguments.connections,
            seconds=arguments.seconds,
        )
    )


if __name__ == "__main__":
    main()
