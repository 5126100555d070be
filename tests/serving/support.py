"""What the tests of the live router share."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

import irouter

URLS = ("http://a:8000", "http://b:8000")


def assert_idle(router: irouter.Router) -> None:
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


class Server:
    """A command of irouter that serves, in a process of its own."""

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
        assert self.url.startswith("http"), f"{arguments}: {line!r}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)
