"""The search for a policy's constants on training workloads.

The same search, objective and budget serve every rule, a rival's and our own: CMA-ES (Hansen, 2016) over the unit cube
of the constants that the policy lists as tunable. Every generation runs on windows of its own, and every candidate
of a generation on the same ones.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import IrouterError
from irouter._names import unknown
from irouter.evaluation.evolution import evolution_strategy
from irouter.evaluation.experiment import Experiment, resolve
from irouter.evaluation.objective import REFERENCE, Objective
from irouter.evaluation.parts import run_experiments
from irouter.evaluation.policies import PolicyChoice
from irouter.evaluation.registry import PolicyInfo, Tunable, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irouter.evaluation.executors import Executor

BUDGET: Final = 20_000_000
"""Simulated requests of one search."""

TRAINING: Final = ("conversation", "paper-main", "chat-closed")
"""Scenarios to train on: generated ones, which no headline is measured on."""

LOADS: Final = (0.8, 1.1, 1.4)
"""Shares of saturation at which each of them runs that is not a closed loop."""

_TRAINING_SEED: Final = 1 << 20
_HELD_OUT_SEED: Final = 1 << 30
_HELD_OUT_WINDOWS: Final = 10
_REQUESTS: Final = 1000
_CANDIDATES: Final = 12
_FIRST_STEP: Final = 0.3


@dataclasses.dataclass(frozen=True, slots=True)
class Tuned:
    """What a search found.

    Attributes:
        policy: Name of the policy.
        constants: The constants found; the defaults where the search found nothing better.
        objective: Objective on held-out windows; lower is better, 0 is round robin.
        default_objective: The same with the default constants.
        requests: Simulated requests.
        seed: Seed of the search.
        workloads: What it ran on, as `SCENARIO@LOAD`, or the scenario of a closed loop.
    """

    policy: str
    constants: Mapping[str, Any]
    objective: float
    default_objective: float
    requests: int
    seed: int
    workloads: tuple[str, ...]

    def to_entry(self) -> dict[str, Any]:
        """The finding as a file of tuned constants has it."""
        entry = dataclasses.asdict(self) | {"workloads": list(self.workloads)}
        del entry["policy"]
        return entry | {name: round(entry[name], 4) for name in ("objective", "default_objective")}


def tune(
    policy: str,
    scenarios: Sequence[str | Path] = TRAINING,
    *,
    loads: Sequence[float] = LOADS,
    budget: int = BUDGET,
    seed: int = 0,
    threads: int = 0,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tuned:
    """Searches the constants of a policy, with the information of this router where it has a choice.

    The objective is the mean over the workloads of

        log(mean E2E / round robin's) + 2 max(0, log(P99 E2E / round robin's))

    so that a mean may not be bought with the tail. What is found counts on held-out windows only; where it is no better
    there than the defaults, the defaults are the result.

    Args:
        policy: Name of a policy of the package.
        scenarios: Scenarios that generate their requests.
        loads: Shares of saturation at which each runs that is not a closed loop.
        budget: Simulated requests: measured arrivals of all candidates and of round robin.
        seed: Seed of the search.
        threads: Threads of this machine; 0 is one per core. The result does not depend on it.
        executor: Where to run in place of threads of this machine. The result does not depend on it.
        progress: Called as `progress(requests so far, budget)` after each generation.

    Raises:
        IrouterError: For an unknown policy or scenario, a scenario that replays a trace, or a budget too small for one
            generation.
    """
    known = registry()
    if policy not in known:
        raise unknown("policy", policy, known, "`irouter policies` lists them")

    def report(requests: int) -> None:
        if progress is not None:
            progress(requests, budget)

    run = functools.partial(run_experiments, threads=threads, executor=executor)
    search = _Search(known[policy], _points(scenarios, loads), run=run, progress=report)
    return search.run(budget, seed)


def _points(scenarios: Sequence[str | Path], loads: Sequence[float]) -> list[Experiment]:
    if not scenarios or not loads:
        raise IrouterError(
            f"{len(scenarios)} scenarios and {len(loads)} loads: expected at least one of each"
        )
    settings = {
        "requests": _REQUESTS,
        "policies": [REFERENCE],
        "reference": REFERENCE,
        "conditions": "exact",
    }
    points = []
    for scenario in scenarios:
        as_it_stands = resolve(scenario, None, settings)
        # How many clients there are is the load of a closed loop.
        closed = as_it_stands.settings.get("clients") is not None
        points += [as_it_stands] if closed else [as_it_stands.at_load(load) for load in loads]
    return points


def _name(point: Experiment) -> str:
    closed = point.settings.get("clients") is not None
    return point.name if closed else f"{point.name}@{point.settings['load']:g}"


class _Search:
    """One search: what it runs on, and how many requests it has simulated."""

    def __init__(
        self,
        policy: PolicyInfo,
        points: Sequence[Experiment],
        *,
        run: Callable[[Sequence[Experiment]], list[dict[str, Any]]],
        progress: Callable[[int], None],
    ) -> None:
        self.policy = policy
        self.points = points
        self.run_experiments = run
        self.progress = progress
        self.requests = 0

    def run(self, budget: int, seed: int) -> Tuned:
        held_out = 3 * _HELD_OUT_WINDOWS * _REQUESTS * len(self.points)
        generation = (_CANDIDATES + 1) * _REQUESTS * len(self.points)
        if budget < held_out + generation:
            raise IrouterError(f"a budget of {budget} requests: expected at least {held_out + generation}")
        found: dict[str, Any] = {}
        if self.policy.tunable:
            found = self.favourite(budget - held_out - generation, seed)
        objectives = self.objectives([{}, found], _HELD_OUT_SEED, _HELD_OUT_WINDOWS)
        better = objectives[1] < objectives[0]
        return Tuned(
            policy=self.policy.name,
            constants=found if better else {},
            objective=min(objectives),
            default_objective=objectives[0],
            requests=self.requests,
            seed=seed,
            workloads=tuple(map(_name, self.points)),
        )

    def favourite(self, budget: int, seed: int) -> dict[str, Any]:
        """Where the search ends: the mean of its last distribution, which no single lucky window decides."""
        strategy = evolution_strategy(
            self.start(), _FIRST_STEP, bounds=[0, 1], popsize=_CANDIDATES, seed=seed + 1
        )
        number = 0
        # Generations run until the budget would be exceeded: the windows change, so that no test of convergence holds.
        while self.requests <= budget:
            candidates = strategy.ask()
            constants = [self.constants(candidate) for candidate in candidates]
            strategy.tell(candidates, self.objectives(constants, _TRAINING_SEED + number, 1))
            number += 1
        return self.constants(np.clip(strategy.result.xfavorite, 0.0, 1.0))

    def objectives(
        self, candidates: Sequence[Mapping[str, Any]], first_seed: int, windows: int
    ) -> list[float]:
        """Objective of the policy with each of these constants, on the same windows."""
        choices = [
            PolicyChoice(self.policy.name, {**self.policy.equalised, **candidate}, as_label=str(index))
            for index, candidate in enumerate(candidates)
        ]
        total = np.zeros(len(candidates))
        policies, seeds = (PolicyChoice(REFERENCE), *choices), {"first_seed": first_seed, "seeds": windows}
        experiments = [
            dataclasses.replace(point, settings={**point.settings, **seeds}, policies=policies)
            for point in self.points
        ]
        for results in self.run_experiments(experiments):
            self.requests += sum(results["workload"]["requests"]) * len(policies)
            found = Objective().of(results["runs"])
            total += [found[choice.label] for choice in choices]
        self.progress(self.requests)
        return [float(value) for value in total / len(self.points)]

    def start(self) -> NDArray[np.float64]:
        """The default constants in the unit cube."""
        options = {**self.policy.options, **self.policy.equalised}
        position = [_position(tunable, options[tunable.option]) for tunable in self.policy.tunable]
        # CMA-ES needs two dimensions: one constant gets a second that has no effect.
        return np.array(position + [0.5] * max(0, 2 - len(position)))

    def constants(self, position: NDArray[np.float64]) -> dict[str, Any]:
        """The constants at a position in the unit cube."""
        return {
            tunable.option: _value(tunable, float(share))
            for tunable, share in zip(self.policy.tunable, position, strict=False)
        }


def _ends(tunable: Tunable) -> tuple[float, float]:
    """Both ends on the scale of the search."""
    if tunable.scale == "linear":
        return tunable.low, tunable.high
    shift = 1.0 if tunable.scale == "count" else 0.0
    return math.log(tunable.low + shift), math.log(tunable.high + shift)


def _value(tunable: Tunable, share: float) -> float | int:
    low, high = _ends(tunable)
    value = low + share * (high - low)
    if tunable.scale == "linear":
        return float(f"{value:.4g}")
    if tunable.scale == "count":
        return round(math.exp(value) - 1.0)
    return float(f"{math.exp(value):.4g}")


def _position(tunable: Tunable, value: float | None) -> float:
    if value is None:
        # A limit that is off.
        return 1.0
    low, high = _ends(tunable)
    inside = min(max(value, tunable.low), tunable.high)
    if tunable.scale != "linear":
        inside = math.log(inside + (1.0 if tunable.scale == "count" else 0.0))
    return (inside - low) / (high - low)
