"""The decision log: every event and decision, in order, so that they can be had again."""

from __future__ import annotations

import json
import queue
import threading
import warnings
from typing import TYPE_CHECKING, Any, Final

from irouter._core import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from irouter._core import Impact

LOG_VERSION: Final = 1
# Records that may wait for the disk; a disk that is so far behind is a broken one.
_MOST_PENDING: Final = 100_000


class DecisionLog:
    """Writes JSON lines from a thread of its own, so that no decision waits for a disk.

    The first line says what router it was. The file ends, with a line that says so, at its limit in bytes, or
    when the disk does not keep up: what is there can always be replayed.
    """

    def __init__(self, path: Path, limit_bytes: int, header: dict[str, Any]) -> None:
        """Begins a new file.

        Raises:
            OSError: When it cannot be written.
        """
        self._pending: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._limit_bytes = limit_bytes
        self._file = path.open("w", encoding="utf-8")
        self._complete = True
        self.write({"log": "irouter", "version": LOG_VERSION, "irouter": VERSION, **header})
        self._thread = threading.Thread(target=self._run, name="irouter-log", daemon=True)
        self._thread.start()

    def write(self, record: dict[str, Any]) -> None:
        """Adds a record, which the caller does not change any more."""
        if self._complete:
            if self._pending.qsize() < _MOST_PENDING:
                self._pending.put(record)
            else:
                self._complete = False
                self._pending.put({"event": "incomplete", "reason": "the disk did not keep up"})

    def end(self, reason: str) -> None:
        """Ends the log before its router ends."""
        self.write({"event": "incomplete", "reason": reason})
        self._complete = False

    def close(self) -> None:
        """Writes what is pending and closes the file."""
        self._pending.put(None)
        self._thread.join()

    def _run(self) -> None:
        written = 0
        with self._file:
            while (record := self._pending.get()) is not None:
                line = json.dumps(record, separators=(",", ":"), default=_plain) + "\n"
                written += len(line)
                ends = record.get("event") == "incomplete"
                if written > self._limit_bytes and not ends:
                    line = json.dumps({"event": "incomplete", "reason": "the log is at its limit"}) + "\n"
                    ends = True
                try:
                    self._file.write(line)
                    if self._pending.empty():
                        self._file.flush()
                except OSError as error:
                    warnings.warn(f"the decision log ends: {error}", RuntimeWarning, stacklevel=1)
                    ends = True
                if ends:
                    self._complete = False
                    return


def expected(impact: Impact | None) -> dict[str, Any]:
    """What the decision log says of an impact: in words, and the times from the decision on."""
    if impact is None:
        return {"impact": None, "expected_ttft_s": None, "expected_e2e_s": None}
    return {
        "impact": impact.explanation,
        "expected_ttft_s": impact.ttft_s,
        "expected_e2e_s": impact.e2e_s,
    }


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy, which callers may give, as JSON has them."""
    return value.tolist()
