"""One client of the daemon, and what all of them share."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from irouter._core import IrouterError
from irouter.serving.daemon.client import IMPACT_FIELDS, text_of
from irouter.serving.daemon.wire import (
    MOST_UNREAD_BYTES,
    PROTOCOL,
    Lines,
    Message,
    WireError,
    encode,
    name_of,
)
from irouter.serving.foresight import Foresight
from irouter.serving.instances import LoadedProfile
from irouter.serving.lease import Ending
from irouter.serving.slow_start import Ramp

if TYPE_CHECKING:
    from collections.abc import Callable

    from irouter._core import Impact
    from irouter.serving.lease import Ticket
    from irouter.serving.router import Router

_LOGGER: Final = logging.getLogger("irouter.daemon")
_NO_LIMITS: Final = (16, 1 << 20)
# What arguments of a wrong kind raise, somewhere on their way.
_WRONG: Final = (TypeError, ValueError, OverflowError, KeyError, AttributeError)


@dataclasses.dataclass(slots=True)
class _RemoteRequest:
    """A request that a client has made ready."""

    fields: dict[str, Any]
    deadline_s: float | None
    max_tokens: int
    foresight: Foresight


def _request(fields: dict[str, Any], deadline_s: float | None) -> _RemoteRequest:
    return _RemoteRequest(fields, deadline_s, fields["max_tokens"], Foresight())


# What a closing daemon gives its connections to send what was written.
_LAST_ROUNDS: Final = 100
_LAST_ROUND_S: Final = 0.01


class Hub:
    """The router, and who holds which instance back."""

    def __init__(self, router: Router, loop: asyncio.AbstractEventLoop) -> None:
        self.router = router
        self.machine = router._machine
        self.loop = loop
        self.thread = threading.get_ident()
        self.sessions: set[Session] = set()
        self._drains: dict[str, set[Session]] = {}

    @property
    def limits(self) -> tuple[int, int]:
        """Tokens of a KV block, and the most tokens of a request, for clients that make requests ready."""
        profiles = self.machine.profiles
        if not profiles:
            return _NO_LIMITS
        return profiles[0].block_tokens, max(profile.max_model_len for profile in profiles)

    def call(self, session: Session, name: str, *arguments: Any) -> Any:
        """Answers a question.

        Raises:
            IrouterError: When the router has none.
        """
        if name not in _CALLS:
            raise IrouterError(f"call {name!r:.60}, expected one of {', '.join(sorted(_CALLS))}")
        return _CALLS[name](self, session, *arguments)

    def release(self, session: Session) -> None:
        """A client is gone, and with it what it held back."""
        self.sessions.discard(session)
        for url in [url for url, holders in self._drains.items() if session in holders]:
            with contextlib.suppress(IrouterError):
                self._resume(session, url)

    async def close(self) -> None:
        """Ends every connection; what waits is refused. One whose client does not read is cut off."""
        for _ in range(_LAST_ROUNDS):
            for session in list(self.sessions):
                session.hang_up()
            # The loop makes and closes connections in its next rounds.
            await asyncio.sleep(_LAST_ROUND_S)
            if not self.sessions:
                return
        for session in list(self.sessions):
            session.cut_off()
        await asyncio.sleep(0)

    # ---------------------------------------------------------------------------------------------------- calls

    def _join(
        self, _session: Session, url: str, profile: str | None, slow_start_s: float, slow_start_share: float
    ) -> None:
        if profile is None:
            self.router.add_instance(url, slow_start_s=slow_start_s, slow_start_share=slow_start_share)
        else:
            ramp = Ramp(slow_start_s, slow_start_share)
            self.machine.join(url, LoadedProfile(text_of(profile) or {}), ramp)
        self._tell_limits()

    def _leave(self, _session: Session, url: str) -> None:
        self.machine.leave(url)
        self._drains.pop(url, None)
        self._tell_limits()

    def _drain(self, session: Session, url: str) -> None:
        if not self._drains.get(url):
            self.machine.drain(url)
        self._drains.setdefault(url, set()).add(session)

    def _resume(self, session: Session, url: str) -> None:
        if self._let_go(session, url):
            self.machine.resume(url)

    def _take_back(self, session: Session, url: str, slow_start_s: float, slow_start_share: float) -> None:
        ramp = Ramp(slow_start_s, slow_start_share)
        if self._let_go(session, url):
            self.machine.take_back(url, ramp)

    def _let_go(self, session: Session, url: str) -> bool:
        """Whether nobody holds the instance back any more."""
        holders = self._drains.get(url, set())
        if session not in holders:
            raise IrouterError(f"instance {url} is not held back by this client, expected one that is")
        holders.discard(session)
        if not holders:
            del self._drains[url]
        return not holders

    def _report(self, _session: Session, url: str, figures: dict[str, Any]) -> None:
        self.machine.report(url, figures)

    def _report_lost(self, _session: Session, url: str) -> None:
        self.machine.report_lost(url)

    def _instances(self, _session: Session) -> list[dict[str, Any]]:
        return [dataclasses.asdict(status) for status in self.machine.instances()]

    def _statistics(self, _session: Session) -> dict[str, Any]:
        return dataclasses.asdict(self.machine.statistics())

    def _impact(self, _session: Session, fields: dict[str, Any]) -> list[Any]:
        return [(url, _figures(impact)) for url, impact in self.machine.impact(_request(fields, None))]

    def _tell_limits(self) -> None:
        for session in self.sessions:
            session.tell(["limits", *self.limits])


_CALLS: Final[dict[str, Callable[..., Any]]] = {
    name: getattr(Hub, f"_{name}")
    for name in (
        "join",
        "leave",
        "drain",
        "resume",
        "take_back",
        "report",
        "report_lost",
        "instances",
        "statistics",
        "impact",
    )
}


class Session(asyncio.Protocol):
    """The daemon's end of a connection. What is told of a request that has ended changes nothing."""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._machine = hub, hub.machine
        self._lines = Lines()
        self._tickets: dict[int, Ticket] = {}
        self._handlers: dict[str, Callable[..., None]] = {
            "submit": self._submit,
            "place": self._place,
            "adopt": self._adopt,
            "first_token": self._first_token,
            "progress": self._progress,
            "end": self._end,
            "call": self._call,
            "ping": self._ping,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # of a stream
        self._transport.set_write_buffer_limits(high=MOST_UNREAD_BYTES)
        self._hub.sessions.add(self)
        self.tell(["hello", PROTOCOL, *self._hub.limits, os.getpid()])

    def connection_lost(self, _error: Exception | None) -> None:
        """A client is gone: its leases have failed, and what waits for it is taken back."""
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            ending = Ending.CANCELLED if ticket.decision is None else Ending.FAILED
            self._machine.end(ticket, ending, reason="its client is gone")
        self._hub.release(self)

    def pause_writing(self) -> None:
        """A client does not read."""
        self.cut_off()

    def data_received(self, data: bytes) -> None:
        """Messages."""
        try:
            for message in self._lines.feed(data):
                self._handle(*message)
        except (*_WRONG, WireError) as error:
            _LOGGER.warning("a client is cut off: %s", error)
            self.tell(["error", str(error)])
            self.hang_up()

    def _handle(self, name: str, *arguments: Any) -> None:
        if name not in self._handlers:
            raise WireError(f"message {name!r:.60}, expected one of {', '.join(self._handlers)}")
        self._handlers[name](*arguments)

    def tell(self, message: Message) -> None:
        """Sends a message."""
        self._transport.write(encode(message))

    def hang_up(self) -> None:
        """Ends the connection, when what was written is out."""
        self._transport.close()

    def cut_off(self) -> None:
        """Ends the connection, whatever was written."""
        self._transport.abort()

    # ------------------------------------------------------------------------------------------------- messages

    def _submit(self, key: int, fields: dict[str, Any], deadline_s: float | None, exclude: list[str]) -> None:
        def make_wake() -> Callable[[], object]:
            return lambda: self._in_the_loop(self._decided, key)

        try:
            ticket = self._machine.submit(_request(fields, deadline_s), make_wake, tuple(exclude))
        except (IrouterError, *_WRONG) as error:
            self._refuse(key, error)
            return
        self._tickets[key] = ticket
        if ticket.decision is not None or ticket.ending is not None:
            self._decided(key)

    def _place(
        self,
        key: int,
        fields: dict[str, Any],
        deadline_s: float | None,
        overtake: bool,  # noqa: FBT001 - as it is on the wire
        exclude: list[str],
    ) -> None:
        try:
            ticket = self._machine.place(
                _request(fields, deadline_s), overtake=bool(overtake), exclude=tuple(exclude)
            )
        except (IrouterError, *_WRONG) as error:
            self._refuse(key, error)
            return
        if ticket is None:
            self.tell(["none", key])
            return
        self._tickets[key] = ticket
        self._decided(key)

    def _adopt(self, key: int, fields: dict[str, Any], url: str, produced_tokens: int) -> None:
        try:
            ticket = self._machine.adopt(_request(fields, None), url, produced_tokens)
        except (IrouterError, *_WRONG) as error:
            _LOGGER.warning("a lease of the daemon before is not taken over: %s", error)
            self.tell(["ended", key, Ending.LOST.value])
            return
        self._tickets[key] = ticket
        self._watch(key, ticket)

    def _first_token(self, key: int, cached_tokens: int | None) -> None:
        ticket = self._tickets.get(key)
        if ticket is not None:
            self._machine.first_token(ticket, cached_tokens)

    def _progress(self, key: int, tokens: int) -> None:
        ticket = self._tickets.get(key)
        if ticket is not None:
            self._machine.progress(ticket, tokens)

    def _end(self, key: int, ending: str, tokens: int | None, reason: str) -> None:
        ticket = self._tickets.pop(key, None)
        if ticket is not None:
            self._machine.end(ticket, Ending(ending), tokens=tokens, reason=reason)

    def _call(self, number: int, name: str, *arguments: Any) -> None:
        try:
            value = self._hub.call(self, name, *arguments)
        except (IrouterError, *_WRONG) as error:
            answer = ["call_refused", number, name_of(error), str(error)]
        else:
            answer = ["result", number, value]
        # After what the call has done to leases is told, which waits for its turn in the loop.
        self._hub.loop.call_soon(self.tell, answer)

    def _ping(self) -> None:
        self.tell(["pong"])

    # --------------------------------------------------------------------------------------- what happens to them

    def _in_the_loop(self, call: Callable[[int], None], key: int) -> None:
        if threading.get_ident() == self._hub.thread:
            self._hub.loop.call_soon(call, key)
        else:
            self._hub.loop.call_soon_threadsafe(call, key)

    def _decided(self, key: int) -> None:
        ticket = self._tickets.get(key)
        if ticket is None:
            return
        decision = ticket.decision
        if decision is None:
            del self._tickets[key]
            self._refuse(key, ticket.error or IrouterError("the request ended while it waited"))
            return
        self.tell(
            [
                "lease",
                key,
                ticket.number,
                ticket.url,
                decision.waited_s,
                decision.cached_tokens,
                ticket.decide_s,
                decision.fallback,
                None if decision.impact is None else _figures(decision.impact),
            ]
        )
        self._watch(key, ticket)

    def _watch(self, key: int, ticket: Ticket) -> None:
        """Has the client told when a lease ends by itself."""
        ticket.wake = lambda: self._in_the_loop(self._ended, key)
        if ticket.ending is not None:
            self._ended(key)

    def _ended(self, key: int) -> None:
        ticket = self._tickets.get(key)
        if ticket is not None and ticket.ending is not None:
            del self._tickets[key]
            self.tell(["ended", key, ticket.ending.value])

    def _refuse(self, key: int, error: Exception) -> None:
        self.tell(["refused", key, name_of(error), str(error)])


def _figures(impact: Impact) -> list[Any]:
    return [getattr(impact, name) for name in IMPACT_FIELDS]
