"""Why instances take no requests now."""

from __future__ import annotations

import contextlib
import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Reason(enum.Flag):
    """Why an instance takes no requests now."""

    DRAINING = enum.auto()
    """Somebody has said so: it is what the table says too."""
    NO_SLOT = enum.auto()
    """What this router may have there, it has; the rest is for routers of other hosts."""
    STARTING = enum.auto()
    """It has only just started, and has its share."""


_NONE = Reason(0)


class Gates:
    """Which instances the state machine sends requests to: those that no reason stands against.

    The state machine knows one word for all reasons, `draining`: so every policy sees them, and the decision log has
    them. Reasons come and go by themselves: one that goes opens nothing while another stands.
    """

    def __init__(self, switch: Callable[[int, bool, float], None]) -> None:
        """`switch` has the state machine send requests to an instance, or none, from a time on."""
        self._switch = switch
        self._reasons: dict[int, Reason] = {}

    def set(self, number: int, reason: Reason, now: float, *, stands: bool) -> bool:
        """A reason stands against an instance from now on, or no more; whether that is news."""
        before = self._reasons.get(number, _NONE)
        after = before | reason if stands else before & ~reason
        self._reasons[number] = after
        if bool(before) != bool(after):
            self._switch(number, not after, now)
        return before != after

    def forget(self, number: int) -> None:
        """An instance is gone, and with it what stood against it."""
        self._reasons.pop(number, None)

    def is_open(self, number: int) -> bool:
        """Whether nothing stands against an instance."""
        return not self._reasons.get(number, _NONE)

    def any_open(self, numbers: Iterable[int]) -> bool:
        """Whether nothing stands against one of some instances."""
        return any(self.is_open(number) for number in numbers)

    @contextlib.contextmanager
    def opened(self, number: int, now: float) -> Iterator[None]:
        """Lets a request be sent to an instance whatever stands against it."""
        shut = not self.is_open(number)
        if shut:
            self._switch(number, True, now)  # noqa: FBT003 - that it takes requests
        try:
            yield
        finally:
            if shut:
                self._switch(number, False, now)  # noqa: FBT003 - that it takes none

    def repeat(self, now: float) -> None:
        """Tells a new state machine, in which every instance takes requests, of those that take none."""
        for number, reasons in self._reasons.items():
            if reasons:
                self._switch(number, False, now)  # noqa: FBT003 - that it takes none
