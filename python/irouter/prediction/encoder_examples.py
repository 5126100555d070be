"""Rows of a log as an encoder is trained on them, in batches that are little padded."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter.prediction.text import form_features

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from irouter.prediction.bins import Bins
    from irouter.prediction.encoder_inputs import EncoderInputs
    from irouter.prediction.log import RequestLog

# Rows of a batch have about one length: so many batches are drawn together and sorted.
_POOL_BATCHES: Final = 50


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Rows of a log as a network takes them.

    Attributes:
        inputs: What made the rows.
        rows: Token ids of each.
        form: The prompt's form `[row, feature]`.
        possible: How much of each bin `[row, bin]` its length may lie in.
    """

    inputs: EncoderInputs
    rows: list[list[int]]
    form: NDArray[np.float32]
    possible: NDArray[np.float32]

    @classmethod
    def of(cls, log: RequestLog, inputs: EncoderInputs, bins: Bins) -> Examples:
        """The rows of a log."""
        possible = bins.possible(log.output_tokens, log.cut).astype(np.float32)
        return cls(inputs, inputs.rows(log.requests), form_features(log.requests.prompts), possible)

    def tensors(self, torch: Any, rows: NDArray[np.int64], device: str) -> tuple[tuple[Any, ...], Any]:
        """Arguments of the network, and what is possible, of some rows."""
        batch = self.inputs.batch([self.rows[row] for row in rows])
        arrays = (batch.input_ids, batch.attention_mask, self.form[rows], self.possible[rows])
        *arguments, possible = (torch.from_numpy(array).to(device) for array in arrays)
        return tuple(arguments), possible

    def shuffled(self, size: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """All rows in random batches of about one length each."""
        lengths = self._lengths()
        order = generator.permutation(len(lengths))
        batches = []
        for start in range(0, len(order), size * _POOL_BATCHES):
            pool = order[start : start + size * _POOL_BATCHES]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches += [pool[begin : begin + size] for begin in range(0, len(pool), size)]
        for number in generator.permutation(len(batches)):
            yield batches[number]

    def in_order(self, size: int) -> Iterator[NDArray[np.int64]]:
        """All rows in batches, the shortest first."""
        order = np.argsort(self._lengths(), kind="stable")
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _lengths(self) -> NDArray[np.int64]:
        return np.array([len(row) for row in self.rows])
