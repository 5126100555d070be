"""Quantiles that hold as often as they say, learned from how predictions turned out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from irouter import _core
from irouter.prediction.distribution import LENGTH_LEVELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from irouter.prediction.distribution import LengthDistribution

# Levels are counted in these steps, so that they can be ranked like lengths.
_STEPS: Final = 1_000_000
_EXTREME: Final = 0.9995
# Levels between two of ours may not fall together: a distribution needs some width.
_LEAST_WIDTH: Final = 1e-4


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """Which levels of a predictor to take for the quantiles that are asked for.

    With `U` the level at which a predictor's distribution had the true length, the calibrated quantile at level `q` is
    the predictor's at the `q`-quantile of `U` (quantile recalibration: Kuleshov, Fenner and Ermon, 2018). Lengths that
    a limit cut are known to lie at a level of at least theirs, which the product-limit estimate takes into account.

    Attributes:
        levels: A level of the predictor for each of `LENGTH_LEVELS`.
    """

    levels: tuple[float, ...] = LENGTH_LEVELS

    @classmethod
    def fit(cls, levels: NDArray[np.float64], cut: NDArray[np.bool_]) -> Calibration:
        """Learns from outcomes.

        Args:
            levels: Level of each true length in its prediction, 0 to 1.
            cut: Whether a limit cut it.

        Raises:
            IrouterError: Without any outcome.
        """
        steps = np.round(levels * _STEPS).astype(np.int64)
        found = _core.censored_quantiles(steps, cut, np.asarray(LENGTH_LEVELS)) / _STEPS
        return cls(_separate(found))

    def apply(self, lengths: LengthDistribution) -> LengthDistribution:
        """The calibrated distributions."""
        return lengths.at_levels(np.asarray(self.levels))


def _separate(levels: NDArray[np.float64]) -> tuple[float, ...]:
    """The levels, inside of 0 to 1 and a little apart."""
    apart = np.arange(len(levels)) * _LEAST_WIDTH
    ascending = np.maximum.accumulate(np.clip(levels, _LEAST_WIDTH, _EXTREME) - apart) + apart
    return tuple(float(level) for level in np.minimum(ascending, _EXTREME + apart * 1e-3))
