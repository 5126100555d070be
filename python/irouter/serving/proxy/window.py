"""What a router did of late: the last requests of its decision log, in memory."""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from typing import Any, Final

from irouter.serving.strangers import STRANGER_NUMBERS

# Bounds of memory, whatever the rate and the prompts.
_MOST_REQUESTS: Final = 2000
_MOST_BLOCKS: Final = 1 << 19
_DECISIONS: Final = 12
_RATE_SECONDS: Final = 120


@dataclasses.dataclass(slots=True)
class Seen:
    """A request, as far as the log has it; times are seconds of the router's clock.

    Attributes:
        number: Its number in the log.
        submitted_s: When it came.
        fields: The record of its arrival.
        instance: Where it went, by number; None while it waits.
        dispatched_s: When.
        expected_e2e_s: How long it was then expected to take.
        first_token_s: When its first token came; None where none was seen.
        ended_s: When it ended.
        ending: How: `finished`, `failed` or `cancelled`.
        tokens: Tokens that it has produced.
    """

    number: int
    submitted_s: float
    fields: dict[str, Any]
    instance: int | None = None
    dispatched_s: float | None = None
    expected_e2e_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    ending: str | None = None
    tokens: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """A decision, and why it was taken.

    Attributes:
        at_s: When, in seconds of the router's clock.
        number: The request.
        instance: Where it went, by number.
        waited_s: Seconds that it waited.
        why: The impact that was expected of it, in one line; None where it was not estimated.
        fallback: Whether the policy failed.
    """

    at_s: float
    number: int
    instance: int
    waited_s: float
    why: str | None
    fallback: bool


class Window:
    """Takes in the records of a router, and keeps those of the last `seconds`, up to fixed numbers.

    Records come while the router is locked: each takes constant time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._seen: collections.OrderedDict[int, Seen] = collections.OrderedDict()
        self._blocks = 0
        self._offset_s = time.monotonic()
        self._choices: collections.deque[dict[str, Any]] = collections.deque(maxlen=_DECISIONS)
        self._per_second: collections.deque[tuple[int, int]] = collections.deque(maxlen=_RATE_SECONDS)

    def __call__(self, record: dict[str, Any]) -> None:
        """Takes in a record of the decision log."""
        event = record["event"]
        with self._lock:
            self._offset_s = time.monotonic() - record["at_s"]
            if event == "submitted":
                # Stand-ins for requests of others are renewed again and again: no one request is behind them.
                if record["request"] < STRANGER_NUMBERS:
                    self._submitted(record)
                return
            if event in {"dispatched", "placed"}:
                self._decided(record)
            if event == "left":
                self._lost(record)
            seen = self._seen.get(record.get("request", -1))
            if seen is not None:
                _note(seen, event, record)

    def now(self) -> float:
        """The time on the router's clock."""
        return time.monotonic() - self._offset_s

    def requests(self) -> list[Seen]:
        """Copies of the requests, in order of arrival."""
        with self._lock:
            return [dataclasses.replace(seen) for seen in self._seen.values()]

    def choices(self) -> list[Choice]:
        """The last decisions, the newest first."""
        with self._lock:
            records = list(reversed(self._choices))
        return [
            Choice(
                record["at_s"],
                record["request"],
                record["instance"],
                record["waited_s"],
                record["impact"],
                record["fallback"],
            )
            for record in records
        ]

    def rates(self) -> dict[int, int]:
        """Decisions in each second of the router's clock that had any."""
        with self._lock:
            return dict(self._per_second)

    def _submitted(self, record: dict[str, Any]) -> None:
        now = record["at_s"]
        if self._seen and next(reversed(self._seen.values())).submitted_s > now:
            # The router's clock began anew.
            self._seen.clear()
            self._per_second.clear()
            self._blocks = 0
        self._seen[record["request"]] = Seen(record["request"], now, record)
        self._blocks += len(record["prompt_blocks"] or ())
        while self._seen and (
            len(self._seen) > _MOST_REQUESTS or self._blocks > _MOST_BLOCKS or self._is_old(now)
        ):
            _, oldest = self._seen.popitem(last=False)
            self._blocks -= len(oldest.fields["prompt_blocks"] or ())

    def _is_old(self, now: float) -> bool:
        """Whether the first request came before the window and has ended before it too."""
        first = next(iter(self._seen.values()))
        begin_s = now - self._seconds
        return first.submitted_s < begin_s and (first.ended_s is not None and first.ended_s < begin_s)

    def _lost(self, record: dict[str, Any]) -> None:
        """The requests on an instance that is gone have failed."""
        for seen in self._seen.values():
            if seen.instance == record["instance"] and seen.ended_s is None:
                seen.ended_s, seen.ending = record["at_s"], "failed"

    def _decided(self, record: dict[str, Any]) -> None:
        now = record["at_s"]
        self._choices.append(record)
        if self._per_second and self._per_second[-1][0] == int(now):
            self._per_second[-1] = (int(now), self._per_second[-1][1] + 1)
        else:
            self._per_second.append((int(now), 1))


def _note(seen: Seen, event: str, record: dict[str, Any]) -> None:
    now = record["at_s"]
    if event in {"dispatched", "placed", "adopted"}:
        seen.instance, seen.dispatched_s = record["instance"], now
        seen.expected_e2e_s = record["expected_e2e_s"]
    elif event in {"first_token", "progress"}:
        seen.first_token_s = now if seen.first_token_s is None else seen.first_token_s
        seen.tokens = max(seen.tokens, record.get("tokens", 1))
    elif event in {"finished", "failed", "cancelled"}:
        seen.ended_s, seen.ending = now, event
        seen.tokens = max(seen.tokens, record["tokens"] or 0)
