"""The engine model against a real vLLM run, within the limits that the documentation claims."""

import pytest

import fidelity

pytestmark = pytest.mark.skipif(
    not (fidelity.DATA / fidelity.RUN).is_file(),
    reason="the real run lies in ../shared/data, which is not here",
)


@pytest.fixture(scope="module")
def run() -> fidelity.Fidelity:
    return fidelity.replay(fidelity.DATA)


@pytest.mark.parametrize(
    ("figure", "limit"), [("E2E mean", 0.05), ("E2E P99", 0.06), ("TTFT mean", 0.15), ("TPOT mean", 0.04)]
)
def test_latencies_are_within_their_limits(run: fidelity.Fidelity, figure: str, limit: float) -> None:
    assert abs(run.errors()[figure]) <= limit


def test_as_many_requests_are_preempted_as_on_the_engine(run: fidelity.Fidelity) -> None:
    assert 170 <= run.preemptions <= 215


def test_the_page_shows_the_figures_of_today(run: fidelity.Fidelity) -> None:
    page = fidelity.ROOT / "docs" / "fidelity.md"
    assert page.read_text(encoding="utf-8") == fidelity.page(run)
