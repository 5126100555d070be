"""Independent parts of a run, which an executor carries out."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from typing import TYPE_CHECKING, Any

from irouter import _core
from irouter.evaluation.capacity_search import TARGET, Search

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from irouter._core import Workload
    from irouter.evaluation.experiment import Experiment


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """Some policies on some windows of one experiment. What comes out depends on nothing else.

    Attributes:
        experiment: The experiment: `policies`, `seeds` and `first_seed` say what is run. Without its trace.
        trace: Name of the trace that it replays.
        probes: Loads that a search for the capacity tries on each window; 0 for runs at the experiment's own load.
    """

    experiment: Experiment
    trace: str | None
    probes: int = 0

    @property
    def runs(self) -> int:
        """Runs of the simulator: one per policy and window, or one for each probe of these."""
        return len(self.experiment.policies) * int(self.experiment.settings["seeds"]) * max(1, self.probes)

    def run(self, workload: Workload | None, progress: Callable[[], None] = lambda: None) -> JobResult:
        """Runs it on one thread.

        Args:
            workload: The trace that it replays.
            progress: Called after each run; ends the job by raising.
        """
        if self.probes:
            return _search(self, workload, progress)
        ends: list[float] = []

        def ended(_done: int, _total: int) -> None:
            ends.append(time.perf_counter())
            progress()

        # With one thread, runs come in the order of windows and policies.
        text = _core.run_experiment(
            self.experiment.to_json(),
            workload,
            threads=1,
            progress=ended,
            callables=self.experiment.functions,
        )
        results = json.loads(text)
        seconds = [end - start for start, end in itertools.pairwise(ends)]
        return JobResult(results["workload"], results["predictor"], results["runs"], [None, *seconds])


@dataclasses.dataclass(frozen=True, slots=True)
class JobResult:
    """What came out of a job.

    Attributes:
        workload: The workload in figures.
        predictor: The predictor in figures.
        runs: Each run with its `summary` and, where the policy says something of itself, `figures`; or each search with
            its `probes`: by window, then by policy in the order of the job.
        seconds: How long each run took, in the same order, where that is known: of the first it is not, since what all
            share is prepared before it ends, and of searches neither.
    """

    workload: Mapping[str, Any]
    predictor: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]
    seconds: Sequence[float | None]


def _search(job: Job, workload: Workload | None, progress: Callable[[], None]) -> JobResult:
    windows, counted = int(job.experiment.settings["seeds"]), 0

    def probed(done: int, _total: int) -> None:
        nonlocal counted
        for _ in range(done - counted):
            progress()
        counted = done

    search = Search(job.experiment, windows, job.probes, TARGET)
    search.run(workload, 1, probed)
    runs = [
        {"probes": [[probe.load, probe.goodput] for probe in search.probes[policy.label][window]]}
        for window in range(windows)
        for policy in job.experiment.policies
    ]
    first = search.first_results
    return JobResult(first["workload"], first["predictor"], runs, [None] * len(runs))
