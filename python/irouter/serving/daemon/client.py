"""What keeps the requests of a process whose router is a daemon."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, cast

from irouter._core import IrouterError
from irouter.serving.daemon.link import Link
from irouter.serving.daemon.wire import error_of
from irouter.serving.errors import ClosedError, DisconnectedError
from irouter.serving.instances import InstanceStatus
from irouter.serving.lease import Ending, Lease, RouterStatistics, Ticket
from irouter.serving.slow_start import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from irouter._core import Decision, Impact
    from irouter.serving.daemon.wire import Message
    from irouter.serving.instances import LoadedProfile
    from irouter.serving.request import ReadyRequest
    from irouter.serving.slow_start import Ramp

    Wake = Callable[[], object]


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteLimits:
    """What the daemon's instances can take.

    Attributes:
        block_tokens: Tokens of a KV block.
        max_model_len: Most tokens of prompt and output together.
    """

    block_tokens: int
    max_model_len: int


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteImpact:
    """An `irouter.Impact` that came from a daemon, with the same attributes."""

    instance: int
    ttft_s: float
    e2e_s: float
    inflicted_s: float
    largest_inflicted_s: float
    kv_peak_share: float
    overflow_probability: float
    preemptions: float | None
    cached_tokens: int
    residents: int
    prompts_ahead: int
    explanation: str


IMPACT_FIELDS: Final = tuple(field.name for field in dataclasses.fields(RemoteImpact))


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteDecision:
    """What a lease tells of the decision behind it."""

    waited_s: float
    cached_tokens: int
    fallback: bool
    impact: RemoteImpact | None


class _Call:
    """A question whose caller waits in its thread."""

    def __init__(self) -> None:
        self.answered = threading.Lock()
        self.answered.acquire()
        self.value: Any = None
        self.error: IrouterError | None = None


class RemoteMachine:
    """The client of a daemon: requests wait there, and their leases are told of there.

    A lease outlives its daemon: it is told to the next one, so that the request that an engine still has is counted
    again. A request that waits when the daemon goes gets a `DisconnectedError`.
    """

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        """Connects.

        Raises:
            DisconnectedError: When there is no daemon.
        """
        self._path, self._timeout_s = path, timeout_s
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._tickets: dict[int, Ticket] = {}
        self._calls: dict[int, _Call] = {}
        self._joined: dict[str, str | None] = {}
        self._drained: dict[str, None] = {}
        self._limits = RemoteLimits(16, 1 << 20)
        self._failed_predictions = 0
        self._closed: str | None = None
        self._link = Link(
            path, self._lock, received=self._received, up=self._up, down=self._down, left=self.end
        )
        weakref.finalize(self, self._link.close)
        self._link.open(timeout_s)
        _MACHINES.add(self)

    @property
    def connected(self) -> bool:
        """Whether the daemon is there, as far as is known."""
        return self._link.connected

    # ------------------------------------------------------------------------------------------------- requests

    def submit(
        self, request: ReadyRequest, make_wake: Callable[[], Wake], exclude: tuple[str, ...] = ()
    ) -> Ticket:
        """Sends a request to the daemon; what `make_wake` returns is called when it is decided there.

        Raises:
            DisconnectedError: When there is no daemon; `ClosedError`.
        """
        wake = make_wake()
        return self._ask(request, wake, "submit", list(exclude))

    def place(self, request: ReadyRequest, *, overtake: bool, exclude: tuple[str, ...]) -> Ticket | None:
        """Has the daemon send a request at once; None when others wait and it must not overtake them.

        Raises:
            NoInstanceError: When no instance outside of `exclude` can take it.
            DisconnectedError: When there is no daemon, or it takes its time.
            IrouterError: For a request that fits no instance; `ClosedError`.
        """
        decided = threading.Lock()
        decided.acquire()
        ticket = self._ask(request, decided.release, "place", overtake, list(exclude))
        if not decided.acquire(timeout=self._timeout_s):
            self.end(ticket, Ending.CANCELLED)
            raise self._silent()
        if ticket.decision is None and ticket.error is None:
            return None
        if ticket.error is not None:
            raise ticket.error
        return ticket

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
        with self._lock:
            if ticket.ending is None and ticket.produced_tokens == 0:
                ticket.produced_tokens = 1
                self._link.send(["first_token", ticket.key, cached_tokens])

    def progress(self, ticket: Ticket, tokens: int) -> None:
        """A request has produced so many tokens.

        Raises:
            IrouterError: For more than `max_tokens`.
        """
        if tokens > ticket.max_tokens:
            raise IrouterError(
                f"progress of request {ticket.number} is {tokens} tokens, expected at most {ticket.max_tokens}"
            )
        with self._lock:
            if ticket.ending is None and tokens > ticket.produced_tokens:
                ticket.produced_tokens = tokens
                self._link.send(["progress", ticket.key, tokens])

    def end(self, ticket: Ticket, ending: Ending, *, tokens: int | None = None, reason: str = "") -> None:
        """A request ends, unless it has ended before."""
        with self._lock:
            if ticket.ending is not None:
                return
            ticket.ending = ending
            self._tickets.pop(ticket.key, None)
            tokens = ticket.produced_tokens or None if tokens is None else tokens
            self._link.send(["end", ticket.key, ending.value, tokens, reason])
        if ending is Ending.FINISHED and not ticket.teach(tokens):
            self._failed_predictions += 1

    def end_soon(self, ticket: Ticket, ending: Ending) -> None:
        """A request ends, by the link's thread: this takes no lock, so that finalisers can call it."""
        if ticket.ending is None and self._closed is None:
            self._link.leave(ticket, ending)

    def impact(self, request: ReadyRequest) -> list[tuple[str, Impact]]:
        """What placing a request would cost, by URL."""
        found = self._call("impact", request.fields)
        return [(url, cast("Impact", RemoteImpact(*figures))) for url, figures in found]

    # ------------------------------------------------------------------------------------------------ instances

    def join(self, url: str, profile: LoadedProfile | None, ramp: Ramp) -> None:
        """An instance takes requests from now on; without a profile it gets the daemon's."""
        data = None if profile is None else profile.text
        self._call("join", url, data, *dataclasses.astuple(ramp))
        with self._lock:
            self._joined[url] = data

    def drain(self, url: str) -> None:
        """An instance takes no more requests, until every client that says so has taken it back."""
        with self._lock:
            self._drained[url] = None
        try:
            self._call("drain", url)
        except DisconnectedError:
            pass  # it is told when it is back
        except IrouterError:
            self._forget(url)
            raise

    def resume(self, url: str) -> None:
        """Takes back what `drain` said."""
        self._let_go("resume", url)

    def take_back(self, url: str, ramp: Ramp) -> None:
        """Takes back what `drain` said; the instance starts as one that joins, unless requests are on it."""
        self._let_go("take_back", url, *dataclasses.astuple(ramp))

    def leave(self, url: str) -> None:
        """An instance is gone."""
        self._call("leave", url)
        self._forget(url)
        with self._lock:
            self._joined.pop(url, None)

    def _let_go(self, name: str, url: str, *ramp: float) -> None:
        if url not in self._drained:
            raise IrouterError(f"instance {url} is not held back by this client, expected one that is")
        self._forget(url)
        with contextlib.suppress(DisconnectedError):
            self._call(name, url, *ramp)

    def _forget(self, url: str) -> None:
        with self._lock:
            self._drained.pop(url, None)

    def report(self, url: str, figures: dict[str, Any]) -> None:
        """An engine reported its metrics."""
        self._call("report", url, figures)

    def report_lost(self, url: str) -> None:
        """An engine reports no more."""
        self._call("report_lost", url)

    def instances(self) -> list[InstanceStatus]:
        """Every instance."""
        return [InstanceStatus(**status) for status in self._call("instances")]

    # -------------------------------------------------------------------------------------------------- looking

    def statistics(self) -> RouterStatistics:
        """What the daemon has done so far, for all its clients."""
        found = self._call("statistics")
        found["endings"] = {Ending(name): count for name, count in found["endings"].items()}
        found["failed_predictions"] += self._failed_predictions
        return RouterStatistics(**found)

    @property
    def profiles(self) -> tuple[RemoteLimits]:
        """What the instances that are there can take."""
        return (self._limits,)

    def close(self, why: str = "the router was closed") -> None:
        """Ends the connection. What waits is refused, and the daemon fails the leases that live."""
        with self._lock:
            if self._closed is not None:
                return
            self._closed = why
        self._link.close()
        self._refuse_all(ClosedError(why), leases=True)

    def abandon(self) -> None:
        """Becomes useless in a process that was forked from the router's own."""
        self._closed = (
            "the router belongs to the process that this one was forked from: make one after the fork"
        )
        self._lock = threading.Lock()
        self._link.abandon()

    # ----------------------------------------------------------------------------------------------- the inside

    def _ask(self, request: ReadyRequest, wake: Wake, name: str, *arguments: Any) -> Ticket:
        with self._lock:
            self._check_open()
            ticket = Ticket(-1, next(self._numbers), request)
            ticket.deadline_s, ticket.wake = request.deadline_s, wake
            self._tickets[ticket.key] = ticket
            if self._link.send([name, ticket.key, ticket.fields, request.deadline_s, *arguments]):
                return ticket
            del self._tickets[ticket.key]
        raise self._gone()

    def _call(self, name: str, *arguments: Any) -> Any:
        call = _Call()
        with self._lock:
            self._check_open()
            number = next(self._numbers)
            self._calls[number] = call
            if not self._link.send(["call", number, name, *arguments]):
                del self._calls[number]
                raise self._gone()
        if not call.answered.acquire(timeout=self._timeout_s):
            with self._lock:
                self._calls.pop(number, None)
            raise self._silent()
        if call.error is not None:
            raise call.error
        return call.value

    def _gone(self) -> DisconnectedError:
        return DisconnectedError(f"the daemon at {self._path} is not there")

    def _silent(self) -> DisconnectedError:
        return DisconnectedError(f"the daemon at {self._path} did not answer within {self._timeout_s:g} s")

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ClosedError(self._closed)

    def _received(self, message: Message) -> None:
        name, *arguments = message
        if name == "limits":
            self._limits = RemoteLimits(*arguments)
        elif name in {"result", "call_refused"}:
            number, *answer = arguments
            with self._lock:
                call = self._calls.pop(number, None)
            if call is not None:
                if name == "result":
                    call.value = answer[0]
                else:
                    call.error = error_of(*answer)
                call.answered.release()
        elif name in {"lease", "none", "refused", "ended"}:
            self._of_ticket(name, *arguments)

    def _of_ticket(self, name: str, key: int, *arguments: Any) -> None:
        with self._lock:
            ticket = self._tickets.get(key)
            if ticket is None:
                return  # it ended on this side while the message came
            if name == "lease":
                number, url, waited_s, cached_tokens, decide_s, fallback, impact = arguments
                ticket.number, ticket.url, ticket.decide_s = number, url, decide_s
                remote = None if impact is None else RemoteImpact(*impact)
                ticket.decision = cast("Decision", RemoteDecision(waited_s, cached_tokens, fallback, remote))
            else:
                del self._tickets[key]
                ticket.ending = Ending(arguments[0]) if name == "ended" else Ending.REFUSED
                if name == "refused":
                    ticket.error = error_of(*arguments)
            wake, ticket.wake = ticket.wake, None
        if wake is not None:
            _wake(wake, lambda: self.end(ticket, Ending.DROPPED))

    def _up(self, greeting: list[Any]) -> list[Message]:
        """What a daemon that knows nothing of this client has to hear first. The lock is held."""
        self._limits = RemoteLimits(*greeting[2:4])
        number = itertools.repeat(-1)
        messages: list[Message] = [
            ["call", next(number), "join", url, data, *dataclasses.astuple(AT_ONCE)]
            for url, data in self._joined.items()
        ]
        messages += [["call", next(number), "drain", url] for url in self._drained]
        messages += [
            ["adopt", ticket.key, ticket.fields, ticket.url, ticket.produced_tokens]
            for ticket in self._tickets.values()
            if ticket.decision is not None
        ]
        return messages

    def _down(self, reason: str) -> None:
        self._refuse_all(DisconnectedError(f"the daemon at {self._path} went away: {reason}"), leases=False)

    def _refuse_all(self, error: IrouterError, *, leases: bool) -> None:
        """Tells all that waits for an answer, and with `leases` forgets what has one."""
        with self._lock:
            gone = [ticket for ticket in self._tickets.values() if leases or ticket.decision is None]
            for ticket in gone:
                del self._tickets[ticket.key]
                if ticket.decision is None:
                    ticket.ending, ticket.error = Ending.REFUSED, error
            calls, self._calls = self._calls, {}
        for call in calls.values():
            call.error = error
            call.answered.release()
        for ticket in gone:
            if ticket.wake is not None:
                _wake(ticket.wake, lambda: None)


def _wake(wake: Wake, otherwise: Callable[[], None]) -> None:
    try:
        wake()
    except RuntimeError:
        # The event loop of who waited is closed: nobody will take the lease.
        otherwise()


def text_of(profile: str | None) -> dict[str, Any] | None:
    """A profile as it is on the wire, read."""
    return None if profile is None else json.loads(profile)


_MACHINES: weakref.WeakSet[RemoteMachine] = weakref.WeakSet()


def _abandon_all() -> None:
    for machine in list(_MACHINES):
        machine.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
