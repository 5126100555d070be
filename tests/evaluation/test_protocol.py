"""Closed loops, conversations, slow instances, profile errors and predictors, as settings of a comparison."""

from typing import Any

import numpy as np
import pytest

import irouter
from irouter._core import IrouterError
from irouter.evaluation.presentation import facts, remarks

CLIENTS = {"count": 12, "think_time_s": 2.0}


def compare(scenario: str = "conversation", **settings: Any) -> irouter.Comparison:
    given: dict[str, Any] = {"policies": ["round_robin", "least_work"], "requests": 120, "seeds": 1}
    return irouter.compare(scenario, **(given | settings))


def mean_e2e_s(comparison: irouter.Comparison, policy: str = "round_robin") -> float:
    mean: float = comparison.policies[policy]["e2e_mean_s"]
    return mean


def test_clients_take_the_place_of_the_scenarios_load() -> None:
    comparison = compare(clients=CLIENTS)
    workload = comparison.main.results["workload"]
    assert (workload["rate"], workload["load"], workload["overload"]) == (None, None, False)
    assert workload["cv_after"] is None
    assert 0 < workload["warm_up"][0] <= 40
    assert workload["requests"][0] + workload["warm_up"][0] == 120
    assert "12 clients that think 2 s" in facts(comparison)
    assert any(remark.startswith("closed loop: ") for remark in remarks(comparison))
    page_text = comparison.to_json()
    assert '"rate": null' in page_text


def test_clients_keep_the_number_of_open_requests_below_theirs() -> None:
    run = irouter.simulate("conversation", policy="round_robin", clients=CLIENTS, requests=120)
    events = np.concatenate((run["arrival_s"], run["finished_s"]))
    change = np.concatenate((np.ones(len(run)), -np.ones(len(run))))
    open_requests = np.cumsum(change[np.lexsort((change, events))])
    assert open_requests.max() <= CLIENTS["count"]
    assert (np.diff(run["arrival_s"]) >= 0.0).all()


def test_a_trace_is_asked_row_by_row() -> None:
    trace = irouter.Trace(
        name="mine",
        format="irouter",
        arrival_s=np.zeros(40),
        input_tokens=np.arange(1, 41) * 10,
        output_tokens=np.full(40, 10),
    )
    run = irouter.simulate(trace=trace, policy="round_robin", clients={"count": 1, "think_time_s": 0.5})
    assert run["input_tokens"].tolist() == [10 * row for row in range(1, 41)]
    assert (np.diff(run["arrival_s"]) > 0.0).all()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"clients": {"count": 0, "think_time_s": 1.0}}, "`clients.count` is 0, expected at least 1"),
        (
            {"clients": {"count": 500, "think_time_s": 1.0}},
            "`clients.count` is 500, expected at most one per request, of which there are 120",
        ),
        (
            {"clients": {"count": 5, "think_time_s": -1.0}},
            "`clients.think_time_s` is -1, expected a number of seconds, zero or more",
        ),
        (
            {"clients": CLIENTS, "load": 0.5},
            "`clients` is given with a rate or a load, expected one of the two",
        ),
        (
            {"clients": CLIENTS, "sweep": [0.5]},
            "`sweep` is over arrival rates: expected none with `clients`, who wait for answers",
        ),
        (
            {"slow": [{"instance": 0, "factor": 0.0}]},
            "`slow.factor` is 0, expected a factor from 1/1024 to 1024",
        ),
        (
            {"slow": [{"instance": 4, "factor": 2.0}]},
            "`slow.instance` is 4, expected an instance from 0 to 3",
        ),
        (
            {"router_profile_error": {"kv_blocks": -1.0}},
            "`router_profile_error.kv_blocks` is -1, expected a factor from 0.01 to 100",
        ),
        ({"router_profile_error": {"scheduler": "vllm"}}, "experiment: unknown variant `vllm`"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(IrouterError) as raised:
        compare(**settings)
    assert str(raised.value).startswith(complaint)


def test_chats_run_in_a_closed_loop_and_at_a_load() -> None:
    closed = compare("chat-closed", clients={"count": 20, "think_time_s": 1.0}, requests=400)
    assert closed.policies["least_work"]["completed"] == sum(closed.main.results["workload"]["requests"])
    at_load = compare("chat-closed", load=0.5, requests=400)
    assert at_load.main.results["workload"]["load"] == 0.5
    assert at_load.policies["least_work"]["completed"] == sum(at_load.main.results["workload"]["requests"])


def test_a_closed_loop_in_trouble_is_the_same_with_other_threads() -> None:
    settings: dict[str, Any] = {
        "requests": 300,
        "seeds": 3,
        "clients": CLIENTS,
        "aborts": {"share": 0.1},
        "slow": [{"instance": 2, "factor": 3.0, "at_s": 5.0}],
        "crashes": [{"instance": 0, "at_s": 8.0, "down_s": 4.0}],
        "predictor": "history",
        "conditions": "headline",
    }
    one = compare("chat-closed", threads=1, **settings)
    assert one.to_json() == compare("chat-closed", threads=3, **settings).to_json()
    assert one.policies["round_robin"]["aborted"] > 0


def test_turns_that_stay_where_their_conversation_is_find_its_prefix() -> None:
    chats: dict[str, Any] = {
        "policies": ["random", "session_affinity"],
        "reference": "random",
        "requests": 800,
    }
    comparison = compare("chat-closed", clients={"count": 60, "think_time_s": 1.0}, **chats)
    ratio = comparison.policies["session_affinity"]["ratio"]["ttft_mean_s"][0]
    assert ratio < 0.85
    without = compare("chat-closed", clients={"count": 60, "think_time_s": 1.0}, prefix_cache=False, **chats)
    assert without.policies["session_affinity"]["ratio"]["ttft_mean_s"][0] > 0.95


def test_a_slow_instance_is_felt_and_said() -> None:
    slow = compare(slow=[{"instance": 1, "factor": 2.0}])
    assert mean_e2e_s(slow) > 1.15 * mean_e2e_s(compare())
    assert "instance 1 takes 2 times as long" in remarks(slow)
    later = compare(slow=[{"instance": 1, "factor": 2.0, "at_s": 3.0, "down_s": 4.5}])
    assert "instance 1 takes 2 times as long from 3 s for 4.5 s" in remarks(later)


def test_a_profile_error_is_the_routers_alone() -> None:
    exact = compare(policies=["round_robin", "central_shortest"], load=1.1)
    wrong = compare(
        policies=["round_robin", "central_shortest"],
        load=1.1,
        router_profile_error={"step_time": 1.4, "kv_blocks": 0.02, "scheduler": "vllm-v0"},
    )
    assert mean_e2e_s(wrong) == mean_e2e_s(exact)
    assert mean_e2e_s(wrong, "central_shortest") != mean_e2e_s(exact, "central_shortest")
    expected = "the router's profile is off on purpose: step times x 1.4, KV blocks x 0.02, scheduler vllm-v0"
    assert expected in remarks(wrong)


@pytest.mark.parametrize(
    ("predictor", "asked"), [("noisy:0.6", 0.6), ("oracle", 1.0), ("history", None), ("none", None)]
)
def test_a_predictors_delivered_quality_stands_beside_what_was_asked(
    predictor: str, asked: float | None
) -> None:
    comparison = compare("paper-main", predictor=predictor, requests=1500)
    quality = comparison.report()["predictor_quality"]
    assert quality["asked_tau_b"] == asked
    assert quality["coverage_80"] is not None
    if predictor == "none":
        assert quality["tau_b"] is None
    else:
        assert quality["tau_b"] == pytest.approx(
            {"noisy:0.6": 0.6, "oracle": 1.0, "history": 0.25}[predictor], abs=0.05
        )
    beside = next(fact for fact in facts(comparison) if fact.startswith("predictor "))
    assert "asked" in beside
    runs = comparison.main.results["runs"]
    assert next(run["predictor"]["coverage_80"] for run in runs) == quality["coverage_80"]
