"""A fleet's log of its requests: the decision log of a router, or a table with a row per request."""

from __future__ import annotations

import collections
import dataclasses
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import IrouterError
from irouter.evaluation.traces import Trace, read_trace
from irouter.serving.replay import read_records

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_LINES: Final = (".jsonl", ".ndjson")
_ENDS: Final = ("finished", "failed", "cancelled")
_TENANTS_AND_SESSIONS: Final = ("tenant", "session")


@dataclasses.dataclass(frozen=True, slots=True)
class FleetLog:
    """What a fleet did.

    Attributes:
        trace: Its requests, with what was measured of each where that is known of all.
        instances: How many instances it had; None where the log does not say.
        profile: What its router believed the instances to be, as JSON; None where the log does not say.
        left_out: Requests without an end, which are not in the trace.
    """

    trace: Trace
    instances: int | None = None
    profile: str | None = None
    left_out: int = 0


def read_fleet_log(path: Path, *, drop_empty: bool = False) -> FleetLog:
    """Reads a log.

    Args:
        path: A decision log of :class:`irouter.Router` (its option `log`), or a trace in any of the formats of
            :func:`irouter.evaluation.read_trace`, of which some have what was measured of each request.
        drop_empty: Leave out rows of a table without input or output, and count them.

    Raises:
        IrouterError: Naming the file, the line or row, and the field.
    """
    if _is_decision_log(path):
        return _of_decisions(path)
    trace = read_trace(path, drop_empty=drop_empty)
    instances = len(trace.instance_names) or None
    return FleetLog(trace, instances=instances, left_out=trace.dropped_empty)


def _is_decision_log(path: Path) -> bool:
    if path.suffix.lower() not in _LINES or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as lines:
        try:
            first = json.loads(next(lines, ""))
        except ValueError:
            return False
    return isinstance(first, dict) and first.get("log") == "irouter"


@dataclasses.dataclass(slots=True)
class _Served:
    """A request on its way through the router."""

    fields: dict[str, Any]
    arrival_s: float
    instance: int = -1
    sent_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    tokens: int = 0


class _Reader:
    """Takes in the records of a decision log."""

    def __init__(self) -> None:
        self.requests = 0
        self.ended: list[_Served] = []
        self.most_instances = 0
        self.profiles: collections.Counter[str] = collections.Counter()
        self._open: dict[int, _Served] = {}
        self._joined: set[int] = set()

    def take_in(self, record: dict[str, Any]) -> None:
        now, event = record["at_s"], record["event"]
        if event == "submitted":
            self.requests += 1
            self._open[record["request"]] = _Served(record, now)
        elif event in {"dispatched", "placed"}:
            served = self._open[record["request"]]
            served.instance, served.sent_s = record["instance"], now
        elif event == "first_token":
            self._open[record["request"]].first_token_s = now
        elif event in _ENDS:
            served = self._open.pop(record["request"])
            if event == "finished" and record["tokens"]:
                served.last_token_s, served.tokens = now, record["tokens"]
                self.ended.append(served)
        elif event == "joined":
            self._joined.add(record["instance"])
            self.profiles[record["profile"]] += 1
            self.most_instances = max(self.most_instances, len(self._joined))
        elif event == "left":
            self._joined.discard(record["instance"])


def _of_decisions(path: Path) -> FleetLog:
    _, records = read_records(path)
    reader = _Reader()
    for line, record in records:
        if record.get("event") == "incomplete":
            break
        try:
            reader.take_in(record)
        except KeyError as error:
            raise IrouterError(f"{path.name}: line {line}: it lacks or mistakes {error}") from error
    ended = sorted(reader.ended, key=lambda served: served.arrival_s)
    if not ended:
        raise IrouterError(
            f"{path.name}: no request of {reader.requests} finished with a count of its tokens"
        )
    profile = reader.profiles.most_common(1)[0][0] if reader.profiles else None
    left_out = reader.requests - len(ended)
    return FleetLog(_trace(path.stem, ended), reader.most_instances or None, profile, left_out)


def _trace(name: str, ended: Sequence[_Served]) -> Trace:
    def column(values: Sequence[Any]) -> NDArray[np.float64] | None:
        """As seconds since each arrival, where all are known."""
        if any(value is None for value in values):
            return None
        return np.array(
            [value - served.arrival_s for value, served in zip(values, ended, strict=True)], np.float64
        )

    def fields(field: str) -> list[Any]:
        return [served.fields.get(field) for served in ended]

    columns: dict[str, Any] = {}
    for field in _TENANTS_AND_SESSIONS:
        if all(value is not None for value in fields(field)):
            _, columns[field] = np.unique(np.array(fields(field)), return_inverse=True)
    if all(quantiles is not None for quantiles in fields("predicted_quantiles")):
        columns["predicted_quantiles"] = np.array(fields("predicted_quantiles"), np.float64)
    # Who finished was dispatched.
    numbers, places = np.unique(np.array([served.instance for served in ended]), return_inverse=True)
    first = ended[0].arrival_s
    return Trace(
        name=name,
        format="decisions",
        arrival_s=np.array([served.arrival_s - first for served in ended]),
        input_tokens=np.array(fields("prompt_tokens"), np.int64),
        output_tokens=np.array([served.tokens for served in ended], np.int64),
        max_tokens=np.array(
            [max(served.tokens, served.fields.get("max_tokens") or served.tokens) for served in ended],
            np.int64,
        ),
        priority=np.array(fields("priority"), np.int32),
        instance=places,
        instance_names=tuple(map(str, numbers)),
        held_s=column([served.sent_s for served in ended]),
        ttft_s=column([served.first_token_s for served in ended]),
        e2e_s=column([served.last_token_s for served in ended]),
        **columns,
    )
