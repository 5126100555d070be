"""Experiments in parts that run anywhere, put together to what the whole gives, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any, Final

from irouter import _core
from irouter._core import IrouterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from irouter._core import Workload
    from irouter.evaluation.executors import Executor
    from irouter.evaluation.experiment import Experiment
    from irouter.evaluation.policies import PolicyFunction
    from irouter.evaluation.traces import Trace

# Parts per slot: enough that no slot waits long for the last part of another.
_PARTS_PER_SLOT: Final = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Some policies of an experiment on some of its seeds.

    Attributes:
        experiment_json: The experiment as the simulator reads it.
        functions: Policies of the caller's own, by name.
        runs: Runs of the simulator: one per policy and seed.
        trace: Name of the trace that it replays.
        version: Version of the package that cut it.
    """

    experiment_json: str
    functions: Mapping[str, PolicyFunction]
    runs: int
    trace: str | None
    version: str = _core.VERSION

    def run(self, workload: Workload | None, progress: Callable[[], None]) -> dict[str, Any]:
        """What the simulator returns for the part.

        Raises:
            IrouterError: Where another version of the package is installed than where it was cut.
        """
        if self.version != _core.VERSION:
            raise IrouterError(f"irouter {_core.VERSION} is installed on a worker, expected {self.version}")
        text = _core.run_experiment(
            self.experiment_json,
            workload,
            threads=1,
            progress=lambda _done, _total: progress(),
            callables=dict(self.functions),
        )
        results: dict[str, Any] = json.loads(text)
        return results


def run_experiments(
    experiments: Sequence[Experiment],
    *,
    threads: int = 0,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """The results of experiments, in order: what :func:`irouter._core.run_experiment` returns for each, as data.

    Args:
        experiments: The experiments.
        threads: Threads of this machine; 0 is one per core. The results do not depend on it.
        executor: Where to run their parts, in place of threads of this machine. The results do not depend on it.
        progress: Called as `progress(done, total)` in runs of the simulator.

    Raises:
        IrouterError: For bad input.
    """
    # Experiments of a sweep share their trace.
    traces = {str(id(each.trace)): each.trace for each in experiments if each.trace is not None}
    if executor is None:
        return _run_here(experiments, traces, threads, progress)
    if threads:
        raise IrouterError(
            f"{threads} threads of this machine beside another executor, expected one of the two"
        )
    wanted = math.ceil(_PARTS_PER_SLOT * executor.slots / max(1, len(experiments)))
    cut = [list(_parts(experiment, wanted)) for experiment in experiments]
    done = iter(executor.execute([part for parts in cut for part in parts], traces, progress=progress))
    return [
        joined(experiment, [next(done) for _ in parts])
        for experiment, parts in zip(experiments, cut, strict=True)
    ]


def _run_here(
    experiments: Sequence[Experiment],
    traces: Mapping[str, Trace],
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    """One experiment after the other, the runs of each on all threads: its arrivals are prepared once."""
    workloads = {name: trace.workload() for name, trace in traces.items()}
    runs = [len(each.policies) * int(each.settings["seeds"]) for each in experiments]
    found = []
    for index, experiment in enumerate(experiments):
        before = sum(runs[:index])

        def report(done: int, _total: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, sum(runs))

        text = _core.run_experiment(
            experiment.to_json(),
            workloads.get(str(id(experiment.trace))),
            threads=threads,
            progress=report,
            callables=experiment.functions,
        )
        found.append(json.loads(text))
    return found


def _parts(experiment: Experiment, wanted: int) -> Iterator[Part]:
    """About as many parts as wanted: some seeds each, or some policies on one seed.

    Every part prepares its arrivals and its predictor anew, so there are no more than needed.
    """
    first, count = int(experiment.settings.get("first_seed", 0)), int(experiment.settings["seeds"])
    trace = None if experiment.trace is None else str(id(experiment.trace))
    seeds = math.ceil(count / wanted)
    size = math.ceil(len(experiment.policies) / math.ceil(wanted / count))
    for start in range(first, first + count, seeds):
        some_seeds = range(start, min(start + seeds, first + count))
        for begin in range(0, len(experiment.policies), size):
            some = dataclasses.replace(experiment, policies=experiment.policies[begin : begin + size])
            runs = len(some.policies) * len(some_seeds)
            yield Part(some.to_json(only_seeds=some_seeds), some.functions, runs, trace)


def joined(experiment: Experiment, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of an experiment from those of its parts, which are in the order of seeds and policies."""
    by_seed: dict[int, Mapping[str, Any]] = {}
    for part in parts:
        by_seed.setdefault(part["runs"][0]["seed"], part["workload"])
    windows = list(by_seed.values())
    # What is not of a window is of the whole experiment in every part, or of its first window.
    workload = dict(windows[0])
    for key in ("requests", "warm_up"):
        workload[key] = [count for window in windows for count in window[key]]
    for key in ("input_tokens", "output_tokens"):
        workload[key] = sum(window[key] for window in windows)
        workload[f"{key}_mean"] = workload[key] / sum(workload["requests"])
    runs = [run for part in parts for run in part["runs"]]
    if len(runs) != len(experiment.policies) * int(experiment.settings["seeds"]):
        raise IrouterError(f"{experiment.name}: {len(runs)} runs came back, some are missing")
    return {"workload": workload, "predictor": parts[0]["predictor"], "runs": runs}
