"""Comparisons of policies on the same arrivals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from irouter import _core
from irouter._core import IrouterError
from irouter._extras import require
from irouter.evaluation.experiment import Experiment, resolve
from irouter.evaluation.parts import run_experiments
from irouter.evaluation.policies import choice_of
from irouter.evaluation.summary import summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl
    from numpy.typing import NDArray

    from irouter.evaluation.executors import Executor
    from irouter.evaluation.policies import PolicyFunction
    from irouter.evaluation.settings import Settings
    from irouter.evaluation.traces import Trace


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """A comparison at one load.

    Attributes:
        load: The load that a sweep asked for; `None` for the comparison itself.
        results: What the simulator returned: `workload`, `predictor`, and `runs` with distribution curves.
        figures: Figures of each policy over all seeds, by :func:`irouter.evaluation.summary.summarise`.
    """

    load: float | None
    results: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Policies compared on the same arrivals.

    Attributes:
        experiment: What was run.
        main: The comparison.
        sweep: The same at other loads, ascending.
    """

    experiment: Experiment
    main: Point
    sweep: tuple[Point, ...] = ()

    @property
    def policies(self) -> Mapping[str, Mapping[str, Any]]:
        """Figures of each policy: `comparison.policies["round_robin"]["e2e_mean_s"]`."""
        return self.main.figures

    def report(self) -> dict[str, Any]:
        """Every figure as plain data: what :meth:`to_json` writes."""
        settings = self.experiment.settings
        return {
            "scenario": self.experiment.name,
            "predictor": settings["predictor"],
            "predictor_quality": self.main.results["predictor"],
            "conditions": self.experiment.conditions,
            "profile": settings["profile"],
            "instances": settings["instances"],
            "seeds": settings["seeds"],
            "reference": self.experiment.reference,
            "version": _core.VERSION,
            "workload": self.main.results["workload"],
            "policies": self.main.figures,
            "sweep": [
                {"load": point.load, "workload": point.results["workload"], "policies": point.figures}
                for point in self.sweep
            ],
        }

    def to_json(self) -> str:
        """The report as canonical JSON: the same comparison gives the same bytes."""
        return json.dumps(self.report(), sort_keys=True, indent=2, allow_nan=False) + "\n"

    def write_json(self, path: str | Path) -> None:
        """Writes the report as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def write_html(self, path: str | Path) -> None:
        """Writes the report as one page with plots that needs nothing else, not even a network.

        Raises:
            IrouterError: Without the extra `[cli]`.
        """
        require("plotly", extra="cli", purpose="the HTML report")
        from irouter.evaluation import report  # noqa: PLC0415 - needs the extra [cli]

        Path(path).write_text(report.page(self), encoding="utf-8")

    def to_polars(self) -> pl.DataFrame:
        """One row per policy with its figures and its ratios to the reference as `NAME_ratio`.

        Raises:
            IrouterError: Without the extra `[cli]`.
        """
        polars = require("polars", extra="cli", purpose="a table of the comparison")
        rows = []
        for policy, figures in self.policies.items():
            scalars = {key: value for key, value in figures.items() if not isinstance(value, dict | list)}
            rows.append(
                {"policy": policy, **scalars} | {f"{key}_ratio": figures["ratio"][key][0] for key in scalars}
            )
        frame: pl.DataFrame = polars.DataFrame(rows)
        return frame


def compare(
    scenario: str | Path | None = None,
    *,
    trace: str | Path | Trace | None = None,
    threads: int = 0,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Unpack[Settings],
) -> Comparison:
    """Compares policies on the same arrivals.

    Args:
        scenario: Name or `.toml` file of a scenario.
        trace: A trace or its file; without a scenario it is replayed as recorded.
        threads: Threads of this machine; 0 is one per core. The result does not depend on it.
        executor: Where to run in place of threads of this machine, such as a
            :class:`~irouter.evaluation.ray_executor.RayExecutor`. The result does not depend on it.
        progress: Called as `progress(done, total)` in runs.
        **settings: What differs from the scenario: see :class:`irouter.evaluation.settings.Settings`.

    Returns:
        The figures of each policy, with intervals where there is more than one seed.

    Raises:
        IrouterError: For bad input, naming the value and what was expected.

    Example:
        >>> comparison = compare(
        ...     "conversation", policies=["round_robin", "least_requests"], requests=200, seeds=1
        ... )
        >>> sorted(comparison.policies)
        ['least_requests', 'round_robin']
        >>> comparison.policies["round_robin"]["ratio"]["e2e_mean_s"]
        [1.0, None, None]
    """
    experiment = resolve(scenario, trace, settings)
    loads = [None, *sorted(set(experiment.settings.get("sweep", ())))]
    at_loads = [experiment if load is None else experiment.at_load(load) for load in loads]
    found = run_experiments(at_loads, threads=threads, executor=executor, progress=progress)
    points = [
        Point(load, results, summarise(results["runs"], experiment.reference))
        for load, results in zip(loads, found, strict=True)
    ]
    return Comparison(experiment, points[0], tuple(points[1:]))


@dataclasses.dataclass(frozen=True, slots=True)
class Simulation:
    """One run of one policy, request by request.

    Attributes:
        experiment: What was run.
        policy: Name of the policy.
        columns: A NumPy array per column; row `i` is request `i` in order of arrival.
    """

    experiment: Experiment
    policy: str
    columns: Mapping[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def to_polars(self) -> pl.DataFrame:
        """The columns as a table.

        Raises:
            IrouterError: Without the extra `[cli]`.
        """
        frame: pl.DataFrame = require("polars", extra="cli", purpose="a table of requests").DataFrame(
            dict(self.columns)
        )
        return frame


def simulate(
    scenario: str | Path | None = None,
    *,
    policy: str | PolicyFunction,
    trace: str | Path | Trace | None = None,
    impact: Literal["forecast", "fast_forward", "linear"] | None = None,
    **settings: Unpack[Settings],
) -> Simulation:
    """Runs one policy on the first seed and returns what became of each request.

    Args:
        scenario: Name or `.toml` file of a scenario.
        policy: The policy, by name, by name with options as in `central_shortest(ageing=0.05)`, or a function.
        trace: A trace or its file; without a scenario it is replayed as recorded.
        impact: How the router estimates the latency impact of each dispatch, for the columns `expected_ttft_s`,
            `expected_e2e_s` and `expected_inflicted_s` (seconds from the dispatch on); changes no decision.
        **settings: What differs from the scenario: see :class:`irouter.evaluation.settings.Settings`.

    Raises:
        IrouterError: For bad input, naming the value and what was expected.

    Example:
        >>> run = simulate("conversation", policy="least_requests", requests=200)
        >>> bool((run["finished_s"] > run["arrival_s"]).all())
        True
    """
    if "policies" in settings:
        raise IrouterError("`policies` is for comparisons: a simulation runs one `policy`")
    label = choice_of(policy).label
    experiment = resolve(scenario, trace, {**settings, "policies": [policy], "reference": label})
    workload = None if experiment.trace is None else experiment.trace.workload()
    columns = _core.simulate(experiment.to_json(), workload, callables=experiment.functions, impact=impact)
    return Simulation(experiment, label, {name: np.asarray(column) for name, column in columns.items()})
