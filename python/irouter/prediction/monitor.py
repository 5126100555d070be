"""How predictions turn out while they are used, and when their quantiles are to be corrected."""

from __future__ import annotations

import collections
import dataclasses
import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from irouter.prediction.drift import DriftCorrection, scores
from irouter.prediction.metrics import kendall_tau

if TYPE_CHECKING:
    from irouter.prediction.distribution import LengthDistribution

WINDOW: Final = 512
"""Newest outcomes that figures are over."""

ENOUGH: Final = 128
"""Outcomes below which nothing is corrected."""

DRIFT: Final = 0.05
"""How far coverage may be from 80 % before quantiles are corrected."""

# Outcomes between two looks at the coverage.
_EVERY: Final = 32
_WANTED: Final = 0.8


@dataclasses.dataclass(frozen=True, slots=True)
class Quality:
    """Figures over the newest outcomes; `None` where there are none.

    Attributes:
        outcomes: How many requests they are over, at most `WINDOW`.
        mae_tokens: Mean absolute error of the median in tokens; of a cut length, what the median falls short of it.
        kendall_tau: Kendall's tau-b of expected and true length.
        coverage_80: Share of lengths within the central 80 % as it is told now.
        corrections: How often the quantiles were corrected.
    """

    outcomes: int
    mae_tokens: float | None
    kendall_tau: float | None
    coverage_80: float | None
    corrections: int


class Monitor:
    """Follows the outcomes of one predictor, and corrects its quantiles when they drift. Safe to call from threads.

    Args:
        corrects: Whether quantiles are corrected when their coverage drifts.
    """

    def __init__(self, *, corrects: bool) -> None:
        self._corrects = corrects
        self._lock = threading.Lock()
        self._outcomes: collections.deque[_Outcome] = collections.deque(maxlen=WINDOW)
        self._seen = 0
        self._corrections = 0
        self._correction: DriftCorrection | None = None

    def corrected(self, lengths: LengthDistribution) -> LengthDistribution:
        """The distributions as they are told now."""
        correction = self._correction
        return lengths if correction is None else correction.apply(lengths)

    def observe(
        self, raw: LengthDistribution, told: LengthDistribution, output_tokens: int, *, cut: bool
    ) -> None:
        """Takes in how one request turned out.

        Args:
            raw: What the predictor said of it.
            told: What the caller was told.
            output_tokens: Tokens that it produced.
            cut: Whether a limit ended it.
        """
        true = np.array([float(output_tokens)])
        low, high = raw.interval_80
        outcome = _Outcome(
            score=float(scores(raw, true)[0]),
            within=bool((low[0] <= true[0] or cut) and true[0] <= high[0]),
            expected=float(told.expected[0]),
            median=float(told.median[0]),
            tokens=float(true[0]),
            cut=cut,
        )
        with self._lock:
            self._outcomes.append(outcome)
            self._seen += 1
            if self._corrects and self._seen >= ENOUGH and self._seen % _EVERY == 0:
                self._correct()

    @property
    def quality(self) -> Quality:
        """Figures over the newest outcomes."""
        with self._lock:
            outcomes, corrections, coverage = list(self._outcomes), self._corrections, self._coverage()
        if not outcomes:
            return Quality(0, None, None, None, corrections)
        true = np.array([outcome.tokens for outcome in outcomes])
        cut = np.array([outcome.cut for outcome in outcomes])
        error = true - np.array([outcome.median for outcome in outcomes])
        expected = np.array([outcome.expected for outcome in outcomes])
        mae = float(np.where(cut, np.maximum(error, 0.0), np.abs(error)).mean())
        return Quality(len(outcomes), mae, kendall_tau(expected, true, cut), coverage, corrections)

    def _coverage(self) -> float | None:
        """Share of lengths within the interval as it is told now; of cut ones, those beyond it are known not to be."""
        if not self._outcomes:
            return None
        if self._correction is None:
            within = [outcome.within for outcome in self._outcomes]
        else:
            low, high = self._correction.interval_80
            within = [
                (low <= outcome.score or outcome.cut) and outcome.score <= high for outcome in self._outcomes
            ]
        return sum(within) / len(within)

    def _correct(self) -> None:
        coverage = self._coverage()
        if coverage is not None and abs(coverage - _WANTED) > DRIFT:
            found = np.array([outcome.score for outcome in self._outcomes])
            cut = np.array([outcome.cut for outcome in self._outcomes])
            self._correction = DriftCorrection.fit(found, cut)
            self._corrections += 1


@dataclasses.dataclass(frozen=True, slots=True)
class _Outcome:
    """How one request turned out: its score, whether the uncorrected interval held it, and what was told of it."""

    score: float
    within: bool
    expected: float
    median: float
    tokens: float
    cut: bool
