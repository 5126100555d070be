"""What can be made to go wrong."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Self

from irouter._core import IrouterError


@dataclasses.dataclass(frozen=True, slots=True)
class Faults:
    """Faults of an emulated instance. Shares are of the requests that come, drawn with the engine's seed.

    Attributes:
        error_share: Requests that are answered with status 500 at once.
        hang_share: Requests that are never answered.
        close_share: Requests whose connection is closed at half of their answer.
        garbage_share: Requests that are answered with bytes that are no JSON.
        slow_factor: Step times are so many times longer.
        crash_after: The process kills itself at the request of this number, counted from when this was set; 0: never.
    """

    error_share: float = 0.0
    hang_share: float = 0.0
    close_share: float = 0.0
    garbage_share: float = 0.0
    slow_factor: float = 1.0
    crash_after: int = 0

    def __post_init__(self) -> None:
        shares = (self.error_share, self.hang_share, self.close_share, self.garbage_share)
        if not all(0 <= share <= 1 for share in shares) or sum(shares) > 1:
            raise IrouterError(
                f"shares of faults are {shares}, expected shares from 0 to 1 of at most 1 in all"
            )
        if not (self.slow_factor > 0 and math.isfinite(self.slow_factor)):
            raise IrouterError(f"slow_factor is {self.slow_factor}, expected a positive number")
        if self.crash_after < 0:
            raise IrouterError(f"crash_after is {self.crash_after}, expected 0 or more")

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Faults from JSON; what is not named is off.

        Raises:
            IrouterError: For a name or value that is none.
        """
        if not isinstance(data, dict):
            raise IrouterError(f"faults are {data!r:.60}, expected an object")
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        for name, value in data.items():
            if name not in fields or isinstance(value, bool) or not isinstance(value, int | float):
                raise IrouterError(
                    f"fault `{name}` is {value!r:.60}, expected numbers for {', '.join(fields)}"
                )
        return cls(**data)

    def kind(self, draw: float) -> str | None:
        """Which fault a request has whose draw from 0 to 1 this is: `error`, `hang`, `close`, `garbage` or none."""
        for kind in ("error", "hang", "close", "garbage"):
            share: float = getattr(self, f"{kind}_share")
            if draw < share:
                return kind
            draw -= share
        return None
