"""The router that a proxy embeds."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from irouter._core import IrouterError
from irouter._core import Router as Core
from irouter.evaluation.policies import choice_of
from irouter.serving.acquisition import Acquisition
from irouter.serving.decision_log import DecisionLog
from irouter.serving.foresight import Foresight, Predictor, PredictorFront, foresee, foresee_async
from irouter.serving.instances import Instance, InstanceStatus, LoadedProfile, check_url
from irouter.serving.limits import Limits
from irouter.serving.machine import Machine
from irouter.serving.request import PreparedRequest, RequestFields, encodable, number_of
from irouter.serving.slow_start import Ramp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from irouter._core import Impact
    from irouter.evaluation.policies import PolicyFunction
    from irouter.serving.lease import Ending, Lease

_NO_BLOCKS = 16


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
    """

    submitted: int
    waiting: int
    in_flight: int
    endings: Mapping[Ending, int]
    fallbacks: int
    failed_predictions: int


class Router:
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
        policy: str | PolicyFunction = "least_work",
        *,
        profile: str | Path | None = None,
        predictor: Predictor | PredictorFront | None = None,
        seed: int = 0,
        max_hold_s: float = 60.0,
        overtaking_s: float = 30.0,
        dispatch_delay_s: float = 0.001,
        lease_ttl_s: float = 600.0,
        max_waiting: int = 10_000,
        tenant_weights: Mapping[str | int, float] | None = None,
        log: str | Path | None = None,
        log_limit_bytes: int = 1 << 30,
        observe: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        """Makes a router.

        Args:
            instances: URLs, or `Instance`s with profiles of their own.
            policy: A policy by name, with options in parentheses, or a function (`irouter policies` lists the names).
            profile: Profile of the instances that are given as URLs.
            predictor: Asked for the output length of requests that come with their prompt and without a
                prediction. One that can learn is told of each that finished.
            seed: Seed of the policy's random choices.
            max_hold_s: The longest that a request is held while an engine has room; infinity for no limit.
            overtaking_s: The most predicted work, in seconds, that may overtake a request of equal priority.
            dispatch_delay_s: Seconds from a decision until the engine has the request.
            lease_ttl_s: A lease of which nothing is heard for so long has failed; infinity for no limit.
            max_waiting: Most requests that wait at the router; one more is refused.
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
        self._default_profile = None if profile is None else LoadedProfile(profile)
        self._predictor = predictor
        journal = None
        if log is not None:
            # A log starts no program: that policy cannot be had again from it, nor can a function.
            named = None if choice.function is not None or choice.is_external else choice.to_spec()
            header = {"policy": named, "label": choice.label, **settings}
            journal = DecisionLog(Path(log), log_limit_bytes, header)
        self._machine = Machine(make_core, Limits(lease_ttl_s, max_waiting), journal, observe)
        for instance in instances:
            if isinstance(instance, Instance):
                self.add_instance(instance.url, profile=instance.profile)
            else:
                self.add_instance(instance)

    # ----------------------------------------------------------------------------------------------- requests

    def try_route(
        self, *, overtake: bool = False, exclude: Iterable[str] = (), **request: Unpack[RequestFields]
    ) -> Lease | None:
        """A lease at once, on the instance where the policy places the request; a policy that would hold places it too.

        Args:
            overtake: Go before the requests that wait; without it there is no lease while any does.
            exclude: URLs of instances that it must not go to, such as one that has just failed it.
            **request: The request.

        Returns:
            The lease; None while others wait.

        Raises:
            NoInstanceError: When no instance can take it.
            IrouterError: For a bad request.
        """
        ticket = self._machine.place(
            self._prepare(None, **request), overtake=overtake, exclude=tuple(dict.fromkeys(exclude))
        )
        return None if ticket is None else self._machine.lease(ticket)

    def acquire(self, *, exclude: Iterable[str] = (), **request: Unpack[RequestFields]) -> Acquisition:
        """A lease, after waiting in the queue where the policy holds: `async with` it, or `with` it in a thread.

        Args:
            exclude: URLs of instances that it must not go to. A request that excludes any has been through the queue
                before and goes at once.
            **request: The request.

        Raises:
            QueueFullError: When it enters and may not wait.
            DeadlineError: When it enters and its deadline passes.
            NoInstanceError: When it enters and all instances are excluded.
            IrouterError: When it enters, for a bad request.
        """
        prepare = functools.partial(self._prepare, **request)
        foresee = functools.partial(self._foresee, request)
        return Acquisition(self._machine, prepare, foresee, tuple(dict.fromkeys(exclude)))

    def _prepare(self, foresight: Foresight | None, **request: Unpack[RequestFields]) -> PreparedRequest:
        if foresight is None:
            asked = self._asked(request)
            foresight = Foresight() if asked is None else foresee(*asked)
        profiles = self._machine.table.profiles or [
            known for known in (self._default_profile,) if known is not None
        ]
        return PreparedRequest(
            block_tokens=profiles[0].block_tokens if profiles else _NO_BLOCKS,
            max_model_len=max((known.max_model_len for known in profiles), default=1 << 20),
            foresight=foresight,
            **request,
        )

    async def _foresee(self, request: RequestFields) -> Foresight | None:
        asked = self._asked(request)
        return None if asked is None else await foresee_async(*asked)

    def _asked(self, request: RequestFields) -> tuple[Predictor | PredictorFront, str] | None:
        """Who is asked what, where a predictor can tell something that the caller has not."""
        prompt = request.get("prompt")
        known = request.get("predicted_tokens") is not None or request.get("predicted_quantiles") is not None
        if self._predictor is None or not prompt or known:
            return None
        return self._predictor, encodable(prompt)

    def impact(self, **request: Unpack[RequestFields]) -> dict[str, Impact]:
        """What a request would cost on each instance that is ready and can hold it, by URL; nothing is placed.

        >>> router = Router(["http://a:8000", "http://b:8000"], profile="llama-3.1-8b@h100")
        >>> impact = router.impact(prompt_tokens=500, max_tokens=200)
        >>> impact["http://a:8000"].e2e_s < 5
        True

        Args:
            **request: The request, as for `acquire`.

        Raises:
            IrouterError: For a bad request, or one that fits no instance.
        """
        return dict(self._machine.impact(self._prepare(None, **request)))

    # ---------------------------------------------------------------------------------------------- instances

    def add_instance(
        self,
        url: str,
        *,
        profile: str | Path | None = None,
        slow_start_s: float = 0.0,
        slow_start_share: float = 0.25,
    ) -> None:
        """An instance takes requests from now on. One that was removed before starts clean.

        Args:
            url: Its base URL.
            profile: Its profile; without it the one that the router was made with.
            slow_start_s: For so many seconds it holds at most a share of the requests that instances hold on average
                which have started before; 0: it takes what the policy gives it at once.
            slow_start_share: That share at first, above 0; it grows evenly to 1.

        Raises:
            IrouterError: For a bad URL, profile, time or share, or an instance that is there.
        """
        check_url(url)
        ramp = Ramp(slow_start_s, slow_start_share)
        loaded = self._default_profile if profile is None else LoadedProfile(profile)
        if loaded is None:
            raise IrouterError(f"instance {url} has no profile, expected one with it or for the router")
        self._machine.join(url, loaded, ramp)

    def drain_instance(self, url: str) -> None:
        """An instance takes no more requests, and finishes those it has.

        Raises:
            IrouterError: When it is not there.
        """
        self._machine.drain(url)

    def resume_instance(self, url: str) -> None:
        """An instance that was draining takes requests again.

        Raises:
            IrouterError: When it is not there or not draining.
        """
        self._machine.resume(url)

    def remove_instance(self, url: str) -> None:
        """An instance is gone; leases on it are lost.

        Raises:
            IrouterError: When it is not there.
        """
        self._machine.leave(url)

    def report(
        self, url: str, *, waiting: int, running: int, kv_usage: float, queued_prefill_tokens: int = 0
    ) -> None:
        """What an engine says of itself now, where somebody reads its metrics. Nothing depends on reports.

        Args:
            url: The instance.
            waiting: Requests in the engine's own queue.
            running: Requests in its batch.
            kv_usage: Share of its KV blocks in use, 0 to 1.
            queued_prefill_tokens: Prompt tokens waiting or partly computed.

        Raises:
            IrouterError: When it is not there, or for a share that is none.
        """
        figures = {
            "waiting": waiting,
            "running": running,
            "kv_usage": kv_usage,
            "queued_prefill_tokens": queued_prefill_tokens,
        }
        self._machine.report(url, figures)

    @property
    def instances(self) -> list[InstanceStatus]:
        """Every instance that is there or was last at its number."""
        return self._machine.instances()

    # ------------------------------------------------------------------------------------------------ the rest

    @property
    def statistics(self) -> RouterStatistics:
        """What it has done so far."""
        machine = self._machine
        return RouterStatistics(
            submitted=machine.submitted,
            waiting=machine.waiting,
            in_flight=machine.in_flight,
            endings=dict(machine.endings),
            fallbacks=machine.fallbacks,
            failed_predictions=machine.failed_predictions,
        )

    def close(self) -> None:
        """Refuses all that waits and all that comes, and completes the log."""
        self._machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
