"""One sweep on one thread, on every core, in parts on every core, and on a local Ray cluster, in turns, in one run.

    make bench-scale

Prints medians, and ratios of the one-thread time over each: the median over rounds of the ratio within a round. Every
way must give the same bytes.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING, Any

import irouter
from irouter.evaluation.executors import LocalExecutor
from irouter.evaluation.ray_executor import RayExecutor

if TYPE_CHECKING:
    from irouter.evaluation.executors import Executor

ROUNDS = 3
SWEEP: dict[str, Any] = {
    "policies": [
        "round_robin",
        "least_requests",
        "power_of_two",
        "least_work",
        "join_shortest_queue",
        "smg_least_load",
        "central_fcfs",
        "central_shortest",
    ],
    "conditions": "headline",
    "requests": 2000,
    "seeds": 20,
    "sweep": [1.1],
}


def timed(threads: int, executor: Executor | None) -> tuple[float, str]:
    """Seconds of one comparison, and its bytes."""
    start = time.perf_counter()
    comparison = irouter.compare("conversation", threads=threads, executor=executor, **SWEEP)
    return time.perf_counter() - start, comparison.to_json()


def main() -> None:
    """Prints one line per way."""
    start = time.perf_counter()
    with RayExecutor("local") as ray:
        cores = ray.slots
        started_s = time.perf_counter() - start
        ways: dict[str, tuple[int, Executor | None]] = {
            "1 thread": (1, None),
            f"{os.cpu_count()} threads": (0, None),
            f"parts on {os.cpu_count()} threads": (0, LocalExecutor()),
            f"Ray with {cores} cores": (0, ray),
        }
        rounds = [{name: timed(*way) for name, way in ways.items()} for _ in range(ROUNDS)]
    assert len({text for times in rounds for _, text in times.values()}) == 1, "the bytes differ"
    for name in ways:
        seconds = statistics.median(times[name][0] for times in rounds)
        ratio = statistics.median(times["1 thread"][0] / times[name][0] for times in rounds)
        print(f"{name:22} {seconds:6.2f} s, {ratio:.2f} times as fast as one thread")
    print(f"the same bytes each time; starting Ray took {started_s:.1f} s")


if __name__ == "__main__":
    main()
