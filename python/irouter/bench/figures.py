"""From runs to the entry of a point in the result, and back from the windows of an entry to its figures."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from irouter.evaluation.comparison import Comparison
from irouter.evaluation.comparison import Point as ComparedPoint
from irouter.evaluation.summary import summarise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from irouter.bench.jobs import Job, JobResult
    from irouter.bench.plan import PlannedPoint


def entry(planned: PlannedPoint, done: Sequence[tuple[Job, JobResult]]) -> dict[str, Any]:
    """A point in the result.

    Args:
        planned: The point.
        done: Its jobs with what came out, the first with the reference on all windows.
    """
    first = done[0][1]
    keys: list[str] = list(first.runs[0]["summary"])
    windows: dict[str, list[list[Any]]] = defaultdict(list)
    own_figures: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for job, result in done:
        for policy, _, run, _ in cells(job, result):
            windows[policy].append([run["summary"][key] for key in keys])
            if "figures" in run:
                own_figures[policy].append(run["figures"])
    measured = {"window_keys": keys, "windows": dict(windows), "own_figures": dict(own_figures)}
    results = {"workload": first.workload, "predictor": first.predictor}
    figures = summarised(measured, planned.experiment.reference)
    report = Comparison(planned.experiment, ComparedPoint(None, results, figures)).report()
    return {
        **{key: value for key, value in report.items() if key not in {"version", "sweep"}},
        **described(planned),
        "class": planned.point.scenario_class,
        "sweep_of": planned.point.sweep,
        "base": planned.point.base,
        **measured,
    }


def described(planned: PlannedPoint) -> dict[str, Any]:
    """What every entry says of its point: its name, its hashes, and what its policies stand for."""
    return {
        "name": planned.point.name,
        "title": planned.point.title,
        "scenario_sha256": planned.scenario_sha256,
        "trace_sha256": planned.trace_sha256,
        "columns": {choice.label: choice.to_data() for choice in planned.experiment.policies},
    }


def cells(job: Job, result: JobResult) -> Iterator[tuple[str, int, Mapping[str, Any], float | None]]:
    """Each run of a job: policy, window, what came out, and how long it took."""
    policies = [policy.label for policy in job.experiment.policies]
    first_window = int(job.experiment.settings["first_seed"])
    for index, (run, seconds) in enumerate(zip(result.runs, result.seconds, strict=True)):
        window, policy = divmod(index, len(policies))
        yield policies[policy], first_window + window, run, seconds


def runs_of(measured: Mapping[str, Any], policy: str) -> list[dict[str, Any]]:
    """The runs of a policy as the simulator returned them, from the windows of a point."""
    own_figures = measured["own_figures"].get(policy)
    return [
        {
            "policy": policy,
            "seed": window,
            "summary": dict(zip(measured["window_keys"], row, strict=True)),
            **({} if own_figures is None else {"figures": own_figures[window]}),
        }
        for window, row in enumerate(measured["windows"][policy])
    ]


def summarised(measured: Mapping[str, Any], reference: str) -> dict[str, dict[str, Any]]:
    """The figures of each policy over its windows, with ratios to the reference on the same windows.

    Each policy's figures depend on its own windows and the reference's only, not on who else ran.
    """
    by_count: dict[int, list[str]] = defaultdict(list)
    for policy, rows in measured["windows"].items():
        by_count[len(rows)].append(policy)
    figures: dict[str, dict[str, Any]] = {}
    for count, policies in by_count.items():
        names = dict.fromkeys([reference, *policies])
        together = summarise([run for name in names for run in runs_of(measured, name)[:count]], reference)
        figures |= {policy: together[policy] for policy in policies}
    return figures


def speeds(done: Sequence[tuple[Job, JobResult]]) -> dict[str, dict[str, float]]:
    """How fast each policy was simulated, over the runs whose time is known.

    Returns:
        By policy: `requests` of the runs, warm-up included, their `seconds`, and `requests_per_second` of one thread.
    """
    totals: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for job, result in done:
        first_window = int(job.experiment.settings["first_seed"])
        for policy, window, _, seconds in cells(job, result):
            if seconds is not None:
                index = window - first_window
                totals[policy][0] += result.workload["requests"][index] + result.workload["warm_up"][index]
                totals[policy][1] += seconds
    return {
        policy: {"requests": requests, "seconds": seconds, "requests_per_second": requests / seconds}
        for policy, (requests, seconds) in totals.items()
    }
