"""New instances take few requests at first: their caches are empty and their kernels not compiled."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final

from irouter._core import IrouterError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Ramp:
    """How an instance starts.

    Attributes:
        duration_s: How long until it takes its whole share; 0: at once.
        first_share: The share that it takes at first, above 0 and at most 1.
    """

    duration_s: float
    first_share: float

    def __post_init__(self) -> None:
        if not (self.duration_s >= 0 and math.isfinite(self.duration_s)):
            raise IrouterError(f"slow_start_s is {self.duration_s}, expected a number of seconds, 0 or more")
        if not 0 < self.first_share <= 1:
            raise IrouterError(
                f"slow_start_share is {self.first_share}, expected a number above 0, at most 1"
            )

    def share(self, age_s: float) -> float:
        """The share at an age."""
        return self.first_share + (1 - self.first_share) * min(1.0, age_s / self.duration_s)


AT_ONCE: Final = Ramp(0.0, 1.0)
"""Not slowly."""


class SlowStart:
    """Which instances have enough for now, because they have only just started.

    An instance with share `s` may hold `max(1, floor(s m))` requests, where `m` is the mean number of requests on
    the ready instances that have started before. Without an instance that has started before there is no limit.
    """

    def __init__(self) -> None:
        self._ramps: dict[int, tuple[float, Ramp]] = {}

    @property
    def active(self) -> bool:
        """Whether any instance starts slowly."""
        return bool(self._ramps)

    def begin(self, number: int, ramp: Ramp, now: float) -> None:
        """An instance joins."""
        if ramp.duration_s > 0:
            self._ramps[number] = (now, ramp)

    def end(self, number: int) -> None:
        """An instance starts slowly no more."""
        self._ramps.pop(number, None)

    def shares(self, now: float) -> dict[int, float]:
        """Shares of the instances that start slowly, by number."""
        return {number: ramp.share(now - since_s) for number, (since_s, ramp) in self._ramps.items()}

    def full(
        self, ready: Sequence[int], in_flight: Sequence[int], now: float, *, beside: Sequence[int] = ()
    ) -> dict[int, bool]:
        """Whether each that starts slowly holds all that it may; of those that have just done starting, no.

        Args:
            ready: The instances that take requests as far as their operator is concerned, by number.
            in_flight: Requests on each, by number.
            now: The time.
            beside: Instances that do not count, because the next request must not go to them.
        """
        done = [number for number, (since_s, ramp) in self._ramps.items() if now - since_s >= ramp.duration_s]
        for number in done:
            self.end(number)
        held = [in_flight[number] for number in ready if number not in self._ramps and number not in beside]
        full = dict.fromkeys(done, False)
        for number, share in self.shares(now).items():
            full[number] = bool(held) and in_flight[number] >= max(
                1, math.floor(share * sum(held) / len(held))
            )
        return full

    def renew(self, passed_s: float) -> None:
        """The clock begins anew after so long."""
        self._ramps = {number: (since_s - passed_s, ramp) for number, (since_s, ramp) in self._ramps.items()}
