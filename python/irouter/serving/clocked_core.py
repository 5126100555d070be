"""One clock, one lock and a log around `irouter._core.Router`, and what concerns its instances."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from irouter._core import IrouterError
from irouter.serving.errors import ClosedError
from irouter.serving.guard import Guard
from irouter.serving.instances import InstanceTable
from irouter.serving.strangers import Crowd, Strangers

if TYPE_CHECKING:
    from collections.abc import Callable

    from irouter._core import Decision
    from irouter._core import Router as Core
    from irouter.serving.decision_log import DecisionLog
    from irouter.serving.instances import InstanceStatus, LoadedProfile


# Requests of a chat, until some were seen.
_PROMPT_TOKENS, _OUTPUT_TOKENS = 512.0, 256.0
_NOBODY = Crowd(0, 0, 0, 0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class _Report:
    at_s: float
    excess: int


class ClockedCore:
    """The state machine with the time of the clock: instances come, drain, report and go.

    Requests are for who derives from it: it settles what changed whenever the lock is given back, and is told
    which requests went with an instance.
    """

    def __init__(self, make_core: Callable[[], Core], log: DecisionLog | None, *, shared: bool) -> None:
        self.table = InstanceTable()
        self._make_core = make_core
        self._core = make_core()
        self._log = log
        self._epoch_s = time.monotonic()
        self._changed = False
        self._closed: str | None = None
        self._shared = shared
        self._strangers = Strangers(self._send, self._note)
        self._reports: dict[int, _Report] = {}
        # Lengths of requests of late: what strangers are taken to be like.
        self._prompt_tokens, self._output_tokens = _PROMPT_TOKENS, _OUTPUT_TOKENS
        self._guard = Guard(self._settle)

    def join(self, url: str, profile: LoadedProfile | None) -> None:
        """An instance takes requests from now on."""
        if profile is None:
            raise IrouterError(f"instance {url} has no profile, expected one with it or for the router")
        with self._guard:
            self._check_open()
            self._join(url, profile, self._now())

    def drain(self, url: str) -> None:
        """An instance takes no more requests."""
        with self._guard:
            self._check_open()
            number, now = self.table.number(url), self._now()
            self._core.drain(number, now_s=now)
            self.table.set_status(number, "draining")
            self._changed = True
            self._note(now, "draining", instance=number)

    def resume(self, url: str) -> None:
        """An instance that was draining takes requests again."""
        with self._guard:
            self._check_open()
            self._resume(self.table.number(url), self._now())

    def leave(self, url: str) -> None:
        """An instance is gone, and the requests on it are lost."""
        with self._guard:
            self._check_open()
            self._leave(self.table.number(url), self._now())

    def take_back(self, url: str) -> None:
        """An instance that was draining takes requests again: clean, unless some are on it."""
        with self._guard:
            self._check_open()
            number, now = self.table.number(url), self._now()
            if self.table.status(number) != "draining":
                raise IrouterError(f"instance {url} is ready, expected one that drains")
            if self._core.in_flight[number] > self._strangers.count(number):
                self._resume(number, now)
            else:
                profile = self.table.profile(number)
                self._leave(number, now)
                self._join(url, profile, now)

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
            if self._shared:
                # What one report shows and the next does not came and went on its way here.
                strangers = max(0, min(excess, before.excess)) if before is not None else 0
                self._strangers.meet(self._core, number, self._crowd(number, strangers, figures), now)

    def report_lost(self, url: str) -> None:
        """An engine reports no more: what its last report showed is forgotten."""
        with self._guard:
            self._check_open()
            number, now = self.table.number(url), self._now()
            self._reports.pop(number, None)
            self._strangers.meet(self._core, number, _NOBODY, now)
            self._changed = True

    def instances(self) -> list[InstanceStatus]:
        """Every instance, by number."""
        with self._guard:
            now = self._now()
            figures = self._core.instances
            for number, entry in enumerate(figures):
                report = self._reports.get(number)
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
            return _NOBODY
        share = figures["waiting"] / (figures["waiting"] + figures["running"])
        waiting = round(strangers * share)
        running = strangers - waiting
        entry = self._core.instances[number]
        own = entry["prompt_tokens"] + entry["produced_tokens"] - self._strangers.tokens(number)
        used = figures["kv_usage"] * entry["kv_capacity_tokens"]
        context = max(0.0, used - own) / max(1, running)
        return Crowd(running, waiting, round(context), round(self._prompt_tokens), round(self._output_tokens))

    def _join(self, url: str, profile: LoadedProfile, now: float) -> None:
        number = self.table.free_number(url)
        self._core.join(number, profile.text, now_s=now)
        self.table.join(number, url, profile)
        self._changed = True
        self._note(now, "joined", instance=number, url=url, profile=profile.text)

    def _resume(self, number: int, now: float) -> None:
        self._core.resume(number, now_s=now)
        self.table.set_status(number, "ready")
        self._changed = True
        self._note(now, "resumed", instance=number)

    def _send(self, key: int, number: int, now: float) -> Decision:
        """Dispatches a waiting request to an instance, also to one that drains."""
        draining = self.table.status(number) == "draining"
        if draining:
            self._core.resume(number, now_s=now)
            self._note(now, "resumed", instance=number)
        try:
            return self._core.dispatch(key, number, now_s=now)
        finally:
            if draining:
                self._core.drain(number, now_s=now)
                self._note(now, "draining", instance=number)

    def _leave(self, number: int, now: float) -> None:
        lost = set(self._core.leave(number, now_s=now))
        self._strangers.forget(number)
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
        if self._log is not None:
            self._log.write({"at_s": now, "event": event, **fields})

    def _settle(self) -> list[Callable[[], object]]:
        """Follows from what has changed; returns what is to be called when the lock is free."""
        raise NotImplementedError

    def _lost(self, numbers: set[int]) -> None:
        """The requests of these numbers went with their instance."""
        raise NotImplementedError
