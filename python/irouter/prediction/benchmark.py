"""How long a predictor takes."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from irouter.prediction.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from irouter.prediction.distribution import LengthDistribution

# Words that are one token each for the vocabularies of encoders.
_WORDS = "the of and to in for is on that by this with you it not or be are from at as your all have new more".split()  # noqa: SIM905


class _Predictor(Protocol):
    def predict_requests(self, requests: Requests) -> LengthDistribution: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """Durations of calls of one kind.

    Attributes:
        tokens: Tokens of each prompt.
        batch: Prompts per call.
        median_ms: Median duration of a call in milliseconds.
        p99_ms: 99th percentile.
    """

    tokens: int
    batch: int
    median_ms: float
    p99_ms: float

    def to_data(self) -> dict[str, Any]:
        """The figures as JSON has them."""
        return dataclasses.asdict(self)


def requests_of(tokens: int, rows: int, *, seed: int) -> Requests:
    """Requests whose prompts are so many common words, which are a token each."""
    generator = np.random.default_rng(seed)
    prompts = tuple(" ".join(generator.choice(_WORDS, size=tokens)) for _ in range(rows))
    return Requests(prompts, (None,) * rows, (None,) * rows)


def measure(
    predictor: _Predictor,
    tokens: Sequence[int],
    batches: Sequence[int],
    *,
    repeats: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> list[Timing]:
    """Times calls of every prompt size and batch size, each on prompts of its own.

    Args:
        predictor: The predictor.
        tokens: Prompt sizes in tokens of common words.
        batches: Prompts per call.
        repeats: Calls of each kind, after one that is not counted.
        progress: Called as `progress(done, total)` in kinds.
    """
    timings = []
    for size in tokens:
        for batch in batches:
            durations = []
            for turn in range(repeats + 1):
                requests = requests_of(size, batch, seed=turn)
                start = time.perf_counter()
                predictor.predict_requests(requests)
                durations.append(1000 * (time.perf_counter() - start))
            median, p99 = np.quantile(durations[1:], (0.5, 0.99))
            timings.append(Timing(size, batch, float(median), float(p99)))
            if progress is not None:
                progress(len(timings), len(tokens) * len(batches))
    return timings
