"""The search for weights: an evolution strategy on the simulator."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from irouter._core import IrouterError
from irouter.evaluation.evolution import evolution_strategy
from irouter.evaluation.objective import REFERENCE, objective, ratios
from irouter.evaluation.parts import run_experiments
from irouter.evaluation.policies import PolicyChoice
from irouter.training import weights, workloads
from irouter.training.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irouter.evaluation.executors import Executor
    from irouter.evaluation.experiment import Experiment

Goal = Literal["e2e", "ttft", "goodput"]
"""What is to be best: mean E2E, mean TTFT, or the share of requests that meet the SLO, P99 E2E a constraint of each."""

GOALS: Final[tuple[Goal, ...]] = get_args(Goal)
"""All of them."""

POINTS: Final = 8
"""Workloads of each generation."""

_CANDIDATES: Final = 16
_FIRST_STEP: Final = 0.15
_HELD_OUT_POINTS: Final = 64
_HELD_OUT_GENERATION: Final = 1 << 20
# Up to so many misses in a hundred requests count as none: below that their ratio is noise.
_FEW_MISSES: Final = 0.02
# From here on the search only learns how far to step in each weight, not along which combinations of weights.
_MANY_WEIGHTS: Final = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """What training found.

    Attributes:
        tensors: The weights, by name of the tensor.
        header: What the file's header says: objective, workloads, seeds, measured results.
        objective: Objective on held-out workloads; lower is better, 0 is round robin.
        start_objective: The same of the weights that training started from.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    header: Mapping[str, Any]
    objective: float
    start_objective: float

    def to_bytes(self) -> bytes:
        """The file of weights."""
        return weights.to_bytes(self.tensors, self.header)


def train(
    scenarios: Sequence[str | Path] = (),
    *,
    goal: Goal = "e2e",
    tail_limit: float = 1.0,
    miss_weight: float = 0.0,
    loads: Sequence[float] | None = None,
    hidden: Sequence[int] = (),
    generations: int = 100,
    seed: int = 0,
    start: Mapping[str, NDArray[np.float32]] | None = None,
    threads: int = 0,
    executor: Executor | None = None,
    journal: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Searches weights of `guided` by CMA-ES (Hansen, 2016) on fresh windows each generation.

    The objective is the mean over the workloads of a generation of

        log(figure / round robin's) + 2 max(0, log(P99 E2E / (tail_limit x round robin's)))
            + miss_weight log(requests that miss the SLO / round robin's)

    All candidates of a generation meet the same windows. The search starts at a rule, which is
    its guidance: what it takes over from it fades with what it finds. What is found counts on held-out
    workloads; where it is no better there than the start, the start is the result.

    Args:
        scenarios: Scenarios that generate their requests; without them, workloads are drawn
            (:mod:`irouter.training.workloads`).
        goal: The figure.
        tail_limit: Ratio of P99 E2E up to which the tail costs nothing.
        miss_weight: What the requests that miss the SLO count beside the goal.
        loads: Shares of saturation of the scenarios; as they stand without.
        hidden: Sizes of hidden layers: none for a linear score.
        generations: How many, of 16 candidates each; none measures the start.
        seed: Seed of the search and of the workloads drawn.
        start: Weights to start from, in place of the rule.
        threads: Threads of this machine; 0 is one per core. The result does not depend on it.
        executor: Where to run in place of threads of this machine. The result does not depend on it.
        journal: File that keeps the learning curve, a JSON object per generation; a search that was
            interrupted goes on from it.
        progress: Called as `progress(generations done, generations)`.

    Raises:
        IrouterError: For an unknown goal or scenario, or a journal of another search.
        MissingExtraError: Without the extra `[train]`.
    """
    if goal not in GOALS:
        raise IrouterError(f"goal `{goal}`: expected one of {', '.join(GOALS)}")
    if not tail_limit > 0.0:
        raise IrouterError(f"tail_limit {tail_limit}: expected a positive ratio")
    first = dict(start) if start is not None else weights.start(hidden, seed)
    facts = {
        "goal": goal,
        "tail_limit": tail_limit,
        "miss_weight": miss_weight,
        "scenarios": [str(scenario) for scenario in scenarios],
        "loads": list(loads) if loads is not None else None,
        "shapes": {name: list(first[name].shape) for name in sorted(first)},
        "start": weights.digest(first),
        "generations": generations,
        "seed": seed,
    }
    search = _Search(goal, tail_limit, miss_weight, scenarios, loads, seed, threads, executor)
    found, curve = search.run(first, generations, Journal(journal, facts), progress)
    measured = search.objectives([first, found], search.held_out())
    better = measured[1] < measured[0]
    header = facts | {
        "training": workloads.described() if not scenarios else {},
        "requests": search.requests,
        "held_out_objective": round(min(measured), 4),
        "start_objective": round(measured[0], 4),
        "curve": [round(float(value), 4) for value in curve],
    }
    return Trained(found if better else first, header, min(measured), measured[0])


def _misses(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for run in runs:
        shares[run["policy"]] = shares.get(run["policy"], 0.0) + 1.0 - run["summary"]["goodput"] + _FEW_MISSES
    return {policy: share / shares[REFERENCE] for policy, share in shares.items()}


_FIGURES: Final[Mapping[str, Callable[[Sequence[Mapping[str, Any]]], dict[str, float]]]] = {
    "e2e": lambda runs: ratios(runs, "e2e_mean_s"),
    "ttft": lambda runs: ratios(runs, "ttft_mean_s"),
    "goodput": _misses,
}


@dataclasses.dataclass(slots=True)
class _Search:
    """One search: what it runs on, and how many requests it has simulated."""

    goal: Goal
    tail_limit: float
    miss_weight: float
    scenarios: Sequence[str | Path]
    loads: Sequence[float] | None
    seed: int
    threads: int
    executor: Executor | None
    requests: int = 0

    def run(
        self,
        first: Mapping[str, NDArray[np.float32]],
        generations: int,
        journal: Journal,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[dict[str, NDArray[np.float32]], list[float]]:
        """The weights found, and the mean objective of each generation."""
        origin, scale = weights.flat(first), weights.steps(first)
        strategy = evolution_strategy(
            np.zeros_like(origin),
            _FIRST_STEP,
            popsize=_CANDIDATES,
            seed=self.seed + 1,
            CMA_diagonal=origin.size > _MANY_WEIGHTS,
        )
        curve = []
        # The windows change, so that no test of convergence holds.
        for generation in range(generations):
            steps = strategy.ask()
            done = journal.get(generation)
            if done is None:
                candidates = [weights.unflat(origin + scale * step, first) for step in steps]
                before = self.requests
                values = self.objectives(candidates, self.points(generation))
                journal.add(generation, values, self.requests - before)
            else:
                values, requests = done
                self.requests += requests
            strategy.tell(steps, values)
            curve.append(float(np.mean(values)))
            if progress is not None:
                progress(generation + 1, generations)
        return weights.unflat(origin + scale * strategy.result.xfavorite, first), curve

    def points(self, generation: int) -> list[Experiment]:
        """The workloads of a generation."""
        if not self.scenarios:
            return [workloads.drawn(self.seed, generation, index) for index in range(POINTS)]
        return [
            workloads.of_scenario(scenario, generation, load)
            for scenario in self.scenarios
            for load in self.loads or (None,)
        ]

    def held_out(self) -> list[Experiment]:
        """Workloads that no generation trains on."""
        groups = range(_HELD_OUT_GENERATION, _HELD_OUT_GENERATION + _HELD_OUT_POINTS // POINTS)
        return [point for group in groups for point in self.points(group)]

    def objectives(
        self, candidates: Sequence[Mapping[str, NDArray[np.float32]]], points: Sequence[Experiment]
    ) -> list[float]:
        """Objective of each candidate on the same windows."""
        choices = [
            PolicyChoice("guided", {"weights": weights.to_option(candidate)}, as_label=str(index))
            for index, candidate in enumerate(candidates)
        ]
        policies = (PolicyChoice(REFERENCE), *choices)
        total = np.zeros(len(candidates))
        experiments = [dataclasses.replace(point, policies=policies) for point in points]
        for results in run_experiments(experiments, threads=self.threads, executor=self.executor):
            self.requests += sum(results["workload"]["requests"]) * len(policies)
            runs = results["runs"]
            figure, tail, misses = _FIGURES[self.goal](runs), ratios(runs, "e2e_p99_s"), _misses(runs)
            total += [
                objective(figure[choice.label], tail[choice.label], self.tail_limit)
                + self.miss_weight * math.log(misses[choice.label])
                for choice in choices
            ]
        return [float(value) for value in total / len(points)]
