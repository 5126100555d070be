"""The embedding API: what a proxy may count on."""

import asyncio
import contextlib
import dataclasses
import gc
import multiprocessing
import os
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import irouter
from irouter import IrouterError
from irouter.serving import (
    ClosedError,
    DeadlineError,
    Ending,
    Instance,
    NoInstanceError,
    QueueFullError,
)
from serving.support import URLS, assert_idle

REQUEST: Any = {"prompt_tokens": 100, "max_tokens": 50}


def held_router(small_profile: Path, **changes: Any) -> tuple[irouter.Router, list[irouter.Lease]]:
    """A router whose only instance has no room: four leases fill batch and look-ahead."""
    router = irouter.Router(URLS[:1], "central_fcfs", profile=small_profile, **changes)
    leases: list[irouter.Lease] = []
    while True:
        with_room = router.try_route(**REQUEST)
        assert with_room is not None
        leases.append(with_room)
        if len(leases) == 8:
            return router, leases


def throw(error: BaseException) -> None:
    raise error


def until(condition: Any, limit_s: float = 5.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)


def test_a_lease_goes_through_its_life(small_profile: Path) -> None:
    router = irouter.Router(URLS, "least_work", profile=small_profile)
    with router.acquire(prompt="word " * 80, max_tokens=50, session="s", tenant="t") as lease:
        assert lease.url == URLS[0]
        lease.first_token(cached_tokens=0)
        lease.progress(17)
        assert router.instances[0].produced_tokens == 17
        assert router.instances[0].prompt_tokens == 100, "four bytes a token"
    assert lease.ending is Ending.FINISHED
    assert_idle(router)


def test_the_impact_of_a_request_is_told_before_and_with_its_lease(small_profile: Path) -> None:
    router = irouter.Router(URLS, "least_work", profile=small_profile)
    with router.acquire(**REQUEST) as first:
        busy, idle = router.impact(**REQUEST)[first.url], router.impact(**REQUEST)[URLS[1]]
        assert (busy.residents, idle.residents) == (1, 0)
        assert busy.e2e_s > idle.e2e_s
        assert router.statistics.submitted == 1, "nothing was placed"
        with router.acquire(**REQUEST) as second:
            assert second.url == URLS[1]
            assert second.impact is not None
            assert second.impact.e2e_s == pytest.approx(idle.e2e_s)
            assert "to the first token" in second.impact.explanation
    assert_idle(router)


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, Ending.FINISHED),
        (ConnectionError("refused"), Ending.FAILED),
        (asyncio.CancelledError(), Ending.CANCELLED),
        (KeyboardInterrupt(), Ending.CANCELLED),
        (GeneratorExit(), Ending.CANCELLED),
    ],
)
def test_the_way_out_says_how_a_lease_ends(
    small_profile: Path, error: BaseException | None, ending: Ending
) -> None:
    router = irouter.Router(URLS, "least_work", profile=small_profile)
    with contextlib.suppress(BaseException), router.acquire(**REQUEST), contextlib.ExitStack() as way_out:
        if error is not None:
            way_out.callback(throw, error)
    until(lambda: router.statistics.endings.get(ending) == 1)
    assert_idle(router)


def test_a_lease_ends_once_whatever_is_told_of_it_later(small_profile: Path) -> None:
    router = irouter.Router(URLS, "least_work", profile=small_profile)
    lease = router.try_route(**REQUEST)
    assert lease is not None
    lease.finish(tokens=7)
    lease.fail("late")
    lease.cancel()
    lease.progress(30)
    lease.first_token()
    assert (lease.ending, router.statistics.endings) == (Ending.FINISHED, {Ending.FINISHED: 1})
    assert_idle(router)


def test_a_lease_that_is_collected_is_given_back(small_profile: Path) -> None:
    router = irouter.Router(URLS, "least_work", profile=small_profile)
    lease = router.try_route(**REQUEST)
    cycle: list[Any] = [lease]
    cycle.append(cycle)
    del lease, cycle
    gc.collect()
    until(lambda: router.statistics.in_flight == 0)
    assert router.statistics.endings == {Ending.DROPPED: 1}
    assert_idle(router)


def test_a_lease_without_news_expires_and_one_with_news_lives(small_profile: Path) -> None:
    router = irouter.Router(URLS, "least_work", profile=small_profile, lease_ttl_s=0.2)
    silent, heard = router.try_route(**REQUEST), router.try_route(prompt_tokens=1, max_tokens=4000)
    assert silent is not None
    assert heard is not None
    tokens = 0
    while silent.ending is None:
        tokens += 16
        heard.progress(tokens)
        time.sleep(0.01)
    assert (silent.ending, heard.ending) == (Ending.EXPIRED, None)
    heard.finish()
    assert_idle(router)


def test_who_waits_is_woken_when_its_own_request_goes(small_profile: Path) -> None:
    router, leases = held_router(small_profile)
    woken: list[int] = []

    async def client(number: int) -> None:
        async with router.acquire(**REQUEST):
            woken.append(number)

    async def main() -> None:
        tasks = [asyncio.create_task(client(number)) for number in range(3)]
        await asyncio.sleep(0.01)
        assert (router.statistics.waiting, woken) == (3, [])
        for lease in leases:
            lease.finish()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert woken == [0, 1, 2]
    assert_idle(router)


def test_a_timer_ends_a_hold(small_profile: Path) -> None:
    router = irouter.Router(URLS, "max_capacity", profile=small_profile)  # sends once a second
    started = time.monotonic()
    for _ in range(2):
        with router.acquire(**REQUEST):
            pass
    assert 0.5 < time.monotonic() - started < 3.0
    assert_idle(router)


def test_a_deadline_ends_the_waiting(small_profile: Path) -> None:
    router, leases = held_router(small_profile)
    with pytest.raises(DeadlineError, match="still waited"), router.acquire(**REQUEST, deadline_s=0.05):
        pass
    assert router.statistics.endings == {Ending.OVERDUE: 1}
    for lease in leases:
        lease.finish()
    with router.acquire(**REQUEST, deadline_s=5.0):
        pass
    assert_idle(router)


def test_a_full_queue_refuses_only_who_would_wait(small_profile: Path) -> None:
    router, leases = held_router(small_profile, max_waiting=0)
    with pytest.raises(QueueFullError, match="0 requests wait"), router.acquire(**REQUEST):
        pass
    for lease in leases:
        lease.finish()
    with router.acquire(**REQUEST):
        pass
    assert_idle(router)


def test_try_route_does_not_overtake_unless_told_to(small_profile: Path) -> None:
    router, leases = held_router(small_profile)

    async def main() -> None:
        async def wait() -> None:
            async with router.acquire(**REQUEST):
                pass

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        assert router.try_route(**REQUEST) is None
        overtaking = router.try_route(**REQUEST, overtake=True)
        assert overtaking is not None
        for lease in [*leases, overtaking]:
            lease.finish()
        await task

    asyncio.run(main())
    assert_idle(router)


def test_a_retry_goes_elsewhere(small_profile: Path) -> None:
    router = irouter.Router(URLS, "least_work", profile=small_profile)
    for _ in range(4):
        with router.acquire(**REQUEST, exclude=[URLS[0]]) as lease:
            assert lease.url == URLS[1]
    with pytest.raises(NoInstanceError, match="no instance"), router.acquire(**REQUEST, exclude=URLS):
        pass
    assert_idle(router)


def test_an_instance_that_leaves_loses_its_leases_and_comes_back_clean(small_profile: Path) -> None:
    router = irouter.Router(URLS[:1], "round_robin", profile=small_profile)
    lease = router.try_route(**REQUEST)
    assert lease is not None
    router.remove_instance(URLS[0])
    assert lease.ending is Ending.LOST
    with pytest.raises(NoInstanceError, match="no instance is ready"):
        router.try_route(**REQUEST)
    router.add_instance(URLS[0])
    lease.finish()
    assert (router.instances[0].generation, router.instances[0].in_flight) == (1, 0)
    router.remove_instance(URLS[0])
    router.add_instance("http://c:8000")
    assert [entry.url for entry in router.instances] == ["http://c:8000"], "numbers are taken over"
    with pytest.raises(IrouterError, match="no instance http://a:8000, expected one of: http://c:8000"):
        router.drain_instance(URLS[0])


def test_requests_wait_for_an_instance(small_profile: Path) -> None:
    router = irouter.Router(policy="least_work", profile=small_profile)
    urls: list[str] = []

    def client() -> None:
        with router.acquire(**REQUEST) as lease:
            urls.append(lease.url)

    thread = threading.Thread(target=client)
    thread.start()
    until(lambda: router.statistics.waiting == 1)
    router.add_instance(URLS[0])
    thread.join(timeout=5)
    assert urls == [URLS[0]]
    assert_idle(router)


def test_a_policy_that_calls_its_router_is_an_error_and_not_a_deadlock(small_profile: Path) -> None:
    def policy(_request: dict[str, Any], _instances: list[dict[str, Any]]) -> int:
        router.try_route(**REQUEST)
        return 0

    router = irouter.Router(URLS, policy, profile=small_profile)
    with router.acquire(**REQUEST) as lease:
        assert lease.fallback
    assert_idle(router)


class Halves:
    """Predicts half of the prompt's letters."""

    def predict(self, prompts: Sequence[str]) -> Any:
        if "poison" in prompts[0]:
            raise ZeroDivisionError

        class Lengths:
            quantiles = ([len(prompts[0]) / 2] * 11,)

        return Lengths


def test_a_predictor_is_asked_and_its_failure_is_counted(small_profile: Path) -> None:
    router = irouter.Router(URLS[:1], "least_work", profile=small_profile, predictor=Halves())
    with router.acquire(prompt="x" * 80, max_tokens=500):
        assert router.instances[0].remaining_output_tokens == pytest.approx(40, abs=0.1)
    with router.acquire(prompt="poison", max_tokens=500):
        assert router.instances[0].remaining_output_tokens == pytest.approx(500, abs=0.1)
    assert router.statistics.failed_predictions == 1


def test_a_predictor_that_learns_is_told_of_what_finished(small_profile: Path) -> None:
    learned: list[tuple[str, int, bool]] = []

    class Learner(Halves):
        def observe(self, prompt: str, output_tokens: int, *, cut: bool) -> None:
            learned.append((prompt, output_tokens, cut))
            raise ZeroDivisionError

    router = irouter.Router(URLS[:1], "least_work", profile=small_profile, predictor=Learner())
    with router.acquire(prompt="first", max_tokens=20) as lease:
        lease.progress(7)
    with router.acquire(prompt="second", max_tokens=20) as lease:
        lease.finish(tokens=20)
    with pytest.raises(ConnectionError), router.acquire(prompt="third", max_tokens=20):
        raise ConnectionError
    assert learned == [("first", 7, False), ("second", 20, True)]
    assert router.statistics.failed_predictions == 2


def test_closing_refuses_what_waits(small_profile: Path) -> None:
    router, leases = held_router(small_profile)

    async def main() -> None:
        async def wait() -> None:
            async with router.acquire(**REQUEST):
                pass

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        router.close()
        with pytest.raises(ClosedError, match="closed"):
            await task

    asyncio.run(main())
    leases[0].finish()
    with pytest.raises(ClosedError, match="closed"):
        router.try_route(**REQUEST)


def test_blocking_in_an_event_loop_is_refused(small_profile: Path) -> None:
    router = irouter.Router(URLS, profile=small_profile)

    async def main() -> None:
        with pytest.raises(IrouterError, match="expected `async with`"), router.acquire(**REQUEST):
            pass

    asyncio.run(main())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: irouter.Router(["a:8000"], profile="llama-2-7b@a100"), "expected http://HOST:PORT"),
        (
            lambda _: irouter.Router(["http://u:secret@a"], profile="llama-2-7b@a100"),
            "instance URL http://a: it carries",
        ),
        (lambda _: irouter.Router(["http://a"]), "has no profile"),
        (lambda _: irouter.Router([Instance("http://a", "nothing")]), "unknown profile `nothing`"),
        (lambda _: irouter.Router(policy="least_wrok"), "did you mean `least_work`"),
        (lambda _: irouter.Router(lease_ttl_s=0), "lease_ttl_s is 0"),
        (lambda _: irouter.Router(max_waiting=-1), "max_waiting is -1"),
        (lambda router: router.add_instance(URLS[0]), "is there and ready"),
        (lambda router: router.try_route(max_tokens=5), "neither `prompt` nor `prompt_tokens`"),
        (lambda router: router.try_route(**REQUEST, deadline_s=-1.0), "deadline_s is -1.0"),
        (lambda router: router.try_route(**REQUEST, session=-1), "-1 is no session"),
        (lambda router: router.try_route(prompt_tokens=0, max_tokens=5), "prompt_tokens` is 0"),
        (
            lambda router: router.report("http://x", waiting=0, running=0, kv_usage=0.5),
            "no instance http://x",
        ),
        (lambda router: router.report(URLS[0], waiting=0, running=0, kv_usage=1.5), "kv_usage` is 1.5"),
    ],
)
def test_bad_input_is_named(make: Any, message: str) -> None:
    with (
        irouter.Router(URLS, profile="llama-2-7b@a100") as router,
        pytest.raises(IrouterError, match=message),
    ):
        make(router)
    assert_idle(router)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_router_does_not_cross_a_fork(small_profile: Path) -> None:
    router = irouter.Router(URLS, profile=small_profile)
    lease = router.try_route(**REQUEST)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        try:
            router.try_route(**REQUEST)
        except ClosedError as error:
            answers.put(str(error))
        assert lease is not None
        lease.finish()

    process = context.Process(target=child)
    process.start()
    process.join(10)
    assert process.exitcode == 0
    assert "forked" in answers.get()
    assert router.statistics.in_flight == 1, "the child's end is not the parent's"


def test_a_clock_that_begins_anew_loses_no_request(small_profile: Path) -> None:
    router, leases = held_router(small_profile, lease_ttl_s=30.0)
    router.add_instance("http://c:8000")
    router.drain_instance("http://c:8000")
    leases[0].progress(33)
    before = router.instances

    async def main() -> None:
        async def wait() -> str:
            async with router.acquire(**REQUEST, deadline_s=20.0) as lease:
                return lease.url

        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0.05)
        machine = router._machine
        epoch_s = machine._epoch_s
        machine._limits = dataclasses.replace(machine._limits, renew_after_s=0.01)
        leases[0].progress(49)
        machine._limits = dataclasses.replace(machine._limits, renew_after_s=1e9)
        assert machine._epoch_s > epoch_s
        assert router.statistics.waiting == 3
        after = router.instances
        assert (
            [entry.status for entry in after] == [entry.status for entry in before] == ["ready", "draining"]
        )
        assert (after[0].in_flight, after[0].produced_tokens) == (8, 49)
        for lease in leases:
            lease.finish()
        assert await asyncio.gather(*tasks) == [URLS[0]] * 3

    asyncio.run(main())
    assert_idle(router)


class Front:
    """Answers as `irouter.prediction.PredictorService` does."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.learned: list[tuple[str, int, bool]] = []

    def answer(self, prompt: str) -> Any:
        self.asked.append("thread")
        return types.SimpleNamespace(
            prompt=prompt, lengths=types.SimpleNamespace(quantiles=np.full((1, 11), 40.0))
        )

    async def answer_async(self, prompt: str) -> Any:
        await asyncio.sleep(0)
        answer = self.answer(prompt)
        self.asked[-1] = "loop"
        return answer

    def observe(self, answer: Any, output_tokens: int, *, cut: bool) -> None:
        self.learned.append((answer.prompt, output_tokens, cut))


def test_a_front_is_asked_without_blocking_the_loop_and_told_how_it_ended(small_profile: Path) -> None:
    front = Front()
    router = irouter.Router(URLS[:1], "least_work", profile=small_profile, predictor=front)

    async def main() -> None:
        async with router.acquire(prompt="in a loop", max_tokens=500) as lease:
            assert router.instances[0].remaining_output_tokens == pytest.approx(40, abs=0.1)
            lease.finish(tokens=41)

    asyncio.run(main())
    with router.acquire(prompt="in a thread", max_tokens=500) as lease:
        lease.finish(tokens=500)
    with router.acquire(prompt="known", max_tokens=500, predicted_quantiles=np.full(11, 7.0)):
        assert router.instances[0].remaining_output_tokens == pytest.approx(7, abs=0.1)
    assert front.asked == ["loop", "thread"]
    assert front.learned == [("in a loop", 41, False), ("in a thread", 500, True)]
    assert router.statistics.failed_predictions == 0
