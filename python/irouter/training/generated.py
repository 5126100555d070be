"""Training of `guided` on generated workloads."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from irouter.evaluation.objective import Objective
from irouter.training import weights, workloads
from irouter.training.journal import Journal
from irouter.training.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from irouter.evaluation.executors import Executor
    from irouter.evaluation.experiment import Experiment
    from irouter.evaluation.objective import Goal

POINTS: Final = 8
"""Workloads of each generation."""

GENERATIONS: Final = 100
"""Generations of a search without a budget."""

_HELD_OUT_POINTS: Final = 64
_HELD_OUT_GENERATION: Final = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """What training found.

    Attributes:
        tensors: The weights, by name of the tensor.
        header: What the file's header says: objective, workloads, seeds, measured results.
        objective: Objective on held-out workloads; lower is better, 0 is `least_work`.
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
    start_weight: float = 0.0,
    loss_weight: float = 0.0,
    slo: Mapping[str, float] | None = None,
    loads: Sequence[float] | None = None,
    hidden: Sequence[int] = (),
    generations: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    start: Mapping[str, NDArray[np.float32]] | None = None,
    threads: int = 0,
    executor: Executor | None = None,
    journal: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Searches weights of `guided` by CMA-ES (Hansen, 2016) on fresh windows each generation.

    The objective is the mean over the workloads of a generation of
    :class:`irouter.evaluation.objective.Objective` against `least_work`, whose tail is near the best peers'.

    All candidates of a generation meet the same windows. The search starts at a rule, which is
    its guidance: what it takes over from it fades with what it finds. What is found counts on held-out
    workloads; where it is no better there than the start, the start is the result.

    Args:
        scenarios: Scenarios that generate their requests; without them, workloads are drawn
            (:mod:`irouter.training.workloads`).
        goal: The figure.
        tail_limit: Ratio of the tail up to which it costs nothing.
        miss_weight: What the requests that miss the SLO count beside the goal.
        start_weight: What P99 TTFT counts beside the goal.
        loss_weight: What a figure above `least_work`'s counts more.
        slo: What goodput counts, `ttft_s` and `tpot_s` in seconds, in place of the workloads' own.
        loads: Shares of saturation of the scenarios; as they stand without.
        hidden: Sizes of hidden layers: none for a linear score.
        generations: How many, of 16 candidates each; none measures the start. 100 without a budget.
        minutes: Budget in minutes; how many generations fit in depends on the machine.
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
    objective = Objective(
        goal, tail_limit, miss_weight, start_weight, loss_weight, reference=workloads.BASELINE
    )
    if generations is None and minutes is None:
        generations = GENERATIONS
    first = dict(start) if start is not None else weights.start(hidden, seed)

    def points(generation: int) -> list[Experiment]:
        if not scenarios:
            found = [workloads.drawn(seed, generation, index) for index in range(POINTS)]
        else:
            found = [
                workloads.of_scenario(scenario, generation, load)
                for scenario in scenarios
                for load in loads or (None,)
            ]
        own = {} if slo is None else {"slo": dict(slo)}
        return [dataclasses.replace(point, settings={**point.settings, **own}) for point in found]

    facts = {
        "goal": goal,
        "tail_limit": tail_limit,
        "miss_weight": miss_weight,
        "start_weight": start_weight,
        "loss_weight": loss_weight,
        "scenarios": [str(scenario) for scenario in scenarios],
        "loads": list(loads) if loads is not None else None,
        "shapes": {name: list(first[name].shape) for name in sorted(first)},
        "start": weights.digest(first),
        "seed": seed,
        **({} if slo is None else {"slo": dict(slo)}),
    }
    search = Search(objective=objective, points=points, seed=seed, threads=threads, executor=executor)
    found, curve = search.run(
        first, Journal(journal, facts), generations=generations, minutes=minutes, progress=progress
    )
    # Workloads that no generation trains on.
    groups = range(_HELD_OUT_GENERATION, _HELD_OUT_GENERATION + _HELD_OUT_POINTS // POINTS)
    measured = search.objectives([first, found], [point for group in groups for point in points(group)])
    better = measured[1] < measured[0]
    header = facts | {
        "generations": len(curve),
        "training": workloads.described() if not scenarios else {},
        "requests": search.requests,
        "held_out_objective": round(min(measured), 4),
        "start_objective": round(measured[0], 4),
        "curve": [round(value, 4) for value in curve],
    }
    return Trained(found if better else first, header, min(measured), measured[0])
