"""`irouter serve` at its ceiling for 20 minutes: does its memory stay flat, and is every lease given back?

    python tools/soak_live.py --minutes 20

Two engines answer after 50 ms; half of the clients stream, and one in twenty of those leaves in the midst of an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import uvloop

import http_load
import live_routers
from faults import HELD, figures
from irouter._core import IrouterError
from irouter.serving.demo.processes import Processes
from irouter.serving.proxy.config import DEFAULT_PROFILE
from live_routers import Place
from process_figures import resident_bytes

if TYPE_CHECKING:
    import aiohttp

CONNECTIONS: Final = 200
_LEAVES_SHARE: Final = 0.05
_LEAVES_S: Final = 0.03
_WARM_UP: Final = 0.25
"""Of the time, before growth is reckoned."""
_MIB: Final = 1 << 20
_QUIET_S: Final = 30.0


class Soak:
    """Clients that send one request after the other until time is up."""

    def __init__(self, client: http_load.Client, ends_s: float) -> None:
        self._client = client
        self._ends_s = ends_s
        self.answered = 0
        self.left = 0

    async def run(self) -> None:
        """Until time is up."""
        await asyncio.gather(*(self._one(number) for number in range(CONNECTIONS)))

    async def _one(self, number: int) -> None:
        draws = random.Random(number)  # noqa: S311 - seeded draws, not secrets
        stream = number % 2 == 1
        while time.monotonic() < self._ends_s:
            leaves = stream and draws.random() < _LEAVES_SHARE
            try:
                async with asyncio.timeout(_LEAVES_S if leaves else None):
                    await self._client.ask(stream=stream)
                self.answered += 1
            except TimeoutError:
                self.left += 1


async def sampled(soak: Soak, pid: int, every_s: float) -> list[tuple[float, float]]:
    """Resident memory in MiB at times in seconds, while the clients send."""
    samples = []
    running = asyncio.create_task(soak.run())
    started, before = time.monotonic(), 0
    while not running.done():
        await asyncio.wait({running}, timeout=every_s)
        at_s, resident = time.monotonic() - started, resident_bytes(pid) / _MIB
        samples.append((at_s, resident))
        rate = (soak.answered - before) / every_s
        before = soak.answered
        print(f"{at_s:5.0f} s: {resident:6.1f} MiB, {rate:5.0f} requests/s", flush=True)
    await running
    return samples


async def idle(session: aiohttp.ClientSession, url: str) -> None:
    """Waits until the router has nothing.

    Raises:
        IrouterError: When it still holds something after half a minute.
    """
    deadline = time.monotonic() + _QUIET_S
    while True:
        found = await figures(session, url)
        held = {name: found[name] for name in HELD if found[name]}
        if not held:
            return
        if time.monotonic() > deadline:
            raise IrouterError(f"the router holds {held} after {_QUIET_S:g} s of rest, expected nothing")
        await asyncio.sleep(0.1)


async def main(minutes: float, every_s: float) -> None:
    """Runs it and prints what memory did."""
    with tempfile.TemporaryDirectory(prefix="irouter-soak-") as name:
        folder = Path(name)
        async with Processes(folder) as processes, http_load.session() as session:
            engines = await http_load.answering_engines(processes, 2)
            router = await live_routers.serve("guided")(Place(processes, folder, engines, DEFAULT_PROFILE))
            pid = processes.pids[-1]
            soak = Soak(http_load.Client(session, router), time.monotonic() + 60 * minutes)
            samples = np.array(await sampled(soak, pid, every_s))
            await idle(session, router.urls[0])
            found = await figures(session, router.urls[0])
            resident = resident_bytes(pid) / _MIB
    warm = samples[samples[:, 0] >= _WARM_UP * samples[-1, 0]]
    slope = 3600 * float(np.polyfit(warm[:, 0], warm[:, 1], 1)[0])
    endings = {
        name: int(found[name]) for name in ("finished", "cancelled", "failed", "expired") if found[name]
    }
    print(f"{soak.answered:,} requests answered, {soak.left:,} clients left; leases by their end: {endings}")
    print(
        f"memory {warm[0, 1]:.1f} MiB after the warm-up, {warm[-1, 1]:.1f} MiB at the end, {resident:.1f} at rest"
    )
    print(
        f"growth after the warm-up: {slope:+.1f} MiB an hour, by the straight line through {len(warm)} samples"
    )
    print("at rest nothing waits, nothing is in flight, and no work is left")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.minutes, arguments.every))
