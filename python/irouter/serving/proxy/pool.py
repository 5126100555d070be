"""The instances of one model: their router, their health, and how they come and go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from irouter._core import IrouterError
from irouter.prediction import HistoryPredictor
from irouter.serving.instances import LoadedProfile
from irouter.serving.proxy.forward import Forwarder
from irouter.serving.proxy.health import HealthKeeper
from irouter.serving.proxy.journal import note
from irouter.serving.proxy.routing import attended, make_router
from irouter.serving.proxy.window import Window

if TYPE_CHECKING:
    import aiohttp

    from irouter.serving.foresight import Predictor, PredictorFront
    from irouter.serving.instances import Instance
    from irouter.serving.proxy.config import PoolConfig, ProxyConfig
    from irouter.serving.proxy.metrics import ProxyMetrics

# An instance that leaves is looked at this often, until its requests have ended.
_LEAVING_POLL_S: Final = 0.2


class Pool:
    """Routes the requests for one model.

    Attributes:
        config: What it is.
        router: Its router, of this process or of a daemon.
        predictor: Who tells the router of output lengths.
        window: What the router did of late; None where there is no dashboard.
    """

    def __init__(
        self, config: PoolConfig, proxy: ProxyConfig, predictor: Predictor | PredictorFront | None
    ) -> None:
        self.config = config
        self._proxy = proxy
        self.window = Window(proxy.shadow_window_s) if proxy.has_dashboard else None
        self.predictor = HistoryPredictor() if predictor is None else predictor
        self.router = make_router(config, proxy, self.predictor, self.window)
        self._profiles: dict[str, LoadedProfile] = {}
        self._leaving: dict[str, tuple[Instance, asyncio.Task[None]]] = {}
        self._instances = {instance.url: instance for instance in config.instances}
        self._attending = contextlib.ExitStack()

    def start(self, session: aiohttp.ClientSession, metrics: ProxyMetrics) -> None:
        """Watches the instances that are known, and can forward from now on.

        Raises:
            IrouterError: When engines are to be divided with other hosts, and cannot be.
        """
        self._attending.enter_context(attended(self.router, self._proxy))
        self._health = HealthKeeper(self.router, self._proxy, session)
        self.forwarder = Forwarder(
            self.router, self._proxy, session, self._health, metrics.of(self.config.model)
        )
        for url in self._instances:
            self._health.add(url)

    async def close(self) -> None:
        """Ends everything."""
        tasks = [task for _, task in self._leaving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._attending.close)
        await self._health.close()
        self.router.close()

    @property
    def instances(self) -> dict[str, Instance]:
        """The instances that are here to stay, by URL."""
        return dict(self._instances)

    @property
    def is_well(self) -> bool:
        """Whether an instance takes requests."""
        return self._health.ready_beside(set()) > 0

    def add(self, instance: Instance, *, at_start: bool) -> None:
        """An instance takes requests from now on: slowly, unless the proxy has only just started too.

        Raises:
            IrouterError: For a bad URL or profile, one that is here, or one that is leaving with another profile.
        """
        if instance.url in self._leaving:
            self._stay(instance)
        else:
            self._join(instance, 0.0 if at_start else self._proxy.slow_start_s)
        self._health.add(instance.url)
        note("instance_added", level=logging.INFO, instance=instance.url, model=self.config.model)

    def remove(self, url: str) -> None:
        """An instance takes no more requests, and leaves when those that it has have ended."""
        instance = self._instances.pop(url)
        is_out = self._health.remove(url)
        if not is_out:
            self.router.drain_instance(url)
        self._leaving[url] = instance, asyncio.create_task(self._leave(url))
        note("instance_removed", level=logging.INFO, instance=url, model=self.config.model)

    @property
    def most_tokens(self) -> int:
        """Most tokens of prompt and answer together that every instance can take."""
        profiles = {str(instance.profile) for instance in self._instances.values()} or {self.config.profile}
        return min(min(self.loaded(name).max_model_len, self.loaded(name).kv_tokens) for name in profiles)

    def _join(self, instance: Instance, slow_start_s: float) -> None:
        self.loaded(str(instance.profile))
        self.router.add_instance(
            instance.url,
            profile=instance.profile,
            slow_start_s=slow_start_s,
            slow_start_share=self._proxy.slow_start_share,
        )
        self._instances[instance.url] = instance

    def _stay(self, instance: Instance) -> None:
        leaves, task = self._leaving[instance.url]
        if leaves.profile != instance.profile:
            raise IrouterError(
                f"instance {instance.url} is leaving with the profile {leaves.profile}, expected the same or a while"
            )
        task.cancel()
        del self._leaving[instance.url]
        self.router.resume_instance(instance.url)
        self._instances[instance.url] = instance

    async def _leave(self, url: str) -> None:
        for _ in range(round(self._proxy.request_timeout_s / _LEAVING_POLL_S)):
            if not any(entry.url == url and entry.in_flight for entry in self.router.instances):
                break
            await asyncio.sleep(_LEAVING_POLL_S)
        self.router.remove_instance(url)
        del self._leaving[url]

    def loaded(self, profile: str) -> LoadedProfile:
        """A profile, read once."""
        if profile not in self._profiles:
            self._profiles[profile] = LoadedProfile(profile)
        return self._profiles[profile]
