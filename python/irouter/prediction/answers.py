"""What a prediction service is told, answers and counts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from irouter._core import IrouterError

if TYPE_CHECKING:
    from irouter.prediction.distribution import LengthDistribution
    from irouter.prediction.requests import Requests

Source = Literal["model", "cache", "fallback"]
"""Who answered."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """Limits of a service.

    Attributes:
        budget_ms: How long a call waits for the model before the fallback answers.
        most_rows: Most requests of one batch.
        most_waiting: Most requests that wait for the model; beyond it the oldest is shed.
        cache_entries: Most predictions that are kept by prompt.
    """

    budget_ms: float = 5.0
    most_rows: int = 64
    most_waiting: int = 256
    cache_entries: int = 65_536

    def __post_init__(self) -> None:
        if not 0.0 < self.budget_ms < float("inf"):
            raise IrouterError(f"`budget_ms` is {self.budget_ms}, expected milliseconds above 0")
        for name in ("most_rows", "most_waiting"):
            if getattr(self, name) < 1:
                raise IrouterError(f"`{name}` is {getattr(self, name)}, expected at least 1")
        if self.cache_entries < 0:
            raise IrouterError(f"`cache_entries` is {self.cache_entries}, expected 0 or more")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a service says of one request.

    Attributes:
        lengths: The distribution, of one row.
        source: Who answered.
        request: The request, of one row.
        raw: The distribution before the service corrected it.
    """

    lengths: LengthDistribution
    source: Source
    request: Requests
    raw: LengthDistribution


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """What a service has done.

    Attributes:
        calls: Requests that were asked for.
        cache: Answered from the cache.
        model: Answered by the model in time.
        fallback: Answered by the fallback.
        late: Of these, because the budget ran out.
        shed: Of these, because too many waited.
        errors: Of these, because the model failed.
        batches: Calls of the model.
        rows: Requests in these.
    """

    calls: int = 0
    cache: int = 0
    model: int = 0
    fallback: int = 0
    late: int = 0
    shed: int = 0
    errors: int = 0
    batches: int = 0
    rows: int = 0
