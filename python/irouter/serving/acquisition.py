"""Waiting for a lease, in an event loop or in a thread."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from irouter._core import IrouterError
from irouter.serving.errors import DisconnectedError
from irouter.serving.lease import Ending

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from irouter.serving.face import MachineFace
    from irouter.serving.foresight import Foresight
    from irouter.serving.lease import Lease
    from irouter.serving.request import PreparedRequest


class Acquisition:
    """What `Router.acquire` returns: `async with` it in a coroutine, `with` it in a thread, once.

    Either gives the lease. Who waits sleeps until its own request is decided; nobody else is woken then. A request
    whose daemon went away goes to who stands in for the daemon, where somebody does.
    """

    def __init__(
        self,
        choose_machine: Callable[[], MachineFace],
        prepare: Callable[[Foresight | None], PreparedRequest],
        foresee: Callable[[], Awaitable[Foresight | None]],
        exclude: tuple[str, ...],
    ) -> None:
        self._choose_machine = choose_machine
        self._prepare: Callable[[Foresight | None], PreparedRequest] | None = prepare
        self._foresee = foresee
        self._exclude = exclude
        self._lease: Lease | None = None

    async def __aenter__(self) -> Lease:
        prepare = self._begin()
        request = prepare(await self._foresee())
        machine = self._choose_machine()
        try:
            self._lease = await self._wait_async(machine, request)
        except DisconnectedError:
            if (other := self._choose_machine()) is machine:
                raise
            self._lease = await self._wait_async(other, request)
        return self._lease

    async def _wait_async(self, machine: MachineFace, request: PreparedRequest) -> Lease:
        loop, owner = asyncio.get_running_loop(), threading.get_ident()
        decided: asyncio.Future[None] | None = None

        def make_wake() -> Callable[[], object]:
            nonlocal decided
            future = decided = loop.create_future()

            def wake() -> None:
                if threading.get_ident() == owner:
                    _resolve(future)
                else:
                    loop.call_soon_threadsafe(_resolve, future)

            return wake

        ticket = machine.submit(request, make_wake, self._exclude)
        if decided is not None:
            try:
                await decided
            except GeneratorExit:
                # The event loop is gone and the collector may be running this: it must take no lock.
                machine.end_soon(ticket, Ending.DROPPED)
                raise
            except BaseException:
                machine.end(ticket, Ending.CANCELLED)
                raise
        return machine.lease(ticket)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __enter__(self) -> Lease:
        request = self._begin()(None)
        if asyncio._get_running_loop() is not None:
            raise IrouterError("`with router.acquire()` would block the event loop, expected `async with`")
        machine = self._choose_machine()
        try:
            self._lease = self._wait(machine, request)
        except DisconnectedError:
            if (other := self._choose_machine()) is machine:
                raise
            self._lease = self._wait(other, request)
        return self._lease

    def _wait(self, machine: MachineFace, request: PreparedRequest) -> Lease:
        # A bare lock: unlike `threading.Event` it can be released from a finaliser that interrupts its owner.
        decided: threading.Lock | None = None

        def make_wake() -> Callable[[], object]:
            nonlocal decided
            decided = threading.Lock()
            decided.acquire()
            return decided.release

        ticket = machine.submit(request, make_wake, self._exclude)
        if decided is not None:
            try:
                decided.acquire()
            except BaseException:
                machine.end(ticket, Ending.CANCELLED)
                raise
        return machine.lease(ticket)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lease is not None:
            self._lease.__exit__(kind, error, trace)

    def _begin(self) -> Callable[[Foresight | None], PreparedRequest]:
        if self._prepare is None:
            raise IrouterError("an acquisition was entered twice, expected one for each request")
        prepare, self._prepare = self._prepare, None
        return prepare


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
