"""What searches minimise: a figure against round robin's, and a tail that may not pay for it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np

from irouter._core import IrouterError
from irouter.evaluation.statistics import PairedBootstrap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

Goal: TypeAlias = Literal["e2e", "ttft", "goodput"]
"""What is to be best: mean E2E, mean TTFT, or the share of requests that meet the SLO."""

GOALS: Final[tuple[Goal, ...]] = get_args(Goal)
"""All of them."""

REFERENCE: Final = "round_robin"
"""The policy that ratios are against, unless another one is named."""

_TAIL_WEIGHT: Final = 2.0
# Up to so many misses in a hundred requests count as none: below that their ratio is noise.
_FEW_MISSES: Final = 0.02
_MISSES: Final = "misses"
_START: Final = "ttft_p99_s"
# The figures of each goal: what is to be small, and the tails that may not grow for it.
_FIGURES: Final[Mapping[Goal, tuple[str, ...]]] = {
    "e2e": ("e2e_mean_s", "e2e_p99_s"),
    "ttft": ("ttft_mean_s", "e2e_p99_s", "ttft_p99_s"),
    "goodput": (_MISSES, "e2e_p99_s"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Objective:
    """What a search minimises; 0 is the reference.

        log(figure) + loss_weight max(0, log(figure)) + 2 max(0, log(tail / tail_limit))
            + miss_weight log(misses) + start_weight log(P99 TTFT)

    All are ratios of sums over windows to the reference's. The figure is mean E2E, mean TTFT, or the misses: the share
    of requests that miss the SLO, plus 0.02. The tail is P99 E2E; for mean TTFT the worse of P99 E2E and P99 TTFT.

    Attributes:
        goal: What is to be best.
        tail_limit: Ratio of the tail up to which it costs nothing.
        miss_weight: What the misses count beside the goal, zero or more.
        start_weight: What P99 TTFT counts beside the goal, zero or more.
        loss_weight: What a figure above the reference's counts more, zero or more.
        reference: The policy that ratios are against.
    """

    goal: Goal = "e2e"
    tail_limit: float = 1.0
    miss_weight: float = 0.0
    start_weight: float = 0.0
    loss_weight: float = 0.0
    reference: str = REFERENCE

    def __post_init__(self) -> None:
        """Raises for what is none.

        Raises:
            IrouterError: Naming the value and what was expected.
        """
        if self.goal not in GOALS:
            raise IrouterError(f"goal `{self.goal}`: expected one of {', '.join(GOALS)}")
        if not 0.0 < self.tail_limit < math.inf:
            raise IrouterError(f"tail_limit {self.tail_limit}: expected a positive ratio")
        for name in ("miss_weight", "start_weight", "loss_weight"):
            weight = getattr(self, name)
            if not 0.0 <= weight < math.inf:
                raise IrouterError(f"{name} {weight}: expected a number, zero or more")

    def of(self, runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The objective of each policy over all windows; lower is better.

        Args:
            runs: Runs of the simulator, each with `policy`, `seed` and `summary`; every policy on the same seeds.
        """
        means = {policy: windows.mean(axis=0)[None] for policy, windows in self._windows(runs).items()}
        return {policy: float(found[0]) for policy, found in self._of_means(means).items()}

    def draws(self, runs: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
        """The same in each draw of a paired bootstrap over the windows, for intervals of differences."""
        windows = self._windows(runs)
        bootstrap = PairedBootstrap(len(windows[self.reference]))
        return self._of_means({policy: bootstrap.means(values) for policy, values in windows.items()})

    def _windows(self, runs: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
        """Misses, P99 TTFT, figure and tails of each policy as `[window, figure]`, in the order of the seeds."""
        rows: dict[str, list[list[float]]] = {}
        for run in sorted(runs, key=lambda run: run["seed"]):
            misses = 1.0 - run["summary"]["goodput"] + _FEW_MISSES
            figures = {**run["summary"], _MISSES: misses}
            rows.setdefault(run["policy"], []).append(
                [figures[name] for name in (_MISSES, _START, *_FIGURES[self.goal])]
            )
        return {policy: np.array(windows) for policy, windows in rows.items()}

    def _of_means(self, means: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        """Objectives from means `[draw, figure]`."""
        found = {}
        for policy, rows in means.items():
            logs = np.log(rows / means[self.reference])
            misses, start, figure = logs[:, :3].T
            over = np.maximum(logs[:, 3:].max(axis=1) - math.log(self.tail_limit), 0.0)
            beside = self.miss_weight * misses + self.start_weight * start
            beside += self.loss_weight * np.maximum(figure, 0.0)
            found[policy] = figure + _TAIL_WEIGHT * over + beside
        return found
