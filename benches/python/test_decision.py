"""Time of a decision through Python: 32 residents an instance, so many requests waiting.

`make bench` times it; the gate runs each case once, for the assertion.
"""

import itertools
import json
from typing import Any

import pytest

from irouter import _core, profiles

RESIDENTS = 32
BLOCKS = 5_500
PAUSE_S = 0.005


class Cluster:
    """A cluster in the middle of its work."""

    def __init__(self, instances: int, waiting: int) -> None:
        profile = profiles.load("llama-3.1-8b@h100")
        profile["kv"]["blocks"] = BLOCKS
        self.router = _core.Router([json.dumps(profile)] * instances, "guided")
        self.now_s = 0.0
        self.numbers = itertools.count()
        keys = [self.submit() for _ in range(RESIDENTS * instances)]
        for index, key in enumerate(keys):
            self.router.dispatch(key, index % instances, now_s=self.now_s)
        self.now_s = 2.0
        for index, key in enumerate(keys):
            self.router.progress(key, 16 * (1 + index % 9), now_s=self.now_s)
        for _ in range(waiting):
            self.submit()

    def submit(self) -> int:
        """A request more waits."""
        number = next(self.numbers)
        return self.router.submit(
            number,
            now_s=self.now_s,
            prompt_tokens=100 + 377 * number % 3000,
            max_tokens=4096,
            predicted_tokens=50 + 131 * number % 700,
        )

    def pass_on(self, decision: _core.Decision | float | None, newcomer: int) -> None:
        """Whoever was sent is done at once, or the newcomer goes, so that the cluster stays as it is."""
        if isinstance(decision, _core.Decision):
            self.router.finished(decision.key, now_s=self.now_s)
        else:
            self.router.cancelled(newcomer, now_s=self.now_s)


@pytest.mark.parametrize("waiting", [0, 16, 256])
@pytest.mark.parametrize("instances", [4, 64])
def test_a_decision_of_guided(benchmark: Any, instances: int, waiting: int) -> None:
    if benchmark.enabled:
        assert _core.BUILD_PROFILE == "release", "time an optimised build: make build-release"
    cluster = Cluster(instances, waiting)
    newcomers: list[int] = []
    decisions: list[_core.Decision | float | None] = []

    def setup() -> None:
        if decisions:
            cluster.pass_on(decisions[-1], newcomers[-1])
        cluster.now_s += PAUSE_S
        newcomers.append(cluster.submit())

    def decide() -> None:
        decisions.append(cluster.router.decide(cluster.now_s))

    benchmark.group = f"{instances} instances, 32 residents each"
    benchmark.pedantic(decide, setup=setup, rounds=2000 if benchmark.enabled else 10)
    cluster.pass_on(decisions[-1], newcomers[-1])
    assert cluster.router.waiting == waiting
    assert sum(cluster.router.in_flight) == RESIDENTS * instances
