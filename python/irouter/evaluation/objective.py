"""What searches minimise: a figure against round robin's, and a tail that may not pay for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

REFERENCE: Final = "round_robin"
"""The policy that ratios are against."""

_TAIL_WEIGHT: Final = 2.0


def ratios(runs: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    """A figure of each policy, summed over windows, over that of the reference."""
    sums: dict[str, float] = {}
    for run in runs:
        sums[run["policy"]] = sums.get(run["policy"], 0.0) + run["summary"][key]
    return {policy: total / sums[REFERENCE] for policy, total in sums.items()}


def objective(figure: float, tail: float, tail_limit: float = 1.0) -> float:
    """`log(figure) + 2 max(0, log(tail / tail_limit))`: lower is better, 0 is the reference.

    Args:
        figure: What is to be small, as a ratio to the reference's.
        tail: P99 E2E as a ratio to the reference's.
        tail_limit: The ratio up to which the tail costs nothing.
    """
    return math.log(figure) + _TAIL_WEIGHT * max(0.0, math.log(tail / tail_limit))
