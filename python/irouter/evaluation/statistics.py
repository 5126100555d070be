"""Ratios of window means with paired bootstrap intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS: Final = 10_000
"""Resamples of the windows."""

_SEED: Final = 95
_LEVELS: Final = (0.025, 0.975)


class PairedBootstrap:
    """Percentile intervals over windows that every policy saw.

    Each draw picks as many windows as there are, with replacement, the same ones for every policy and figure: that is
    what makes ratios paired. The draws depend on the number of windows only.
    """

    def __init__(self, windows: int) -> None:
        self.windows = windows
        generator = np.random.default_rng(_SEED)
        even = np.full(windows, 1.0 / windows)
        self._picks = generator.multinomial(windows, even, size=DRAWS).astype(np.float64)

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean of `values[window, figure]` in each draw, as `[draw, figure]`."""
        # Without `optimize` this is a plain loop, whose sums do not depend on the linear algebra library.
        sums: NDArray[np.float64] = np.einsum("dw,wf->df", self._picks, values, optimize=False)
        return sums / self.windows

    def interval(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """The central 95 % of `draws[draw, figure]`, as `[low or high, figure]`.

        NaN for one window, and where a draw has no value.
        """
        if self.windows == 1:
            return np.full((2, draws.shape[1]), np.nan)
        interval: NDArray[np.float64] = np.quantile(draws, _LEVELS, axis=0)
        interval[:, ~np.isfinite(draws).all(axis=0)] = np.nan
        return interval


def ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """`numerator / denominator`, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0.0, np.nan, numerator / denominator)
