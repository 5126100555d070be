"""CMA-ES (Hansen, 2016), the search for constants of rules and for weights."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from irouter._extras import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def evolution_strategy(start: NDArray[np.float64], first_step: float, **settings: Any) -> Any:
    """A `cma.CMAEvolutionStrategy` that prints nothing.

    Args:
        start: Where the search starts.
        first_step: Its first standard deviation.
        settings: Those of the package.

    Raises:
        MissingExtraError: Without the extra `[cli]`.
    """
    with warnings.catch_warnings():
        # It can plot, which nobody asks for here.
        warnings.filterwarnings("ignore", "Could not import matplotlib", UserWarning)
        cma = require("cma", extra="cli", purpose="a search")
    return cma.CMAEvolutionStrategy(start, first_step, {**settings, "verbose": -9})
