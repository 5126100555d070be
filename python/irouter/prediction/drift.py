"""Quantiles that follow a served model whose answers have changed since a predictor was trained."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from irouter import _core
from irouter.prediction.distribution import LENGTH_LEVELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from irouter.prediction.distribution import LengthDistribution

_LOW: Final = LENGTH_LEVELS.index(0.1)
_HIGH: Final = LENGTH_LEVELS.index(0.9)
# Standard deviations between the 10 % and the 90 % quantile of a normal distribution.
_WIDTH: Final = 2.563
# A spread below 5 % is one that no predictor knows.
_LEAST_SPREAD: Final = 0.05
# Scores are ranked like lengths, as whole numbers: so many steps to one, from this far below.
_STEPS, _SHIFT = 1_000_000.0, 1000.0
_FARTHEST: Final = 100.0


@dataclasses.dataclass(frozen=True, slots=True)
class DriftCorrection:
    """Moves and widens predictions to where lengths now are.

    With `m` the median of a prediction and `s` its spread (the standard deviation of the logarithm that its central
    80 % has), the score of a length `y` is `log(y / m) / s`, and the corrected quantile at level `q` is `m exp(s Q)`,
    `Q` the `q`-quantile of the newest scores: normalised conformal residuals (Lei et al., 2018) on a logarithmic scale.
    A :class:`irouter.prediction.Calibration` keeps the shape of a prediction, but cannot leave the range that training
    saw.

    Attributes:
        scores: Quantile of the scores for each of `LENGTH_LEVELS`.
    """

    scores: tuple[float, ...]

    @classmethod
    def fit(cls, scores: NDArray[np.float64], cut: NDArray[np.bool_]) -> DriftCorrection:
        """Learns from outcomes: the score of each, and whether a limit cut its length.

        Raises:
            IrouterError: Without any outcome.
        """
        steps = np.round((scores + _SHIFT) * _STEPS).astype(np.int64)
        found = _core.censored_quantiles(steps, cut, np.asarray(LENGTH_LEVELS)) / _STEPS - _SHIFT
        return cls(tuple(float(score) for score in np.clip(found, -_FARTHEST, _FARTHEST)))

    def apply(self, lengths: LengthDistribution) -> LengthDistribution:
        """The corrected distributions."""
        median, spread = _shape(lengths)
        quantiles = median[:, None] * np.exp(spread[:, None] * np.asarray(self.scores)[None, :])
        return dataclasses.replace(lengths, quantiles=quantiles)

    @property
    def interval_80(self) -> tuple[float, float]:
        """Scores at the ends of the central 80 %."""
        return self.scores[_LOW], self.scores[_HIGH]


def scores(lengths: LengthDistribution, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many spreads each length is from its prediction's median."""
    median, spread = _shape(lengths)
    return np.clip(np.log(tokens / median) / spread, -_FARTHEST, _FARTHEST)


def _shape(lengths: LengthDistribution) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = (np.maximum(end, 1.0) for end in lengths.interval_80)
    return np.maximum(lengths.median, 1.0), np.maximum(np.log(high / low) / _WIDTH, _LEAST_SPREAD)
