"""Comparisons and simulations from Python."""

from typing import Any

import numpy as np
import pytest

import irouter
from irouter import IrouterError


def quick(**settings: Any) -> irouter.Comparison:
    return irouter.compare("conversation", **({"requests": 80, "seeds": 1} | settings))


def first(request: dict[str, Any], instances: list[dict[str, Any]]) -> int:
    assert request["prompt_tokens"] >= 1
    return int(instances[0]["instance"])


class Turns:
    """Each instance in turn."""

    def __init__(self) -> None:
        self.turn = -1

    def __call__(self, request: dict[str, Any], instances: list[dict[str, Any]]) -> int:
        assert request["predicted_tokens"] >= 1
        self.turn = (self.turn + 1) % len(instances)
        return int(instances[self.turn]["instance"])


def gone(_request: dict[str, Any], _instances: list[dict[str, Any]]) -> int:
    return 77


def broken(_request: dict[str, Any], _instances: list[dict[str, Any]]) -> int:
    raise RuntimeError("no idea")


def test_a_function_is_compared_beside_the_policies_of_the_package() -> None:
    comparison = quick(policies=[first, "round_robin"])
    figures = comparison.policies
    assert list(figures) == ["first", "round_robin"]
    assert figures["first"]["e2e_mean_s"] > figures["round_robin"]["e2e_mean_s"]
    busiest = comparison.main.results["runs"][0]["occupancy"]["running"]
    assert [max(running) > 0 for running in busiest] == [True, False, False, False]


def test_a_function_that_does_what_a_policy_does_has_its_figures() -> None:
    figures = quick(policies=[Turns(), "round_robin"]).policies
    ratios = figures["Turns"]["ratio"]
    assert {ratio[0] for key, ratio in ratios.items() if key.startswith(("e2e_m", "ttft_m", "tbt_p"))} == {
        1.0
    }


@pytest.mark.parametrize(("policy", "complaint"), [(gone, "77"), (broken, "no idea")])
def test_a_function_that_fails_stops_the_comparison(policy: Any, complaint: str) -> None:
    with pytest.raises(IrouterError, match=complaint):
        quick(policies=[policy])


def test_progress_counts_the_runs_of_every_point() -> None:
    calls: list[tuple[int, int]] = []
    quick(policies=["random"], seeds=2, sweep=[0.5], progress=lambda done, total: calls.append((done, total)))
    assert sorted(calls) == [(done, 8) for done in range(1, 9)]


def test_progress_that_raises_stops_the_comparison() -> None:
    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(policies=["random"], progress=stop)


def test_a_sweep_has_a_point_per_load_and_more_load_means_more_latency() -> None:
    comparison = quick(policies=["round_robin"], sweep=[1.2, 0.2], requests=400)
    assert [point.load for point in comparison.sweep] == [0.2, 1.2]
    low, high = (point.figures["round_robin"]["e2e_mean_s"] for point in comparison.sweep)
    assert low < high


@pytest.mark.parametrize(
    "disturbed",
    [{}, {"aborts": {"share": 0.2}}, {"crashes": [{"instance": 0, "at_s": 2.0, "down_s": 3.0}]}],
    ids=["undisturbed", "aborts", "crash"],
)
def test_a_run_is_the_same_whether_its_queues_are_read_on_the_way_or_not(disturbed: Any) -> None:
    # They are read on the first seed only.
    policies = ["round_robin", "smg_least_load", "least_work", "queued:lmetric"]
    common = {"policies": policies, "requests": 300, "load": 1.1, "conditions": "headline", **disturbed}
    both, second = (quick(**common, seeds=2), quick(**common, first_seed=1))
    read, unread = (
        {run["policy"]: run["summary"] for run in comparison.main.results["runs"] if run["seed"] == 1}
        for comparison in (second, both)
    )
    assert len(read) == len(policies)
    assert read == unread


def test_the_trace_of_a_comparison_may_be_read_before() -> None:
    trace = irouter.Trace(
        name="mine",
        format="irouter",
        arrival_s=np.arange(50) / 10,
        input_tokens=np.full(50, 100),
        output_tokens=np.full(50, 10),
    )
    comparison = irouter.compare(trace=trace, policies=["round_robin"])
    assert comparison.report()["scenario"] == "mine"
    workload = comparison.main.results["workload"]
    assert workload["requests"][0] + workload["warm_up"][0] == 50


def test_a_simulation_has_a_row_per_request_in_order() -> None:
    run = irouter.simulate("conversation", policy="central_shortest(ageing=0.5)", requests=60)
    assert run.policy == "central_shortest(ageing=0.5)"
    assert len(run) == run.to_polars().height >= 60
    assert (np.diff(run["arrival_s"]) >= 0).all()
    for earlier, later in (
        ("arrival_s", "dispatched_s"),
        ("dispatched_s", "admitted_s"),
        ("admitted_s", "first_token_s"),
        ("first_token_s", "finished_s"),
    ):
        assert (run[earlier] <= run[later]).all()
    assert set(run["instance"]) == {0, 1, 2, 3}


def test_a_simulation_takes_one_policy_only() -> None:
    with pytest.raises(
        IrouterError, match=r"^`policies` is for comparisons: a simulation runs one `policy`$"
    ):
        irouter.simulate("conversation", policy="random", policies=["random"])


def test_what_is_expected_of_each_dispatch_stands_beside_what_happened_and_changes_nothing() -> None:
    settings: dict[str, Any] = {"policy": "round_robin", "predictor": "oracle", "load": 0.1, "requests": 60}
    plain = irouter.simulate("conversation", **settings)
    assert "expected_ttft_s" not in plain.columns
    run = irouter.simulate("conversation", impact="forecast", **settings)
    assert (run["finished_s"] == plain["finished_s"]).all()
    # Hardly anybody is there at a tenth of saturation.
    for expected, happened in (("expected_ttft_s", "first_token_s"), ("expected_e2e_s", "finished_s")):
        ratio = run[expected].sum() / (run[happened] - run["dispatched_s"]).sum()
        assert 0.8 < ratio < 1.1, expected
    assert (run["expected_inflicted_s"] >= 0.0).all()
    with pytest.raises(IrouterError, match=r"unknown form of the impact `guess`"):
        irouter.simulate("conversation", impact="guess", **settings)  # type: ignore[arg-type]


def test_a_table_of_a_comparison_has_figures_and_ratios() -> None:
    table = quick(policies=["random"]).to_polars()
    assert table["policy"].to_list() == ["round_robin", "random"]
    assert table["e2e_mean_s_ratio"][0] == 1.0
    assert table["e2e_mean_s"][1] / table["e2e_mean_s"][0] == table["e2e_mean_s_ratio"][1]
