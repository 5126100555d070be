"""What searches minimise."""

import math
from typing import Any

import numpy as np
import pytest

from irouter import IrouterError
from irouter.evaluation.objective import GOALS, Goal, Objective


def runs(**policies: dict[str, float]) -> list[dict[str, Any]]:
    """Two windows of round robin and of policies that are so many times as large in some figures."""
    base = {"e2e_mean_s": 10.0, "e2e_p99_s": 40.0, "ttft_mean_s": 1.0, "ttft_p99_s": 5.0, "goodput": 0.88}
    found = []
    for seed, size in ((0, 1.0), (1, 2.0)):
        for policy, factors in {"round_robin": {}, **policies}.items():
            summary = {
                key: value * factors.get(key, 1.0) * (1.0 if key == "goodput" else size)
                for key, value in base.items()
            }
            found.append({"policy": policy, "seed": seed, "summary": summary})
    return found


@pytest.mark.parametrize(
    ("goal", "better"),
    [("e2e", {"e2e_mean_s": 0.8}), ("ttft", {"ttft_mean_s": 0.8}), ("goodput", {"goodput": 0.908 / 0.88})],
)
def test_each_goal_is_its_own_figure_against_round_robin(goal: Goal, better: dict[str, float]) -> None:
    found = Objective(goal).of(runs(better=better))
    assert found["round_robin"] == 0.0
    # Misses of 0.12 and 0.092, and 0.02 on both.
    assert found["better"] == pytest.approx(math.log(0.112 / 0.14) if goal == "goodput" else math.log(0.8))


@pytest.mark.parametrize("goal", GOALS)
def test_no_goal_may_be_bought_with_the_tail(goal: Goal) -> None:
    longer = runs(worse={"e2e_p99_s": 1.5})
    assert Objective(goal).of(longer)["worse"] == pytest.approx(2 * math.log(1.5))
    assert Objective(goal, tail_limit=1.5).of(longer)["worse"] == pytest.approx(0.0)
    assert Objective(goal, tail_limit=0.9).of(longer)["round_robin"] == pytest.approx(2 * math.log(1 / 0.9))


def test_mean_ttft_may_not_be_bought_with_either_tail() -> None:
    worse = runs(worse={"ttft_p99_s": 1.5, "e2e_p99_s": 1.1})
    assert Objective("ttft").of(worse)["worse"] == pytest.approx(2 * math.log(1.5))
    assert Objective("e2e").of(worse)["worse"] == pytest.approx(2 * math.log(1.1))


def test_misses_count_beside_a_goal_by_their_weight() -> None:
    worse = runs(worse={"goodput": 0.0})
    assert Objective("e2e", miss_weight=0.5).of(worse)["worse"] == pytest.approx(0.5 * math.log(1.02 / 0.14))


def test_draws_are_of_the_same_objective_and_paired() -> None:
    draws = Objective("e2e").draws(runs(better={"e2e_mean_s": 0.8}))
    # Better by the same factor in every window, whichever are drawn.
    assert np.allclose(draws["better"], math.log(0.8))
    assert np.all(draws["round_robin"] == 0.0)


def test_what_is_no_objective_is_named() -> None:
    for bad, message in [
        ({"goal": "speed"}, "goal `speed`: expected one of e2e, ttft, goodput"),
        ({"tail_limit": math.nan}, "tail_limit nan: expected a positive ratio"),
        ({"miss_weight": -1.0}, "miss_weight -1.0: expected a number, zero or more"),
    ]:
        with pytest.raises(IrouterError, match=message):
            Objective(**bad)  # type: ignore[arg-type]
