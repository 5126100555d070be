"""Whatever happens in whatever order, a router ends as an idle one."""

import asyncio
import contextlib
import gc
import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import irouter
from irouter import IrouterError, Lease
from irouter.serving import Ending
from irouter.serving.base_router import BaseRouter
from serving.support import URLS, assert_idle

POLICIES = ("central_fcfs", "ordered_hold", "least_work", "litellm_least_busy", "round_robin", "max_capacity")
STEPS = (
    "acquire",
    "try",
    "cancel",
    "abort",
    "finish",
    "fail",
    "progress",
    "crash",
    "rejoin",
    "drain",
    "resume",
    "yield",
)
Step = tuple[str, int]


class Clients:
    """Clients of a router in one event loop, and a second account of what they hold."""

    def __init__(self, router: BaseRouter) -> None:
        self.router = router
        self.leases: list[Lease] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.gone: set[str] = set()
        self.draining: set[str] = set()

    async def hold(self, number: int) -> None:
        async with self.router.acquire(
            prompt="x" * (1 + number % 4000),
            max_tokens=1 + number % 300,
            session=number % 5,
            tenant=number % 3,
        ) as lease:
            assert lease.url not in self.gone | self.draining
            self.leases.append(lease)
            await asyncio.Event().wait()

    async def take(self, step: str, number: int) -> None:
        if step == "acquire":
            self.tasks.append(asyncio.create_task(self.hold(number)))
        elif step == "try":
            with contextlib.suppress(IrouterError):
                tried = self.router.try_route(
                    prompt_tokens=1 + number, max_tokens=64, overtake=number % 2 == 0
                )
                self.leases += [tried] if tried is not None else []
        elif step == "cancel" and self.tasks:
            self.tasks[number % len(self.tasks)].cancel()
        elif step == "yield":
            await asyncio.sleep(0)
        self.change_instance(step, URLS[number % len(URLS)])
        if self.leases:
            self.tell(step, self.leases[number % len(self.leases)], number)

    def tell(self, step: str, lease: Lease, number: int) -> None:
        if step == "abort":
            self.leases.remove(lease)
        elif step == "finish":
            lease.finish(tokens=1 + number % 64)
            assert lease.ending is not None
        elif step == "fail":
            lease.fail("it broke")
        elif step == "progress":
            # Beyond `max_tokens` is an error, which changes nothing.
            with contextlib.suppress(IrouterError):
                lease.progress(1 + number % 60)

    def change_instance(self, step: str, url: str) -> None:
        if step == "crash" and url not in self.gone:
            self.router.remove_instance(url)
            self.gone.add(url)
            self.draining.discard(url)
            assert all(lease.ending is not None for lease in self.leases if lease.url == url)
        elif step == "rejoin" and url in self.gone:
            self.router.add_instance(url)
            self.gone.discard(url)
        elif step == "drain" and url not in self.gone | self.draining:
            self.router.drain_instance(url)
            self.draining.add(url)
        elif step == "resume" and url in self.draining:
            self.router.resume_instance(url)
            self.draining.discard(url)

    async def run(self, steps: list[Step]) -> None:
        for step, number in steps:
            await self.take(step, number)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for lease in self.leases:
            lease.finish()
        self.leases.clear()


@pytest.mark.parametrize("policy", POLICIES)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 4000)), max_size=120))
def test_after_any_interleaving_the_router_is_idle(
    policy: str, small_profile: Path, steps: list[Step]
) -> None:
    with irouter.Router(URLS, policy, profile=small_profile, max_hold_s=float("inf")) as router:
        asyncio.run(Clients(router).run(steps))
        gc.collect()
        deadline = time.monotonic() + 5
        while router.statistics.in_flight and time.monotonic() < deadline:
            time.sleep(0.001)  # the attendant ends what was collected
        assert_idle(router)
        for url in {"http://a:8000", "http://b:8000"} - {
            entry.url for entry in router.instances if entry.status != "gone"
        }:
            router.add_instance(url)
        assert_idle(router)


@pytest.mark.timeout(60)  # a hang here is a deadlock or a lost wake-up
@pytest.mark.parametrize(
    "policy", ["central_fcfs", "least_work", lambda _request, instances: instances[0]["instance"]]
)
def test_threads_and_event_loops_share_a_router(policy: object, small_profile: Path) -> None:
    failures: list[BaseException] = []
    router = irouter.Router(URLS, policy, profile=small_profile)  # type: ignore[arg-type]

    def in_a_thread(seed: int) -> None:
        draws = random.Random(seed)
        try:
            for _ in range(60):
                with (
                    contextlib.suppress(ZeroDivisionError),
                    router.acquire(prompt_tokens=50, max_tokens=40) as lease,
                ):
                    lease.progress(draws.randrange(1, 40))
                    assert 1 / draws.randrange(5)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            failures.append(error)

    async def in_a_task(draws: random.Random) -> None:
        async with router.acquire(prompt_tokens=50, max_tokens=40) as lease:
            lease.first_token()
            await asyncio.sleep(draws.random() * 0.002)

    async def clients(seed: int) -> None:
        draws = random.Random(seed)
        tasks = [asyncio.create_task(in_a_task(draws)) for _ in range(100)]
        await asyncio.sleep(0.001)
        for task in draws.sample(tasks, 30):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    threads = [threading.Thread(target=in_a_thread, args=(seed,)) for seed in range(6)]
    threads += [threading.Thread(target=lambda seed=seed: asyncio.run(clients(seed))) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert_idle(router)
    assert router.statistics.endings[Ending.FAILED] > 0
    router.close()
