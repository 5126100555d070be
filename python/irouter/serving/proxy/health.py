"""Which instances can be asked: a circuit breaker for each, closed again by its health."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Final

import aiohttp

from irouter.serving.proxy.journal import note

if TYPE_CHECKING:
    from irouter.serving.base_router import BaseRouter
    from irouter.serving.proxy.config import ProxyConfig

_WELL: Final = 200


@dataclasses.dataclass(slots=True)
class _Breaker:
    task: asyncio.Task[None] | None = None
    failures: int = 0
    open_until_s: float | None = None


class HealthKeeper:
    """Takes an instance out after failures in a row, and back when it is well again.

    Requests and health checks can fail. While an instance is out it gets no new requests, and those on it go
    on. One that comes back without any on it starts clean and slowly, since it may be another process by then.
    """

    def __init__(self, router: BaseRouter, config: ProxyConfig, session: aiohttp.ClientSession) -> None:
        self._router = router
        self._config = config
        self._session = session
        self._breakers: dict[str, _Breaker] = {}

    def add(self, url: str) -> None:
        """An instance is to be watched from now on."""
        breaker = self._breakers[url] = _Breaker()
        breaker.task = asyncio.create_task(self._watch(url, breaker))

    def remove(self, url: str) -> bool:
        """An instance is watched no more, and what is heard of it later changes nothing; whether it was out."""
        breaker = self._breakers.pop(url)
        if breaker.task is not None:
            breaker.task.cancel()
        return breaker.open_until_s is not None

    def ready_beside(self, urls: set[str]) -> int:
        """Instances that take requests, beside some."""
        return sum(
            breaker.open_until_s is None and url not in urls for url, breaker in self._breakers.items()
        )

    def worked(self, url: str) -> None:
        """An instance answered."""
        breaker = self._breakers.get(url)
        if breaker is not None:
            breaker.failures = 0

    def failed(self, url: str, reason: str) -> None:
        """An instance failed a request, or to say that it is well."""
        breaker = self._breakers.get(url)
        if breaker is None:
            return
        breaker.failures += 1
        if breaker.failures < self._config.failures_to_open:
            return
        if breaker.open_until_s is None:
            self._router.drain_instance(url)
            note("instance_out", instance=url, reason=reason, failures=breaker.failures)
        breaker.open_until_s = time.monotonic() + self._config.open_s

    async def close(self) -> None:
        """Ends the watching."""
        tasks = [breaker.task for breaker in self._breakers.values() if breaker.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, url: str, breaker: _Breaker) -> None:
        timeout = aiohttp.ClientTimeout(total=self._config.health_timeout_s)
        while True:
            await asyncio.sleep(self._config.health_interval_s)
            try:
                # An engine that redirects would choose where the proxy connects to.
                async with self._session.get(
                    f"{url}/health", timeout=timeout, allow_redirects=False
                ) as answer:
                    well, reason = answer.status == _WELL, f"health: status {answer.status}"
            except (aiohttp.ClientError, TimeoutError) as error:
                well, reason = False, f"health: {type(error).__name__}"
            if not well:
                self.failed(url, reason)
            elif breaker.open_until_s is None:
                # Its requests may fail while it says that it is well: only they forgive themselves.
                continue
            elif breaker.open_until_s <= time.monotonic():
                self._router.take_back_instance(
                    url,
                    slow_start_s=self._config.slow_start_s,
                    slow_start_share=self._config.slow_start_share,
                )
                breaker.failures, breaker.open_until_s = 0, None
                note("instance_back", instance=url)
