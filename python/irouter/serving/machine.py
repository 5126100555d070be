"""The state machine in real time: its requests, with an alarm for what is due."""

from __future__ import annotations

import collections
import heapq
import math
import os
import time
import weakref
from typing import TYPE_CHECKING, Any

from irouter._core import Decision, IrouterError
from irouter.serving.attendant import Attendant
from irouter.serving.clocked_core import ClockedCore
from irouter.serving.decision_log import expected
from irouter.serving.errors import ClosedError, DeadlineError, NoInstanceError, QueueFullError
from irouter.serving.lease import Ending, Lease, RouterStatistics, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

    from irouter._core import Impact
    from irouter._core import Router as Core
    from irouter.serving.clocked_core import Observer
    from irouter.serving.decision_log import DecisionLog
    from irouter.serving.instances import LoadedProfile
    from irouter.serving.limits import Limits
    from irouter.serving.request import ReadyRequest

    Wake = Callable[[], object]

# Leases that nothing was heard of are looked for this often in a time to live.
_SWEEPS = 4
# How much one request changes what others are taken to be like.
_WEIGHT = 0.02
# While requests wait, instances that start slowly are looked at this often.
_SLOW_START_TICK_S = 1.0
# What each ending is to the state machine.
_EVENTS = {Ending.FINISHED: "finished", Ending.FAILED: "failed", Ending.EXPIRED: "failed"}


class Machine(ClockedCore):
    """Serialises every call into the state machine by one clock, and hands decisions to who waits.

    Every method that takes a `Ticket` may be called at any time, from any thread, and does nothing once it has ended.
    """

    def __init__(
        self,
        make_core: Callable[[], Core],
        limits: Limits,
        log: DecisionLog | None,
        observe: Observer | None = None,
        *,
        shared: bool = False,
    ) -> None:
        super().__init__(make_core, log, observe, shared=shared)
        self.endings: collections.Counter[Ending] = collections.Counter()
        self.submitted = 0
        self._fallbacks_before = 0
        self._limits = limits
        self.failed_predictions = 0
        self._waiting: dict[int, Ticket] = {}
        self._leased: dict[int, Ticket] = {}
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._wakes: list[Wake] = []
        self._hold_until_s: float | None = None
        self._sweep_s: float | None = None
        self._attendant = Attendant(self._ring, self.end)
        weakref.finalize(self, self._attendant.close)
        _MACHINES.add(self)

    # ------------------------------------------------------------------------------------------------- requests

    def submit(
        self, request: ReadyRequest, make_wake: Callable[[], Wake], exclude: tuple[str, ...] = ()
    ) -> Ticket:
        """Takes a request in.

        When it has to wait, what `make_wake` returns is called as soon as the ticket has a decision or an error;
        when not, `make_wake` is not called. A request that excludes instances has been through the queue before and
        goes at once.

        Raises:
            IrouterError: For a request that fits no instance; `QueueFullError` when it may not wait;
                `NoInstanceError` when all are excluded; `ClosedError`.
        """
        with self._guard:
            ticket = self._take_in(request, now := self._now())
            if exclude:
                self._place(ticket, now, exclude)
                return ticket
            self._pump(now)
            if ticket.ending is None and ticket.decision is None:
                if len(self._waiting) > self._limits.max_waiting:
                    self._end(ticket, Ending.REFUSED, now)
                    raise QueueFullError(f"{self._limits.max_waiting} requests wait, expected fewer")
                ticket.wake = make_wake()
                if ticket.deadline_s is not None:
                    self._await_deadline(ticket, ticket.deadline_s)
            return ticket

    def place(self, request: ReadyRequest, *, overtake: bool, exclude: tuple[str, ...]) -> Ticket | None:
        """Takes a request in and sends it at once; None when others wait and it must not overtake them.

        Raises:
            NoInstanceError: When no instance outside of `exclude` can take it.
            IrouterError: For a request that fits no instance; `ClosedError`.
        """
        with self._guard:
            self._check_open()
            if self._waiting and not overtake:
                return None
            ticket = self._take_in(request, now := self._now())
            self._place(ticket, now, exclude)
            return ticket

    def adopt(self, request: ReadyRequest, url: str, produced_tokens: int) -> Ticket:
        """Takes in a request that is on an instance already, where another router had sent it.

        Raises:
            IrouterError: For an instance that is not there, or a request that does not fit.
        """
        with self._guard:
            number = self.table.number(url)
            ticket = self._take_in(request, now := self._now())
            with self._gates.opened(number, now):
                try:
                    decision = self._core.dispatch(ticket.key, number, now_s=now)
                except IrouterError:
                    self._end(ticket, Ending.REFUSED, now)
                    raise
                self._dispatched(decision, now, 0.0, event="adopted")
            if produced_tokens:
                self._progress(ticket, produced_tokens, now)
            return ticket

    def impact(self, request: ReadyRequest) -> list[tuple[str, Impact]]:
        """What placing a request would cost, by URL; the request is forgotten.

        Raises:
            IrouterError: For a request that fits no instance; `ClosedError`.
        """
        with self._guard:
            self._check_open()
            now = self._now()
            key = self._core.submit(self.submitted, now_s=now, **request.fields)
            try:
                impacts = self._core.impact(key, now_s=now)
            finally:
                self._core.cancelled(key, now_s=now)
            return [(self.table.url(impact.instance), impact) for impact in impacts]

    def lease(self, ticket: Ticket) -> Lease:
        """The lease of a ticket that was decided.

        Raises:
            IrouterError: What became of the ticket instead.
        """
        if ticket.decision is None:
            raise ticket.error or ClosedError("the request ended while it waited")
        return Lease(self, ticket, ticket.decision)

    def first_token(self, ticket: Ticket, cached_tokens: int | None) -> None:
        """The first token of a request came."""
        with self._guard:
            if ticket.ending is None and ticket.produced_tokens == 0:
                now = self._now()
                self._core.first_token(ticket.key, now_s=now, cached_tokens=cached_tokens)
                ticket.produced_tokens, ticket.news_s, self._changed = 1, now, True
                self._note(now, "first_token", request=ticket.number, cached_tokens=cached_tokens)

    def progress(self, ticket: Ticket, tokens: int) -> None:
        """A request has produced so many tokens."""
        with self._guard:
            if ticket.ending is None and tokens > ticket.produced_tokens:
                self._progress(ticket, tokens, self._now())

    def end(self, ticket: Ticket, ending: Ending, *, tokens: int | None = None, reason: str = "") -> None:
        """A request ends, unless it has ended before."""
        if ticket.ending is None and self._closed is None:
            with self._guard:
                ended = self._end(ticket, ending, self._now(), tokens=tokens, reason=reason)
            if ended and ending is Ending.FINISHED and not ticket.teach(tokens):
                self.failed_predictions += 1

    def end_soon(self, ticket: Ticket, ending: Ending) -> None:
        """A request ends, by the attendant: this takes no lock, so that finalisers can call it wherever they run."""
        if ticket.ending is None and self._closed is None:
            self._attendant.leave(ticket, ending)

    # -------------------------------------------------------------------------------------------------- looking

    def statistics(self) -> RouterStatistics:
        """What it has done so far."""
        return RouterStatistics(
            submitted=self.submitted,
            waiting=len(self._waiting),
            in_flight=len(self._leased),
            endings=dict(self.endings),
            fallbacks=self._fallbacks_before + self._core.fallbacks,
            failed_predictions=self.failed_predictions,
            degraded=self.degraded,
        )

    @property
    def profiles(self) -> list[LoadedProfile]:
        """Profiles of the instances that are there."""
        return self.table.profiles

    def close(self, why: str = "the router was closed") -> None:
        """Refuses all that waits and all that comes; leases that live are forgotten."""
        with self._guard:
            if self._closed is not None:
                return
            now = self._now()
            for ticket in list(self._waiting.values()):
                ticket.error = ClosedError(why)
                self._end(ticket, Ending.REFUSED, now)
            self._closed = why
        self._attendant.close()
        if self._log is not None:
            self._log.close()

    def abandon(self) -> None:
        """Becomes useless in a process that was forked from the router's own."""
        self._closed = (
            "the router belongs to the process that this one was forked from: make one after the fork"
        )
        self._guard.renew()

    # ------------------------------------------------------------------------------------------ while it is held

    def _now(self) -> float:
        now = super()._now()
        if now < self._limits.renew_after_s:
            return now
        self._renew(now)
        return super()._now()

    def _renew(self, passed_s: float) -> None:
        """Moves all that lives into a new state machine, whose clock begins anew: that of the old one would run out.

        What the policy and the twins have learned begins anew too, and the decision log ends.
        """
        if self._log is not None:
            self._log.end("the clock of the router begins anew")
        self._fallbacks_before += self._core.fallbacks
        core = self._core = self._make_core()
        self._strangers.forget()
        self._reports.clear()
        self.table.join_all(core)
        tickets = sorted([*self._leased.values(), *self._waiting.values()], key=lambda ticket: ticket.number)
        for ticket in tickets:
            if ticket.deadline_s is not None:
                ticket.deadline_s -= passed_s
            ticket.news_s -= passed_s
            ticket.key = core.submit(ticket.number, now_s=0.0, deadline_s=ticket.deadline_s, **ticket.fields)
            if ticket.decision is not None:
                core.dispatch(ticket.key, ticket.decision.instance, now_s=0.0)
                if ticket.produced_tokens:
                    core.progress(ticket.key, ticket.produced_tokens, now_s=0.0)
        self.table.all_leave_again(core)
        self._gates.repeat(0.0)
        self._slow_start.renew(passed_s)
        self._leased = {ticket.key: ticket for ticket in tickets if ticket.decision is not None}
        self._waiting = {ticket.key: ticket for ticket in tickets if ticket.decision is None}
        self._deadlines = [(at_s - passed_s, number, ticket) for at_s, number, ticket in self._deadlines]
        self._sweep_s = None if self._sweep_s is None else self._sweep_s - passed_s
        self._hold_until_s = None
        self._changed = True
        self._epoch_s += passed_s

    def _take_in(self, request: ReadyRequest, now: float) -> Ticket:
        self._check_open()
        self.failed_predictions += request.foresight.failed
        deadline_s = None if request.deadline_s is None else now + request.deadline_s
        number = self.submitted
        key = self._core.submit(number, now_s=now, deadline_s=deadline_s, **request.fields)
        self.submitted += 1
        self._prompt_tokens += _WEIGHT * (request.fields["prompt_tokens"] - self._prompt_tokens)
        self._note(now, "submitted", request=number, deadline_s=deadline_s, **request.fields)
        ticket = Ticket(number, key, request)
        ticket.deadline_s = deadline_s
        self._waiting[key] = ticket
        self._attendant.start()
        return ticket

    def _pump(self, now: float) -> None:
        """Takes every decision that can be taken now."""
        self._expire_slots(now)
        self._changed = False
        self._hold_until_s = None
        while self._waiting:
            started = time.perf_counter()
            self._follow_ramps(now)
            if not self._gates.any_open(number for number, _ in self.table.present()):
                return
            try:
                outcome = self._core.decide(now)
            except IrouterError as error:
                # Nothing would ever serve what waits: its callers are to hear of it.
                for ticket in list(self._waiting.values()):
                    ticket.error = error
                    self._end(ticket, Ending.REFUSED, now)
                return
            if isinstance(outcome, Decision):
                self._dispatched(outcome, now, time.perf_counter() - started)
            elif outcome is not None:
                self._note(now, "held", until_s=None if math.isinf(outcome) else outcome)
                self._hold_until_s = None if math.isinf(outcome) else outcome
                return

    def _place(self, ticket: Ticket, now: float, exclude: tuple[str, ...]) -> None:
        self._expire_slots(now)
        excluded = self.table.numbers(exclude)
        started = time.perf_counter()
        self._follow_ramps(now, beside=excluded)
        try:
            decision = self._core.place(ticket.key, now_s=now, excluded=excluded)
        except IrouterError as error:
            self._end(ticket, Ending.REFUSED, now)
            raise NoInstanceError(str(error)) from error
        self._dispatched(decision, now, time.perf_counter() - started, event="placed", excluded=excluded)

    def _progress(self, ticket: Ticket, tokens: int, now: float) -> None:
        self._core.progress(ticket.key, tokens, now_s=now)
        ticket.produced_tokens, ticket.news_s, self._changed = tokens, now, True
        self._note(now, "progress", request=ticket.number, tokens=tokens)

    def _dispatched(
        self, decision: Decision, now: float, decide_s: float, *, event: str = "dispatched", **fields: Any
    ) -> None:
        ticket = self._waiting.pop(decision.key)
        ticket.decision, ticket.url = decision, self.table.url(decision.instance)
        ticket.decide_s, ticket.news_s = decide_s, now
        self._leased[decision.key] = ticket
        if self._sweep_s is None and math.isfinite(self._limits.lease_ttl_s):
            self._sweep_s = now + self._limits.lease_ttl_s / _SWEEPS
        self._note(
            now,
            event,
            request=ticket.number,
            instance=decision.instance,
            waited_s=decision.waited_s,
            cached_tokens=decision.cached_tokens,
            fallback=decision.fallback,
            **expected(decision.impact),
            **fields,
        )
        self._follow_slots(decision.instance, now)
        self._wake(ticket)

    def _end(
        self, ticket: Ticket, ending: Ending, now: float, *, tokens: int | None = None, reason: str = ""
    ) -> bool:
        if ticket.ending is not None:
            return False
        event = "cancelled" if ticket.decision is None else _EVENTS.get(ending, "cancelled")
        if event == "finished":
            tokens = ticket.produced_tokens or None if tokens is None else tokens
            self._core.finished(ticket.key, now_s=now, tokens=tokens)
            self._output_tokens += _WEIGHT * ((tokens or 1) - self._output_tokens)
        elif event == "failed":
            self._core.failed(ticket.key, now_s=now)
        else:
            self._core.cancelled(ticket.key, now_s=now)
        self._note(now, event, request=ticket.number, ending=ending, tokens=tokens, reason=reason)
        del (self._waiting if ticket.decision is None else self._leased)[ticket.key]
        self._changed = True
        if ticket.decision is not None:
            self._follow_slots(ticket.decision.instance, now)
        self._ended(ticket, ending)
        return True

    def _lost(self, numbers: set[int]) -> None:
        for ticket in [ticket for ticket in self._leased.values() if ticket.number in numbers]:
            del self._leased[ticket.key]
            self._ended(ticket, Ending.LOST)

    def _ended(self, ticket: Ticket, ending: Ending) -> None:
        ticket.ending = ending
        self.endings[ending] += 1
        self._wake(ticket)

    def _wake(self, ticket: Ticket) -> None:
        if ticket.wake is not None:
            wake, ticket.wake = ticket.wake, None
            self._wakes.append(lambda: self._call(wake, ticket))

    def _call(self, wake: Wake, ticket: Ticket) -> None:
        try:
            wake()
        except RuntimeError:
            # The event loop of who waited is closed: nobody will take the lease.
            self.end_soon(ticket, Ending.DROPPED)

    def _await_deadline(self, ticket: Ticket, at_s: float) -> None:
        if len(self._deadlines) > 2 * len(self._waiting) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[2].key in self._waiting]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (at_s, ticket.number, ticket))

    def _settle(self) -> list[Wake]:
        if self._closed is None:
            if self._changed:
                self._pump(self._now())
            while self._deadlines and self._deadlines[0][2].key not in self._waiting:
                heapq.heappop(self._deadlines)
            ramps_s = self._now() + _SLOW_START_TICK_S if self._waiting and self._slow_start.active else None
            times = (
                self._hold_until_s,
                self._sweep_s,
                self._deadlines[0][0] if self._deadlines else None,
                ramps_s,
            )
            for at_s in times:
                if at_s is not None:
                    self._attendant.ring_at(self._epoch_s + at_s)
        wakes, self._wakes = self._wakes, []
        return wakes

    def _ring(self) -> None:
        with self._guard:
            if self._closed is not None:
                return
            now = self._now()
            if self._slow_start.active or (self._hold_until_s is not None and self._hold_until_s <= now):
                self._changed = True
            while self._deadlines and self._deadlines[0][0] <= now:
                *_, ticket = heapq.heappop(self._deadlines)
                if ticket.key in self._waiting:
                    ticket.error = DeadlineError(f"request {ticket.number} still waited at its deadline")
                    self._end(ticket, Ending.OVERDUE, now)
            if self._sweep_s is not None and self._sweep_s <= now:
                expired = now - self._limits.lease_ttl_s
                for ticket in [ticket for ticket in self._leased.values() if ticket.news_s <= expired]:
                    self._end(ticket, Ending.EXPIRED, now)
                self._sweep_s = now + self._limits.lease_ttl_s / _SWEEPS if self._leased else None


_MACHINES: weakref.WeakSet[Machine] = weakref.WeakSet()


def _abandon_all() -> None:
    for machine in list(_MACHINES):
        machine.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
