"""A lease: the right of one request to be on one instance."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from irouter._core import Decision, Impact, IrouterError
    from irouter.serving.face import MachineFace
    from irouter.serving.request import ReadyRequest

# Progress is told to the state machine when it passes a multiple of this, as in the simulator.
PROGRESS_TOKENS = 16


class Ending(enum.StrEnum):
    """How a request left the router."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DROPPED = "dropped"
    """Its lease was garbage collected."""
    EXPIRED = "expired"
    """Nothing was heard of it for the time to live of a lease."""
    LOST = "lost"
    """Its instance was removed."""
    REFUSED = "refused"
    """It was not allowed to wait."""
    OVERDUE = "overdue"
    """Its deadline passed while it waited."""


@dataclasses.dataclass(frozen=True, slots=True)
class RouterStatistics:
    """What a router has done.

    Attributes:
        submitted: Requests taken in.
        waiting: Requests at the router.
        in_flight: Requests on instances.
        endings: How the others ended.
        fallbacks: How often the policy failed and the least predicted work decided.
        failed_predictions: How often the predictor failed.
        degraded: Whether replicas of it on other hosts do not know of each other now.
    """

    submitted: int
    waiting: int
    in_flight: int
    endings: Mapping[Ending, int]
    fallbacks: int
    failed_predictions: int
    degraded: bool


class Ticket:
    """What the router keeps of one request. Changed only while the machine is guarded."""

    __slots__ = (
        "deadline_s",
        "decide_s",
        "decision",
        "ending",
        "error",
        "fields",
        "key",
        "learn",
        "max_tokens",
        "news_s",
        "number",
        "predict_s",
        "produced_tokens",
        "url",
        "wake",
    )

    def __init__(self, number: int, key: int, request: ReadyRequest) -> None:
        self.number = number
        self.key = key
        self.fields = request.fields
        self.deadline_s: float | None = None
        self.learn = request.foresight.learn
        self.max_tokens = request.max_tokens
        self.predict_s = request.foresight.seconds
        self.decide_s = 0.0
        self.decision: Decision | None = None
        self.url = ""
        self.ending: Ending | None = None
        self.error: IrouterError | None = None
        self.news_s = 0.0
        self.produced_tokens = 0
        self.wake: Callable[[], object] | None = None

    def teach(self, tokens: int | None) -> bool:
        """Tells the predictor how long a finished request became; says whether it could be told.

        Not while anything is locked: a predictor takes its time.
        """
        tokens = tokens or self.produced_tokens
        if tokens and self.learn is not None:
            try:
                self.learn(tokens, cut=tokens >= self.max_tokens)
            except Exception:  # noqa: BLE001 - whatever fails in a predictor must not stop routing; it is counted
                return False
        return True


class Lease:
    """One request's place on an instance. It ends once: by `finish`, `fail` or `cancel`, whichever comes first.

    As a context manager it ends on the way out: finished without an exception, cancelled with one that is no error
    (`asyncio.CancelledError`, `GeneratorExit`, `KeyboardInterrupt`), else failed. A lease that is garbage
    collected is cancelled; one of which nothing is heard for its time to live has failed. What is told of an
    ended lease changes nothing.
    """

    __slots__ = ("_decision", "_machine", "_ticket")

    def __init__(self, machine: MachineFace, ticket: Ticket, decision: Decision) -> None:
        self._machine = machine
        self._ticket = ticket
        self._decision = decision

    @property
    def url(self) -> str:
        """Base URL of the instance."""
        return self._ticket.url

    @property
    def number(self) -> int:
        """Number of the request, as the decision log has it."""
        return self._ticket.number

    @property
    def waited_s(self) -> float:
        """Seconds that it waited at the router."""
        return self._decision.waited_s

    @property
    def predict_s(self) -> float:
        """Seconds that the predictor took."""
        return self._ticket.predict_s

    @property
    def decide_s(self) -> float:
        """Seconds that the policy took for the decision."""
        return self._ticket.decide_s

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens expected in the instance's prefix cache."""
        return self._decision.cached_tokens

    @property
    def impact(self) -> Impact | None:
        """What the placement was expected to cost, when it was decided; None where it could not be estimated."""
        return self._decision.impact

    @property
    def fallback(self) -> bool:
        """Whether the policy failed and the least predicted work decided."""
        return self._decision.fallback

    @property
    def ending(self) -> Ending | None:
        """How it ended; None while it lives."""
        return self._ticket.ending

    def first_token(self, *, cached_tokens: int | None = None) -> None:
        """The first token came; `cached_tokens` when the engine says what its prefix cache gave."""
        if self._ticket.produced_tokens == 0:
            self._machine.first_token(self._ticket, cached_tokens)

    def progress(self, tokens: int) -> None:
        """So many tokens have been produced since the start.

        Raises:
            IrouterError: For more than `max_tokens`.
        """
        before = self._ticket.produced_tokens
        if tokens // PROGRESS_TOKENS > before // PROGRESS_TOKENS or before == 0 < tokens:
            self._machine.progress(self._ticket, tokens)
        elif tokens > before:
            self._ticket.produced_tokens = tokens

    def finish(self, *, tokens: int | None = None) -> None:
        """It is complete, with so many tokens; without a number the last progress counts."""
        self._machine.end(self._ticket, Ending.FINISHED, tokens=tokens)

    def fail(self, reason: str = "") -> None:
        """It broke on its instance; the decision log keeps the reason."""
        self._machine.end(self._ticket, Ending.FAILED, reason=reason)

    def cancel(self) -> None:
        """Its client went away."""
        self._machine.end(self._ticket, Ending.CANCELLED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        elif issubclass(kind, Exception) and not issubclass(kind, asyncio.CancelledError):
            self.fail(kind.__name__)
        elif issubclass(kind, GeneratorExit):
            # Where a generator is collected, not closed, the collector runs this and it must take no lock.
            self._machine.end_soon(self._ticket, Ending.CANCELLED)
        else:
            self.cancel()

    def __del__(self) -> None:
        if self._ticket.ending is None:
            self._machine.end_soon(self._ticket, Ending.DROPPED)

    def __repr__(self) -> str:
        state = "live" if self.ending is None else self.ending.value
        return f"Lease(number={self.number}, url={self.url!r}, {state})"
