"""Capacity: the highest arrival rate at which a policy still meets the SLO."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

import numpy as np

from irouter import _core
from irouter._core import IrouterError
from irouter.evaluation.experiment import Experiment, resolve
from irouter.evaluation.settings import checked, layered
from irouter.evaluation.statistics import PairedBootstrap, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from irouter._core import Workload
    from irouter.evaluation.settings import Settings
    from irouter.evaluation.traces import Trace

TARGET: Final = 0.99
"""Share of the requests that must meet the SLO, unless another is asked for."""

FIRST_LOAD: Final = 1.0
"""The first load that is probed: the cluster's saturation, on one side of which every capacity lies."""


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """One policy on one window at one load.

    Attributes:
        window: Number of the window, which is the seed.
        load: Arrivals as a share of the cluster's saturation.
        goodput: Share of the requests that met the SLO.
    """

    window: int
    load: float
    goodput: float


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyCapacity:
    """The capacity of one policy.

    Attributes:
        rate: Requests per second, the mean over the windows; 0 where no load that was probed met the target.
        load: The same as a share of the cluster's saturation.
        goodput: Share of the requests that met the SLO there, the mean over the windows that have a capacity.
        ci95: 95 % interval of the rate over the windows; `(None, None)` for one window.
        ratio: Rate over that of the reference, with its paired interval.
        windows: Load of each window's capacity.
        probes: Every probe, window by window, in the order in which they were made.
    """

    rate: float
    load: float
    goodput: float | None
    ci95: tuple[float | None, float | None]
    ratio: tuple[float | None, float | None, float | None]
    windows: tuple[float, ...]
    probes: tuple[Probe, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Capacity:
    """Capacities of policies on the same windows.

    Attributes:
        experiment: What was probed; its rate or load has no part in it.
        target: Share of the requests that must meet the SLO.
        saturation_rate: Requests per second at a load of 1.
        policies: The capacity of each policy.
        predictor: The predictor with its quality at the first window's first probe.
    """

    experiment: Experiment
    target: float
    saturation_rate: float
    policies: Mapping[str, PolicyCapacity]
    predictor: Mapping[str, Any]

    def report(self) -> dict[str, Any]:
        """Every figure as plain data: what :meth:`to_json` writes."""
        settings = self.experiment.settings
        return {
            "scenario": self.experiment.name,
            "target": self.target,
            "saturation_rate": self.saturation_rate,
            "predictor": settings["predictor"],
            "predictor_quality": self.predictor,
            "conditions": self.experiment.conditions,
            "profile": settings["profile"],
            "instances": settings["instances"],
            "reference": self.experiment.reference,
            "version": _core.VERSION,
            "policies": {name: dataclasses.asdict(figures) for name, figures in self.policies.items()},
        }

    def to_json(self) -> str:
        """The report as canonical JSON: the same search gives the same bytes."""
        return json.dumps(self.report(), sort_keys=True, indent=2, allow_nan=False) + "\n"

    def write_json(self, path: str | Path) -> None:
        """Writes the report as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")


class Bisection:
    """Search for the highest load that passes, where every load below passes too.

    The first probe is at saturation. From there the load doubles until one fails, then each probe halves what lies
    between the highest that passed and the lowest that failed; so policies that are alike are probed at the same loads.
    """

    def __init__(self) -> None:
        self.highest_passed = 0.0
        self.lowest_failed: float | None = None

    @property
    def load(self) -> float:
        """The load to probe next."""
        if self.lowest_failed is not None:
            return (self.highest_passed + self.lowest_failed) / 2.0
        return 2.0 * self.highest_passed if self.highest_passed else FIRST_LOAD

    def probed(self, load: float, *, passed: bool) -> None:
        """Takes in whether `load` passed."""
        if passed:
            self.highest_passed = load
        else:
            self.lowest_failed = load


def capacity(
    scenario: str | Path | None = None,
    *,
    windows: int = 5,
    probes: int = 7,
    target: float = TARGET,
    trace: str | Path | Trace | None = None,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **settings: Unpack[Settings],
) -> Capacity:
    """Searches for the highest arrival rate at which each policy still meets the SLO, by bisection in every window.

    A probe is what :func:`irouter.compare` runs at its load. Above saturation, which prefix caches can reach, a probe
    has as many more of the `requests` as its load is higher, so that it lasts as long as at saturation; there, as in
    every overload run, no warm-up is left out and no arrivals follow the measured ones.

    Args:
        scenario: Name or `.toml` file of a scenario; its rate or load has no part in it.
        windows: Windows of a trace or draws of a generator, each with a search of its own; the same for every policy.
        probes: Loads that are tried per policy and window. The first is the cluster's saturation; from there each costs
            half of what is uncertain, so seven leave a 64th of saturation where the capacity lies below it.
        target: Share of the requests that must meet the SLO.
        trace: A trace or its file; without a scenario it is replayed.
        threads: Threads to use; 0 is one per core. The result does not depend on it.
        progress: Called as `progress(done, total)` after each probe.
        **settings: What differs from the scenario: see :class:`irouter.evaluation.settings.Settings`.

    Returns:
        The capacity of each policy with its interval over the windows, and every probe.

    Raises:
        IrouterError: For bad input, naming the value and what was expected.

    Example:
        >>> found = capacity("conversation", policies=["round_robin"], windows=1, probes=3, requests=200)
        >>> [probe.load for probe in found.policies["round_robin"].probes][:1]
        [1.0]
    """
    for name, count in (("windows", windows), ("probes", probes)):
        if count < 1:
            raise IrouterError(f"`{name}` is {count}, expected at least 1")
    if not 0.0 < target <= 1.0:
        raise IrouterError(f"`target` is {target}, expected a share above 0 and at most 1")
    for name in ("rate", "load", "clients", "sweep", "seeds"):
        if settings.get(name) is not None:
            raise IrouterError(f"`{name}` is given to a search for the arrival rate, expected it left out")
    experiment = resolve(scenario, trace, {**settings, "seeds": windows, "load": FIRST_LOAD})
    workload = None if experiment.trace is None else experiment.trace.workload()
    search = Search(experiment, windows, probes, target)
    search.run(workload, threads or os.cpu_count() or 1, progress)
    return Capacity(
        experiment,
        target,
        search.saturation_rate,
        capacities(search.probes, target, experiment.reference, search.saturation_rate),
        search.first_results["predictor"],
    )


class Search:
    """A bisection per policy and window, all of them probe by probe: policies at one load share its arrivals."""

    def __init__(self, experiment: Experiment, windows: int, probes: int, target: float) -> None:
        self.experiment = experiment
        self.labels = [choice.label for choice in experiment.policies]
        first = int(experiment.settings.get("first_seed", 0))
        self.windows = range(first, first + windows)
        self.rounds = probes
        self.target = target
        self.searches = {(label, window): Bisection() for label in self.labels for window in self.windows}
        self.probes: dict[str, list[list[Probe]]] = {
            label: [[] for _ in self.windows] for label in self.labels
        }
        self.first_results: Mapping[str, Any] = {}

    @property
    def saturation_rate(self) -> float:
        """Requests per second at a load of 1."""
        return float(self.first_results["workload"]["saturation_rate"])

    def run(
        self, workload: Workload | None, threads: int, progress: Callable[[int, int], None] | None
    ) -> None:
        """Makes every probe; `progress` is called as `progress(done, total)` after each round of some."""
        done, total = 0, self.rounds * len(self.searches)
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            try:
                for _ in range(self.rounds):
                    groups = self._groups()
                    # Windows with several loads fill the threads by themselves; else the policies of one do.
                    share = max(1, threads // len(groups))
                    jobs = {
                        pool.submit(self._probe, window, load, labels, workload, share): (
                            window,
                            load,
                            labels,
                        )
                        for (window, load), labels in groups.items()
                    }
                    for job in concurrent.futures.as_completed(jobs):
                        done += self._take(*jobs[job], job.result())
                        if progress is not None:
                            progress(done, total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _groups(self) -> dict[tuple[int, float], list[str]]:
        """The policies to probe next on each window at each load."""
        groups: dict[tuple[int, float], list[str]] = {}
        for (label, window), search in self.searches.items():
            groups.setdefault((window, search.load), []).append(label)
        return dict(sorted(groups.items()))

    def _probe(
        self, window: int, load: float, labels: Sequence[str], workload: Workload | None, threads: int
    ) -> dict[str, Any]:
        settings = layered(self.experiment.settings, checked({"load": load}, "probe"))
        settings |= {"first_seed": window, "seeds": 1}
        if settings.get("requests") is not None:
            # A short burst would pass at any load.
            settings["requests"] = math.ceil(settings["requests"] * max(1.0, load))
        chosen = tuple(choice for choice in self.experiment.policies if choice.label in labels)
        experiment = dataclasses.replace(self.experiment, settings=settings, policies=chosen)
        text = _core.run_experiment(
            experiment.to_json(), workload, threads=threads, callables=experiment.functions
        )
        results: dict[str, Any] = json.loads(text)
        return results

    def _take(self, window: int, load: float, labels: Sequence[str], results: Mapping[str, Any]) -> int:
        if (window, load) == (self.windows[0], FIRST_LOAD):
            self.first_results = results
        for run in results["runs"]:
            key = (run["policy"], window)
            # Without any request to judge (all went away), nothing was met.
            goodput = run["summary"]["goodput"] or 0.0
            self.searches[key].probed(load, passed=goodput >= self.target)
            self.probes[run["policy"]][window - self.windows[0]].append(Probe(window, load, goodput))
        return len(labels)


def capacities(
    probes: Mapping[str, Sequence[Sequence[Probe]]], target: float, reference: str, saturation_rate: float
) -> dict[str, PolicyCapacity]:
    """The capacity of each policy.

    Args:
        probes: The probes of each policy, by window; every policy on the same windows.
        target: Share of the requests that must meet the SLO.
        reference: The policy that ratios are against.
        saturation_rate: Requests per second at a load of 1.
    """
    loads = {
        label: np.array([[_highest_passed(window, target)] for window in windows])
        for label, windows in probes.items()
    }
    against = loads[reference]
    bootstrap = PairedBootstrap(len(against))
    found = {}
    for label, column in loads.items():
        draws, mean = bootstrap.means(column), column.mean(axis=0)
        interval = bootstrap.interval(draws)[:, 0] * saturation_rate
        ratios = np.concatenate(
            (
                ratio(mean, against.mean(axis=0)),
                bootstrap.interval(ratio(draws, bootstrap.means(against)))[:, 0],
            )
        )
        at_capacity = [
            probe.goodput
            for window, load in zip(probes[label], column[:, 0], strict=True)
            for probe in window
            if probe.load == load
        ]
        low, high = map(_number, interval)
        value, below, above = map(_number, ratios)
        found[label] = PolicyCapacity(
            rate=float(mean[0]) * saturation_rate,
            load=float(mean[0]),
            goodput=float(np.mean(at_capacity)) if at_capacity else None,
            ci95=(low, high),
            ratio=(value, below, above),
            windows=tuple(float(load) for load in column[:, 0]),
            probes=tuple(probe for window in probes[label] for probe in window),
        )
    return found


def _highest_passed(probes: Sequence[Probe], target: float) -> float:
    return max((probe.load for probe in probes if probe.goodput >= target), default=0.0)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
