"""Measures `guided` against every peer, prints the tables and writes docs/results.md with them.

irouter train --objective ttft --start rust/irouter-core/src/policy/guided/guided.safetensors --minutes 10 --out FILE
python tools/guided_results.py --first-tokens FILE [--traces ../shared/data/traces] [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import irouter
from irouter.evaluation.registry import registry
from irouter.evaluation.summary import summarise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
LOADS = (0.3, 0.8, 1.0, 1.2)
MORE_LOADS = (0.3, 0.6, 0.8, 0.9, 1.0, 1.2)
HAND_RULES = ("least_work", "central_fcfs", "central_shortest", "ordered_hold", "least_impact")
# They take so long for a decision that they would take longer than all others together.
SLOW_PEERS = ("block_simulate", "llmd_predicted_latency")
FINALISTS = 3
# Those that come first in the capacities of `irouter bench run`, which has all of them.
CAPACITY_PEERS = ("lmetric", "dynamo_kv", "smg_least_load", "llmd_token_load")

PAGE_HEAD = """\
# What the learned policy gains

`python tools/guided_results.py --first-tokens FILE --traces FOLDER` writes this page. One shipped file of weights
serves every row (`docs/guided.md` says what it was trained on). Predictor `noisy:0.45`, headline conditions (noisy
steps, a router profile fitted on a separate noisy log), {windows} windows of {requests} measured arrivals for every
four instances unless a scenario says otherwise, 95 % intervals by paired bootstrap.

The **best peer** of a point is the rule of another router, as shipped or `equalised:` (with our events, predicted
lengths and constants tuned with the same budget as ours), that has the lowest mean E2E there: all of them run on
{screening} windows, the best {finalists} on all. Left out for their time are {slow}.
"""

PAGE_TAIL = """
## Reading

* **`paper-main`**: one policy meets the three bars (0.66, 0.96, 0.93). Order is most of the mean, holding most of the
  makespan, and learning takes another eighth off the mean of the best rule by hand, with half of its preemptions and
  no worse tail.
* **Real traces gain by prompts that wait at the router.** A long prompt that goes to an instance with many running
  requests delays all of them. `guided` keeps it until few are there or it has waited long: chats of Llama-3.1-8B on
  A100s from 0.9 of saturation on end 18 to 28 % sooner than under the best peer, code 19 to 30 %, Mooncake's in
  overload a third, with a P99 of E2E that is lower at most points, and more requests inside the SLO from 0.8 on.
* **What pays is the first token of those prompts.** Near saturation P99 TTFT is several times the best peer's, while
  the mean is about the same. Below 0.7 of saturation next to nothing is held, and first tokens come as elsewhere.
  `irouter train --objective ttft` looks for the other end (last table).
* **Where 99 % have to meet the SLO**, those few late first tokens count: `guided` carries 0.95 to 1.05 of the requests
  of the best peer, and less than it on Azure's chats and on code of H100s. Beyond that rate it meets more.
* **Where the router is wrong** it does no harm: from 5 s of delay on the fallback decides.
* **Where a bar is missed**, the interval is across it, or short prompts come unchunked to A100s: these are better sent
  together, which `least_kv` and `llumnix` do without meaning to, and `guided`, though it knows that a prefill step can
  be shared, does too little.
* **Beside our own rules** `guided` is ahead of the best of them on the paper's cluster in overload, and by up to 25 %
  on chats and code of A100s near and above saturation. `least_impact`, which has no constants, is 4 to 11 % ahead on
  chats of H100s at saturation, in P99 too, and up to 9 % on Mooncake below it, mostly at a higher P99;
  `central_shortest` is ahead on code of H100s and on Mooncake in overload by 13 to 19 %, with a longer or equal tail.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """A workload on a cluster."""

    title: str
    scenario: str
    trace: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loads: tuple[float, ...] = LOADS


UNCHUNKED = {"scheduler": {"mode": "vllm-v0"}}
LLAMA_2 = {"profile": "llama-2-7b@a100", "drop_too_long": True}
CONV, CODE, MOONCAKE = "azure2023_conv", "azure2023_code", "mooncake_conversation"
SWEEP = (
    Setup("Azure chats, Llama-3.1-8B, A100", "azure-conv", CONV, {}, MORE_LOADS),
    Setup("Azure chats, Llama-3.1-8B, A100, not chunked", "azure-conv", CONV, UNCHUNKED, MORE_LOADS),
    Setup("Azure chats, Llama-3.1-8B, H100", "azure-conv", CONV, {"profile": "llama-3.1-8b@h100"}),
    Setup("Azure chats, Llama-2-7B, A100", "azure-conv", CONV, LLAMA_2),
    Setup("Azure code, Llama-3.1-8B, A100", "azure-code", CODE),
    Setup("Azure code, Llama-3.1-8B, H100", "azure-code", CODE, {"profile": "llama-3.1-8b@h100"}),
    Setup("Mooncake, prefixes kept, H100", "mooncake-conv", MOONCAKE, {"prefix_cache": True}),
    Setup("Mooncake, nothing kept, H100", "mooncake-conv", MOONCAKE, {"prefix_cache": False}),
    Setup("ServeGen large, A100", "servegen-large", "servegen_m_large_24h_2rps"),
    Setup("ServeGen small, A100", "servegen-small", "servegen_m_small_24h_2rps"),
    Setup("Five tasks, Llama-3.1-8B, A100, chunked", "paper-a100-chunked"),
    Setup("Five tasks, Llama-3.1-8B, A100, not chunked", "paper-a100"),
    Setup("Five tasks, Llama-2-7B, V100, KV cache of the paper", "paper-main", loads=(0.6, 0.9, 1.2, 1.4)),
    Setup("Five tasks, Llama-2-7B, V100, KV cache of the card", "paper-main-card", loads=(0.67, 1.0, 1.76)),
)
CLUSTERS = (
    *(
        Setup(f"Azure chats, {instances} instances", "azure-conv", CONV, {"instances": instances}, (0.9, 1.1))
        for instances in (2, 8, 16, 64)
    ),
    Setup("Azure chats, RTX 4090", "azure-conv", CONV, {"profile": "llama-3.1-8b@rtx4090"}, (0.9, 1.1)),
    Setup(
        "Azure chats, 70B on 4 H200", "azure-conv", CONV, {"profile": "llama-3.1-70b-tp4@h200"}, (0.9, 1.1)
    ),
)
WRONG: Mapping[str, Mapping[str, Any]] = {
    "predictions useless": {"predictor": "none"},
    "step times x 0.7": {"router_profile_error": {"step_time": 0.7}},
    "step times x 1.4": {"router_profile_error": {"step_time": 1.4}},
    "step times x 7": {"router_profile_error": {"step_time": 7.0}},
    "KV capacity x 0.9": {"router_profile_error": {"kv_blocks": 0.9}},
    "KV capacity x 1.1": {"router_profile_error": {"kv_blocks": 1.1}},
    "wrong scheduler mode": {"router_profile_error": {"scheduler": "vllm-v0"}},
    **{f"events {delay:g} s late": {"event_delay_s": delay} for delay in (0.05, 0.1, 5.0, 10.0, 30.0)},
    "2 % aborts": {"aborts": {"share": 0.02}},
    "one instance at half speed": {"slow": [{"instance": 0, "factor": 2.0}]},
    "an instance crashes": {"crashes": [{"instance": 0, "at_s": 20.0, "down_s": 30.0}]},
}
ROBUST_ON = (
    Setup("Azure chats", "azure-conv", CONV, {}, (0.9,)),
    Setup("paper-main", "paper-main", loads=(1.4,)),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Effort:
    """How much is run."""

    traces: Path
    windows: int
    requests: int
    screening: int

    def compare(
        self, setup: Setup, load: float, policies: Sequence[str], windows: int, **more: Any
    ) -> Sequence[Mapping[str, Any]]:
        """Runs of policies on the same windows."""
        settings = {"load": load, "conditions": "headline", "seeds": windows, **setup.settings, **more}
        if setup.trace is not None:
            settings["requests"] = self.requests * max(1, min(setup.settings.get("instances", 4), 16) // 4)
        trace = None if setup.trace is None else self.traces / f"{setup.trace}.parquet"
        found = irouter.compare(
            setup.scenario, trace=trace, policies=policies, reference=policies[0], sweep=(), **settings
        )
        runs: Sequence[Mapping[str, Any]] = found.main.results["runs"]
        return runs


def peers() -> list[str]:
    """Rules of other routers, in both columns."""
    names = [
        policy.name
        for policy in registry().values()
        if policy.origin == "peer" and policy.name not in SLOW_PEERS
    ]
    return [*names, *(f"equalised:{name}" for name in names)]


def best(figures: Mapping[str, Mapping[str, Any]], among: Sequence[str], count: int) -> list[str]:
    """Those with the lowest mean E2E."""
    return sorted(among, key=lambda name: figures[name]["e2e_mean_s"])[:count]


def interval(ratio: Sequence[float]) -> str:
    """A ratio with its interval."""
    value, low, high = ratio
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def point_row(effort: Effort, setup: Setup, load: float) -> str:
    """`guided` against the best peer and the best rule of ours."""
    screened = summarise(effort.compare(setup, load, peers(), effort.screening), peers()[0])
    finalists = best(screened, peers(), FINALISTS)
    runs = effort.compare(setup, load, ["round_robin", *finalists, *HAND_RULES, "guided"], effort.windows)
    figures = summarise(runs, "round_robin")
    (peer,), (rule,) = best(figures, finalists, 1), best(figures, HAND_RULES, 1)
    guided, other = figures["guided"], figures[peer]
    ratio, own = summarise(runs, peer)["guided"]["ratio"], summarise(runs, rule)["guided"]["ratio"]
    waits = (other["router_wait_mean_s"] + other["queue_wait_mean_s"]) / other["e2e_mean_s"]
    bar = 0.95 if waits >= 0.25 else 1.02
    payers = " / ".join(f"{value[0]:.2f}" for value in ratio["e2e_p99_by_output_quartile_s"])
    return (
        f"| {load:g} | `{peer}` | {waits:.0%} | {guided['ratio']['e2e_mean_s'][0]:.3f} "
        f"| {interval(ratio['e2e_mean_s'])} | {bar} | {'met' if ratio['e2e_mean_s'][2] <= bar else 'missed'} "
        f"| {ratio['e2e_p99_s'][0]:.3f} | {payers} | {guided['ttft_mean_s']:.2f} / {other['ttft_mean_s']:.2f} "
        f"| {guided['ttft_p99_s']:.2f} / {other['ttft_p99_s']:.2f} | {guided['goodput']:.3f} / {other['goodput']:.3f} "
        f"| `{rule}` {interval(own['e2e_mean_s'])}, P99 {own['e2e_p99_s'][0]:.3f} |"
    )


POINT_HEAD = (
    "| load | best peer | its waits | mean E2E / round robin | / best peer | bar | | P99 / best peer "
    "| P99 by output quartile / best peer | mean TTFT, s: guided / peer | P99 TTFT | goodput "
    "| mean E2E / best rule of ours |\n|" + "---|" * 13
)


def point_tables(effort: Effort, setups: Sequence[Setup]) -> Iterator[str]:
    """One table per setup."""
    for setup in setups:
        yield f"\n### {setup.title}\n\n{POINT_HEAD}"
        for load in setup.loads:
            yield point_row(effort, setup, load)


def robustness_table(effort: Effort) -> Iterator[str]:
    """`guided` against predicted least work where the router is wrong."""
    yield "| what is wrong | workload | mean E2E / least_work | P99 | |\n|---|---|---|---|---|"
    for (what, settings), setup in itertools.product(WRONG.items(), ROBUST_ON):
        runs = effort.compare(setup, setup.loads[0], ["least_work", "guided"], effort.windows, **settings)
        ratio = summarise(runs, "least_work")["guided"]["ratio"]
        met = ratio["e2e_mean_s"][2] <= 1.02
        yield (
            f"| {what} | {setup.title} | {interval(ratio['e2e_mean_s'])} | {ratio['e2e_p99_s'][0]:.3f} "
            f"| {'met' if met else 'missed'} |"
        )


def attribution_table(effort: Effort) -> Iterator[str]:
    """What placement, holding and order bring on `paper-main`, each and together."""
    steps = {
        "placement: `least_impact`": "least_impact",
        "hold, first come first served: `central_fcfs`": "central_fcfs",
        "order, in front of full engines: `queued-shortest:least_work`": "queued-shortest:least_work",
        "placement and order: `queued-shortest:least_impact`": "queued-shortest:least_impact",
        "hold and order: `ordered_hold`": "ordered_hold",
        "learning on top: `guided`": "guided",
    }
    setup = Setup("paper-main", "paper-main")
    runs = effort.compare(setup, 1.4, ["round_robin", *steps.values()], effort.windows)
    figures = summarise(runs, "round_robin")
    yield "| | mean E2E / round robin | P99 | makespan | preemptions |\n|---|---|---|---|---|"
    for title, name in steps.items():
        ratio = figures[name]["ratio"]
        cells = [interval(ratio[key]) for key in ("e2e_mean_s", "e2e_p99_s", "makespan_s")]
        yield f"| {title} | {' | '.join(cells)} | {figures[name]['preemptions'] / effort.windows:.0f} |"


def frontier_table(effort: Effort) -> Iterator[str]:
    """Mean against tail on `paper-main`, by how much may overtake a request."""
    setup = Setup("paper-main", "paper-main")
    yield "| most work that may overtake, s | mean E2E / round robin | P99 | longest wait, s |\n|---|---|---|---|"
    for overtaking_s in (10.0, 20.0, 40.0, 80.0, 160.0):
        more = {"overtaking_s": overtaking_s}
        runs = effort.compare(setup, 1.4, ["round_robin", "guided"], effort.windows, **more)
        guided = summarise(runs, "round_robin")["guided"]
        yield (
            f"| {overtaking_s:g} | {interval(guided['ratio']['e2e_mean_s'])} "
            f"| {interval(guided['ratio']['e2e_p99_s'])} | {guided['router_wait_max_s']:.0f} |"
        )


def first_tokens_table(effort: Effort, weights: Path) -> Iterator[str]:
    """The shipped weights beside some that were trained for first tokens, on chats."""
    setup, trained = SWEEP[0], f'guided(weights="{weights}")'
    yield (
        "| load | policy | mean TTFT, s | P99 TTFT, s | mean E2E, s | P99 E2E, s | goodput |\n|" + "---|" * 7
    )
    for load in (0.8, 1.0, 1.2):
        screened = summarise(effort.compare(setup, load, peers(), effort.screening), peers()[0])
        (peer,) = sorted(peers(), key=lambda name: screened[name]["ttft_mean_s"])[:1]
        policies = {peer: f"`{peer}`, best peer", "guided": "`guided`", trained: "`guided` for first tokens"}
        figures = summarise(effort.compare(setup, load, list(policies), effort.windows), peer)
        for policy, title in policies.items():
            row = figures[policy]
            seconds = (row[name] for name in ("ttft_mean_s", "ttft_p99_s", "e2e_mean_s", "e2e_p99_s"))
            cells = " | ".join(f"{value:.2f}" for value in seconds)
            yield f"| {load:g} | {title} | {cells} | {row['goodput']:.3f} |"


def capacity_table(effort: Effort) -> Iterator[str]:
    """Requests per second at which 99 % of the requests still meet the SLO."""
    policies = ("round_robin", *CAPACITY_PEERS, "least_work", "least_impact", "guided")
    names = " | ".join(f"`{name}`" for name in policies)
    yield f"| workload | {names} | `guided` / best peer |\n|{'---|' * (len(policies) + 2)}"
    for setup in SWEEP:
        if setup.trace is None or setup.settings.get("scheduler"):
            continue
        found = irouter.capacity(
            setup.scenario,
            trace=effort.traces / f"{setup.trace}.parquet",
            policies=list(policies),
            windows=max(1, effort.windows // 4),
            requests=effort.requests,
            conditions="headline",
            **setup.settings,
        )
        rates = {name: found.policies[name].rate for name in policies}
        most = max(rates[name] for name in CAPACITY_PEERS)
        cells = " | ".join(f"{rate:.2f}" for rate in rates.values())
        yield f"| {setup.title} | {cells} | {rates['guided'] / most:.2f} |"


def main() -> None:
    """Runs the sections one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--traces", type=Path, default=Path("../shared/data/traces"), help="folder of the traces"
    )
    parser.add_argument(
        "--first-tokens", type=Path, required=True, help="weights trained with --objective ttft"
    )
    parser.add_argument("--quick", action="store_true", help="few windows, and nothing is written")
    arguments = parser.parse_args()
    effort = (
        Effort(arguments.traces, windows=2, requests=1000, screening=1)
        if arguments.quick
        else Effort(arguments.traces, windows=20, requests=3000, screening=3)
    )
    sections = {
        "The paper's main experiment: what brings what": attribution_table(effort),
        "The paper's main experiment: mean against tail": frontier_table(effort),
        "Where the router is wrong": robustness_table(effort),
        "Clusters and profiles that it was not trained on": point_tables(effort, CLUSTERS),
        "Loads and workloads": point_tables(effort, SWEEP),
        "Requests per second under the SLO": capacity_table(effort),
        "The other end: first tokens": first_tokens_table(effort, arguments.first_tokens),
    }
    head = PAGE_HEAD.format(
        windows=effort.windows,
        requests=effort.requests,
        screening=effort.screening,
        finalists=FINALISTS,
        slow=" and ".join(f"`{name}`" for name in SLOW_PEERS),
    )
    lines = [head]
    for title, rows in sections.items():
        lines.append(f"\n## {title}\n")
        print(lines[-1], flush=True)
        for row in rows:
            lines.append(row)
            print(row, flush=True)
    if not arguments.quick:
        PAGE.write_text("\n".join([*lines, PAGE_TAIL]), encoding="utf-8")


if __name__ == "__main__":
    main()
