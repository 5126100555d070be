"""Independent parts of a run, and the one place where they are executed."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from irouter import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from irouter._core import Workload
    from irouter.evaluation.experiment import Experiment
    from irouter.evaluation.traces import Trace


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """Some policies on some windows of one experiment. What comes out depends on nothing else.

    Attributes:
        experiment: The experiment: `policies`, `seeds` and `first_seed` say what is run. Without its trace.
        trace: Name of the trace that it replays.
    """

    experiment: Experiment
    trace: str | None

    @property
    def runs(self) -> int:
        """Runs of the simulator: one per policy and window."""
        return len(self.experiment.policies) * int(self.experiment.settings["seeds"])


@dataclasses.dataclass(frozen=True, slots=True)
class JobResult:
    """What came out of a job.

    Attributes:
        workload: The workload in figures.
        predictor: The predictor in figures.
        runs: Each run with its `summary` and, where the policy says something of itself, `figures`: by window, then by
            policy in the order of the job.
        seconds: How long each run took, in the same order; the first is not known, since what all share is prepared
            before it ends.
    """

    workload: Mapping[str, Any]
    predictor: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]
    seconds: Sequence[float | None]


def run_job(job: Job, workload: Workload | None, progress: Callable[[], None] = lambda: None) -> JobResult:
    """Runs a job on one thread.

    Args:
        job: The job.
        workload: The trace that it replays.
        progress: Called after each run; ends the job by raising.
    """
    ends: list[float] = []

    def ended(_done: int, _total: int) -> None:
        ends.append(time.perf_counter())
        progress()

    # With one thread, runs come in the order of windows and policies.
    text = _core.run_experiment(
        job.experiment.to_json(), workload, threads=1, progress=ended, callables=job.experiment.functions
    )
    results = json.loads(text)
    seconds = [end - start for start, end in itertools.pairwise(ends)]
    return JobResult(results["workload"], results["predictor"], results["runs"], [None, *seconds])


def execute(
    jobs: Sequence[Job],
    traces: Mapping[str, Trace],
    *,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[JobResult]:
    """Runs jobs, several at a time, and returns their results in order. The results do not depend on `threads`.

    Args:
        jobs: The jobs.
        traces: The traces that they replay, by name.
        threads: Jobs at a time; 0 is one per core.
        progress: Called as `progress(done, total)` after each run of the simulator.
    """
    total = sum(job.runs for job in jobs)
    workloads = {name: trace.workload() for name, trace in traces.items()}
    lock, stop, done = threading.Lock(), threading.Event(), 0

    def ended() -> None:
        nonlocal done
        if stop.is_set():
            raise InterruptedError
        with lock:
            done += 1
            if progress is not None:
                progress(done, total)

    with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        futures = [
            pool.submit(run_job, job, None if job.trace is None else workloads[job.trace], ended)
            for job in jobs
        ]
        try:
            return [future.result() for future in futures]
        except BaseException:
            # Runs that nobody waits for any more end at their next report.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
