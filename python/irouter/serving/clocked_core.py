"""One clock, one lock and a log around `irouter._core.Router`, and what concerns its instances."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

from irouter._core import IrouterError
from irouter.serving.errors import ClosedError
from irouter.serving.gates import Gates, Reason
from irouter.serving.guard import Guard
from irouter.serving.instances import InstanceTable
from irouter.serving.slow_start import SlowStart
from irouter.serving.strangers import NOBODY, Crowd, Load, Strangers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from irouter._core import Router as Core
    from irouter.serving.decision_log import DecisionLog
    from irouter.serving.instances import InstanceStatus, LoadedProfile
    from irouter.serving.slow_start import Ramp

    Observer = Callable[[dict[str, Any]], object]

# Requests of a chat, until some were seen.
_PROMPT_TOKENS, _OUTPUT_TOKENS = 512.0, 256.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Report:
    at_s: float
    excess: int


class ClockedCore:
    """The state machine with the time of the clock: instances come, drain, report and go.

    Requests are for who derives from it: it settles what changed whenever the lock is given back, and is told
    which requests went with an instance.
    """

    def __init__(
        self,
        make_core: Callable[[], Core],
        log: DecisionLog | None,
        observe: Observer | None,
        *,
        shared: bool,
    ) -> None:
        self.table = InstanceTable()
        self._make_core = make_core
        self._core = make_core()
        self._log = log
        self._observers = [*([] if log is None else [log.write]), *([] if observe is None else [observe])]
        self._epoch_s = time.monotonic()
        self._changed = False
        self._closed: str | None = None
        self._shared = shared
        self._gates = Gates(self._switch)
        self._slow_start = SlowStart()
        self._strangers = Strangers(self._gates.opened, self._note)
        self._reports: dict[int, _Report] = {}
        # The slots of each instance that this router may use.
        self._slots: Mapping[str, int] | None = None
        self._slots_expire_s = math.inf
        self._ran_out: Callable[[], object] | None = None
        self._replicated = self.degraded = False
        # Lengths of requests of late: what strangers are taken to be like.
        self._prompt_tokens, self._output_tokens = _PROMPT_TOKENS, _OUTPUT_TOKENS
        self._guard = Guard(self._settle)

    def join(self, url: str, profile: LoadedProfile | None, ramp: Ramp) -> None:
        """An instance takes requests from now on, few at first where its ramp is long."""
        if profile is None:
            raise IrouterError(f"instance {url} has no profile, expected one with it or for the router")
        with self._guard:
            self._check_open()
            self._join(url, profile, ramp, self._now())

    def drain(self, url: str) -> None:
        """An instance takes no more requests."""
        with self._guard:
            self._check_open()
            number, now = self.table.number(url), self._now()
            if self.table.status(number) == "draining":
                raise IrouterError(f"instance {url} is draining, expected one that is ready")
            self.table.set_status(number, "draining")
            self._gates.set(number, Reason.DRAINING, now, stands=True)
            self._slow_start.end(number)
            self._gates.set(number, Reason.STARTING, now, stands=False)
            # Shares of others go by the instances that are ready, whatever else stood against this one.
            self._changed = True

    def resume(self, url: str) -> None:
        """An instance that was draining takes requests again."""
        with self._guard:
            self._check_open()
            self._resume(self._draining(url), self._now())

    def leave(self, url: str) -> None:
        """An instance is gone, and the requests on it are lost."""
        with self._guard:
            self._check_open()
            self._leave(self.table.number(url), self._now())

    def take_back(self, url: str, ramp: Ramp) -> None:
        """An instance that was draining takes requests again: as one that joins, unless some are on it."""
        with self._guard:
            self._check_open()
            number, now = self._draining(url), self._now()
            if self._core.in_flight[number] > self._strangers.count(number):
                self._resume(number, now)
            else:
                profile = self.table.profile(number)
                self._leave(number, now)
                self._join(url, profile, ramp, now)

    def report(self, url: str, figures: dict[str, Any]) -> None:
        """An engine reported its metrics."""
        with self._guard:
            self._check_open()
            number, now = self.table.number(url), self._now()
            self._core.report(number, now_s=now, **figures)
            self._changed = True
            self._note(now, "report", instance=number, **figures)
            before = self._reports.get(number)
            excess = figures["waiting"] + figures["running"] - self._own(number)
            self._reports[number] = _Report(now, excess)
            if self._shared and not self._replicated:
                # What one report shows and the next does not came and went on its way here.
                strangers = max(0, min(excess, before.excess)) if before is not None else 0
                self._strangers.meet(self._core, number, self._crowd(number, strangers, figures), now)

    def report_lost(self, url: str) -> None:
        """An engine reports no more: what its last report showed is forgotten."""
        with self._guard:
            self._check_open()
            number, now = self.table.number(url), self._now()
            self._reports.pop(number, None)
            self._strangers.meet(self._core, number, NOBODY, now)
            self._changed = True

    # ------------------------------------------------------------------------------------------------- replicas

    def set_slots(
        self,
        slots: Mapping[str, int] | None,
        crowds: Mapping[str, Crowd] | None,
        *,
        expires_s: float = math.inf,
        degraded: bool = False,
        ran_out: Callable[[], object] | None = None,
    ) -> None:
        """Bounds the requests of this router on each instance by URL, and says what other replicas have there.

        Args:
            slots: Most requests on each; none where it is not named; None: no bound at all.
            crowds: What others have there; None: it is not known, and reports have to tell.
            expires_s: When the slots are nobody's any more, by `time.monotonic`: none is used from then on.
            degraded: Whether replicas do not know of each other.
            ran_out: Called, with the lock held, when an instance has no slot left.
        """
        with self._guard:
            self._check_open()
            now = self._now()
            self._slots, self._ran_out, self.degraded = slots, ran_out, degraded
            self._slots_expire_s = expires_s
            self._replicated = crowds is not None
            for number, url in self.table.present():
                if crowds is not None:
                    self._strangers.meet(self._core, number, crowds.get(url, NOBODY), now)
                self._follow_slots(number, now)
            self._changed = True

    def loads(self) -> dict[str, Load]:
        """What this router has on each instance that is there, by URL."""
        with self._guard:
            figures = self._core.instances
            return {url: self._load(number, figures[number]) for number, url in self.table.present()}

    def _load(self, number: int, entry: dict[str, Any]) -> Load:
        own = self._own(number)
        context = entry["prompt_tokens"] + entry["produced_tokens"] - self._strangers.tokens(number)
        return Load(
            slots=self.table.profile(number).max_num_seqs,
            requests=own,
            context_tokens=max(0, context),
            output_tokens=round(self._output_tokens),
        )

    # -------------------------------------------------------------------------------------------------- looking

    def instances(self) -> list[InstanceStatus]:
        """Every instance, by number."""
        with self._guard:
            now = self._now()
            figures, shares = self._core.instances, self._slow_start.shares(now)
            for number, entry in enumerate(figures):
                report = self._reports.get(number)
                entry["share"] = shares.get(number, 1.0)
                entry["strangers"] = self._strangers.count(number)
                entry["report_age_s"] = None if report is None else now - report.at_s
            return self.table.describe(figures)

    # ------------------------------------------------------------------------------------------ while it is held

    def _own(self, number: int) -> int:
        """Requests of this router on an instance."""
        return self._core.in_flight[number] - self._strangers.count(number)

    def _crowd(self, number: int, strangers: int, figures: dict[str, Any]) -> Crowd:
        """What so many strangers are like: they have the KV cache that is in use and not this router's."""
        if not strangers:
            return NOBODY
        share = figures["waiting"] / (figures["waiting"] + figures["running"])
        waiting = round(strangers * share)
        running = strangers - waiting
        entry = self._core.instances[number]
        own = entry["prompt_tokens"] + entry["produced_tokens"] - self._strangers.tokens(number)
        used = figures["kv_usage"] * entry["kv_capacity_tokens"]
        context = max(0.0, used - own) / max(1, running)
        return Crowd(running, waiting, round(context), round(self._prompt_tokens), round(self._output_tokens))

    def _join(self, url: str, profile: LoadedProfile, ramp: Ramp, now: float) -> None:
        number = self.table.free_number(url)
        self._core.join(number, profile.text, now_s=now)
        self.table.join(number, url, profile)
        self._changed = True
        self._note(now, "joined", instance=number, url=url, profile=profile.text)
        self._slow_start.begin(number, ramp, now)
        self._follow_slots(number, now)

    def _draining(self, url: str) -> int:
        number = self.table.number(url)
        if self.table.status(number) != "draining":
            raise IrouterError(f"instance {url} is ready, expected one that drains")
        return number

    def _resume(self, number: int, now: float) -> None:
        self.table.set_status(number, "ready")
        self._gates.set(number, Reason.DRAINING, now, stands=False)
        self._changed = True

    def _switch(self, number: int, takes: bool, now: float) -> None:  # noqa: FBT001 - as gates call it
        (self._core.resume if takes else self._core.drain)(number, now_s=now)
        self._changed = True
        self._note(now, "resumed" if takes else "draining", instance=number)

    def _follow_slots(self, number: int, now: float) -> None:
        """An instance takes requests while this router has slots left there."""
        full = self._is_full(number)
        news = self._gates.set(number, Reason.NO_SLOT, now, stands=full)
        if news and full and self._ran_out is not None and self.table.status(number) == "ready":
            self._ran_out()

    def _follow_ramps(self, now: float, *, beside: Sequence[int] = ()) -> None:
        """Before requests are sent: instances that have just started take no more than their share."""
        if self._slow_start.active:
            ready, in_flight = self.table.ready, self._core.in_flight
            for number, full in self._slow_start.full(ready, in_flight, now, beside=beside).items():
                self._gates.set(number, Reason.STARTING, now, stands=full)

    def _expire_slots(self, now: float) -> None:
        """Before requests are sent: what was not renewed in time may be another's."""
        if now + self._epoch_s >= self._slots_expire_s:
            self._slots, self._slots_expire_s = {}, math.inf
            for number, _ in self.table.present():
                self._follow_slots(number, now)

    def _is_full(self, number: int) -> bool:
        if self._slots is None:
            return False
        return self._own(number) >= self._slots.get(self.table.url(number), 0)

    def _leave(self, number: int, now: float) -> None:
        lost = set(self._core.leave(number, now_s=now))
        self._strangers.forget(number)
        self._gates.forget(number)
        self._slow_start.end(number)
        self._reports.pop(number, None)
        self.table.set_status(number, "gone")
        self._changed = True
        self._note(now, "left", instance=number)
        self._lost(lost)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ClosedError(self._closed)

    def _now(self) -> float:
        return time.monotonic() - self._epoch_s

    def _note(self, now: float, event: str, **fields: Any) -> None:
        if self._observers:
            record = {"at_s": now, "event": event, **fields}
            for observe in self._observers:
                observe(record)

    def _settle(self) -> list[Callable[[], object]]:
        """Follows from what has changed; returns what is to be called when the lock is free."""
        raise NotImplementedError

    def _lost(self, numbers: set[int]) -> None:
        """The requests of these numbers went with their instance."""
        raise NotImplementedError
