"""The search for weights: an evolution strategy on the simulator."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from irouter.evaluation.evolution import evolution_strategy
from irouter.evaluation.parts import run_experiments
from irouter.evaluation.policies import PolicyChoice
from irouter.training import weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from irouter.evaluation.executors import Executor
    from irouter.evaluation.experiment import Experiment
    from irouter.evaluation.objective import Objective
    from irouter.training.journal import Journal

_CANDIDATES: Final = 16
_FIRST_STEP: Final = 0.1
# From here on the search only learns how far to step in each weight, not along which combinations of weights.
_MANY_WEIGHTS: Final = 200


@dataclasses.dataclass(slots=True, kw_only=True)
class Search:
    """A search by CMA-ES (Hansen, 2016), on fresh windows each generation, the same ones for all its candidates.

    Attributes:
        objective: What it minimises.
        points: The workloads of a generation, by its number.
        seed: Seed of the search.
        threads: Threads of this machine; 0 is one per core.
        executor: Where to run in place of threads of this machine.
        requests: Requests simulated so far.
    """

    objective: Objective
    points: Callable[[int], Sequence[Experiment]]
    seed: int
    threads: int = 0
    executor: Executor | None = None
    requests: int = 0

    def run(
        self,
        first: Mapping[str, NDArray[np.float32]],
        journal: Journal,
        *,
        generations: int | None,
        minutes: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[dict[str, NDArray[np.float32]], list[float]]:
        """The weights found, and the mean objective of each generation.

        Args:
            first: Where the search starts.
            journal: Its record, from which it goes on.
            generations: The most, of 16 candidates each.
            minutes: Time after which no generation begins that would, at the pace so far, end later.
            progress: Called as `progress(generations done, generations)`, the latter estimated where time ends it.
        """
        origin, scale = weights.flat(first), weights.steps(first)
        strategy = evolution_strategy(
            np.zeros_like(origin),
            _FIRST_STEP,
            popsize=_CANDIDATES,
            seed=self.seed + 1,
            CMA_diagonal=origin.size > _MANY_WEIGHTS,
        )
        budget = _Budget(generations, minutes)
        curve: list[float] = []
        # The windows change, so that no test of convergence holds.
        while budget.allows(len(curve)):
            generation = len(curve)
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
                progress(len(curve), budget.expected(len(curve)))
        if not curve:
            return dict(first), curve
        return weights.unflat(origin + scale * strategy.result.xfavorite, first), curve

    def objectives(
        self, candidates: Sequence[Mapping[str, NDArray[np.float32]]], points: Sequence[Experiment]
    ) -> list[float]:
        """Objective of each candidate on the same windows, as a mean over the workloads."""
        choices = [
            PolicyChoice("guided", {"weights": weights.to_option(candidate)}, as_label=str(index))
            for index, candidate in enumerate(candidates)
        ]
        policies = (PolicyChoice(self.objective.reference), *choices)
        total = np.zeros(len(candidates))
        experiments = [dataclasses.replace(point, policies=policies) for point in points]
        for results in run_experiments(experiments, threads=self.threads, executor=self.executor):
            self.requests += sum(results["workload"]["requests"]) * len(policies)
            found = self.objective.of(results["runs"])
            total += [found[choice.label] for choice in choices]
        return [float(value) for value in total / len(points)]


class _Budget:
    """How long a search goes on."""

    def __init__(self, generations: int | None, minutes: float | None) -> None:
        self._generations = math.inf if generations is None else generations
        self._seconds = math.inf if minutes is None else 60.0 * minutes
        self._began = time.monotonic()

    def allows(self, done: int) -> bool:
        """Whether another generation fits in."""
        return done < self.expected(done)

    def expected(self, done: int) -> int:
        """How many generations there will be, at the pace so far."""
        spent = time.monotonic() - self._began
        if self._seconds == math.inf:
            return int(self._generations)
        by_time = done * self._seconds / spent if done else 1
        return max(done, int(min(self._generations, by_time)))
