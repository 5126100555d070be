"""From a suite to jobs: what runs where, and what is left out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from irouter import _core, scenarios
from irouter.bench.columns import columns, windows
from irouter.bench.jobs import Job
from irouter.bench.trace_files import TraceFolder, trace_hash
from irouter.evaluation.capacity_search import FIRST_LOAD
from irouter.evaluation.experiment import resolve
from irouter.evaluation.policies import choose

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from irouter.bench.suite import Mode, Point, Suite
    from irouter.evaluation.experiment import Experiment
    from irouter.evaluation.policies import PolicyChoice
    from irouter.evaluation.traces import Trace

# Policies of a job share its windows, which are prepared once.
_POLICIES_PER_JOB: Final = 8
# What says how much is run of a scenario, and is no part of it.
_NOT_OF_THE_SCENARIO: Final = ("policies", "seeds", "first_seed")


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedPoint:
    """A point with everything that its runs need.

    Attributes:
        point: The point.
        experiment: Its experiment, over all windows and policies.
        windows: Windows of each policy, by label.
        scenario_sha256: Hash of the resolved scenario.
        trace_sha256: Hash of the columns of its trace.
        probes: Loads that a search for the capacity tries on each window; 0 for a point that compares.
    """

    point: Point
    experiment: Experiment
    windows: Mapping[str, int]
    scenario_sha256: str
    trace_sha256: str | None
    probes: int

    def job(self, policies: Sequence[PolicyChoice], *, first_window: int, windows: int) -> Job:
        """The job of some policies on some of the windows."""
        settings = {**self.experiment.settings, "first_seed": first_window, "seeds": windows}
        experiment = dataclasses.replace(
            self.experiment, settings=settings, policies=tuple(policies), trace=None
        )
        trace = None if self.experiment.trace is None else self.point.name
        return Job(experiment, trace, self.probes)

    def jobs(self) -> Iterator[Job]:
        """Every run of the point: policies with as many windows go together."""
        for count in sorted(set(self.windows.values()), reverse=True):
            together = [policy for policy in self.experiment.policies if self.windows[policy.label] == count]
            for start in range(0, len(together), _POLICIES_PER_JOB):
                yield self.job(together[start : start + _POLICIES_PER_JOB], first_window=0, windows=count)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What of a suite is run.

    Attributes:
        points: The points.
        skipped: Points without their trace, with where it is published.
    """

    points: tuple[PlannedPoint, ...]
    skipped: tuple[tuple[Point, str], ...]

    @property
    def policies(self) -> dict[str, PolicyChoice]:
        """Every policy of any point, by label."""
        return {choice.label: choice for planned in self.points for choice in planned.experiment.policies}

    @property
    def traces(self) -> dict[str, Trace]:
        """The trace of each point that replays one, by the point's name."""
        return {
            planned.point.name: planned.experiment.trace
            for planned in self.points
            if planned.experiment.trace is not None
        }


def make_plan(
    suite: Suite, mode: Mode, points: Sequence[Point], policies: Sequence[str] | None, folder: TraceFolder
) -> Plan:
    """Plans a run.

    Args:
        suite: The suite.
        mode: How much of it.
        points: Its points that are run.
        policies: The policies, in place of the suite's.
        folder: Where the traces are.

    Raises:
        IrouterError: Naming a bad setting.
    """
    planned, skipped = [], []
    for point in points:
        scenario = scenarios.load(point.scenario)
        trace = folder.find(point) if scenario.replays else None
        if scenario.replays and trace is None:
            skipped.append((point, scenario.trace_source))
        else:
            planned.append(_planned(suite, mode, point, policies, trace))
    return Plan(tuple(planned), tuple(skipped))


def _planned(
    suite: Suite, mode: Mode, point: Point, policies: Sequence[str] | None, trace: Trace | None
) -> PlannedPoint:
    chosen = choose(columns(suite, point, policies), suite.reference)
    counts = {choice.label: windows(suite, mode, point, choice.label) for choice in chosen}
    settings: dict[str, Any] = {
        **point.settings,
        "requests": min(mode.requests, point.requests or mode.requests),
        "seeds": max(counts.values()),
        "reference": suite.reference,
        "policies": [choice.label for choice in chosen],
    }
    if point.kind == "capacity":
        settings["load"] = FIRST_LOAD
    experiment = resolve(point.scenario, trace, settings)
    return PlannedPoint(
        point=point,
        experiment=experiment,
        windows=counts,
        scenario_sha256=scenario_hash(experiment),
        trace_sha256=None if trace is None else trace_hash(trace),
        probes=mode.probes if point.kind == "capacity" else 0,
    )


def refuse_unknown(plan: Plan, *, with_external: bool) -> None:
    """Raises for a policy that cannot be built, before the first long run.

    Args:
        plan: What is to be run.
        with_external: Whether programs of their own must be there too. None is started for it.

    Raises:
        IrouterError: Naming the policy and what was expected.
    """
    for choice in plan.policies.values():
        if with_external or not choice.is_external:
            data = choice.to_data()
            _core.Router([], data if isinstance(data, str) else json.dumps(data))


def scenario_hash(experiment: Experiment) -> str:
    """SHA-256 of a resolved scenario as canonical JSON: profile, workload, settings; not policies and windows."""
    content = json.loads(experiment.to_json())
    kept = {key: value for key, value in content.items() if key not in _NOT_OF_THE_SCENARIO}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, allow_nan=False).encode()).hexdigest()
