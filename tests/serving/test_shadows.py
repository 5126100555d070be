"""The window of a router's last requests, and what the simulator makes of them."""

import types
from typing import Any

import numpy as np
import pytest

import irouter
from irouter.evaluation.traces import Trace
from irouter.serving.instances import Instance, LoadedProfile
from irouter.serving.proxy.config import PoolConfig
from irouter.serving.proxy.shadows import PERCENTILES, Shadows
from irouter.serving.proxy.window import Window

PROFILE = "llama-2-7b@v100-paper"


def submitted(number: int, at_s: float, **fields: Any) -> dict[str, Any]:
    record = {
        "at_s": at_s,
        "event": "submitted",
        "request": number,
        "prompt_tokens": 100,
        "max_tokens": 500,
        "predicted_tokens": 60,
        "predicted_quantiles": None,
        "prompt_blocks": None,
        "priority": 0,
        "tenant": 0,
        "session": None,
    }
    return record | fields


def dispatched(number: int, at_s: float, instance: int = 0) -> dict[str, Any]:
    return {
        "at_s": at_s,
        "event": "dispatched",
        "request": number,
        "instance": instance,
        "waited_s": 0.0,
        "impact": "why",
        "expected_e2e_s": 2.0,
        "fallback": False,
    }


def finished(number: int, at_s: float, tokens: int) -> dict[str, Any]:
    return {"at_s": at_s, "event": "finished", "request": number, "tokens": tokens}


def test_a_window_follows_requests_and_is_bounded() -> None:
    window = Window(10.0)
    for number in range(5000):
        at_s = number * 0.001
        window(submitted(number, at_s))
        window(dispatched(number, at_s, number % 2))
        window({"at_s": at_s, "event": "progress", "request": number, "tokens": 1})
    seen = window.requests()
    assert (len(seen), seen[-1].number) == (2000, 4999)
    assert (seen[-1].instance, seen[-1].tokens, seen[-1].first_token_s) == (1, 1, 4.999)
    assert sum(window.rates().values()) == 5000
    assert [choice.number for choice in window.choices()[:2]] == [4999, 4998]
    window({"at_s": 5.0, "event": "left", "instance": 1})
    window(finished(4998, 5.0, 40))
    assert {(entry.instance, entry.ending) for entry in window.requests()[-2:]} == {
        (0, "finished"),
        (1, "failed"),
    }
    window(submitted(5000, 100.0))
    old = [entry.number for entry in window.requests() if entry.ended_s is not None]
    assert len(old) < 1100, "what ended before the window is forgotten, up to the first that has not"
    window(submitted(5001, 100.0, prompt_blocks=list(range(1 << 20))))
    assert window.requests() == [], "a prompt larger than all may be is not kept"
    window(submitted(5002, 100.0))
    window(submitted(5003, 0.0))
    assert [entry.number for entry in window.requests()] == [5003], "the router's clock began anew"


def pool_of(window: Window, policy: str, profiles: tuple[str, ...]) -> Any:
    """What shadows need of a pool."""
    instances = {
        f"http://{number}": Instance(f"http://{number}", name) for number, name in enumerate(profiles)
    }
    statuses = [types.SimpleNamespace(url=url, status="ready") for url in instances]
    return types.SimpleNamespace(
        window=window,
        config=PoolConfig(None, policy=policy, profile=PROFILE),
        instances=instances,
        router=types.SimpleNamespace(instances=statuses),
        loaded=LoadedProfile,
    )


def shadows_of(pool: Any, *policies: str) -> Shadows:
    return Shadows(pool, policies, interval_s=1.0, window_s=100.0, max_hold_s=60.0)


def test_rows_are_measured_and_simulated_over_the_same_requests() -> None:
    draws = np.random.default_rng(3)
    arrivals = np.cumsum(draws.exponential(0.2, 200))
    outputs = draws.integers(20, 300, 200)
    window = Window(100.0)
    for number in range(200):
        # Texts and estimated tokens differ: half of the prompts have too few hashes, half too many.
        blocks = [7] * 5 if number % 2 else list(range(number, number + 9))
        window(submitted(number, float(arrivals[number]), prompt_blocks=blocks))
        window(dispatched(number, float(arrivals[number]), number % 4))
    last_s = float(arrivals[-1])
    for number in range(190):
        window({"at_s": last_s, "event": "progress", "request": number, "tokens": 3})
        window(finished(number, last_s + 0.01 * number, int(outputs[number])))
    outlook = shadows_of(pool_of(window, "least_work", (PROFILE,) * 4), "least_work", "round_robin").look()
    assert outlook.trouble is None
    # The window began with its first request, and ended when the last record came.
    warm_s = arrivals[0] + 0.25 * (last_s + 1.89 - arrivals[0])
    counted = np.array([at_s >= warm_s for at_s in arrivals]) & (np.arange(200) < 190)
    assert abs(outlook.requests - counted.sum()) <= 2
    assert [(row.policy, row.simulated) for row in outlook.rows] == [
        ("least_work", False),
        ("least_work", True),
        ("round_robin", True),
    ]
    measured = (last_s + 0.01 * np.arange(200) - arrivals)[counted]
    assert outlook.rows[0].e2e_s == pytest.approx(np.percentile(measured, PERCENTILES), rel=0.02)
    # The same by the front door. Predictions are worth nothing to this policy; those alive count as predicted.
    lengths = np.where(np.arange(200) < 190, outputs, 60)
    trace = Trace("same", "same", arrivals - arrivals[0], np.full(200, 100), lengths)
    run = irouter.simulate(
        policy="round_robin", trace=trace, profile=PROFILE, instances=4, predictor="none", prefix_cache=False
    )
    expected = np.percentile((run["finished_s"] - run["arrival_s"])[counted], PERCENTILES)
    assert outlook.rows[2].e2e_s == pytest.approx(expected, rel=0.05)
    assert outlook.rows[2].ttft_s is not None
    assert outlook.rows[2].e2e_s != outlook.rows[1].e2e_s


def test_what_cannot_be_said_is_told() -> None:
    window = Window(100.0)
    assert shadows_of(pool_of(window, "least_work", (PROFILE,))).look().trouble is not None
    for number in range(100):
        window(submitted(number, 0.1 * number, predicted_tokens=None))
        window(dispatched(number, 0.1 * number))
        window(finished(number, 0.1 * number + 1, 20))
    mixed = pool_of(window, "least_work", (PROFILE, "llama-3.1-8b@h100"))
    with pytest.raises(irouter.IrouterError, match="2 profiles"):
        shadows_of(mixed).look()
    with pytest.raises(irouter.IrouterError, match="rund_robin"):
        shadows_of(mixed, "rund_robin")
    outlook = shadows_of(pool_of(window, "least_work", (PROFILE,)), "random").look()
    assert outlook.rows[0].ttft_s is None, "nothing was streamed"
