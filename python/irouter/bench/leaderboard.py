"""Who is fastest: geometric means of ratios to the reference, by class of scenarios and over all classes."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from irouter.bench.result import Result


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """Ratios to the reference: below 1 is better.

    Attributes:
        mean: Of mean E2E.
        tail: Of P99 E2E.
    """

    mean: float
    tail: float


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """A policy on the leaderboard.

    Attributes:
        policy: Its name.
        overall: Over all classes, each with the same weight; `None` for a policy that did not run in all of them.
        by_class: In each class over its points; a class is missing where the policy did not run at all of its points.
    """

    policy: str
    overall: Score | None
    by_class: Mapping[str, Score]


def classes(result: Result) -> dict[str, list[str]]:
    """Names of the points of each class that ran, in the order of the suite."""
    found: dict[str, list[str]] = {}
    for name, point in result.points.items():
        if point["class"]:
            found.setdefault(point["class"], []).append(name)
    return found


def leaderboard(result: Result) -> list[Standing]:
    """Every policy, the lowest mean E2E first; policies that ran in some classes only come last."""
    by_class = classes(result)
    policies = dict.fromkeys(policy for point in result.points.values() for policy in point["policies"])
    standings = []
    for policy in policies:
        scores = {
            name: score
            for name, points in by_class.items()
            if (score := _score(result, points, policy)) is not None
        }
        complete = len(scores) == len(by_class) > 0
        standings.append(Standing(policy, _average(list(scores.values())) if complete else None, scores))
    return sorted((standing for standing in standings if standing.by_class), key=_rank)


def failures(result: Result) -> list[str]:
    """Policies that failed, so that their figures are not theirs alone, each in a sentence."""
    counts: dict[str, int] = {}
    for point in result.points.values():
        for policy, figures in point["policies"].items():
            counts[policy] = counts.get(policy, 0) + figures["policy_failures"]
    return [
        f"{policy} failed to decide {count:,} times; least predicted work decided instead"
        for policy, count in counts.items()
        if count
    ]


def _rank(standing: Standing) -> tuple[float, float, str]:
    partial = _average(list(standing.by_class.values())).mean
    return (math.inf if standing.overall is None else standing.overall.mean, partial, standing.policy)


def _score(result: Result, points: Sequence[str], policy: str) -> Score | None:
    scores = []
    for name in points:
        figures = result.points[name]["policies"].get(policy)
        if figures is None:
            return None
        mean, tail = figures["ratio"]["e2e_mean_s"][0], figures["ratio"]["e2e_p99_s"][0]
        if mean is None or tail is None:
            return None
        scores.append(Score(mean, tail))
    return _average(scores)


def _average(scores: Sequence[Score]) -> Score:
    return Score(*(geometric_mean([getattr(score, key) for score in scores]) for key in ("mean", "tail")))


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))
