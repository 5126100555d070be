"""The live dashboard: a page of our own, and what it shows as JSON. It changes nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from irouter import __version__
from irouter.serving.proxy.door import DASHBOARD
from irouter.serving.proxy.shadows import PERCENTILES, Shadows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from irouter.serving.instances import InstanceStatus
    from irouter.serving.proxy.config import ProxyConfig
    from irouter.serving.proxy.pool import Pool
    from irouter.serving.proxy.window import Seen, Window

_FILES: Final = {
    "": ("index.html", "text/html"),
    "dashboard.css": ("dashboard.css", "text/css"),
    "dashboard.js": ("dashboard.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
# Nothing from elsewhere, nothing inline, in no frame, and no copy that outlives the tab.
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_SECONDS_SHOWN: Final = 60
# The second that runs has not had all of its decisions.
_RATE_OVER_S: Final = 10
_MOST_RESIDENTS: Final = 64


class Dashboard:
    """Serves the page and the state of every pool. Who may ask is for the door to say."""

    def __init__(self, pools: Mapping[str | None, Pool], config: ProxyConfig) -> None:
        self._pools = pools
        self._shadows = (
            {
                model: Shadows(
                    pool,
                    config.shadow_policies,
                    interval_s=config.shadow_interval_s,
                    window_s=config.shadow_window_s,
                    max_hold_s=config.max_hold_s,
                )
                for model, pool in pools.items()
            }
            if config.has_dashboard
            else {}
        )
        self.routes = [
            web.get(DASHBOARD, self.page),
            web.get(DASHBOARD + "/state", self.state),
            web.get(DASHBOARD + "/{file}", self.page),
        ]
        if not config.has_dashboard:
            self.routes = []

    def start(self) -> None:
        """Starts the simulations of shadow policies."""
        for shadows in self._shadows.values():
            shadows.start()

    async def close(self) -> None:
        """Ends them."""
        await asyncio.gather(*(asyncio.to_thread(shadows.close) for shadows in self._shadows.values()))

    async def page(self, request: web.Request) -> web.Response:
        """A file of the page."""
        found = _FILES.get(request.match_info.get("file", ""))
        if found is None:
            raise web.HTTPNotFound
        name, kind = found
        content = (resources.files(__package__) / "dashboard_page" / name).read_bytes()
        return web.Response(body=content, content_type=kind, charset="utf-8", headers=_HEADERS)

    async def state(self, _request: web.Request) -> web.Response:
        """What the page shows."""
        state = {
            "version": __version__,
            "time": time.time(),
            "percentiles": PERCENTILES,
            "pools": [
                _pool_state(pool, pool.window, self._shadows[model])
                for model, pool in self._pools.items()
                if pool.window is not None
            ],
        }
        return web.json_response(state, headers=_HEADERS)


def _pool_state(pool: Pool, window: Window, shadows: Shadows) -> dict[str, Any]:
    now, statistics, instances = window.now(), pool.router.statistics, pool.router.instances
    per_second, seen, outlook = window.rates(), window.requests(), shadows.outlook
    on: dict[int, list[Seen]] = {}
    for entry in seen:
        if entry.instance is not None and entry.ended_s is None:
            on.setdefault(entry.instance, []).append(entry)
    second = int(now)
    history = [per_second.get(at, 0) for at in range(second - _SECONDS_SHOWN, second)]
    waits = [
        now - entry.submitted_s for entry in seen if entry.dispatched_s is None and entry.ended_s is None
    ]
    return {
        "model": pool.config.model,
        "policy": pool.config.policy,
        "waiting": statistics.waiting,
        "longest_wait_s": max(waits, default=0.0),
        "in_flight": statistics.in_flight,
        "submitted": statistics.submitted,
        "endings": statistics.endings,
        "fallbacks": statistics.fallbacks,
        "decisions_per_s": sum(history[-_RATE_OVER_S:]) / _RATE_OVER_S,
        "history": history,
        "instances": [
            _instance_state(number, instance, on.get(number, []), now)
            for number, instance in enumerate(instances)
            if instance.status != "gone"
        ],
        "decisions": [
            {
                "age_s": now - choice.at_s,
                "request": choice.number,
                "instance": choice.instance,
                "waited_s": choice.waited_s,
                "why": choice.why,
                "fallback": choice.fallback,
            }
            for choice in window.choices()
        ],
        "latency": dataclasses.asdict(outlook),
    }


def _instance_state(
    number: int, instance: InstanceStatus, residents: list[Seen], now: float
) -> dict[str, Any]:
    tokens = instance.prompt_tokens + instance.produced_tokens
    shown = sorted(residents, key=lambda entry: entry.submitted_s)[:_MOST_RESIDENTS]
    return {
        "number": number,
        "url": instance.url,
        "status": instance.status,
        "share": instance.share,
        "in_flight": instance.in_flight,
        "awaiting_first_token": instance.awaiting_first_token,
        "queued_prefill_tokens": instance.queued_prefill_tokens,
        "produced_tokens": instance.produced_tokens,
        "remaining_output_tokens": instance.remaining_output_tokens,
        "kv_share": tokens / instance.kv_capacity_tokens,
        "idle_in_s": instance.work_s,
        "residents": [_resident(entry, now) for entry in shown],
    }


def _resident(entry: Seen, now: float) -> dict[str, Any]:
    """A request on an instance: its tokens, how long it is there, and when it was expected to end."""
    ends_in_s = None
    if entry.dispatched_s is not None and entry.expected_e2e_s is not None:
        ends_in_s = entry.dispatched_s + entry.expected_e2e_s - now
    return {
        "request": entry.number,
        "tokens": entry.tokens,
        "age_s": now - (entry.dispatched_s or now),
        "ends_in_s": ends_in_s,
    }
