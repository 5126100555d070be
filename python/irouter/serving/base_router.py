"""What a router offers, wherever its decisions are taken."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Self, Unpack

from irouter.serving.acquisition import Acquisition
from irouter.serving.foresight import Foresight, Predictor, PredictorFront, foresee, foresee_async
from irouter.serving.instances import InstanceStatus, LoadedProfile, check_url
from irouter.serving.request import PreparedRequest, RequestFields, encodable
from irouter.serving.slow_start import Ramp

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from irouter._core import Impact
    from irouter.serving.face import MachineFace
    from irouter.serving.lease import Lease, RouterStatistics

_NO_BLOCKS = 16


class BaseRouter:
    """The calls of a router. `Router` decides in this process, `DaemonRouter` asks a daemon."""

    def __init__(self, predictor: Predictor | PredictorFront | None, profile: LoadedProfile | None) -> None:
        self._predictor = predictor
        self._default_profile = profile

    @property
    def _machine(self) -> MachineFace:
        """Who keeps the requests that come now."""
        raise NotImplementedError

    @property
    def connected(self) -> bool:
        """Whether who takes the decisions is there; only a daemon can be away."""
        return True

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
        machine = self._machine
        ticket = machine.place(
            self._prepare(None, **request), overtake=overtake, exclude=tuple(dict.fromkeys(exclude))
        )
        return None if ticket is None else machine.lease(ticket)

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
        return Acquisition(lambda: self._machine, prepare, foresee, tuple(dict.fromkeys(exclude)))

    def _prepare(self, foresight: Foresight | None, **request: Unpack[RequestFields]) -> PreparedRequest:
        if foresight is None:
            asked = self._asked(request)
            foresight = Foresight() if asked is None else foresee(*asked)
        profiles = self._machine.profiles or [
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

        >>> from irouter import Router
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

    def take_back_instance(
        self, url: str, *, slow_start_s: float = 0.0, slow_start_share: float = 0.25
    ) -> None:
        """An instance that was draining takes requests again, and starts anew unless requests are on it.

        Args:
            url: The instance.
            slow_start_s: How long it starts slowly where it starts anew, as in `add_instance`.
            slow_start_share: The share that it takes at first.

        Raises:
            IrouterError: When it is not there or not draining, or for a bad time or share.
        """
        self._machine.take_back(url, Ramp(slow_start_s, slow_start_share))

    def remove_instance(self, url: str) -> None:
        """An instance is gone; leases on it are lost.

        Raises:
            IrouterError: When it is not there.
        """
        self._machine.leave(url)

    def report(
        self, url: str, *, waiting: int, running: int, kv_usage: float, queued_prefill_tokens: int = 0
    ) -> None:
        """What an engine says of itself now, where somebody reads its metrics.

        `irouter.serving.poller.MetricsPoller` does.

        Nothing depends on reports. A router with `shared_instances` takes from them what others have sent there.

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

    def report_lost(self, url: str) -> None:
        """An engine reports no more; what its last report showed of others' requests is forgotten.

        Raises:
            IrouterError: When it is not there.
        """
        self._machine.report_lost(url)

    @property
    def instances(self) -> list[InstanceStatus]:
        """Every instance that is there or was last at its number."""
        return self._machine.instances()

    # ------------------------------------------------------------------------------------------------ the rest

    @property
    def statistics(self) -> RouterStatistics:
        """What it has done so far."""
        return self._machine.statistics()

    def close(self) -> None:
        """Refuses all that waits and all that comes, and completes the log."""
        self._machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
