"""Whether weights are better than what they would replace, on requests that they were not trained on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter.evaluation.objective import REFERENCE
from irouter.evaluation.parts import run_experiments
from irouter.evaluation.statistics import PairedBootstrap
from irouter.evaluation.summary import summarise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from irouter.evaluation.executors import Executor
    from irouter.evaluation.experiment import Experiment
    from irouter.evaluation.objective import Objective
    from irouter.evaluation.policies import PolicyChoice

HAND_RULES: Final = ("least_impact", "ordered_hold", "least_work")
"""The best rules by hand."""

SHOWN: Final = ("e2e_mean_s", "e2e_p99_s", "ttft_mean_s", "ttft_p99_s", "goodput")
"""Figures that a verdict shows of each policy."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rival:
    """A policy that the weights are measured against.

    Attributes:
        policy: Its name.
        objective: Its objective; lower is better, 0 is round robin.
        lead: By how much the objective of the weights is lower, and the 95 % interval of that over paired windows, NaN
            for one window: about the share by which they are better.
        is_replaced: Whether the weights would replace it.
    """

    policy: str
    objective: float
    lead: tuple[float, float, float]
    is_replaced: bool

    @property
    def is_beaten(self) -> bool:
        """Whether the weights are better: what they would replace by more than chance, others on the mean."""
        return (self.lead[1] if self.is_replaced else self.lead[0]) > 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a validation.

    Attributes:
        objective: Objective of the weights.
        rivals: What they were measured against.
        figures: At each load, figures of each policy over all windows, as
            :func:`irouter.evaluation.summary.summarise` has them.
        windows: Windows at each load.
        disjoint: Whether no request is in two of them; else intervals cover the alignment of arrivals only.
    """

    objective: float
    rivals: tuple[Rival, ...]
    figures: tuple[Mapping[str, Mapping[str, Any]], ...]
    windows: int
    disjoint: bool

    @property
    def accepted(self) -> bool:
        """Whether the weights are better than all."""
        return all(rival.is_beaten for rival in self.rivals)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not, a sentence for each policy that is not beaten."""
        return tuple(_reason(rival) for rival in self.rivals if not rival.is_beaten)

    def to_data(self) -> dict[str, Any]:
        """The verdict as plain data."""
        shown = [
            {
                policy: {key: {"value": of[key], "ratio": of["ratio"][key]} for key in SHOWN}
                for policy, of in figures.items()
            }
            for figures in self.figures
        ]
        rivals = [
            {
                "policy": rival.policy,
                "objective": round(rival.objective, 4),
                "lead": [None if np.isnan(value) else round(value, 4) for value in rival.lead],
                "is_replaced": rival.is_replaced,
                "is_beaten": rival.is_beaten,
            }
            for rival in self.rivals
        ]
        return {
            "accepted": self.accepted,
            "objective": round(self.objective, 4),
            "rivals": rivals,
            "windows": self.windows,
            "disjoint": self.disjoint,
            "figures": shown,
        }


def _reason(rival: Rival) -> str:
    lead, low, high = (100.0 * value for value in rival.lead)
    known = bool(np.isfinite(low))
    if lead > 0.0:
        return (
            f"{rival.policy} is behind by {lead:.1f} %"
            + (f" ({low:.1f} to {high:.1f})" if known else "")
            + " only"
        )
    if lead == 0.0:
        return f"{rival.policy} is as good"
    return f"{rival.policy} is better by {-lead:.1f} %" + (f" ({-high:.1f} to {-low:.1f})" if known else "")


class Validation:
    """Policies on the same windows, some after others."""

    def __init__(
        self,
        points: Sequence[Experiment],
        objective: Objective,
        *,
        threads: int = 0,
        executor: Executor | None = None,
    ) -> None:
        self._points = points
        self._objective = objective
        self._threads = threads
        self._executor = executor
        self._runs: list[list[Mapping[str, Any]]] = [[] for _ in points]
        self._disjoint = True

    def run(self, policies: Sequence[PolicyChoice]) -> None:
        """Runs policies on every window."""
        experiments = [dataclasses.replace(point, policies=tuple(policies)) for point in self._points]
        found = run_experiments(experiments, threads=self._threads, executor=self._executor)
        for runs, results in zip(self._runs, found, strict=True):
            runs.extend(results["runs"])
            self._disjoint &= results["workload"]["disjoint"] is not False

    def verdict(self, candidate: str, replaced: str) -> Verdict:
        """How the candidate does against all others that were run.

        Args:
            candidate: Label of the policy with the weights.
            replaced: Label of the one that it would replace.
        """
        at_loads = [self._objective.of(runs) for runs in self._runs]
        draws_at_loads = [self._objective.draws(runs) for runs in self._runs]
        windows = len({run["seed"] for run in self._runs[0]})
        bootstrap = PairedBootstrap(windows)

        def mean(policy: str) -> float:
            return float(np.mean([found[policy] for found in at_loads]))

        rivals = []
        for policy in at_loads[0]:
            if policy in {candidate, REFERENCE}:
                continue
            lead = [draws[policy] - draws[candidate] for draws in draws_at_loads]
            low, high = bootstrap.interval(np.mean(lead, axis=0)[:, None])[:, 0]
            value = mean(policy) - mean(candidate)
            rivals.append(
                Rival(policy, mean(policy), (value, float(low), float(high)), is_replaced=policy == replaced)
            )
        figures = tuple(summarise(runs, REFERENCE) for runs in self._runs)
        return Verdict(mean(candidate), tuple(rivals), figures, windows, self._disjoint)
