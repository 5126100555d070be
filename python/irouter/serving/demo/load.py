"""The load: every request is sent to both policies at the same moment."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from typing import TYPE_CHECKING, Final

import aiohttp
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from irouter.serving.demo.workload import DemoRequest

_OK: Final = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """Latencies in seconds of one policy, over the requests that both have finished.

    Attributes:
        sent: Requests that were sent.
        finished: Those of them that have come to their end.
        failed: Those that got an error.
        e2e_mean_s: Mean time from sending to the last token.
        e2e_p99_s: Its 99th percentile.
        ttft_mean_s: Mean time from sending to the first token.
        ttft_p99_s: Its 99th percentile.
    """

    sent: int
    finished: int
    failed: int
    e2e_mean_s: float
    e2e_p99_s: float
    ttft_mean_s: float
    ttft_p99_s: float


class PairedLoad:
    """Sends requests to several models at the same moments, and keeps how long the answers took.

    Several proxies get them in turn, as clients behind a plain split would send them.
    """

    def __init__(
        self,
        urls: Sequence[str],
        requests: Sequence[DemoRequest],
        models: Sequence[str],
        *,
        api_key: str | None = None,
    ) -> None:
        self._urls = [url + "/v1/completions" for url in urls]
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._requests = requests
        self._models = models
        self._ttft_s = np.full((len(models), len(requests)), np.nan)
        self._e2e_s = np.full((len(models), len(requests)), np.nan)
        self._sent = 0
        self._failed = [0] * len(models)

    async def run(self) -> None:
        """Sends all, and waits for the answers."""
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers) as session,
            asyncio.TaskGroup() as group,
        ):
            started = time.monotonic()
            for row, request in enumerate(self._requests):
                await asyncio.sleep(max(0.0, started + request.arrival_s - time.monotonic()))
                for column in range(len(self._models)):
                    group.create_task(self._ask(session, column, row, request))
                self._sent += 1

    @property
    def pairs(self) -> int:
        """Requests that every policy has finished."""
        return int(self._paired().sum())

    def figures(self) -> dict[str, Figures]:
        """Figures of each model by name; not a number where there is no pair."""
        paired = self._paired()
        return {
            model: Figures(
                self._sent,
                int(np.isfinite(self._e2e_s[column]).sum()),
                self._failed[column],
                *_mean_and_p99(self._e2e_s[column, paired]),
                *_mean_and_p99(self._ttft_s[column, paired]),
            )
            for column, model in enumerate(self._models)
        }

    def _paired(self) -> NDArray[np.bool_]:
        paired: NDArray[np.bool_] = np.isfinite(self._e2e_s).all(axis=0)
        return paired

    async def _ask(self, session: aiohttp.ClientSession, column: int, row: int, request: DemoRequest) -> None:
        body = {
            "model": self._models[column],
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "stream": True,
        }
        url = self._urls[row % len(self._urls)]
        started, first_s, end = time.monotonic(), 0.0, b""
        try:
            async with session.post(url, data=json.dumps(body)) as answer:
                async for chunk in answer.content.iter_any():
                    first_s = first_s or time.monotonic()
                    end = (end + chunk)[-64:]
                whole = answer.status == _OK and b"[DONE]" in end
        except aiohttp.ClientError:
            whole = False
        if not whole:
            self._failed[column] += 1
            return
        self._ttft_s[column, row] = first_s - started
        self._e2e_s[column, row] = time.monotonic() - started


def _mean_and_p99(seconds: NDArray[np.float64]) -> tuple[float, float]:
    if not len(seconds):
        return float("nan"), float("nan")
    return float(seconds.mean()), float(np.percentile(seconds, 99))
