"""Bins of output lengths that a classifier puts requests in, and the distributions that follow."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter import _core
from irouter._core import IrouterError
from irouter.prediction.distribution import LENGTH_LEVELS, LengthDistribution

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# Cells per bin: a bin's own lengths are spread over it as they were in training.
_CELLS: Final = 20
# The ends of the grid, which has no first and no last length.
_ENDS: Final = (0.001, 0.999)
_LEAST_PROBABILITY: Final = 1e-6


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Bins that each hold the same share of the lengths of a training log.

    Attributes:
        grid: Lengths in tokens, ascending: the ends of all cells, `_CELLS` to a bin, each with the same share.
    """

    grid: NDArray[np.float64]

    @classmethod
    def fit(cls, tokens: NDArray[np.int64], cut: NDArray[np.bool_], *, count: int) -> Bins:
        """Bins of equal shares, by the product-limit estimate where lengths were cut."""
        levels = np.clip(np.linspace(0.0, 1.0, count * _CELLS + 1), *_ENDS)
        return cls(_core.censored_quantiles(tokens, cut, levels))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Bins:
        """Bins as a card has them.

        Raises:
            IrouterError: For a grid that is none.
        """
        grid = np.asarray(data.get("grid", ()), dtype=np.float64)
        if grid.ndim != 1 or grid.size <= _CELLS or grid.size % _CELLS != 1 or (np.diff(grid) < 0).any():
            raise IrouterError(
                f"`bins.grid` has {grid.size} lengths, expected one more than a multiple of {_CELLS}, ascending"
            )
        return cls(grid)

    def to_data(self) -> dict[str, Any]:
        """The bins as a card has them."""
        return {"grid": [round(float(length), 3) for length in self.grid]}

    @property
    def count(self) -> int:
        """Number of bins."""
        return (len(self.grid) - 1) // _CELLS

    @property
    def edges(self) -> NDArray[np.float64]:
        """Where each bin but the first begins, in tokens."""
        return self.grid[_CELLS:-1:_CELLS]

    def index(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The bin of each length."""
        return np.searchsorted(self.edges, tokens, side="right").astype(np.int64)

    def possible(self, tokens: NDArray[np.int64], cut: NDArray[np.bool_]) -> NDArray[np.float64]:
        """How much of each bin, `[request, bin]`, a length may lie in.

        A whole length lies in its bin. One that was cut lies in the rest of its bin or in any above.
        """
        own = self.index(tokens)
        result = np.zeros((len(tokens), self.count))
        result[np.arange(len(tokens)), own] = 1.0
        cells = np.arange(len(self.grid), dtype=np.float64)
        for row in np.flatnonzero(cut):
            passed = np.interp(tokens[row], self.grid, cells) / _CELLS
            result[row] = np.clip(np.arange(1, self.count + 1) - passed, 0.0, 1.0)
            # Beyond the grid there is only the last bin.
            result[row, -1] = max(result[row, -1], 1.0 / _CELLS)
        return result

    def distribution(self, probabilities: NDArray[np.float64]) -> LengthDistribution:
        """The distributions that follow from the probability `[request, bin]` of each bin."""
        share = np.maximum(probabilities, _LEAST_PROBABILITY)
        share /= share.sum(axis=1, keepdims=True)
        below = np.cumsum(np.repeat(share / _CELLS, _CELLS, axis=1), axis=1)
        levels = np.concatenate([np.zeros((len(share), 1)), below], axis=1)
        quantiles = np.empty((len(levels), len(LENGTH_LEVELS)))
        for row, found in enumerate(levels):
            quantiles[row] = np.interp(LENGTH_LEVELS, found, self.grid)
        return LengthDistribution(quantiles)
