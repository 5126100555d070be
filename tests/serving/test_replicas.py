"""Routers that share engines through a real Redis."""

import collections
import contextlib
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import irouter
from irouter import IrouterError
from irouter.serving import DeadlineError, NoInstanceError, Replica
from irouter.serving.replay import replay
from serving.support import URLS, assert_idle, eventually

REDIS = shutil.which("redis-server")
REQUEST: Any = {"prompt_tokens": 100, "max_tokens": 50}
SLOTS = 8

pytestmark = [
    pytest.mark.skipif(REDIS is None, reason="redis-server is not installed (apt-get install redis-server)"),
    pytest.mark.timeout(180),
]


class Redis:
    """A Redis process on a port of its own, that keeps nothing."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        assert REDIS is not None
        command = [REDIS, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - a fixed command
        eventually(self.answers, 30)

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis() -> Iterator[Redis]:
    server = Redis()
    yield server
    server.kill()


@contextlib.contextmanager
def replica(redis: Redis, ttl_s: float = 1.0, **options: Any) -> Iterator[irouter.Router]:
    with (
        irouter.Router(URLS, "least_requests", profile="llama-3.1-8b@h100", **options) as router,
        Replica(router, redis.url, slots_per_instance=SLOTS, ttl_s=ttl_s),
    ):
        yield router


def take_all(router: irouter.Router) -> list[irouter.Lease]:
    """Leases until no instance has a slot for this router, however often it asks."""
    leases: list[irouter.Lease] = []
    patience = 0
    while patience < 60:
        try:
            lease = router.try_route(**REQUEST)
        except NoInstanceError:
            patience += 1
            time.sleep(0.01)
        else:
            assert lease is not None
            leases.append(lease)
            patience = 0
    return leases


def held(*leases: list[irouter.Lease]) -> dict[str, int]:
    return dict(collections.Counter(lease.url for some in leases for lease in some if lease.ending is None))


def test_replicas_divide_the_slots_and_see_each_other(redis: Redis) -> None:
    with replica(redis) as first, replica(redis) as second:
        ours, theirs = take_all(first), take_all(second)
        assert held(ours, theirs) == dict.fromkeys(URLS, SLOTS)
        assert len(theirs) > 0, "some were kept for who comes later"
        eventually(
            lambda: [entry.strangers for entry in first.instances] == [held(theirs)[url] for url in URLS]
        )
        for lease in ours + theirs:
            lease.finish(tokens=20)
        for router in (first, second):
            eventually(lambda router=router: all(entry.strangers == 0 for entry in router.instances))  # type: ignore[misc]
            assert_idle(router)


def test_what_one_gives_back_another_gets(redis: Redis) -> None:
    with replica(redis) as first, replica(redis) as second:
        ours, theirs = take_all(first), take_all(second)
        before = len(theirs)
        with pytest.raises(NoInstanceError):
            second.try_route(**REQUEST)
        waits = threading.Thread(target=lambda: theirs.append(second.acquire(**REQUEST).__enter__()))
        waits.start()
        for lease in ours:
            lease.finish()
        waits.join(10)
        assert len(theirs) == before + 1, "who waits is served as soon as there is a slot"
        theirs += take_all(second)
        assert held(theirs) == pytest.approx(dict.fromkeys(URLS, SLOTS), abs=1)


def test_slots_of_a_replica_that_dies_expire(redis: Redis) -> None:
    with replica(redis, ttl_s=0.5) as lives:
        with irouter.Router(URLS, profile="llama-3.1-8b@h100") as router:
            dies = Replica(router, redis.url, slots_per_instance=SLOTS, ttl_s=0.5)
            theirs = take_all(router)
            assert theirs
            # As a killed process would: it renews nothing and gives nothing back.
            dies._closing.set()
        eventually(lambda: all(entry.strangers == 0 for entry in lives.instances))
        assert held(take_all(lives)) == dict.fromkeys(URLS, SLOTS)


class Account:
    """What is where, beside what routers say: kept under one lock, from after a lease until before its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.there, self.most = collections.Counter[str](), collections.Counter[str]()
        self.served = collections.Counter[int]()
        self.failures: list[BaseException] = []
        self.ends_s = time.monotonic() + 4

    def use(self, router: irouter.Router, draws: random.Random, number: int) -> None:
        with contextlib.suppress(DeadlineError), router.acquire(deadline_s=2.0, **REQUEST) as lease:
            with self._lock:
                self.there[lease.url] += 1
                self.most[lease.url] = max(self.most[lease.url], self.there[lease.url])
            time.sleep(draws.random() * 0.02)
            with self._lock:
                self.there[lease.url] -= 1
                self.served[number] += 1

    def use_until(self, until_s: float, router: irouter.Router, seed: float, number: int) -> None:
        draws = random.Random(seed)
        while time.monotonic() < until_s:
            self.use(router, draws, number)

    def run(self, redis: Redis, number: int, stays_s: float) -> None:
        """A replica with 12 clients, that comes and goes."""
        draws = random.Random(number)
        try:
            while time.monotonic() < self.ends_s:
                # Longer than any pause of a busy machine: who does not renew in time has no promise.
                with replica(redis, ttl_s=8.0) as router:
                    until_s = min(self.ends_s, time.monotonic() + stays_s)
                    clients = [
                        threading.Thread(
                            target=self.use_until, args=(until_s, router, draws.random(), number)
                        )
                        for _ in range(12)
                    ]
                    for thread in clients:
                        thread.start()
                    for thread in clients:
                        thread.join()
                    statistics = router.statistics
                    assert (statistics.waiting, statistics.in_flight) == (0, 0)
                    assert sum(statistics.endings.values()) == statistics.submitted
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            self.failures.append(error)


def test_slots_that_are_not_renewed_are_not_used(redis: Redis) -> None:
    with irouter.Router(URLS, profile="llama-3.1-8b@h100") as router:
        stuck = Replica(router, redis.url, slots_per_instance=SLOTS, ttl_s=0.5)
        lease = router.try_route(**REQUEST)
        stuck._closing.set()
        time.sleep(0.6)
        with pytest.raises(NoInstanceError):
            router.try_route(**REQUEST)
        assert lease is not None
        lease.finish()
        assert_idle(router)


def test_no_slot_is_ever_promised_twice(redis: Redis) -> None:
    account = Account()
    threads = [
        threading.Thread(target=account.run, args=(redis, number, stays_s))
        for number, stays_s in enumerate((0.5, 5.0, 5.0))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert account.failures == []
    assert account.there.total() == 0
    assert all(count <= SLOTS for count in account.most.values()), account.most
    assert account.most.total() > SLOTS, "it was crowded"
    assert set(account.served) == {0, 1, 2}


def test_without_redis_each_goes_on_with_its_share_and_says_so(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        replica(redis, ttl_s=0.6, shared_instances=True) as first,
        replica(redis, ttl_s=0.6, shared_instances=True) as second,
    ):
        ours, theirs = [first.try_route(**REQUEST)], [second.try_route(**REQUEST)]
        eventually(lambda: [entry.strangers for entry in first.instances].count(1) == 1)
        redis.kill()
        for router in (first, second):
            eventually(lambda router=router: router.statistics.degraded)  # type: ignore[misc]
        for _ in range(2):
            first.report(URLS[0], waiting=0, running=5, kv_usage=0.1)
        assert first.instances[0].strangers == 5 - (
            first.instances[0].in_flight - first.instances[0].strangers
        )
        ours += take_all(first)
        theirs += take_all(second)
        counts = [held([lease for lease in some if lease is not None]) for some in (ours, theirs)]
        assert counts == [dict.fromkeys(URLS, SLOTS // 2)] * 2, "half each, of two that were known"
        redis.start()
        for router in (first, second):
            eventually(lambda router=router: not router.statistics.degraded)  # type: ignore[misc]
        assert take_all(first) == []
        for lease in theirs:
            assert lease is not None
            lease.finish()
        more = take_all(first)
        assert 2 * (SLOTS // 2 - 1) <= len(more) <= SLOTS, "but for what is kept for the other"
    assert [record.message for record in caplog.records if record.message.startswith("redis")].count(
        "redis_gone"
    ) == 2


def test_a_hung_redis_is_as_one_that_is_gone(redis: Redis) -> None:
    with replica(redis, ttl_s=0.6) as router:
        redis.process.send_signal(signal.SIGSTOP)
        eventually(lambda: router.statistics.degraded)
        lease = router.try_route(**REQUEST)
        assert lease is not None
        lease.finish()
        redis.process.send_signal(signal.SIGCONT)
        eventually(lambda: not router.statistics.degraded)
    assert_idle(router)


def test_a_router_without_redis_from_the_start_is_degraded_and_serves() -> None:
    with (
        irouter.Router(URLS, profile="llama-3.1-8b@h100") as router,
        Replica(router, "redis://127.0.0.1:1/0", ttl_s=0.5),
        router.acquire(**REQUEST),
    ):
        assert router.statistics.degraded


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("http://127.0.0.1:1", {}, "Redis URL"),
        ("redis://127.0.0.1:1", {"ttl_s": 0.0}, "ttl_s is 0.0"),
        ("redis://127.0.0.1:1", {"slots_per_instance": 0}, "slots_per_instance is 0"),
    ],
)
def test_bad_settings_are_named(url: str, options: dict[str, Any], message: str) -> None:
    with (
        irouter.Router(URLS, profile="llama-3.1-8b@h100") as router,
        pytest.raises(IrouterError, match=message),
    ):
        Replica(router, url, **options)


def test_a_replica_can_be_replayed(redis: Redis, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    with replica(redis, log=log) as first, replica(redis) as second:
        theirs = take_all(second)
        eventually(lambda: sum(entry.strangers for entry in first.instances) == len(theirs))
        for lease in take_all(first):
            lease.finish(tokens=9)
    replayed = replay(log)
    assert replayed.difference is None
    assert replayed.dispatches > 0
