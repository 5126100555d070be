"""From searches to the entry of a capacity in the result, and back from its probes to its figures."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from irouter.bench.figures import cells, described
from irouter.evaluation.capacity_search import TARGET, Probe, capacities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from irouter.bench.jobs import Job, JobResult
    from irouter.bench.plan import PlannedPoint


def capacity_entry(planned: PlannedPoint, done: Sequence[tuple[Job, JobResult]]) -> dict[str, Any]:
    """A capacity in the result.

    Args:
        planned: The point.
        done: Its jobs with what came out, the first with the reference on all windows.
    """
    experiment, first = planned.experiment, done[0][1]
    windows: dict[str, list[list[list[float]]]] = defaultdict(list)
    for job, result in done:
        for policy, _, run, _ in cells(job, result):
            windows[policy].append(run["probes"])
    measured = {
        "target": TARGET,
        "saturation_rate": first.workload["saturation_rate"],
        "reference": experiment.reference,
        "windows": dict(windows),
    }
    return {
        **described(planned),
        "scenario": experiment.name,
        "predictor": experiment.settings["predictor"],
        "predictor_quality": first.predictor,
        "conditions": experiment.conditions,
        "profile": experiment.settings["profile"],
        "instances": experiment.settings["instances"],
        "seeds": experiment.settings["seeds"],
        "policies": capacity_figures(measured),
        **measured,
    }


def capacity_figures(measured: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The capacity of each policy over its windows, with the ratio to the reference's on the same windows."""
    windows: Mapping[str, Any] = measured["windows"]
    reference = measured["reference"]
    figures: dict[str, dict[str, Any]] = {}
    for count in {len(rows) for rows in windows.values()}:
        policies = [policy for policy, rows in windows.items() if len(rows) == count]
        probes = {
            policy: [
                [Probe(window, load, goodput) for load, goodput in row]
                for window, row in enumerate(windows[policy][:count])
            ]
            for policy in dict.fromkeys([reference, *policies])
        }
        found = capacities(probes, measured["target"], reference, measured["saturation_rate"])
        for policy in policies:
            values = dataclasses.asdict(found[policy])
            figures[policy] = {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in values.items()
                if key != "probes"
            }
    return figures
