"""How good predictions were, where some lengths were cut by a limit."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter import _core
from irouter._core import IrouterError
from irouter.prediction.distribution import LENGTH_LEVELS, PAPER_EDGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from irouter.prediction.distribution import LengthDistribution

_LOW, _HIGH = 0.1, 0.9
# Rows of the table of pairs that is held at a time.
_BLOCK: Final = 512
_TIE: Final = 1e-9
_POINT: Final = 0.01


@dataclasses.dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of predictions beside the lengths that came.

    Attributes:
        rows: Requests.
        cut: How many of them a limit cut.
        kendall_tau: Kendall's tau-b of expected and true length; `None` when all of either are equal. A pair whose
            order the cut hides counts as tied.
        mae_tokens: Mean absolute error of the median in tokens; of a cut length, what the median falls short of it.
        pinball_loss: Mean pinball loss in tokens over `LENGTH_LEVELS`; of a cut length, its part below the length.
        coverage_80: Share of lengths within the central 80 %, by the product-limit estimate where lengths were cut.
        accuracy_5: Share of requests whose likeliest of five equally frequent buckets was right. Cut lengths count
            where their bucket is known, which is in the last.
        accuracy_paper: The same on the paper's buckets.
        recall_heavy: Share of the lengths of 256 tokens or more that were put into such a bucket; `None` without any.
    """

    rows: int
    cut: int
    kendall_tau: float | None
    mae_tokens: float
    pinball_loss: float
    coverage_80: float
    accuracy_5: float
    accuracy_paper: float
    recall_heavy: float | None

    def to_data(self) -> dict[str, Any]:
        """The figures as JSON has them."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Predictions beside the lengths that came; row `i` of everything is request `i`.

    Attributes:
        lengths: What was predicted.
        tokens: Lengths that came, in tokens.
        cut: Whether a limit ended the request, so that its length is at least this.
        edges: Where each of five equally frequent buckets but the first begins, in tokens.
    """

    lengths: LengthDistribution
    tokens: NDArray[np.int64]
    cut: NDArray[np.bool_]
    edges: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.lengths) == len(self.tokens) == len(self.cut):
            raise IrouterError(
                f"{len(self.lengths)} predictions, {len(self.tokens)} lengths, {len(self.cut)} cut marks, "
                "expected as many of each"
            )
        if not len(self.tokens):
            raise IrouterError("no predictions, expected at least one")

    def rows(self, rows: NDArray[np.int64]) -> Outcomes:
        """Some of the requests, as often as named."""
        lengths = dataclasses.replace(self.lengths, quantiles=self.lengths.quantiles[rows])
        return dataclasses.replace(self, lengths=lengths, tokens=self.tokens[rows], cut=self.cut[rows])

    def metrics(self) -> Metrics:
        """All figures."""
        true = self.tokens.astype(np.float64)
        predicted, actual, known = self.buckets(self.edges)
        paper, paper_actual, paper_known = self.buckets(PAPER_EDGES)
        heavy = paper_actual > 0
        return Metrics(
            rows=len(true),
            cut=int(self.cut.sum()),
            kendall_tau=kendall_tau(self.lengths.expected, true, self.cut),
            mae_tokens=float(_shortfall(true - self.lengths.median, self.cut, 1.0, 1.0).mean()),
            pinball_loss=float(self._pinball(true).mean()),
            coverage_80=self._coverage(true),
            accuracy_5=_share((predicted == actual)[known]),
            accuracy_paper=_share((paper == paper_actual)[paper_known]),
            recall_heavy=_share((paper > 0)[heavy]) if heavy.any() else None,
        )

    def buckets(self, edges: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Likeliest bucket, bucket that came, and whether the latter is known, per request."""
        lengths = dataclasses.replace(self.lengths, edges=tuple(edges))
        actual = np.searchsorted(edges, self.tokens, side="right").astype(np.int64)
        known = ~self.cut | (actual == len(edges))
        return lengths.bucket_probabilities.argmax(axis=1).astype(np.int64), actual, known

    def confusion(self, edges: Sequence[int]) -> NDArray[np.int64]:
        """Requests `[bucket that came, likeliest bucket]`, those whose bucket is known."""
        predicted, actual, known = self.buckets(edges)
        counts = np.zeros((len(edges) + 1, len(edges) + 1), dtype=np.int64)
        np.add.at(counts, (actual[known], predicted[known]), 1)
        return counts

    def share_below(self, level: int) -> float:
        """Share of lengths below the quantile of this index in `LENGTH_LEVELS`, by the product-limit estimate."""
        levels = self.lengths.levels_of(self.tokens.astype(np.float64))
        return _share_up_to(levels, self.cut, LENGTH_LEVELS[level])

    def _pinball(self, true: NDArray[np.float64]) -> NDArray[np.float64]:
        levels = np.asarray(LENGTH_LEVELS)
        error = true[:, None] - self.lengths.quantiles
        losses: NDArray[np.float64] = _shortfall(error, self.cut[:, None], levels, 1.0 - levels).mean(axis=1)
        return losses

    def _coverage(self, true: NDArray[np.float64]) -> float:
        levels = self.lengths.levels_of(true)
        # A point mass covers its length, though its quantiles stand a little apart.
        low, high = self.lengths.interval_80
        levels = np.where(
            (true >= low - _POINT) & (true <= high + _POINT), np.clip(levels, _LOW, _HIGH), levels
        )
        return _share_up_to(levels, self.cut, _HIGH + _TIE) - _share_up_to(levels, self.cut, _LOW - _TIE)


def kendall_tau(
    predicted: NDArray[np.float64], true: NDArray[np.float64], cut: NDArray[np.bool_]
) -> float | None:
    """Kendall's tau-b of two columns, where a pair whose order a cut hides counts as tied in truth.

    The order of a cut length and a longer one, whole or cut, is not known.
    """
    if not cut.any() or true[cut].min() >= true.max():
        return _core.kendall_tau_b(predicted, true)
    agreeing = tied_predicted = tied_true = 0.0
    for start in range(0, len(true), _BLOCK):
        rows = slice(start, start + _BLOCK)
        order = np.sign(true[rows, None] - true[None, :])
        order[(order < 0) & cut[rows, None]] = 0.0
        order[(order > 0) & cut[None, :]] = 0.0
        told = np.sign(predicted[rows, None] - predicted[None, :])
        agreeing += float((order * told).sum())
        tied_true += float((order == 0).sum())
        tied_predicted += float((told == 0).sum())
    pairs = len(true) ** 2
    scale = np.sqrt((pairs - tied_true) * (pairs - tied_predicted))
    return float(agreeing / scale) if scale > 0 else None


def _shortfall(
    error: NDArray[np.float64], cut: NDArray[np.bool_], under: Any, over: Any
) -> NDArray[np.float64]:
    """Cost of `true - predicted`: `under` per token below the truth, `over` above it, which a cut hides."""
    cost: NDArray[np.float64] = np.where(error >= 0, under * error, np.where(cut, 0.0, -over * error))
    return cost


def _share_up_to(levels: NDArray[np.float64], cut: NDArray[np.bool_], limit: float) -> float:
    """Share of levels up to `limit`, those that were cut known to be at least theirs (Kaplan and Meier, 1958)."""
    order = np.lexsort((cut, levels))
    at_risk = np.arange(len(levels), 0, -1, dtype=np.float64)
    ends = ~cut[order] & (levels[order] <= limit)
    return float(1.0 - np.prod(1.0 - ends / at_risk))


def _share(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")


def quantile_edges(tokens: NDArray[np.int64], cut: NDArray[np.bool_]) -> tuple[int, ...]:
    """Where five buckets with the same share of the lengths begin, but for the first, in whole tokens."""
    levels = np.array([0.2, 0.4, 0.6, 0.8])
    return tuple(int(edge) for edge in np.ceil(_core.censored_quantiles(tokens, cut, levels)))


def group_bootstrap(
    outcomes: Outcomes, groups: NDArray[np.str_], *, draws: int = 500, seed: int = 95
) -> dict[str, tuple[float, float]]:
    """Central 95 % of each figure over draws of groups with replacement; NaN for one that no draw has."""
    _, numbers = np.unique(groups, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(numbers.max() + 2))
    members = [order[start:end] for start, end in itertools.pairwise(starts)]
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        picks = generator.integers(0, len(members), size=len(members))
        drawn = outcomes.rows(np.concatenate([members[pick] for pick in picks])).metrics().to_data()
        for name, value in drawn.items():
            found.setdefault(name, []).append(np.nan if value is None else float(value))
    ends = {}
    for name, values in found.items():
        known = [value for value in values if not np.isnan(value)] or [np.nan]
        low, high = np.quantile(known, (0.025, 0.975))
        ends[name] = (float(low), float(high))
    return ends
