"""Experiments in parts give what the whole gives, bit for bit."""

import threading
from typing import Any

import numpy as np
import pytest

import irouter
from irouter import IrouterError
from irouter.evaluation.executors import LocalExecutor
from irouter.evaluation.experiment import Experiment, resolve
from irouter.evaluation.parts import joined, run_experiments


def trace() -> irouter.Trace:
    generator = np.random.default_rng(7)
    return irouter.Trace(
        name="mine",
        format="irouter",
        arrival_s=np.cumsum(generator.exponential(0.1, 400)),
        input_tokens=generator.integers(1, 900, 400),
        output_tokens=generator.integers(1, 300, 400),
    )


CASES: dict[str, dict[str, Any]] = {
    "headline conditions, a sweep": {
        "scenario": "conversation",
        "conditions": "headline",
        "sweep": [0.5, 1.2],
        "seeds": 3,
        "policies": ["random", "central_shortest(ageing=0.5)", "least_work"],
    },
    "windows of a trace": {
        "trace": trace(),
        "load": 0.8,
        "requests": 60,
        "seeds": 4,
        "sweep": [1.1],
        "policies": ["min_min"],
    },
    "a trace as it stands, the history predictor": {
        "trace": trace(),
        "predictor": "history",
        "policies": ["least_requests", "least_work"],
    },
    "other seeds": {"scenario": "conversation", "first_seed": 5, "seeds": 2, "policies": ["power_of_two"]},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("slots", [1, 3])
def test_parts_put_together_are_the_whole(case: str, slots: int) -> None:
    settings = {"requests": 80} | CASES[case]
    whole = irouter.compare(**settings)
    parts = irouter.compare(**settings, executor=LocalExecutor(slots))
    assert parts.to_json() == whole.to_json()
    assert parts.main.results == whole.main.results


def experiments() -> list[Experiment]:
    settings = {"requests": 30, "seeds": 3, "policies": ["random", "least_requests"]}
    return [resolve("conversation", None, settings | {"load": load}) for load in (0.5, 0.9)]


@pytest.mark.parametrize("executor", [None, LocalExecutor(2)])
def test_progress_counts_the_runs_of_all_experiments(executor: LocalExecutor | None) -> None:
    calls: list[tuple[int, int]] = []
    run_experiments(experiments(), executor=executor, progress=lambda *call: calls.append(call))
    assert sorted(calls) == [(done, 18) for done in range(1, 19)]


def test_an_error_of_one_part_ends_the_others() -> None:
    bad = resolve("conversation", None, {"requests": 30, "policies": ["nonsense"]})
    threads = threading.active_count()
    with pytest.raises(IrouterError, match="unknown policy `nonsense`"):
        run_experiments([*experiments(), bad], executor=LocalExecutor(2))
    assert threading.active_count() == threads


def test_threads_and_another_executor_are_refused_together() -> None:
    with pytest.raises(IrouterError, match=r"^3 threads of this machine beside another executor"):
        run_experiments(experiments(), threads=3, executor=LocalExecutor(2))


def test_missing_parts_are_noticed() -> None:
    experiment = experiments()[0]
    (results,) = run_experiments([experiment])
    part = {**results, "runs": results["runs"][:2]}
    with pytest.raises(IrouterError, match="2 runs came back, some are missing"):
        joined(experiment, [part])
