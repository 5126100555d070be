"""The router that a proxy embeds."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irouter._core import IrouterError
from irouter._core import Router as Core
from irouter.evaluation.policies import choice_of
from irouter.serving.base_router import BaseRouter
from irouter.serving.decision_log import DecisionLog
from irouter.serving.instances import Instance, LoadedProfile
from irouter.serving.limits import Limits
from irouter.serving.machine import Machine
from irouter.serving.request import number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from irouter.evaluation.policies import PolicyFunction
    from irouter.serving.foresight import Predictor, PredictorFront


class Router(BaseRouter):
    """Decides which instance serves each request, for asyncio and for threads at once.

    A request is chosen for and counted on its instance in one step, so that no two callers see the same room. Instances
    may come and go while it serves. A router belongs to the process that made it; after a fork the child makes its own.

    >>> router = Router(["http://a:8000", "http://b:8000"], profile="llama-3.1-8b@h100", policy="least_work")
    >>> with router.acquire(prompt="Why is the sky blue?", max_tokens=400) as lease:
    ...     lease.first_token()
    ...     lease.progress(20)
    >>> router.statistics.in_flight
    0
    """

    def __init__(
        self,
        instances: Iterable[str | Instance] = (),
        policy: str | PolicyFunction = "guided",
        *,
        profile: str | Path | None = None,
        predictor: Predictor | PredictorFront | None = None,
        seed: int = 0,
        max_hold_s: float = 60.0,
        overtaking_s: float = 30.0,
        dispatch_delay_s: float = 0.001,
        lease_ttl_s: float = 600.0,
        max_waiting: int = 10_000,
        shared_instances: bool = False,
        tenant_weights: Mapping[str | int, float] | None = None,
        log: str | Path | None = None,
        log_limit_bytes: int = 1 << 30,
        observe: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        """Makes a router.

        Args:
            instances: URLs, or `Instance`s with profiles of their own.
            policy: A policy by name, with options in parentheses, or a function (`irouter policies` lists the names);
                `guided` is the default by the measurements in docs/results.md.
            profile: Profile of the instances that are given as URLs.
            predictor: Asked for the output length of requests that come with their prompt and without a
                prediction. One that can learn is told of each that finished.
            seed: Seed of the policy's random choices.
            max_hold_s: The longest that a request is held while an engine has room; infinity for no limit.
            overtaking_s: The most predicted work, in seconds, that may overtake a request of equal priority.
            dispatch_delay_s: Seconds from a decision until the engine has the request.
            lease_ttl_s: A lease of which nothing is heard for so long has failed; infinity for no limit.
            max_waiting: Most requests that wait at the router; one more is refused.
            shared_instances: Whether others send requests to these engines too. Then two reports in a row (`report`)
                that show more requests than this router's make it reckon with the rest: as many stand-ins with the KV
                cache that is in use, and lengths like those that this router has seen.
            tenant_weights: Shares of tenants in the queue; a tenant that is not named has weight 1.
            log: Write every event and decision to this file, for `irouter replay`.
            log_limit_bytes: The log ends at this size.
            observe: Called with each record of that log, whether or not it is written. The router waits for it: it
                has to return at once, must not raise, change the record or call the router.

        Raises:
            IrouterError: For a bad instance, profile, policy or limit.
        """
        if not lease_ttl_s > 0:
            raise IrouterError(f"lease_ttl_s is {lease_ttl_s}, expected a positive number of seconds")
        if max_waiting < 0:
            raise IrouterError(f"max_waiting is {max_waiting}, expected 0 or more")
        choice = choice_of(policy)
        settings: dict[str, Any] = {
            "seed": seed,
            "max_hold_s": max_hold_s,
            "overtaking_s": overtaking_s,
            "dispatch_delay_s": dispatch_delay_s,
            "tenant_weights": {
                number_of(name, bits=32): float(weight) for name, weight in (tenant_weights or {}).items()
            },
        }
        make_core = functools.partial(Core, [], choice.function or choice.to_spec(), **settings)
        super().__init__(predictor, None if profile is None else LoadedProfile(profile))
        journal = None
        if log is not None:
            # A log starts no program: that policy cannot be had again from it, nor can a function.
            named = None if choice.function is not None or choice.is_external else choice.to_spec()
            header = {"policy": named, "label": choice.label, **settings}
            journal = DecisionLog(Path(log), log_limit_bytes, header)
        limits = Limits(lease_ttl_s, max_waiting)
        self._kept = Machine(make_core, limits, journal, observe, shared=shared_instances)
        for instance in instances:
            if isinstance(instance, Instance):
                self.add_instance(instance.url, profile=instance.profile)
            else:
                self.add_instance(instance)

    @property
    def _machine(self) -> Machine:
        return self._kept
