"""Speed as a Python user meets it: everything that `irouter.compare` does for one policy, and agents, on one core.

`make bench` times it; the gate runs each case once, for the assertion.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import irouter
from irouter import _core
from irouter.training.environment import RoutingVectorEnv, Spec

TIMED_REQUESTS, CHECKED_REQUESTS = 20_000, 1_000
POLICIES = ("round_robin", "least_requests", "least_work", "central_shortest")


@pytest.mark.parametrize("load", [0.8, 1.2])
@pytest.mark.parametrize("instances", [4, 16])
@pytest.mark.parametrize("policy", POLICIES)
def test_comparing_one_policy_on_conversation_lengths(
    benchmark: Any, policy: str, instances: int, load: float
) -> None:
    requests = TIMED_REQUESTS if benchmark.enabled else CHECKED_REQUESTS

    def compare() -> irouter.Comparison:
        return irouter.compare(
            "conversation",
            policies=[policy],
            reference=policy,
            instances=instances,
            load=load,
            requests=requests,
            seeds=1,
            threads=1,
        )

    if benchmark.enabled:
        assert _core.BUILD_PROFILE == "release", "time an optimised build: make build-release"
    benchmark.group = f"{instances} instances, load {load}"
    comparison = benchmark(compare)
    workload = comparison.main.results["workload"]
    assert comparison.policies[policy]["completed"] == sum(workload["requests"])
    if benchmark.enabled:
        benchmark.extra_info["requests_per_second"] = round(requests / benchmark.stats.stats.mean)


def test_decisions_of_an_external_policy(benchmark: Any) -> None:
    """The example of the documentation; at an overload each request is one decision."""
    requests = TIMED_REQUESTS if benchmark.enabled else CHECKED_REQUESTS
    example = Path(__file__).parents[2] / "examples" / "external_policy.py"
    policy = f"external:{sys.executable} {example}"

    def compare() -> irouter.Comparison:
        return irouter.compare(
            "conversation",
            policies=[policy],
            reference=policy,
            load=1.2,
            requests=requests,
            threads=1,
            seeds=1,
        )

    comparison = benchmark(compare)
    assert comparison.policies[policy]["policy_failures"] == 0
    if benchmark.enabled:
        benchmark.extra_info["decisions_per_second"] = round(requests / benchmark.stats.stats.mean)


@pytest.mark.parametrize("spec", [{}, {"reward": "paper", "tick_s": 0.02}], ids=["events", "paper"])
def test_decisions_of_agents_in_many_environments(benchmark: Any, spec: Spec) -> None:
    """The paper's main experiment on one core, shown as counts, new episodes included; holds while there is no room."""
    environments, steps = 32, 500 if benchmark.enabled else 20
    agents = RoutingVectorEnv("paper-main", num_envs=environments, spec=spec)
    shown, _ = agents.reset(seed=0)
    capacity = [agents.feature_names.index(f"instance_{instance}_free_capacity") for instance in range(4)]

    def decide() -> int:
        nonlocal shown
        for _ in range(steps):
            room = shown[:, capacity]
            actions = np.where(room.max(axis=1) > 0.1, room.argmax(axis=1), 4)
            shown, *_ = agents.step(actions)
        return steps * environments

    decisions = benchmark(decide)
    assert decisions == steps * environments
    assert np.isfinite(shown).all()
    if benchmark.enabled:
        benchmark.extra_info["decisions_per_second"] = round(decisions / benchmark.stats.stats.mean)
