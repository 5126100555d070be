"""A decision log, fed back: the same decisions, and what other policies would have done."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any, Final

from irouter._core import Decision, IrouterError
from irouter._core import Router as Core
from irouter.evaluation.policies import choice_of
from irouter.serving.decision_log import LOG_VERSION
from irouter.serving.strangers import STRANGER_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_REQUEST: Final = (
    "prompt_tokens",
    "max_tokens",
    "predicted_tokens",
    "predicted_quantiles",
    "prompt_blocks",
    "priority",
    "deadline_s",
    "tenant",
    "session",
)
_INSTANCE_EVENTS: Final = {"joined", "draining", "resumed", "left", "report"}
_REPORT: Final = ("waiting", "running", "kv_usage", "queued_prefill_tokens")


@dataclasses.dataclass(slots=True)
class Shadow:
    """What another policy would have done at the decisions of the log.

    It is asked each time in the state that the log's own decisions led to.

    Attributes:
        policy: Its name.
        same: Dispatches that it would have made alike.
        elsewhere: Dispatches that it would have made to another instance.
        other_request: Dispatches where it would have sent another request first.
        held: Dispatches where it would have held.
        sent: Holds where it would have dispatched.
    """

    policy: str
    same: int = 0
    elsewhere: int = 0
    other_request: int = 0
    held: int = 0
    sent: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    """What came of a replay.

    Attributes:
        policy: The policy that took the decisions of the log.
        requests: Requests taken in.
        dispatches: Dispatches that were compared.
        holds: Holds that were compared.
        difference: The first decision that came out different, after which nothing is compared; None when all
            are the same.
        complete: Whether the log goes on to the end of its router.
        shadows: What other policies would have done.
    """

    policy: str
    requests: int
    dispatches: int
    holds: int
    difference: str | None
    complete: bool
    shadows: tuple[Shadow, ...]


def replay(log: Path, *, shadows: Sequence[str] = ()) -> Replay:
    """Feeds a decision log to a new router with the log's policy, and compares every decision to the last bit.

    Args:
        log: The log.
        shadows: Policies that are asked at every decision, and then follow the log's.

    Raises:
        IrouterError: For what is no log, a log of a policy that cannot be made again, or a bad line, by its number.
    """
    header, records = read_records(log)
    if header.get("policy") is None:
        found = header.get("label")
        raise IrouterError(
            f"{log.name}: its policy `{found}` is a function or a program, expected one by name"
        )
    own = _Follower(header, header["policy"])
    others = [(Shadow(name), _Follower(header, choice_of(name).to_spec())) for name in shadows]
    counts = dict.fromkeys(("submitted", "dispatched", "placed", "held"), 0)
    difference, complete = None, True
    for line, record in records:
        if record.get("event") == "incomplete":
            complete = False
            break
        try:
            for shadow, follower in others:
                follower.shadow(record, shadow)
            difference = own.repeat(record)
        except (KeyError, TypeError) as error:
            raise IrouterError(f"{log.name}: line {line}: it lacks or mistakes {error}") from error
        except IrouterError as error:
            raise IrouterError(f"{log.name}: line {line}: {error}") from error
        if difference is not None:
            difference = f"line {line}: {difference}"
            break
        if record["event"] in counts and record.get("request", 0) < STRANGER_NUMBERS:
            counts[record["event"]] += 1
    return Replay(
        policy=header["label"],
        requests=counts["submitted"],
        dispatches=counts["dispatched"] + counts["placed"],
        holds=counts["held"],
        difference=difference,
        complete=complete,
        shadows=tuple(shadow for shadow, _ in others),
    )


def read_records(log: Path) -> tuple[dict[str, Any], Iterator[tuple[int, dict[str, Any]]]]:
    """The header of a decision log, and its records with the numbers of their lines.

    Raises:
        IrouterError: For what is no log; on the way, for a line that is no JSON object, by its number.
    """
    records = _records(log)
    _, header = next(records, (0, {}))
    if header.get("log") != "irouter" or header.get("version") != LOG_VERSION:
        raise IrouterError(f"{log.name}: expected a decision log of version {LOG_VERSION}")
    return header, records


def _records(log: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with log.open(encoding="utf-8") as lines:
        for line, text in enumerate(lines, start=1):
            try:
                record = json.loads(text)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise IrouterError(
                    f"{log.name}: line {line}: expected a JSON object, found {text.strip()[:60]!r}"
                )
            yield line, record


class _Follower:
    """A state machine that is told what the log tells."""

    def __init__(self, header: dict[str, Any], policy: str) -> None:
        weights = {int(tenant): weight for tenant, weight in header["tenant_weights"].items()}
        settings = {name: header[name] for name in ("seed", "max_hold_s", "overtaking_s", "dispatch_delay_s")}
        self._core = Core([], policy, tenant_weights=weights, **settings)
        self._keys: dict[int, int] = {}

    def repeat(self, record: dict[str, Any]) -> str | None:
        """Takes the decision of a record anew, or takes in its event; what is different, if anything is."""
        now, event = record["at_s"], record["event"]
        if event == "placed":
            outcome: Decision | float | None = self._core.place(
                self._keys[record["request"]], now_s=now, excluded=record["excluded"]
            )
        elif event in {"dispatched", "held"}:
            outcome = self._core.decide(now)
        else:
            self._take_in(record)
            return None
        expected = _facts(record)
        if isinstance(outcome, Decision):
            found: tuple[object, ...] = (
                outcome.request_id,
                outcome.instance,
                outcome.waited_s,
                outcome.cached_tokens,
                outcome.fallback,
                None if outcome.impact is None else outcome.impact.explanation,
            )
        else:
            found = (None if outcome is None or math.isinf(outcome) else outcome,)
        return None if found == expected else f"{event} {expected} in the log, {found} in the replay"

    def shadow(self, record: dict[str, Any], shadow: Shadow) -> None:
        """Asks what the policy would do at a decision of the log, and follows the log."""
        now, event = record["at_s"], record["event"]
        if event not in {"dispatched", "placed", "held"}:
            self._take_in(record)
            return
        choice = self._core.preview(now)
        if event == "held":
            shadow.sent += choice is not None
            return
        key = self._keys[record["request"]]
        if choice is None:
            shadow.held += 1
        elif choice[0] != key:
            shadow.other_request += 1
        elif choice[1] == record["instance"]:
            shadow.same += 1
        else:
            shadow.elsewhere += 1
        self._core.dispatch(key, record["instance"], now_s=now)

    def _take_in(self, record: dict[str, Any]) -> None:
        core, now, event = self._core, record["at_s"], record["event"]
        if event == "submitted":
            number = record["request"]
            self._keys[number] = core.submit(number, now_s=now, **{name: record[name] for name in _REQUEST})
        elif event == "adopted":
            core.dispatch(self._keys[record["request"]], record["instance"], now_s=now)
        elif event in _INSTANCE_EVENTS:
            self._take_in_of_instance(event, record, now)
        else:
            key = self._keys[record["request"]]
            if event == "first_token":
                core.first_token(key, now_s=now, cached_tokens=record["cached_tokens"])
            elif event == "progress":
                core.progress(key, record["tokens"], now_s=now)
            elif event == "finished":
                core.finished(key, now_s=now, tokens=record["tokens"])
            elif event == "failed":
                core.failed(key, now_s=now)
            elif event == "cancelled":
                core.cancelled(key, now_s=now)
            else:
                raise IrouterError(f"event {event!r}, expected one that this version writes")
            if event not in {"first_token", "progress"}:
                del self._keys[record["request"]]

    def _take_in_of_instance(self, event: str, record: dict[str, Any], now: float) -> None:
        core, instance = self._core, record["instance"]
        if event == "joined":
            core.join(instance, record["profile"], now_s=now)
        elif event == "draining":
            core.drain(instance, now_s=now)
        elif event == "resumed":
            core.resume(instance, now_s=now)
        elif event == "report":
            core.report(instance, now_s=now, **{name: record[name] for name in _REPORT})
        else:
            for number in core.leave(instance, now_s=now):
                del self._keys[number]


def _facts(record: dict[str, Any]) -> tuple[object, ...]:
    if record["event"] == "held":
        return (record["until_s"],)
    names = ("request", "instance", "waited_s", "cached_tokens", "fallback", "impact")
    return tuple(record[name] for name in names)
