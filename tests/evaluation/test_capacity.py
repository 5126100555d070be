"""Capacity: the bisection, its figures, and what it refuses."""

import json
from collections.abc import Callable
from typing import Any

import pytest

import irouter
from irouter._core import IrouterError
from irouter.evaluation.capacity_search import Bisection

QUICK: dict[str, Any] = {"policies": ["round_robin", "least_requests"], "requests": 150, "probes": 4}


def search(probes: int, passes: Callable[[float], bool]) -> Bisection:
    bisection = Bisection()
    for _ in range(probes):
        bisection.probed(bisection.load, passed=passes(bisection.load))
    return bisection


@pytest.mark.parametrize("knee", [0.01, 0.3, 0.7499, 0.75, 1.0, 1.7, 9.0])
def test_a_bisection_closes_in_on_the_knee(knee: float) -> None:
    for probes in range(3, 12):
        found = search(probes, lambda load: load <= knee)
        assert found.highest_passed <= knee
        assert found.lowest_failed is None or found.lowest_failed > knee
    found = search(30, lambda load: load <= knee)
    assert found.highest_passed == pytest.approx(knee, abs=1e-5)


def test_seven_probes_below_saturation_leave_a_64th() -> None:
    found = search(7, lambda load: load < 0.86)
    assert found.lowest_failed is not None
    assert found.lowest_failed - found.highest_passed == 1 / 64


def test_a_load_that_always_passes_doubles_and_one_that_never_does_has_no_capacity() -> None:
    assert search(4, lambda _: True).highest_passed == 8.0
    assert search(4, lambda _: False).highest_passed == 0.0


@pytest.fixture(scope="module")
def found() -> irouter.Capacity:
    return irouter.capacity("conversation", windows=2, threads=1, **QUICK)


def test_a_capacity_is_the_highest_load_that_was_probed_and_met_the_target(found: irouter.Capacity) -> None:
    assert list(found.policies) == QUICK["policies"]
    for figures in found.policies.values():
        assert [probe.window for probe in figures.probes] == [0] * 4 + [1] * 4
        for window, load in enumerate(figures.windows):
            met = [probe.load for probe in figures.probes if probe.window == window and probe.goodput >= 0.99]
            assert load == max(met, default=0.0)
        assert figures.load == sum(figures.windows) / 2
        assert figures.rate == figures.load * found.saturation_rate
        low, high = figures.ci95
        assert low is not None
        assert high is not None
        assert low <= figures.rate <= high
        assert figures.goodput is None or figures.goodput >= 0.99
    assert found.policies["round_robin"].ratio == (1.0, 1.0, 1.0)


def test_a_probe_is_the_comparison_at_its_load(found: irouter.Capacity) -> None:
    for probe in found.policies["least_requests"].probes[:4]:
        requests = round(150 * max(1.0, probe.load))
        settings: dict[str, Any] = {"policies": QUICK["policies"], "requests": requests, "seeds": 1}
        comparison = irouter.compare("conversation", load=probe.load, **settings)
        assert comparison.policies["least_requests"]["goodput"] == probe.goodput


def test_other_threads_find_the_same_bytes(found: irouter.Capacity) -> None:
    again = irouter.capacity("conversation", windows=2, threads=3, **QUICK)
    assert again.to_json() == found.to_json()
    report = json.loads(found.to_json())
    assert report["policies"].keys() == set(QUICK["policies"])
    assert report["predictor_quality"]["asked_tau_b"] == 0.45


def test_a_looser_slo_allows_more(found: irouter.Capacity) -> None:
    loose = irouter.capacity("conversation", windows=2, slo={"ttft_s": 60.0, "tpot_s": 5.0}, **QUICK)
    for name, figures in loose.policies.items():
        assert figures.rate > found.policies[name].rate


def test_one_window_has_no_interval_and_progress_counts_its_probes() -> None:
    calls: list[tuple[int, int]] = []
    settings = QUICK | {"probes": 2}
    found = irouter.capacity(
        "conversation", windows=1, progress=lambda done, total: calls.append((done, total)), **settings
    )
    assert calls[-1] == (4, 4)
    assert found.policies["least_requests"].ci95 == (None, None)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"windows": 0}, "`windows` is 0, expected at least 1"),
        ({"probes": 0}, "`probes` is 0, expected at least 1"),
        ({"target": 0.0}, "`target` is 0.0, expected a share above 0 and at most 1"),
        ({"load": 0.5}, "`load` is given to a search for the arrival rate, expected it left out"),
        (
            {"clients": {"count": 3, "think_time_s": 1.0}},
            "`clients` is given to a search for the arrival rate, expected it left out",
        ),
    ],
)
def test_what_a_search_cannot_use_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(IrouterError) as raised:
        irouter.capacity("conversation", **settings)
    assert str(raised.value) == complaint
