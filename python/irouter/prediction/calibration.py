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

_EXTREME: Final = 0.9995
# Levels between two of ours may not fall together: a distribution needs some width.
_LEAST_WIDTH: Final = 1e-4
_STRATA: Final = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """Which levels of a predictor to take for the quantiles that are asked for.

    With `U` the level at which a predictor's distribution had the true length, the calibrated quantile at level `q` is
    the predictor's at the `q`-quantile of `U` (quantile recalibration: Kuleshov, Fenner and Ermon, 2018). Lengths that
    a limit cut are known to lie at a level of at least theirs, which the product-limit estimate takes into account.

    A few hundred outcomes are of easier or harder requests than usual, by chance. :func:`strata_weights` keep out what
    their lengths show of that.

    Attributes:
        levels: A level of the predictor for each of `LENGTH_LEVELS`.
    """

    levels: tuple[float, ...] = LENGTH_LEVELS

    @classmethod
    def fit(
        cls, levels: NDArray[np.float64], cut: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
    ) -> Calibration:
        """Learns from outcomes.

        Args:
            levels: Level of each true length in its prediction, 0 to 1.
            cut: Whether a limit cut it.
            weights: How much each counts; without it all count 1.
        """
        counted = np.ones(len(levels)) if weights is None else weights
        return cls(_separate(_product_limit_quantiles(levels, cut, counted)))

    def apply(self, lengths: LengthDistribution) -> LengthDistribution:
        """The calibrated distributions."""
        return lengths.at_levels(np.asarray(self.levels))


def strata_weights(
    tokens: NDArray[np.int64], all_tokens: NDArray[np.int64], all_cut: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Weights under which some lengths are spread over ten strata as all are (post-stratification).

    Args:
        tokens: The lengths to weigh.
        all_tokens: Lengths of a larger sample, in which these may be.
        all_cut: Whether a limit cut them. What is cut counts at the length at which it was.
    """
    inner = np.arange(1, _STRATA) / _STRATA
    edges = _core.censored_quantiles(all_tokens, all_cut, inner)
    own, everyone = (np.searchsorted(edges, some, side="right") for some in (tokens, all_tokens))
    shares = [np.bincount(strata, minlength=_STRATA) / len(strata) for strata in (own, everyone)]
    weights: NDArray[np.float64] = shares[1][own] / shares[0][own]
    return weights


def _product_limit_quantiles(
    values: NDArray[np.float64], cut: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Quantiles at `LENGTH_LEVELS` of weighted values, the cut ones of which are bounds (Kaplan and Meier, 1958)."""
    order = np.lexsort((cut, values))
    ended = np.where(cut[order], 0.0, weights[order])
    at_risk = np.cumsum(weights[order][::-1])[::-1]
    below = 1.0 - np.cumprod(1.0 - ended / at_risk)
    return np.interp(LENGTH_LEVELS, below, values[order])


def _separate(levels: NDArray[np.float64]) -> tuple[float, ...]:
    """The levels, inside of 0 to 1 and a little apart."""
    apart = np.arange(len(levels)) * _LEAST_WIDTH
    ascending = np.maximum.accumulate(np.clip(levels, _LEAST_WIDTH, _EXTREME) - apart) + apart
    return tuple(float(level) for level in np.minimum(ascending, _EXTREME + apart * 1e-3))
