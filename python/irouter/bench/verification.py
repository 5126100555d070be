"""Verification of a result: its digest, its scenarios, its figures, and some of its runs once more."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from irouter import _core
from irouter.bench import suite_files
from irouter.bench.capacity_figures import capacity_figures
from irouter.bench.difference import Difference, leaves
from irouter.bench.figures import cells, runs_of, summarised
from irouter.bench.plan import Plan, make_plan, refuse_unknown
from irouter.bench.trace_files import TraceFolder
from irouter.evaluation.executors import LocalExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from irouter.bench.jobs import Job
    from irouter.bench.plan import PlannedPoint
    from irouter.bench.result import Result

# Vectorised sums differ between processors in their last digits; runs of the simulator do not differ at all.
_ROUNDING: Final = 1e-9

Cell = tuple[str, str, int]
"""Point, policy and window."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verification:
    """What was checked, and what does not hold.

    Attributes:
        differences: What of the result is not as it should be.
        cells: Runs that were repeated.
        remarks: What a reader must know, such as points that could not be run again.
    """

    differences: tuple[Difference, ...]
    cells: tuple[Cell, ...]
    remarks: tuple[str, ...]


def verify(
    result: Result,
    *,
    suite: str | Path | None = None,
    traces: str | Path | None = None,
    sample: int = 1,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Checks the digest and the scenarios of a result, recomputes its figures, and repeats a sample of its runs.

    External policies are not repeated: a result comes from anybody, and what it names is a program of theirs.

    Args:
        result: The result.
        suite: The suite, in place of the one that the result names.
        traces: Folder with the traces; points without theirs are not run again.
        sample: Runs to repeat of each policy, drawn by the digest of the result.
        threads: Runs at a time; 0 is one per core.
        progress: Called as `progress(done, total)` after each run of the simulator.

    Raises:
        IrouterError: For a suite, mode or policy that this version does not know.
    """
    remarks = []
    if result.data["version"] != _core.VERSION:
        remarks.append(f"made with irouter {result.data['version']}, verified with {_core.VERSION}")
    plan = _plan(result, suite, traces)
    refuse_unknown(plan, with_external=False)
    runnable = {planned.point.name: planned for planned in plan.points}
    differences = [*_digest(result), *_scenarios(result, runnable), *_figures(result)]
    remarks += [f"not run again, its trace is not given: {point.name}" for point, _ in plan.skipped]
    external = {label for label, choice in plan.policies.items() if choice.is_external}
    remarks += [
        f"not run again, verify starts no program that a result names: {policy}"
        for policy in sorted(external)
    ]
    sampled = _sample(result, runnable, external, sample)
    differences += _repeated(result, plan, sampled, threads, progress)
    repeated = {policy for _, policy, _ in sampled}
    measured = {policy for point in result.entries.values() for policy in point["windows"]}
    unchecked = sorted(measured - repeated - external)
    remarks += [f"no run repeated, no point to run it at: {policy}" for policy in unchecked]
    return Verification(tuple(differences), tuple(sampled), tuple(remarks))


def _plan(result: Result, suite: str | Path | None, traces: str | Path | None) -> Plan:
    """The points of the result, each with the policies that it ran."""
    loaded = suite_files.load(result.suite if suite is None else suite)
    folder, mode = TraceFolder(None if traces is None else Path(traces)), loaded.mode(result.data["mode"])
    plans = [
        make_plan(loaded, mode, loaded.select([name]), list(point["windows"]), folder)
        for name, point in result.entries.items()
    ]
    return Plan(
        tuple(planned for plan in plans for planned in plan.points),
        tuple(skipped for plan in plans for skipped in plan.skipped),
    )


def _digest(result: Result) -> Iterator[Difference]:
    if result.digest() != result.data["digest"]:
        yield Difference("", "", "digest", result.data["digest"], result.digest())


def _scenarios(result: Result, runnable: Mapping[str, PlannedPoint]) -> Iterator[Difference]:
    """Points that ran another scenario, another trace or other windows than the suite says."""
    for name, planned in runnable.items():
        point = result.entries[name]
        for key in ("scenario_sha256", "trace_sha256"):
            if point[key] != getattr(planned, key):
                yield Difference(name, "", key, point[key], getattr(planned, key))
        for policy, rows in point["windows"].items():
            if len(rows) != planned.windows[policy]:
                yield Difference(name, policy, "windows", len(rows), planned.windows[policy])


def _figures(result: Result) -> Iterator[Difference]:
    """Figures that do not follow from the windows they are of."""
    for name, point in result.entries.items():
        computed = capacity_figures(point) if "target" in point else summarised(point, point["reference"])
        for policy in {**computed, **point["policies"]}:
            stored = dict(leaves(point["policies"].get(policy, {})))
            found = dict(leaves(computed.get(policy, {})))
            for key in {**stored, **found}:
                if not _close(stored.get(key), found.get(key)):
                    yield Difference(name, policy, key, stored.get(key), found.get(key))


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=_ROUNDING)


def _sample(
    result: Result, runnable: Mapping[str, PlannedPoint], left_out: set[str], count: int
) -> list[Cell]:
    """`count` runs of each policy, drawn by the digest: nobody who writes a result can choose them."""
    by_policy: dict[str, list[Cell]] = defaultdict(list)
    for name, point in result.entries.items():
        if name in runnable:
            for policy, rows in point["windows"].items():
                if policy not in left_out:
                    by_policy[policy] += [(name, policy, window) for window in range(len(rows))]
    generator = random.Random(result.digest())  # noqa: S311 - a sample, no secret
    return [
        cell
        for known in by_policy.values()
        for cell in sorted(generator.sample(known, min(count, len(known))))
    ]


def _repeated(
    result: Result,
    plan: Plan,
    sampled: list[Cell],
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Difference]:
    planned = {each.point.name: each for each in plan.points}
    by_window: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, policy, window in sampled:
        by_window[name, window].append(policy)
    jobs = [_job(planned[name], policies, window) for (name, window), policies in by_window.items()]
    results = LocalExecutor(threads).execute(jobs, plan.traces, progress=progress)
    for (name, window), job, done in zip(by_window, jobs, results, strict=True):
        point = result.entries[name]
        for policy, _, run, _ in cells(job, done):
            stored = _values(_stored(point, policy, window))
            found = _values(run)
            for key in {**stored, **found}:
                if stored.get(key) != found.get(key):
                    yield Difference(
                        name, policy, f"{key} of window {window}", stored.get(key), found.get(key)
                    )


def _stored(point: Mapping[str, Any], policy: str, window: int) -> Mapping[str, Any]:
    if "target" in point:
        return {"probes": point["windows"][policy][window]}
    return runs_of(point, policy)[window]


def _values(run: Mapping[str, Any]) -> dict[str, Any]:
    """Every single value of a run by its path."""
    summary = leaves(run.get("summary", {}))
    return dict(summary) | dict(leaves({key: run[key] for key in ("figures", "probes") if key in run}))


def _job(planned: PlannedPoint, policies: list[str], window: int) -> Job:
    chosen = [choice for choice in planned.experiment.policies if choice.label in policies]
    return planned.job(chosen, first_window=window, windows=1)
