"""Keeps one router's share of the slots that several routers divide."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Final, Self

from irouter._core import IrouterError
from irouter._extras import require
from irouter.serving.strangers import Crowd

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from irouter.serving.replicas.ledger import Grant, Wish
    from irouter.serving.router import Router
    from irouter.serving.strangers import Load

_LOGGER: Final = logging.getLogger("irouter.serve")
# Claims are renewed so often in their time to live, and no more often than each so many seconds.
_RENEWALS: Final = 6
_PAUSE_S: Final = 0.005
# What is wanted beyond what is used, as a part of an instance's slots.
_RESERVE: Final = 8


class Replica:
    """Divides the slots of a router's instances with the routers of other hosts, through Redis.

    A slot is the right to one request on an instance. A replica sends requests only within its slots, which
    expire unless it renews them; Redis gives out each once, so that connected replicas never promise the same slot
    twice. Each also tells what it has where, so that all see the whole load. Requests beyond the slots wait in
    the router's queue; `try_route` finds no instance then.

    Without Redis a replica goes on with its slots until they expire. Then it takes its share, slots over the
    replicas that it last knew of; leases beyond that live on. Of others it knows what reports of engines show
    (`irouter.serving.poller`), where the router has `shared_instances`. `router.statistics.degraded` and the log say
    so. When Redis is back it claims what it has and goes on.
    """

    def __init__(
        self,
        router: Router,
        url: str,
        *,
        group: str = "default",
        slots_per_instance: int | None = None,
        ttl_s: float = 3.0,
        password: str | None = None,
    ) -> None:
        """Claims slots, and renews them from a thread until it is closed.

        Args:
            router: The router of this process or daemon.
            url: Of Redis, such as `redis://10.0.0.9:6379/0`.
            group: Replicas of one group share engines.
            slots_per_instance: Most requests on an instance at a time, of all replicas together and the same for all;
                without it `max_num_seqs` of its profile.
            ttl_s: Seconds for which slots are promised.
            password: Of Redis.

        Raises:
            IrouterError: For a bad number, or without the package `redis`.
        """
        require("redis", extra="redis", purpose="a router on several hosts")
        from irouter.serving.replicas import ledger  # noqa: PLC0415 - needs the extra

        if not (ttl_s > 0 and math.isfinite(ttl_s)):
            raise IrouterError(f"ttl_s is {ttl_s}, expected a positive number of seconds")
        if slots_per_instance is not None and slots_per_instance < 1:
            raise IrouterError(f"slots_per_instance is {slots_per_instance}, expected at least 1")
        try:
            self._ledger = ledger.Ledger(url, group, ttl_s=ttl_s, password=password)
        except ValueError as error:
            raise IrouterError(f"Redis URL: {error}, expected redis://HOST:PORT/DATABASE") from error
        self._trouble, self._wish = ledger.LedgerError, ledger.Wish
        self._machine = router._machine
        self._slots, self._ttl_s = slots_per_instance, ttl_s
        self._replicas = 1
        self._expires_s = -math.inf
        self._out_of_touch = False
        self._closing, self._kick = threading.Event(), threading.Event()
        self._renew()
        self._thread = threading.Thread(target=self._run, name="irouter-replica", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Gives the slots back; the router is bounded no more."""
        self._closing.set()
        self._kick.set()
        self._thread.join()
        try:
            self._ledger.withdraw(list(self._machine.loads()))
            self._machine.set_slots(None, None)
        except (self._trouble, IrouterError) as error:
            _LOGGER.warning("slots_not_given_back", extra={"fields": {"reason": str(error)}})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing.wait(_PAUSE_S):
            self._kick.wait(self._ttl_s / _RENEWALS)
            self._kick.clear()
            if not self._closing.is_set():
                try:
                    self._renew()
                except IrouterError as error:
                    _LOGGER.warning("not_a_replica", extra={"fields": {"reason": str(error)}})
                    return

    def _renew(self) -> None:
        loads = self._machine.loads()
        waiting = self._machine.statistics().waiting
        wishes = {url: self._wish_of(load, waiting) for url, load in loads.items()}
        # The promise is as old as the question.
        asked_s = time.monotonic()
        try:
            grants = self._ledger.claim(wishes, known=self._replicas)
        except self._trouble as error:
            self._go_on_alone(wishes, str(error))
            return
        if self._out_of_touch:
            _LOGGER.warning("redis_back")
        self._out_of_touch = False
        self._expires_s = asked_s + self._ttl_s
        self._replicas = max((grant.replicas for grant in grants.values()), default=1)
        slots = {url: grant.slots for url, grant in grants.items()}
        crowds = {url: _crowd(grant) for url, grant in grants.items()}
        self._machine.set_slots(slots, crowds, expires_s=self._expires_s, ran_out=self._kick.set)

    def _wish_of(self, load: Load, waiting: int) -> Wish:
        slots = self._slots or load.slots
        return self._wish(slots, min(slots, load.requests + waiting + max(1, slots // _RESERVE)), load)

    def _go_on_alone(self, wishes: Mapping[str, Wish], reason: str) -> None:
        if not self._out_of_touch:
            _LOGGER.warning("redis_gone", extra={"fields": {"reason": reason}})
            self._out_of_touch = True
        # The next try must come before the slots expire, and the share be taken before another claims it.
        if time.monotonic() + self._ttl_s / 2 < self._expires_s:
            return
        slots = {url: max(1, wish.slots // self._replicas) for url, wish in wishes.items()}
        self._machine.set_slots(slots, None, degraded=True, ran_out=self._kick.set)


def _crowd(grant: Grant) -> Crowd:
    each = grant.context_tokens // max(1, grant.requests)
    return Crowd(grant.requests, 0, each, each, grant.output_tokens)
