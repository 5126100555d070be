"""What the tests of the live router share."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import irouter
from irouter.serving.base_router import BaseRouter
from irouter.serving.daemon.server import daemon

URLS = ("http://a:8000", "http://b:8000")


def assert_idle(router: BaseRouter) -> None:
    """Nothing waits, nothing is on an instance, every sum is zero and every request has ended once."""
    statistics = router.statistics
    assert (statistics.waiting, statistics.in_flight) == (0, 0)
    assert sum(statistics.endings.values()) == statistics.submitted
    for instance in router.instances:
        sums = (
            instance.in_flight,
            instance.awaiting_first_token,
            instance.queued_prefill_tokens,
            instance.prompt_tokens,
            instance.produced_tokens,
            instance.remaining_output_tokens,
            instance.work_s,
        )
        assert sums == (0,) * 7, instance


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Waits until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come to hold"
        time.sleep(0.002)


class DaemonThread:
    """A daemon in a thread of this process, over a router that the test can look at."""

    def __init__(self, router: irouter.Router, path: Path) -> None:
        self._router, self._path = router, path
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        async with daemon(self._router, self._path):
            self._started.set()
            await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


class Server:
    """A command of irouter that serves, in a process of its own; `url` is where, of a daemon its socket."""

    def __init__(self, *arguments: str, log: Path | None = None) -> None:
        with Path(os.devnull if log is None else log).open("w") as errors:
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "irouter.cli", *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = line.rpartition(" ")[2].strip()
        assert self.url.startswith(("http", "/")), f"{arguments}: {line!r}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)
