"""Distributions as arrays, calibration, bins and figures: each against what is known by other means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from irouter import _core
from irouter._core import IrouterError
from irouter.prediction import LENGTH_LEVELS, Calibration, LengthDistribution, Outcomes, group_bootstrap
from irouter.prediction.bins import Bins
from irouter.prediction.calibration import strata_weights
from irouter.prediction.drift import DriftCorrection, scores
from irouter.prediction.metrics import kendall_tau, quantile_edges

LEVELS = np.asarray(LENGTH_LEVELS)
NORMAL = np.array([stats.norm.ppf(level) for level in LENGTH_LEVELS])


def uniform(ends: list[float]) -> LengthDistribution:
    return LengthDistribution(np.array(ends)[:, None] * LEVELS[None, :])


def log_normal(medians: np.ndarray, sigma: float) -> LengthDistribution:
    return LengthDistribution(medians[:, None] * np.exp(sigma * NORMAL[None, :]))


def test_uniform_lengths_have_textbook_figures() -> None:
    lengths = uniform([100.0, 1000.0])
    assert lengths.expected == pytest.approx([50.0, 500.0], rel=0.01)
    assert lengths.median == pytest.approx([50.0, 500.0])
    assert lengths.upper == pytest.approx([90.0, 900.0])
    assert lengths.levels_of(np.array([30.0, 300.0])) == pytest.approx([0.3, 0.3])
    buckets = LengthDistribution(lengths.quantiles, edges=(26, 76)).bucket_probabilities
    assert buckets[0] == pytest.approx([0.255, 0.5, 0.245], abs=1e-6)
    assert buckets.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert len(lengths[1:]) == 1


def test_bad_quantiles_are_refused() -> None:
    with pytest.raises(IrouterError, match=r"shape \(2, 3\), expected \(requests, 11\)"):
        LengthDistribution(np.zeros((2, 3)))
    with pytest.raises(IrouterError, match=r"quantile -0\.1 tokens at level 0\.02 must be finite"):
        _ = uniform([-5.0]).expected


def test_a_calibration_makes_quantiles_hold_and_takes_cuts_into_account() -> None:
    generator = np.random.default_rng(1)
    told = log_normal(np.full(20_000, 200.0), 0.3)
    true = 260.0 * np.exp(0.7 * generator.standard_normal(20_000))
    limit = generator.choice([150.0, 1e9], size=20_000)
    for seen, cut in ((true, np.zeros(20_000, dtype=bool)), (np.minimum(true, limit), true > limit)):
        calibration = Calibration.fit(told.levels_of(seen)[:10_000], cut[:10_000])
        fixed = calibration.apply(told)
        for level in (1, 3, 5, 7, 9):
            below = (true[10_000:] <= fixed.quantiles[10_000:, level]).mean()
            assert below == pytest.approx(LENGTH_LEVELS[level], abs=0.05)
    assert Calibration().apply(told).quantiles == pytest.approx(told.quantiles)


def test_outcomes_that_are_easier_than_usual_by_chance_do_not_narrow_quantiles() -> None:
    generator = np.random.default_rng(4)
    told = log_normal(np.full(9000, 200.0), 0.7)
    true = 200.0 * np.exp(0.7 * generator.standard_normal(9000))
    tokens, whole = np.maximum(1, true.round()).astype(np.int64), np.zeros(9000, dtype=bool)
    # Of those to calibrate on, half of the longest tenth are missing.
    few = np.flatnonzero((tokens < 490) | (generator.random(9000) < 0.5))[:900]
    levels = told[:900].levels_of(true[few])
    weights = strata_weights(tokens[few], tokens, whole)
    assert weights @ (tokens[few] >= 490) / weights.sum() == pytest.approx((tokens >= 490).mean(), abs=0.01)
    naive, fixed = (Calibration.fit(levels, whole[:900], some) for some in (None, weights))
    off = [abs(found.levels[LENGTH_LEVELS.index(0.9)] - 0.9) for found in (naive, fixed)]
    assert off[1] < 0.02
    assert off[0] > off[1] + 0.02


def test_a_drift_correction_follows_where_a_calibration_cannot() -> None:
    generator = np.random.default_rng(2)
    told = log_normal(generator.uniform(50, 500, size=2000), 0.1)
    true = 5.0 * told.median * np.exp(0.5 * generator.standard_normal(2000))
    found = scores(told, true)
    fixed = DriftCorrection.fit(found[:1000], np.zeros(1000, dtype=bool)).apply(told)
    low, high = fixed.interval_80
    assert ((true >= low) & (true <= high))[1000:].mean() == pytest.approx(0.8, abs=0.04)
    assert fixed.median / told.median == pytest.approx(5.0, rel=0.1)


def test_bins_hold_equal_shares_and_give_back_what_was_put_in() -> None:
    tokens = np.arange(1, 1001, dtype=np.int64)
    whole = np.zeros(1000, dtype=bool)
    bins = Bins.fit(tokens, whole, count=5)
    assert bins.count == 5
    assert np.bincount(bins.index(tokens)).tolist() == pytest.approx([200] * 5, abs=1)
    lengths = bins.distribution(np.array([[0.2] * 5, [0, 1, 0, 0, 0]], dtype=float))
    assert lengths.quantiles[0] == pytest.approx(1000 * LEVELS, rel=0.02, abs=2)
    assert lengths.quantiles[1] == pytest.approx(200 + 200 * LEVELS, rel=0.02)
    assert Bins.from_data(bins.to_data()).grid == pytest.approx(bins.grid)
    with pytest.raises(IrouterError, match=r"`bins\.grid` has 3 lengths"):
        Bins.from_data({"grid": [1, 2, 3]})


def test_a_cut_length_may_lie_in_the_rest_of_its_bin_and_above() -> None:
    tokens = np.arange(1, 1001, dtype=np.int64)
    bins = Bins.fit(tokens, np.zeros(1000, dtype=bool), count=5)
    possible = bins.possible(np.array([500, 500, 5000]), np.array([False, True, True]))
    assert possible[0].tolist() == [0, 0, 1, 0, 0]
    assert possible[1] == pytest.approx([0, 0, 0.5, 1, 1], abs=0.01)
    assert possible[2].tolist() == pytest.approx([0, 0, 0, 0, 0.05])


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=2, max_size=60))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    expected = stats.kendalltau(one, other).statistic
    found = kendall_tau(one, other, np.zeros(len(one), dtype=bool))
    if np.isnan(expected):
        assert found is None
    else:
        assert found == pytest.approx(expected, abs=1e-12)


def test_pairs_whose_order_a_cut_hides_count_as_tied() -> None:
    true, told = np.array([10.0, 20.0, 30.0, 15.0]), np.array([1.0, 2.0, 3.0, 4.0])
    cut = np.array([False, False, False, True])
    # Known: 10 < 20 < 30 and 10 < 15, all told so. Hidden: 15 cut beside 20 and 30. 4 of 6 pairs, none tied as told.
    assert kendall_tau(told, true, cut) == pytest.approx(4 / np.sqrt(6 * 4))
    assert kendall_tau(told, true, ~cut | cut) != kendall_tau(told, true, cut)


def test_figures_of_calibrated_predictions_are_theirs() -> None:
    generator = np.random.default_rng(3)
    medians = np.exp(generator.normal(5.0, 1.0, size=4000))
    lengths = log_normal(medians, 0.5)
    tokens = np.maximum(1, np.round(medians * np.exp(0.5 * generator.standard_normal(4000)))).astype(np.int64)
    whole = np.zeros(4000, dtype=bool)
    outcomes = Outcomes(lengths, tokens, whole, quantile_edges(tokens, whole))
    found = outcomes.metrics()
    assert found.coverage_80 == pytest.approx(0.8, abs=0.02)
    assert found.kendall_tau == pytest.approx(stats.kendalltau(lengths.expected, tokens).statistic, abs=1e-9)
    assert found.mae_tokens == pytest.approx(np.abs(tokens - medians).mean(), rel=1e-6)
    error = tokens[:, None] - lengths.quantiles
    pinball = np.maximum(LEVELS * error, (LEVELS - 1) * error).mean()
    assert found.pinball_loss == pytest.approx(pinball)
    counts = outcomes.confusion(outcomes.edges)
    assert found.accuracy_5 == pytest.approx(np.trace(counts) / 4000)
    assert counts.sum(axis=1).tolist() == pytest.approx([800] * 5, abs=20)
    # Cut at limits that vary, coverage is still that of the whole lengths.
    limit = generator.choice([100, 10**6], size=4000)
    cut = Outcomes(lengths, np.minimum(tokens, limit), tokens > limit, outcomes.edges)
    assert cut.metrics().coverage_80 == pytest.approx(0.8, abs=0.03)
    assert (cut.metrics().rows, cut.metrics().cut) == (4000, int((tokens > limit).sum()))


def test_intervals_are_over_groups_and_hold_the_figure() -> None:
    generator = np.random.default_rng(4)
    medians = np.repeat(np.exp(generator.normal(5.0, 1.0, size=60)), 20)
    tokens = np.maximum(1, np.round(medians * np.exp(generator.standard_normal(1200)))).astype(np.int64)
    outcomes = Outcomes(log_normal(medians, 1.0), tokens, np.zeros(1200, dtype=bool), (50, 100, 200, 400))
    groups = np.repeat(np.arange(60).astype(str), 20)
    together = group_bootstrap(outcomes, groups, draws=100)
    alone = group_bootstrap(outcomes, np.arange(1200).astype(str), draws=100)
    assert together == group_bootstrap(outcomes, groups, draws=100)
    figures = outcomes.metrics().to_data()
    for low_high, name in ((together["mae_tokens"], "mae_tokens"), (together["kendall_tau"], "kendall_tau")):
        assert low_high[0] < figures[name] < low_high[1]
    # Requests of a group have about the same length: fewer groups than requests say less.
    widths = [ends["mae_tokens"][1] - ends["mae_tokens"][0] for ends in (together, alone)]
    assert widths[0] > 1.3 * widths[1]


def test_a_point_that_is_right_is_covered() -> None:
    exact = LengthDistribution(np.full((3, 11), 50.0))
    found = Outcomes(exact, np.array([50, 50, 51]), np.zeros(3, dtype=bool), (10, 20, 30, 40)).metrics()
    assert found.coverage_80 == pytest.approx(2 / 3)
    assert found.kendall_tau is None


def test_outcomes_need_as_many_of_each() -> None:
    with pytest.raises(IrouterError, match="1 predictions, 2 lengths, 1 cut marks"):
        Outcomes(uniform([5.0]), np.array([1, 2]), np.array([False]), (1,))


def test_censored_quantiles_of_the_core_refuse_bad_columns() -> None:
    with pytest.raises(IrouterError, match="`cut` is 1, expected 2 values"):
        _core.censored_quantiles(np.array([1, 2]), np.array([True]), np.array([0.5]))
    with pytest.raises(IrouterError, match="`levels` is 1, expected levels between 0 and 1"):
        _core.censored_quantiles(np.array([1, 2]), np.array([True, False]), np.array([1.0]))
