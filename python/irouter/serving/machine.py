"""The state machine in real time: one clock, one lock, an alarm and a log around `irouter._core.Router`."""

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
from irouter.serving.decision_log import expected
from irouter.serving.errors import ClosedError, DeadlineError, NoInstanceError, QueueFullError
from irouter.serving.guard import Guard
from irouter.serving.instances import InstanceTable
from irouter.serving.lease import Ending, Lease, Ticket
from irouter.serving.slow_start import SlowStart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from irouter._core import Impact
    from irouter._core import Router as Core
    from irouter.serving.decision_log import DecisionLog
    from irouter.serving.instances import InstanceStatus, LoadedProfile
    from irouter.serving.limits import Limits
    from irouter.serving.request import PreparedRequest
    from irouter.serving.slow_start import Ramp

    Observer = Callable[[dict[str, Any]], object]
    Wake = Callable[[], object]

# Leases that nothing was heard of are looked for this often in a time to live.
_SWEEPS = 4
# While requests wait, instances that start slowly are looked at this often.
_SLOW_START_TICK_S = 1.0
# What each ending is to the state machine.
_EVENTS = {Ending.FINISHED: "finished", Ending.FAILED: "failed", Ending.EXPIRED: "failed"}


class Machine:
    """Serialises every call into the state machine by one clock, and hands decisions to who waits.

    Every method that takes a `Ticket` may be called at any time, from any thread, and does nothing once it has ended.
    """

    def __init__(
        self,
        make_core: Callable[[], Core],
        limits: Limits,
        log: DecisionLog | None,
        observe: Observer | None = None,
    ) -> None:
        self.table = InstanceTable()
        self._slow_start = SlowStart()
        self.endings: collections.Counter[Ending] = collections.Counter()
        self.submitted = 0
        self._make_core = make_core
        self._core = make_core()
        self._fallbacks_before = 0
        self._limits = limits
        self._log = log
        self._observers: list[Observer] = [] if log is None else [log.write]
        if observe is not None:
            self._observers.append(observe)
        self.failed_predictions = 0
        self._epoch_s = time.monotonic()
        self._waiting: dict[int, Ticket] = {}
        self._leased: dict[int, Ticket] = {}
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._wakes: list[Wake] = []
        self._changed = False
        self._hold_until_s: float | None = None
        self._sweep_s: float | None = None
        self._closed: str | None = None
        self._guard = Guard(self._settle)
        self._attendant = Attendant(self._ring, self.end)
        weakref.finalize(self, self._attendant.close)
        _MACHINES.add(self)

    # ------------------------------------------------------------------------------------------------- requests

    def submit(self, request: PreparedRequest, make_wake: Callable[[], Wake]) -> Ticket:
        """Takes a request in.

        When it has to wait, what `make_wake` returns is called as soon as the ticket has a decision or an error;
        when not, `make_wake` is not called.

        Raises:
            IrouterError: For a request that fits no instance; `QueueFullError` when it may not wait; `ClosedError`.
        """
        with self._guard:
            ticket = self._take_in(request, now := self._now())
            self._pump(now)
            if ticket.ending is None and ticket.decision is None:
                if len(self._waiting) > self._limits.max_waiting:
                    self._end(ticket, Ending.REFUSED, now)
                    raise QueueFullError(f"{self._limits.max_waiting} requests wait, expected fewer")
                ticket.wake = make_wake()
                if ticket.deadline_s is not None:
                    self._await_deadline(ticket, ticket.deadline_s)
            return ticket

    def place(self, request: PreparedRequest, *, overtake: bool, exclude: tuple[str, ...]) -> Ticket | None:
        """Takes a request in and sends it at once; None when others wait and it must not overtake them.

        Raises:
            NoInstanceError: When no instance outside of `exclude` can take it.
            IrouterError: For a request that fits no instance; `ClosedError`.
        """
        with self._guard:
            self._check_open()
            if self._waiting and not overtake:
                return None
            excluded = self.table.numbers(exclude)
            ticket = self._take_in(request, now := self._now())
            started = time.perf_counter()
            if self._slow_start.active:
                self._let_in(
                    self._slow_start.changes(self.table, self._core.in_flight, now, beside=excluded), now
                )
            try:
                decision = self._core.place(ticket.key, now_s=now, excluded=excluded)
            except IrouterError as error:
                self._end(ticket, Ending.REFUSED, now)
                raise NoInstanceError(str(error)) from error
            self._dispatched(decision, now, time.perf_counter() - started, excluded=excluded)
            return ticket

    def impact(self, request: PreparedRequest) -> list[tuple[str, Impact]]:
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
                now = self._now()
                self._core.progress(ticket.key, tokens, now_s=now)
                ticket.produced_tokens, ticket.news_s, self._changed = tokens, now, True
                self._note(now, "progress", request=ticket.number, tokens=tokens)

    def end(self, ticket: Ticket, ending: Ending, *, tokens: int | None = None, reason: str = "") -> None:
        """A request ends, unless it has ended before."""
        if ticket.ending is None and self._closed is None:
            with self._guard:
                ended = self._end(ticket, ending, self._now(), tokens=tokens, reason=reason)
            tokens = tokens or ticket.produced_tokens
            if ended and ending is Ending.FINISHED and tokens and ticket.learn is not None:
                # Outside of the lock: a predictor takes its time.
                try:
                    ticket.learn(tokens, cut=tokens >= ticket.max_tokens)
                except Exception:  # noqa: BLE001 - whatever fails in a predictor must not stop routing; it is counted
                    self.failed_predictions += 1

    def end_soon(self, ticket: Ticket, ending: Ending) -> None:
        """A request ends, by the attendant: this takes no lock, so that finalisers can call it wherever they run."""
        if ticket.ending is None and self._closed is None:
            self._attendant.leave(ticket, ending)

    # ------------------------------------------------------------------------------------------------ instances

    def join(self, url: str, profile: LoadedProfile, ramp: Ramp) -> None:
        """An instance takes requests from now on, few at first where its ramp is long."""
        with self._guard:
            self._check_open()
            number, now = self.table.free_number(url), self._now()
            self._core.join(number, profile.text, now_s=now)
            self.table.join(number, url, profile)
            self._slow_start.begin(number, ramp, now)
            self._changed = True
            self._note(now, "joined", instance=number, url=url, profile=profile.text)

    def drain(self, url: str) -> None:
        """An instance takes no more requests."""
        with self._guard:
            self._check_open()
            number, now = self.table.number(url), self._now()
            self._let_in(self._slow_start.end(number), now)
            self._core.drain(number, now_s=now)
            self.table.set_status(number, "draining")
            self._changed = True
            self._note(now, "draining", instance=number)

    def resume(self, url: str) -> None:
        """An instance that was draining takes requests again."""
        with self._guard:
            self._check_open()
            number, now = self.table.number(url), self._now()
            self._core.resume(number, now_s=now)
            self.table.set_status(number, "ready")
            self._changed = True
            self._note(now, "resumed", instance=number)

    def leave(self, url: str) -> None:
        """An instance is gone, and the leases on it are lost."""
        with self._guard:
            self._check_open()
            number, now = self.table.number(url), self._now()
            self._let_in(self._slow_start.end(number), now)
            lost = set(self._core.leave(number, now_s=now))
            self.table.set_status(number, "gone")
            self._changed = True
            self._note(now, "left", instance=number)
            for ticket in [ticket for ticket in self._leased.values() if ticket.number in lost]:
                del self._leased[ticket.key]
                self._ended(ticket, Ending.LOST)

    def report(self, url: str, figures: dict[str, Any]) -> None:
        """An engine reported its metrics."""
        with self._guard:
            self._check_open()
            number, now = self.table.number(url), self._now()
            self._core.report(number, now_s=now, **figures)
            self._changed = True
            self._note(now, "report", instance=number, **figures)

    # -------------------------------------------------------------------------------------------------- looking

    @property
    def waiting(self) -> int:
        """Requests at the router."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Requests on instances."""
        return len(self._leased)

    def instances(self) -> list[InstanceStatus]:
        """Every instance, by number."""
        with self._guard:
            return self.table.describe(self._core.instances, self._slow_start.shares(self._now()))

    @property
    def fallbacks(self) -> int:
        """How often the policy failed."""
        return self._fallbacks_before + self._core.fallbacks

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

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ClosedError(self._closed)

    def _now(self) -> float:
        now = time.monotonic() - self._epoch_s
        if now < self._limits.renew_after_s:
            return now
        self._renew(now)
        return time.monotonic() - self._epoch_s

    def _renew(self, passed_s: float) -> None:
        """Moves all that lives into a new state machine, whose clock begins anew: that of the old one would run out.

        What the policy and the twins have learned begins anew too, and the decision log ends.
        """
        if self._log is not None:
            self._log.end("the clock of the router begins anew")
        self._fallbacks_before += self._core.fallbacks
        core = self._core = self._make_core()
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
        self.table.restore_statuses(core)
        self._slow_start.renew(passed_s)
        self._leased = {ticket.key: ticket for ticket in tickets if ticket.decision is not None}
        self._waiting = {ticket.key: ticket for ticket in tickets if ticket.decision is None}
        self._deadlines = [(at_s - passed_s, number, ticket) for at_s, number, ticket in self._deadlines]
        self._sweep_s = None if self._sweep_s is None else self._sweep_s - passed_s
        self._hold_until_s = None
        self._changed = True
        self._epoch_s += passed_s

    def _note(self, now: float, event: str, **fields: Any) -> None:
        if self._observers:
            record = {"at_s": now, "event": event, **fields}
            for observe in self._observers:
                observe(record)

    def _let_in(self, changes: Iterable[tuple[int, bool]], now: float) -> None:
        """Lets instances take requests or none, without a word of it in the table: it is not the operator's wish."""
        for number, takes in changes:
            (self._core.resume if takes else self._core.drain)(number, now_s=now)
            self._note(now, "resumed" if takes else "draining", instance=number)

    def _take_in(self, request: PreparedRequest, now: float) -> Ticket:
        self._check_open()
        self.failed_predictions += request.foresight.failed
        deadline_s = None if request.deadline_s is None else now + request.deadline_s
        number = self.submitted
        key = self._core.submit(number, now_s=now, deadline_s=deadline_s, **request.fields)
        self.submitted += 1
        self._note(now, "submitted", request=number, deadline_s=deadline_s, **request.fields)
        ticket = Ticket(number, key, request)
        ticket.deadline_s = deadline_s
        self._waiting[key] = ticket
        self._attendant.start()
        return ticket

    def _pump(self, now: float) -> None:
        """Takes every decision that can be taken now."""
        self._changed = False
        self._hold_until_s = None
        while self._waiting and self.table.ready:
            started = time.perf_counter()
            if self._slow_start.active:
                self._let_in(self._slow_start.changes(self.table, self._core.in_flight, now), now)
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

    def _dispatched(
        self, decision: Decision, now: float, decide_s: float, *, excluded: list[int] | None = None
    ) -> None:
        ticket = self._waiting.pop(decision.key)
        ticket.decision, ticket.url = decision, self.table.url(decision.instance)
        ticket.decide_s, ticket.news_s = decide_s, now
        self._leased[decision.key] = ticket
        if self._sweep_s is None and math.isfinite(self._limits.lease_ttl_s):
            self._sweep_s = now + self._limits.lease_ttl_s / _SWEEPS
        self._note(
            now,
            "dispatched" if excluded is None else "placed",
            request=ticket.number,
            instance=decision.instance,
            waited_s=decision.waited_s,
            cached_tokens=decision.cached_tokens,
            fallback=decision.fallback,
            **expected(decision.impact),
            **({} if excluded is None else {"excluded": excluded}),
        )
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
        elif event == "failed":
            self._core.failed(ticket.key, now_s=now)
        else:
            self._core.cancelled(ticket.key, now_s=now)
        self._note(now, event, request=ticket.number, ending=ending, tokens=tokens, reason=reason)
        del (self._waiting if ticket.decision is None else self._leased)[ticket.key]
        self._changed = True
        self._ended(ticket, ending)
        return True

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
