"""What a router is worth, live: the same requests before each router, in front of the same four emulated engines.

    python tools/live_gain.py run --seeds 0:5 --out gain.jsonl     # 10 minutes a seed, on two quiet cores
    python tools/live_gain.py table gain.jsonl

The requests are those of `irouter demo`. A round sends those of one seed to each router after the other, each with new
engines; seeds pair the routers. Every request has to be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import live_routers
from irouter._core import IrouterError
from irouter.evaluation.statistics import PairedBootstrap, ratio
from irouter.serving.demo.load import PairedLoad
from irouter.serving.demo.processes import Processes
from irouter.serving.demo.workload import INSTANCES, demo_profile, demo_workload
from live_routers import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from irouter.serving.demo.load import Figures
    from irouter.serving.demo.workload import DemoWorkload
    from live_routers import Started

WAYS: Final[dict[str, Callable[[Place], Coroutine[None, None, Started]]]] = {
    "round_robin": live_routers.serve("round_robin"),
    "guided": live_routers.serve("guided"),
    "least_requests": live_routers.serve("least_requests"),
    "litellm": live_routers.litellm("least-busy"),
    "vllm_power_of_two": live_routers.vllm_router("power_of_two"),
    "vllm_cache_aware": live_routers.vllm_router("cache_aware"),
    "daemon": live_routers.replicas_of_daemon,
    "redis": live_routers.replicas_of_redis,
    "alone": live_routers.replicas_alone,
}
FIGURES: Final = {
    "e2e_mean_s": "E2E mean",
    "e2e_p99_s": "P99",
    "ttft_mean_s": "TTFT mean",
    "ttft_p99_s": "P99",
}
# More than the longest answer takes in the longest queue.
_DRAIN_S: Final = 240.0


async def measured(way: str, workload: DemoWorkload, *, log: Path | None = None) -> Figures:
    """Figures of one router; the decisions of an `irouter serve` are left in `log`.

    Raises:
        IrouterError: When a request was lost, or answered with an error.
    """
    with tempfile.TemporaryDirectory(prefix="irouter-live-") as name:
        folder = Path(name)
        profile, lengths = folder / "engine.json", folder / "lengths.json"
        profile.write_text(json.dumps(demo_profile()), encoding="utf-8")
        lengths.write_text(json.dumps(workload.lengths), encoding="utf-8")
        engine = ("engine", "--port", "0", "--profile", str(profile), "--lengths", str(lengths))
        async with Processes(folder) as processes:
            engines = await asyncio.gather(
                *(processes.start(*engine, "--chunk-tokens", "16") for _ in range(INSTANCES))
            )
            router = await WAYS[way](Place(processes, folder, engines, str(profile), log))
            sender = PairedLoad(router.urls, workload.requests, ("m",), api_key=router.api_key)
            async with asyncio.timeout(workload.requests[-1].arrival_s + _DRAIN_S):
                await sender.run()
    figures = sender.figures()["m"]
    if figures.failed or figures.finished != len(workload.requests):
        raise IrouterError(
            f"{way}: {figures.finished} of {len(workload.requests)} requests were answered, "
            f"{figures.failed} with an error, expected all and none"
        )
    return figures


def drawn(*, seed: int, load: float, duration_s: float) -> DemoWorkload:
    """The requests of a seed."""
    with tempfile.TemporaryDirectory(prefix="irouter-live-") as name:
        profile = Path(name) / "engine.json"
        profile.write_text(json.dumps(demo_profile()), encoding="utf-8")
        return demo_workload(profile, trace=None, load=load, duration_s=duration_s, seed=seed)


def run(arguments: argparse.Namespace) -> None:
    """Appends a line for each router and seed, the routers by turns."""
    first, _, after = arguments.seeds.partition(":")
    logs: Path | None = arguments.logs
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
    for seed in range(int(first), int(after)):
        drawing = {"seed": seed, "load": arguments.load, "duration_s": arguments.duration}
        workload = drawn(**drawing)
        for way in arguments.ways.split(","):
            log = None if logs is None else logs / f"{way}-{seed}.jsonl"
            figures = dataclasses.asdict(asyncio.run(measured(way, workload, log=log)))
            with arguments.out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"way": way, **drawing, **figures}) + "\n")
            print(f"seed {seed}, {way}: {_seconds(figures)}", flush=True)


def _seconds(figures: dict[str, Any]) -> str:
    return ", ".join(f"{heading} {figures[name]:.2f} s" for name, heading in FIGURES.items())


def table(arguments: argparse.Namespace) -> None:
    """Prints means over the seeds that every router has, and ratios to one of them with their 95 % intervals."""
    rows = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines()]
    found = {(row["way"], row["seed"]): row for row in rows}
    ways = [way for way in WAYS if any(key[0] == way for key in found)]
    if arguments.ways:
        ways = arguments.ways.split(",")
    seeds = sorted(seed for seed in {key[1] for key in found} if all((way, seed) in found for way in ways))
    against: str = arguments.against
    if not seeds or against not in ways:
        raise IrouterError(
            f"{arguments.file}: no seed has all of {', '.join(ways)}, expected one with {against}"
        )
    values = np.array([[[found[way, seed][name] for name in FIGURES] for seed in seeds] for way in ways])
    sent = sum(found[against, seed]["sent"] for seed in seeds)
    print(f"{len(seeds)} seeds, {sent:,} requests for each router, all of them answered\n")
    print(f"| router | {' | '.join(FIGURES.values())} |\n|---|{'---|' * len(FIGURES)}")
    bootstrap = PairedBootstrap(len(seeds))
    base = values[ways.index(against)]
    for way, of_way in zip(ways, values, strict=True):
        means = of_way.mean(axis=0)
        ratios = ratio(means, base.mean(axis=0))
        interval = bootstrap.interval(ratio(bootstrap.means(of_way), bootstrap.means(base)))
        cells = [
            f"{mean:.2f} s" if way == against else f"{mean:.2f} s; {middle:.2f} ({low:.2f} to {high:.2f})"
            for mean, middle, low, high in zip(means, ratios, *interval, strict=True)
        ]
        print(f"| {way} | {' | '.join(cells)} |")


def main() -> None:
    """Runs or prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="send the requests")
    runs.add_argument("--ways", default=",".join(WAYS), help="routers, with commas")
    runs.add_argument("--seeds", default="0:5", help="FIRST:AFTER")
    runs.add_argument(
        "--load", type=float, default=1.0, help="arrivals as a share of what the engines can do"
    )
    runs.add_argument("--duration", type=float, default=60.0, help="seconds in which requests arrive")
    runs.add_argument("--out", type=Path, required=True, help="a line of JSON is appended for each run")
    runs.add_argument("--logs", type=Path, help="folder for the decision logs of `irouter serve`")
    runs.set_defaults(do=run)
    prints = commands.add_parser("table", help="print what was measured")
    prints.add_argument("file", type=Path)
    prints.add_argument("--ways", default="", help="routers, with commas; without it all")
    prints.add_argument("--against", default="round_robin", help="the router that ratios are to")
    prints.set_defaults(do=table)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
