"""What is known of the output lengths of a batch of requests."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from irouter import _core
from irouter._core import IrouterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LENGTH_LEVELS: Final = tuple(_core.LENGTH_LEVELS)
"""Levels of the quantiles that say what is known of an output length."""

PAPER_EDGES: Final = (256, 2048)
"""Where the paper's buckets begin, but for the first, in tokens."""

_MEDIAN: Final = LENGTH_LEVELS.index(0.5)
_LOW: Final = LENGTH_LEVELS.index(0.1)
_HIGH: Final = LENGTH_LEVELS.index(0.9)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LengthDistribution:
    """Predicted output lengths in tokens; row `i` of every array is request `i`.

    Between the quantiles the survival function is linear; beyond the last, the hazard is constant. This is the form in
    which :meth:`irouter.Router.submit` takes a prediction (`predicted_quantiles=lengths.quantiles[i]`).

    Attributes:
        quantiles: Quantiles `[request, level]` at `LENGTH_LEVELS`, ascending.
        edges: Where the buckets begin, but for the first, in tokens.

    Raises:
        IrouterError: For an array of another shape, and on first use for quantiles that descend or are not finite.
    """

    quantiles: NDArray[np.float64]
    edges: tuple[int, ...] = PAPER_EDGES

    def __post_init__(self) -> None:
        if self.quantiles.ndim != 2 or self.quantiles.shape[1] != len(LENGTH_LEVELS):  # noqa: PLR2004 - rows and columns
            raise IrouterError(
                f"`quantiles` has the shape {self.quantiles.shape}, expected (requests, {len(LENGTH_LEVELS)})"
            )

    def __len__(self) -> int:
        return len(self.quantiles)

    def __getitem__(self, rows: slice) -> LengthDistribution:
        """Some of the requests."""
        return dataclasses.replace(self, quantiles=self.quantiles[rows])

    @staticmethod
    def concatenate(parts: Sequence[LengthDistribution]) -> LengthDistribution:
        """All requests of several, which have the same buckets; those of none are none."""
        none = np.empty((0, len(LENGTH_LEVELS)))
        quantiles = np.concatenate([none, *(part.quantiles for part in parts)])
        return LengthDistribution(quantiles, edges=parts[0].edges if parts else PAPER_EDGES)

    @property
    def expected(self) -> NDArray[np.float64]:
        """Expected length of each request in tokens."""
        return _core.expected_lengths(self.quantiles)

    @property
    def expected_output_tokens(self) -> list[int]:
        """Expected length of each request as a whole number of tokens, of at least 1.

        The form in which Dynamo takes a prediction: `expected_output_tokens` in a request of its `SelectionService`,
        `nvext.agent_hints.osl` over HTTP.
        """
        return [max(1, round(length)) for length in self.expected.tolist()]

    @property
    def median(self) -> NDArray[np.float64]:
        """Length of each request in tokens that is exceeded half of the time."""
        return self.quantiles[:, _MEDIAN]

    @property
    def upper(self) -> NDArray[np.float64]:
        """Length of each request in tokens that is exceeded one time in ten."""
        return self.quantiles[:, _HIGH]

    @property
    def interval_80(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends of the central 80 % in tokens."""
        return self.quantiles[:, _LOW], self.upper

    @property
    def bucket_probabilities(self) -> NDArray[np.float64]:
        """Probability `[request, bucket]` of each bucket."""
        edges = np.broadcast_to(np.asarray(self.edges, dtype=np.float64), (len(self), len(self.edges)))
        # A whole number of tokens is below an edge when it does not exceed the middle of the step before it.
        above = _core.length_survival(self.quantiles, edges - 0.5)
        ones, zeros = np.ones((len(self), 1)), np.zeros((len(self), 1))
        return -np.diff(np.concatenate([ones, above, zeros], axis=1), axis=1)

    def levels_of(self, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        """The level at which each request's distribution has its `tokens`: uniform where lengths are as predicted."""
        return 1.0 - _core.length_survival(self.quantiles, tokens[:, None])[:, 0]

    def at_levels(self, levels: NDArray[np.float64]) -> LengthDistribution:
        """The distributions whose quantiles at `LENGTH_LEVELS` are these at `levels`, which ascend."""
        return dataclasses.replace(self, quantiles=_core.length_quantiles(self.quantiles, levels))
