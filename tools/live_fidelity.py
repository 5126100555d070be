"""Calibrates a real vLLM server, and compares the simulator with two of them behind `irouter serve`.

    python tools/live_fidelity.py --out FOLDER        # half an hour on two cores that nobody else uses

The same requests, below the knee, are sent several times, the policies in turns. What the simulator says of the mean
E2E is to be inside of the interval of the repeats' means, widened by 5 %. FOLDER gets the fitted profile, its page and
`figures.json`. `--engine URL` twice takes servers that run already.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import numpy as np
import polars as pl
from scipy import stats

import irouter
import vllm_servers
from irouter import profiles
from irouter.calibration.live_endpoint import LiveEndpoint, TimedAnswer, now
from irouter.calibration.mixed_load import LoadRequest, replay
from irouter.calibration.probes import Prompts
from irouter.calibration.probing import ProbeOptions, calibrate_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

TEMPLATE: Final = "llama-3.1-8b@h100"
MARGIN: Final = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A request that is to be sent."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int


def plans(count: int, load: float, profile: dict[str, Any]) -> list[Plan]:
    """Poisson arrivals of log-uniform sizes, at a share of what two engines can do of them."""
    generator = random.Random(11)  # noqa: S311 - sizes, no secrets
    draws = [
        (_log_uniform(generator, 32, 256), _log_uniform(generator, 4, 48), generator.expovariate(1.0))
        for _ in range(count)
    ]
    backlog = [LoadRequest(0.0, 0.0, 0.0, prompt, output) for prompt, output, _ in draws]
    _, last_s = replay(backlog, profile)
    rate = load * 2 * count / float(last_s.max())
    arrivals = np.cumsum([gap for _, _, gap in draws]) / rate
    return [Plan(float(at), prompt, output) for at, (prompt, output, _) in zip(arrivals, draws, strict=True)]


def _log_uniform(generator: random.Random, low: int, high: int) -> int:
    return round(low * math.exp(generator.random() * math.log(high / low)))


@contextlib.contextmanager
def engines(urls: Sequence[str], folder: Path) -> Iterator[list[str]]:
    """Two servers: those given, or new ones."""
    if urls:
        yield list(urls)
        return
    with vllm_servers.two_servers(folder) as servers:
        yield [server.url for server in servers]


@contextlib.contextmanager
def proxy(urls: Sequence[str], policy: str, profile: Path) -> Iterator[str]:
    """`irouter serve` in front of them."""
    instances = [argument for url in urls for argument in ("--instance", url)]
    command = [
        *(sys.executable, "-m", "irouter.cli", "serve", "--port", "0", "--policy", policy),
        *("--profile", str(profile), *instances),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    try:
        if process.stdout is None:
            raise RuntimeError("no output")
        yield process.stdout.readline().rpartition(" ")[2].strip()
    finally:
        process.terminate()
        process.communicate()


async def send(url: str, requests: Sequence[Plan]) -> list[TimedAnswer]:
    """Sends them at their times."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        endpoint = LiveEndpoint(url, session, model=None, api_key=None)
        await endpoint.facts()
        prompts = Prompts(random.Random(12))  # noqa: S311 - words, no secrets
        await prompts.learn(endpoint)
        started = now()

        async def one(plan: Plan) -> TimedAnswer:
            text = prompts.of(plan.prompt_tokens)
            await asyncio.sleep(started + plan.arrival_s - now())
            answer = TimedAnswer(now())
            await endpoint.complete(answer, text, plan.output_tokens)
            return answer

        return await asyncio.gather(*(one(plan) for plan in requests))


@dataclasses.dataclass(frozen=True, slots=True)
class Latencies:
    """E2E and TTFT of each request, in seconds."""

    e2e_s: NDArray[np.float64]
    ttft_s: NDArray[np.float64]

    @classmethod
    def measured(cls, answers: Sequence[TimedAnswer]) -> Latencies:
        """Those of a live run."""
        e2e = [answer.token_s[-1] - answer.sent_s for answer in answers]
        ttft = [answer.token_s[0] - answer.sent_s for answer in answers]
        return cls(np.array(e2e), np.array(ttft))

    def figures(self) -> dict[str, float]:
        """Means and P99."""
        return {
            "e2e_mean_s": float(self.e2e_s.mean()),
            "e2e_p99_s": float(np.percentile(self.e2e_s, 99)),
            "ttft_mean_s": float(self.ttft_s.mean()),
            "ttft_p99_s": float(np.percentile(self.ttft_s, 99)),
        }


def simulated(
    answers: Sequence[TimedAnswer], requests: Sequence[Plan], policy: str, folder: Path
) -> Latencies:
    """What the simulator says of the requests that were sent."""
    trace = folder / "requests.csv"
    columns = {
        "arrival_s": [plan.arrival_s for plan in requests],
        "input_tokens": [answer.prompt_tokens for answer in answers],
        "output_tokens": [plan.output_tokens for plan in requests],
    }
    pl.DataFrame(columns).write_csv(trace)
    run = irouter.simulate(trace=trace, policy=policy, profile=str(folder / "fitted.json"), instances=2)
    return Latencies(run["finished_s"] - run["arrival_s"], run["first_token_s"] - run["arrival_s"])


def compared(real: Sequence[dict[str, float]], simulation: dict[str, float]) -> dict[str, Any]:
    """The repeats' means with their 95 % interval (Student's t), and whether the simulator's is inside of it."""
    means = np.array([figures["e2e_mean_s"] for figures in real])
    half = float(stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
    low, high = float(means.mean()) - half, float(means.mean()) + half
    predicted = simulation["e2e_mean_s"]
    return {
        "repeats": list(real),
        "simulated": simulation,
        "e2e_mean_interval_s": [low, high],
        "holds": (1 - MARGIN) * low <= predicted <= (1 + MARGIN) * high,
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine", action="append", default=[], help="URL of a running server; twice")
    parser.add_argument("--policies", default="round_robin,ordered_hold", help="with commas")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--load", type=float, default=0.6, help="share of what the engines can do")
    parser.add_argument("--seconds", type=float, default=120.0, help="of calibration")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    policies = arguments.policies.split(",")
    with engines(arguments.engine, folder) as urls:
        options = ProbeOptions(
            template=profiles.load(TEMPLATE),
            name="fitted",
            seconds=arguments.seconds,
            max_num_seqs=vllm_servers.MAX_NUM_SEQS,
            max_num_batched_tokens=vllm_servers.MAX_NUM_BATCHED_TOKENS,
        )
        fitted = calibrate_endpoint(urls[0], options)
        fitted.write_profile(folder / "fitted.json")
        fitted.write_html(folder / "fitted.html")
        for quantity in fitted.quantities:
            print(f"{quantity.name}: {quantity.held_out_error_percent:.1f} % mean error, held out")
        for doubt in fitted.doubts:
            print(f"not to be trusted: {doubt}")
        requests = plans(arguments.requests, arguments.load, dict(fitted.profile))
        print(f"{len(requests)} requests in {requests[-1].arrival_s:.0f} s, {arguments.repeats} times")
        runs: dict[str, list[list[TimedAnswer]]] = {policy: [] for policy in policies}
        for _ in range(arguments.repeats):
            for policy in policies:
                with proxy(urls, policy, folder / "fitted.json") as url:
                    runs[policy].append(asyncio.run(send(url, requests)))
    found = {}
    for policy, answers in runs.items():
        simulation = simulated(answers[0], requests, policy, folder).figures()
        found[policy] = compared([Latencies.measured(run).figures() for run in answers], simulation)
        low, high = found[policy]["e2e_mean_interval_s"]
        p99 = [figures["e2e_p99_s"] for figures in found[policy]["repeats"]]
        print(
            f"{policy}: mean E2E {low:.2f} to {high:.2f} s measured, {simulation['e2e_mean_s']:.2f} s simulated "
            f"({'inside' if found[policy]['holds'] else 'outside'}, with 5 %); P99 {min(p99):.2f} to {max(p99):.2f} s "
            f"measured, {simulation['e2e_p99_s']:.2f} s simulated"
        )
    (folder / "figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
