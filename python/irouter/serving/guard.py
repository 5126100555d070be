"""The one lock of a live router."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from irouter._core import IrouterError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Guard:
    """A lock whose holder settles what it has changed before it gives it back, and then wakes who is concerned.

    A thread that holds it and asks again, as a policy does that calls its own router, gets an error in place
    of a deadlock.
    """

    def __init__(self, settle: Callable[[], list[Callable[[], object]]]) -> None:
        """`settle` returns what is to be called when the lock is free."""
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._settle = settle

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._holder == me:
            raise IrouterError("the router was called by its own policy, or by a handler that interrupted it")
        self._lock.acquire()
        self._holder = me

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wakes: list[Callable[[], object]] = []
        try:
            wakes = self._settle()
        finally:
            self._holder = None
            self._lock.release()
            for wake in wakes:
                wake()

    def renew(self) -> None:
        """Forgets a holder that does not exist in this process."""
        self._lock = threading.Lock()
        self._holder = None
