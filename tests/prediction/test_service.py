"""The service: answers within its budget whatever the model does, loses nothing, keeps itself calibrated."""

import asyncio
import threading
import time

import numpy as np
import pytest

from irouter._core import IrouterError
from irouter.prediction import (
    LENGTH_LEVELS,
    HistoryPredictor,
    LengthDistribution,
    PredictorService,
    ServiceOptions,
)
from irouter.prediction.requests import Requests

WIDTH = np.asarray(LENGTH_LEVELS)


class Model:
    """Says that an answer is as long as its prompt, after a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def predict_requests(self, requests: Requests) -> LengthDistribution:
        self.batches.append(len(requests))
        self.go.wait()
        time.sleep(self.seconds)
        lengths = np.array([len(prompt) for prompt in requests.prompts], dtype=float)
        return LengthDistribution(lengths[:, None] * (0.5 + WIDTH[None, :]))


def median(answer: object) -> float:
    return float(answer.lengths.median[0])  # type: ignore[attr-defined]


def test_an_answer_comes_from_the_model_and_then_from_the_cache() -> None:
    with PredictorService(Model(), options=ServiceOptions(budget_ms=2000)) as service:
        first, second = service.answer("x" * 40), service.answer("x" * 40)
        assert (first.source, second.source) == ("model", "cache")
        assert median(first) == median(second) == pytest.approx(40.0)
        # Another task is another request.
        assert service.answer("x" * 40, task="code").source == "model"
        counts = service.counts
    assert (counts.calls, counts.model, counts.cache, counts.fallback) == (3, 2, 1, 0)


def test_a_slow_model_is_replaced_by_the_fallback_in_time_and_fills_the_cache_later() -> None:
    history = HistoryPredictor()
    for _ in range(64):
        history.observe("x" * 40, 7)
    model = Model()
    model.go.clear()
    with PredictorService(model, fallback=history, options=ServiceOptions(budget_ms=5)) as service:
        start = time.monotonic()
        answer = service.answer("x" * 40)
        assert time.monotonic() - start < 1.0
        assert answer.source == "fallback"
        assert median(answer) == pytest.approx(7.0, abs=0.01)
        model.go.set()
        deadline = time.monotonic() + 10
        while (again := service.answer("x" * 40)).source != "cache" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert again.source == "cache"
        assert median(again) == pytest.approx(40.0)
        counts = service.counts
    assert counts.late == counts.fallback >= 1
    assert counts.rows == 1


def test_concurrent_calls_share_batches_and_equal_prompts_share_a_row() -> None:
    model = Model()
    model.go.clear()
    with PredictorService(model, options=ServiceOptions(budget_ms=5000, most_rows=16)) as service:
        found: list[float] = []

        def ask(size: int) -> None:
            found.append(median(service.answer("x" * size)) / size)

        threads = [threading.Thread(target=ask, args=(1 + number % 20,)) for number in range(40)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while service.counts.calls < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        model.go.set()
        for thread in threads:
            thread.join()
    assert found == pytest.approx([1.0] * 40)
    assert sum(model.batches) == 20
    assert max(model.batches) <= 16
    assert len(model.batches) <= 3


def test_too_many_that_wait_are_shed_at_once() -> None:
    model = Model()
    model.go.clear()
    options = ServiceOptions(budget_ms=60_000, most_rows=1, most_waiting=2)
    with PredictorService(model, options=options) as service:
        answers: dict[int, str] = {}

        def ask(size: int) -> None:
            answers[size] = service.answer("x" * size).source

        threads = []
        for size in range(1, 7):
            threads.append(threading.Thread(target=ask, args=(size,)))
            threads[-1].start()
            deadline = time.monotonic() + 10
            while (service.counts.calls < size or not model.batches) and time.monotonic() < deadline:
                time.sleep(0.002)
        model.go.set()
        for thread in threads:
            thread.join()
        assert service.counts.shed == 3
    # One ran, two waited: the newest.
    assert [size for size, source in sorted(answers.items()) if source == "fallback"] == [2, 3, 4]


def test_a_model_that_fails_is_counted_and_routing_goes_on() -> None:
    class Broken:
        def predict_requests(self, requests: Requests) -> LengthDistribution:
            raise RuntimeError(f"{len(requests)} rows too many")

    with PredictorService(Broken(), options=ServiceOptions(budget_ms=2000)) as service:
        assert [service.answer("a").source, service.answer("b").source] == ["fallback", "fallback"]
        assert service.counts.errors == 2
        assert str(service.last_error) == "1 rows too many"


@pytest.mark.timeout(60)
def test_500_requests_a_second_lose_nothing_with_a_slow_model() -> None:
    budget_ms, rate, seconds = 5.0, 500, 3

    async def drive(service: PredictorService) -> list[float]:
        waits: list[float] = []

        async def ask(number: int) -> None:
            start = time.perf_counter()
            answer = await service.answer_async("x" * (1 + number % 300), app=f"app {number % 3}")
            waits.append(time.perf_counter() - start)
            assert len(answer.lengths) == 1
            service.observe(answer, output_tokens=1 + number % 300)

        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(rate * seconds):
                await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
                group.create_task(ask(number))
        return waits

    with PredictorService(Model(0.03), options=ServiceOptions(budget_ms=budget_ms)) as service:
        waits = asyncio.run(drive(service))
        counts = service.counts
    assert len(waits) == counts.calls == rate * seconds
    assert counts.model + counts.cache + counts.fallback == counts.calls
    assert counts.late + counts.shed + counts.errors == counts.fallback
    assert counts.cache > 100
    # The median is what the service adds; tails are those of a machine that tests share.
    assert float(np.median(waits)) < (budget_ms + 5.0) / 1000


def test_memory_is_bounded_by_the_number_of_entries() -> None:
    options = ServiceOptions(budget_ms=2000, cache_entries=10)
    with PredictorService(Model(), options=options) as service:
        for size in range(1, 40):
            service.answer("x" * size)
        assert len(service._cache) == 10
        assert service.answer("x" * 39).source == "cache"
        assert service.answer("x").source == "model"


def test_quantiles_are_corrected_when_coverage_drifts() -> None:
    generator = np.random.default_rng(7)
    with PredictorService(Model(), options=ServiceOptions(budget_ms=2000)) as service:
        before = service.answer("x" * 100)
        width = float(before.lengths.upper[0] - before.lengths.quantiles[0, 1])
        # Lengths are spread far wider than the model says: half to one and a half times the prompt.
        for _ in range(600):
            tokens = int(max(1, 100 * np.exp(0.8 * generator.standard_normal())))
            service.observe(service.answer("x" * 100), tokens)
        quality, after = service.quality["model"], service.answer("x" * 100)
    assert quality.corrections >= 1
    assert quality.coverage_80 is not None
    assert abs(quality.coverage_80 - 0.8) < 0.06
    assert float(after.lengths.upper[0] - after.lengths.quantiles[0, 1]) > 1.5 * width
    assert quality.outcomes == 512
    assert quality.mae_tokens is not None
    assert quality.mae_tokens > 10


def test_a_calibrated_model_is_left_alone() -> None:
    generator = np.random.default_rng(7)
    with PredictorService(Model(), options=ServiceOptions(budget_ms=2000)) as service:
        for _ in range(600):
            size = int(generator.integers(50, 1000))
            service.observe(service.answer("x" * size), int(size * (0.5 + generator.random())))
        quality = service.quality["model"]
    assert quality.corrections == 0
    assert quality.kendall_tau is not None
    assert quality.kendall_tau > 0.5


def test_bad_calls_are_errors_of_the_caller() -> None:
    with PredictorService(Model()) as service:
        with pytest.raises(IrouterError, match="prompt 0 is empty"):
            service.answer("  ")
        with pytest.raises(IrouterError, match="`output_tokens` is 0"):
            service.observe(service.answer("a"), 0)
    with pytest.raises(IrouterError, match="the service is closed"):
        service.answer("a")
    with pytest.raises(IrouterError, match="`budget_ms` is 0"):
        ServiceOptions(budget_ms=0)
    with pytest.raises(IrouterError, match="`most_rows` is 0, expected at least 1"):
        ServiceOptions(most_rows=0)
