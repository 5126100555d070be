"""Figures over seeds: means, sums, ratios and paired intervals."""

from typing import Any

import numpy as np
import pytest

from irouter.evaluation.statistics import DRAWS, PairedBootstrap
from irouter.evaluation.summary import summarise


def run(
    policy: str, seed: int, mean: float | None, preemptions: int = 0, tail: float = 1.0
) -> dict[str, Any]:
    quartiles = [tail, None, tail, 2 * tail]
    summary = {"e2e_mean_s": mean, "preemptions": preemptions, "e2e_p99_by_output_quartile_s": quartiles}
    return {"policy": policy, "seed": seed, "summary": summary}


def test_figures_are_means_and_counts_are_sums_of_the_seeds() -> None:
    runs = [run("a", 0, 2.0, 3), run("a", 1, 4.0, 5), run("b", 0, 1.0), run("b", 1, 2.0)]
    figures = summarise(runs, "a")
    assert figures["a"]["e2e_mean_s"] == 3.0
    assert (figures["a"]["preemptions"], figures["b"]["preemptions"]) == (8, 0)
    assert figures["a"]["e2e_p99_by_output_quartile_s"] == [1.0, None, 1.0, 2.0]


def test_a_ratio_is_of_means_not_a_mean_of_ratios() -> None:
    runs = [run("a", 0, 1.0), run("a", 1, 9.0), run("b", 0, 2.0), run("b", 1, 3.0)]
    assert summarise(runs, "a")["b"]["ratio"]["e2e_mean_s"][0] == 0.5


def test_intervals_are_paired_over_seeds() -> None:
    """Seeds differ by a factor of 100, yet a policy that is always 20 % faster has no spread against the reference."""
    runs = [run("a", seed, 10.0**seed) for seed in range(3)] + [
        run("b", seed, 0.8 * 10.0**seed) for seed in range(3)
    ]
    figures = summarise(runs, "a")["b"]
    np.testing.assert_allclose(figures["ratio"]["e2e_mean_s"], [0.8, 0.8, 0.8])
    low, high = figures["ci95"]["e2e_mean_s"]
    assert low < 0.5 * figures["e2e_mean_s"] < 1.5 * figures["e2e_mean_s"] < high


def test_intervals_of_one_seed_are_null() -> None:
    figures = summarise([run("a", 0, 2.0), run("b", 0, 1.0)], "a")["b"]
    assert figures["ratio"]["e2e_mean_s"] == [0.5, None, None]
    assert figures["ci95"]["e2e_mean_s"] == [None, None]


def test_what_a_seed_does_not_have_is_null() -> None:
    figures = summarise([run("a", 0, 2.0), run("a", 1, 2.0), run("b", 0, None), run("b", 1, 1.0)], "a")["b"]
    assert figures["e2e_mean_s"] is None
    assert figures["ratio"]["e2e_mean_s"] == [None, None, None]
    assert figures["ratio"]["preemptions"] == [None, None, None], (
        "nothing can be compared with no preemptions at all"
    )


def test_what_a_policy_says_of_itself_is_a_mean_of_the_seeds_that_have_it() -> None:
    runs = [run("a", seed, 1.0) for seed in range(3)] + [run("b", seed, 1.0) for seed in range(3)]
    runs[3]["figures"] = {"trainings": 2.0}
    runs[5]["figures"] = {"trainings": 4.0, "ttft_mape_percent": 7.5}
    figures = summarise(runs, "a")
    assert figures["b"]["figures"] == {"trainings": 3.0, "ttft_mape_percent": 7.5}
    assert "figures" not in figures["a"]


def test_the_order_of_the_runs_changes_nothing() -> None:
    runs = [run(policy, seed, 1.0 + seed * (policy == "b")) for policy in "ab" for seed in range(5)]
    assert summarise(runs, "a") == summarise(runs[::-1], "a")


def test_the_interval_of_a_mean_is_that_of_the_percentile_bootstrap() -> None:
    """For two windows at 0 and 1 a mean is 0, 1/2 or 1 in 1/4, 1/2, 1/4 of the draws: the central 95 % is all of it."""
    bootstrap = PairedBootstrap(2)
    draws = bootstrap.means(np.array([[0.0], [1.0]]))
    shares = [float((draws == value).mean()) for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=3 * 0.5 / DRAWS**0.5)
    assert bootstrap.interval(draws).tolist() == [[0.0], [1.0]]


def test_the_interval_covers_the_mean_of_a_normal_sample_as_theory_says() -> None:
    windows = np.random.default_rng(7).normal(size=(400, 1))
    bootstrap = PairedBootstrap(400)
    low, high = bootstrap.interval(bootstrap.means(windows))[:, 0]
    expected = 2 * 1.96 * windows.std() / 400**0.5
    assert high - low == pytest.approx(expected, rel=0.03)
