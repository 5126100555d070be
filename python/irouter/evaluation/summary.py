"""Figures of each policy over all seeds: means, sums of counts, intervals, and ratios to the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter.evaluation.statistics import PairedBootstrap, ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

COUNTS: Final = frozenset({"preemptions", "completed", "failed", "aborted", "dropped", "policy_failures"})
"""Figures that are summed over seeds; the others are means of the seeds' figures."""


def summarise(runs: Sequence[Mapping[str, Any]], reference: str) -> dict[str, dict[str, Any]]:
    """The figures of each policy.

    Args:
        runs: Runs of the simulator, each with `policy`, `seed`, `summary` and, where the policy says something of
            itself, `figures`; every policy on the same seeds.
        reference: The policy that ratios are against.

    Returns:
        By policy: each figure of the summaries; `ci95` with `[low, high]` and `ratio` with `[value, low, high]` of
        each. A figure that a seed does not have is null, and so are the intervals of one seed. Under `figures`, where
        there are any, what the policy says of itself: means over the seeds that have it.
    """
    summaries: dict[str, list[Mapping[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        summaries.setdefault(run["policy"], []).append(run["summary"])
    shape = summaries[reference][0]
    values = {policy: np.array([_flat(summary) for summary in seeds]) for policy, seeds in summaries.items()}
    bootstrap = PairedBootstrap(len(summaries[reference]))
    # Means of counts, times the number of seeds, are their sums.
    scale = _flat(
        {key: _like(value, bootstrap.windows if key in COUNTS else 1) for key, value in shape.items()}
    )
    against, against_draws = values[reference].mean(axis=0), bootstrap.means(values[reference])
    figures = {}
    for policy, windows in values.items():
        mean, draws = windows.mean(axis=0), bootstrap.means(windows)
        low, high = bootstrap.interval(draws) * scale
        ratios = np.vstack((ratio(mean, against), bootstrap.interval(ratio(draws, against_draws))))
        figures[policy] = {
            **_shaped(mean[:, None] * np.array(scale)[:, None], shape, scalar=True),
            "ci95": _shaped(np.column_stack((low, high)), shape),
            "ratio": _shaped(ratios.T, shape),
        }
        for key in COUNTS & figures[policy].keys():
            figures[policy][key] = round(figures[policy][key])
        if own := _own_figures([run for run in runs if run["policy"] == policy]):
            figures[policy]["figures"] = own
    return figures


def _own_figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a policy says of itself, as means over the seeds that have it, in the order in which it says so."""
    values: dict[str, dict[int, float]] = {}
    for run in runs:
        for name, value in run.get("figures", {}).items():
            values.setdefault(name, {})[run["seed"]] = value
    # Ascending seeds: a sum of floats depends on its order.
    return {
        name: float(np.mean([by_seed[seed] for seed in sorted(by_seed)])) for name, by_seed in values.items()
    }


def _flat(summary: Mapping[str, Any]) -> list[float]:
    """Every number of a summary in order, NaN where there is none."""
    flat: list[float] = []
    for value in summary.values():
        parts = value if isinstance(value, list) else [value]
        flat.extend(np.nan if part is None else float(part) for part in parts)
    return flat


def _like(value: object, fill: float) -> object:
    return [fill] * len(value) if isinstance(value, list) else fill


def _shaped(rows: NDArray[np.float64], shape: Mapping[str, Any], *, scalar: bool = False) -> dict[str, Any]:
    """Rows of numbers (one per number of a summary) by the summary's keys, NaN as null."""
    cells = [[None if np.isnan(number) else float(number) for number in row] for row in rows]
    parts = iter(cell[0] for cell in cells) if scalar else iter(cells)
    return {
        key: [next(parts) for _ in value] if isinstance(value, list) else next(parts)
        for key, value in shape.items()
    }
