"""What a comparison shows and in which words: shared by the tables of the command line and the page."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from irouter.evaluation.comparison import Comparison


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A figure as a column.

    Attributes:
        heading: Heading of the column.
        key: Key of the figure.
        form: How a value is written.
        better: Which of several values is the best; `None` where that has no meaning.
    """

    heading: str
    key: str
    form: Callable[[float], str]
    better: Callable[[Iterable[float]], float] | None = min

    def cell(self, value: float | None) -> str:
        """A value as it is shown."""
        return "-" if value is None else self.form(value)

    def best(self, policies: Mapping[str, Mapping[str, Any]]) -> float | None:
        """The best value, `None` where there is none or all are alike."""
        known = [figures[self.key] for figures in policies.values() if figures[self.key] is not None]
        if self.better is None or not known or min(known) == max(known):
            return None
        return self.better(known)


def _seconds(value: float) -> str:
    return f"{value:,.2f}"


def _milliseconds(value: float) -> str:
    return f"{value * 1000:,.1f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


LATENCY: Final = (
    Column("E2E mean", "e2e_mean_s", _seconds),
    Column("P50", "e2e_p50_s", _seconds),
    Column("P90", "e2e_p90_s", _seconds),
    Column("P99", "e2e_p99_s", _seconds),
    Column("TTFT mean", "ttft_mean_s", _seconds),
    Column("P50", "ttft_p50_s", _seconds),
    Column("P90", "ttft_p90_s", _seconds),
    Column("P99", "ttft_p99_s", _seconds),
    Column("makespan", "makespan_s", _seconds),
    Column("goodput", "goodput", _percent, max),
)
"""Columns of the table of latencies, in seconds."""

WAITING: Final = (
    Column("TPOT ms", "tpot_mean_s", _milliseconds),
    Column("TBT ms", "tbt_mean_s", _milliseconds),
    Column("TBT P99", "tbt_p99_s", _milliseconds),
    Column("slowdown P99", "slowdown_p99", _seconds),
    Column("router wait", "router_wait_mean_s", _seconds, None),
    Column("max", "router_wait_max_s", _seconds, None),
    Column("queue wait", "queue_wait_mean_s", _seconds),
    Column("preempt.", "preemptions", _count),
    Column("tokens/s", "throughput_tok_s", _count, max),
    Column("completed", "completed", _count, None),
    Column("failed", "failed", _count, None),
    Column("dropped", "dropped", _count, None),
)
"""Columns of the table of everything else."""

QUARTILES: Final = ("shortest", "second", "third", "longest")
"""Quartiles of output length."""


def ordered(policies: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The policies by mean E2E, the best first."""

    def mean(item: tuple[str, Mapping[str, Any]]) -> tuple[float, str]:
        value = item[1]["e2e_mean_s"]
        return (float("inf") if value is None else value, item[0])

    return dict(sorted(policies.items(), key=mean))


def ratio(values: list[float | None]) -> str:
    """A ratio with its interval."""
    value, low, high = values
    if value is None:
        return "-"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def verdict(values: list[float | None]) -> str:
    """Whether a ratio of latencies, with its interval, is `better`, `worse` or neither (empty)."""
    value, low, high = values
    if value is None:
        return ""
    if (value if high is None else high) < 1.0:
        return "better"
    return "worse" if (value if low is None else low) > 1.0 else ""


def facts(comparison: Comparison) -> list[str]:
    """Scenario, cluster, load, predictor, conditions and seeds, each in a few words."""
    experiment, workload = comparison.experiment, comparison.main.results["workload"]
    settings = experiment.settings
    seeds = settings["seeds"]
    return [
        experiment.name,
        f"{settings['instances']} x {settings['profile']}",
        demand(workload, settings),
        f"predictor {predictor(comparison.main.results['predictor'])}",
        f"{experiment.conditions} conditions",
        f"{sum(workload['requests']):,} requests in {seeds} seed{'s' if seeds > 1 else ''}",
    ]


def demand(workload: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """How much arrives."""
    clients = settings.get("clients")
    if clients is not None:
        return f"{clients['count']} clients that think {clients['think_time_s']:g} s"
    return f"load {workload['load']:.2f} ({workload['rate']:.2f} requests/s)"


def self_reports(policies: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What policies say of themselves, such as how well their own predictor did: a line for each that does."""
    return [
        f"{name}: {', '.join(f'{_words(key)} {value:,.1f}' for key, value in figures['figures'].items())}"
        for name, figures in policies.items()
        if "figures" in figures
    ]


def _words(key: str) -> str:
    return key.replace("_percent", " %").replace("_", " ")


def predictor(figures: Mapping[str, Any]) -> str:
    """The predictor with how good it was, beside how good its name asks it to be."""
    quality = []
    if figures["tau_b"] is not None:
        asked = figures["asked_tau_b"]
        quality.append(f"tau-b {figures['tau_b']:.2f}" + ("" if asked is None else f", asked {asked:.2f}"))
    if figures["coverage_80"] is not None:
        asked = figures["asked_coverage_80"]
        quality.append(f"80 % interval holds {figures['coverage_80']:.0%}, asked {asked:.0%}")
    return f"{figures['name']} ({'; '.join(quality)})" if quality else str(figures["name"])


def set_up(settings: Mapping[str, Any]) -> list[str]:
    """What is unusual: a closed loop, instances that are slow, a router that believes otherwise."""
    lines = []
    if settings.get("clients") is not None:
        lines.append(
            "closed loop: clients ask the same of every policy, and go on until all that is measured has ended"
        )
    for slow in settings.get("slow") or ():
        start, length = slow.get("at_s", 0.0), slow.get("down_s")
        period = "" if not start and length is None else f" from {start:g} s"
        period += "" if length is None else f" for {length:g} s"
        lines.append(f"instance {slow['instance']} takes {slow['factor']:g} times as long{period}")
    error = settings.get("router_profile_error")
    if error:
        parts = [
            f"step times x {error['step_time']:g}" if "step_time" in error else "",
            f"KV blocks x {error['kv_blocks']:g}" if "kv_blocks" in error else "",
            f"scheduler {error['scheduler']}" if "scheduler" in error else "",
        ]
        lines.append(f"the router's profile is off on purpose: {', '.join(filter(None, parts))}")
    return lines


def warnings(comparison: Comparison) -> list[str]:
    """Policies that failed, so that their figures are not theirs alone."""
    lines = []
    for point in (comparison.main, *comparison.sweep):
        where = "" if point.load is None else f"load {point.load:g}: "
        last = {
            run["policy"]: run["policy_failure"] for run in point.results["runs"] if "policy_failure" in run
        }
        for policy, failure in last.items():
            count = point.figures[policy]["policy_failures"]
            lines.append(f"{where}{failure}; least predicted work decided instead, {count:,} times in all")
    return lines


def remarks(comparison: Comparison) -> list[str]:
    """What a reader must know to trust the figures."""
    workload, settings = comparison.main.results["workload"], comparison.experiment.settings
    lines = [
        f"saturation: {workload['saturation_rate']:.2f} requests/s for {settings['instances']} instances"
    ]
    if workload["overload"]:
        lines.append("overload run: more arrives than the cluster can serve, so there is no steady state")
    elif any(workload["warm_up"]):
        lines.append(
            f"warm-up: {sum(workload['warm_up']):,} requests, the same for every policy, are not measured"
        )
    lines += set_up(settings)
    if settings["router_profile"] == "fitted":
        error = workload["router_profile_error_percent"]
        lines.append(f"the router's profile is fitted to a noisy log: {error:.2f} % error on held-out steps")
    before, after = workload["cv_before"], workload["cv_after"]
    if after is not None:
        source = "" if before is None else f"{before:.2f} in the trace, "
        lines.append(f"CV of the gaps between arrivals: {source}{after:.2f} here")
    if workload["row_reuse"] is not None:
        lines.append(
            f"each measured row of the trace is measured {workload['row_reuse']:.2f} times over all seeds"
        )
    if settings["seeds"] == 1:
        lines.append("one seed: no intervals")
    elif workload["disjoint"] is False:
        lines.append("windows overlap: the intervals cover alignment only")
    if workload["dropped"]:
        lines.append(f"{workload['dropped']:,} requests beyond the profile's context were dropped")
    if comparison.experiment.trace is not None and comparison.experiment.trace.dropped_empty:
        lines.append(
            f"{comparison.experiment.trace.dropped_empty:,} rows without input or output were dropped"
        )
    return lines
