"""The thread of a router: it rings at times, and takes what finalisers leave."""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from irouter.serving.lease import Ending, Ticket

_CLOSE: Final = "close"


class Attendant:
    """Calls two methods of its owner, from a thread of its own that sleeps otherwise.

    Everything reaches the thread through one `queue.SimpleQueue`, whose `put` may be interrupted by another
    `put` of the same
    thread: the garbage collector runs finalisers anywhere, and they may leave leases here, where any lock
        could be a deadlock.
    The owner can be collected while the thread sleeps.
    """

    def __init__(self, ring: Callable[[], None], end: Callable[[Ticket, Ending], None]) -> None:
        """`ring` is called at the times that were asked for, `end` with what was left."""
        self._ring, self._end = weakref.WeakMethod(ring), weakref.WeakMethod(end)
        self._inbox: queue.SimpleQueue[float | tuple[Ticket, Ending] | str] = queue.SimpleQueue()
        self._next_s: float | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread, if it does not run."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="irouter-attendant", daemon=True)
            self._thread.start()

    def ring_at(self, at_s: float) -> None:
        """Rings at `at_s` of `time.monotonic`, or before: a time that was asked for earlier is not taken back."""
        if self._next_s is None or at_s < self._next_s:
            self._next_s = at_s
            self._inbox.put(at_s)

    def leave(self, ticket: Ticket, ending: Ending) -> None:
        """Leaves a request to be ended soon."""
        self._inbox.put((ticket, ending))

    def close(self) -> None:
        """Ends the thread."""
        self._inbox.put(_CLOSE)

    def _run(self) -> None:
        due_s: float | None = None
        while True:
            try:
                item = self._inbox.get(timeout=None if due_s is None else max(0.0, due_s - time.monotonic()))
            except queue.Empty:
                due_s = self._next_s = None
                ring = self._ring()
                if ring is None:
                    return
                _call(ring)
                # The owner must not live on in this frame while the thread sleeps.
                del ring
                continue
            if isinstance(item, str):
                return
            if isinstance(item, float):
                due_s = item if due_s is None else min(due_s, item)
                continue
            end = self._end()
            if end is None:
                return
            _call(end, *item)
            del end, item


def _call(method: Callable[..., object], *arguments: object) -> None:
    """Calls a method of the owner: whatever it raises, the next hold has to end too."""
    try:
        method(*arguments)
    except Exception:
        logging.getLogger("irouter").exception("the attendant of a router failed")
