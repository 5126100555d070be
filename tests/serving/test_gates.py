"""What stands against an instance stands until the last reason goes, whatever the order."""

import contextlib
import math
import random
from pathlib import Path
from typing import Any

import pytest

import irouter
from irouter.serving.errors import NoInstanceError
from irouter.serving.gates import Gates, Reason
from irouter.serving.replay import replay
from serving.support import assert_idle

OLD, NEW = "http://old:8000", "http://new:8000"
REQUEST: Any = {"prompt_tokens": 60, "predicted_tokens": 40, "max_tokens": 80}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of `time.monotonic`, as the only entry."""
    time = [1000.0]
    monkeypatch.setattr("irouter.serving.machine.time.monotonic", lambda: time[0])
    return time


def takes(router: irouter.Router, url: str) -> bool:
    """Whether the state machine sends requests to an instance."""
    machine = router._machine
    status: str = machine._core.instances[machine.table.number(url)]["status"]
    return status == "ready"


def test_a_reason_that_goes_opens_nothing_while_another_stands() -> None:
    switched: list[tuple[int, bool, float]] = []
    gates = Gates(lambda number, takes, now: switched.append((number, takes, now)))
    assert gates.set(3, Reason.NO_SLOT, 1.0, stands=True)
    assert not gates.set(3, Reason.NO_SLOT, 2.0, stands=True), "that is no news"
    gates.set(3, Reason.STARTING, 3.0, stands=True)
    gates.set(3, Reason.NO_SLOT, 4.0, stands=False)
    assert switched == [(3, False, 1.0)]
    with gates.opened(3, 5.0):
        assert switched[-1] == (3, True, 5.0)
    assert switched[-1] == (3, False, 5.0)
    gates.set(3, Reason.STARTING, 6.0, stands=False)
    assert switched[-1] == (3, True, 6.0)
    assert gates.any_open([3])
    gates.set(3, Reason.DRAINING, 7.0, stands=True)
    assert not gates.any_open([3])
    assert gates.any_open([3, 4]), "nothing was ever said of the other"
    gates.forget(3)
    assert gates.is_open(3)
    assert len(switched) == 5, "one that is gone is not switched"


def test_slots_a_slow_start_and_the_operator_stand_side_by_side(clock: list[float]) -> None:
    router = irouter.Router([OLD], "round_robin", profile="llama-3.1-8b@h100")
    machine = router._machine
    leases = [router.try_route(**REQUEST) for _ in range(8)]
    router.add_instance(NEW, slow_start_s=60.0, slow_start_share=0.25)
    leases += [router.try_route(**REQUEST) for _ in range(5)]
    assert [entry.in_flight for entry in router.instances] == [11, 2]
    assert takes(router, OLD)
    assert not takes(router, NEW), "it has its share"
    machine.set_slots({OLD: 11, NEW: 2}, None)
    assert not takes(router, OLD)
    assert [entry.status for entry in router.instances] == ["ready", "ready"], "nobody has drained them"
    with pytest.raises(NoInstanceError):
        router.try_route(**REQUEST)
    router.drain_instance(OLD)
    machine.set_slots(None, None)
    assert not takes(router, OLD), "there are slots, but the operator has said no"
    clock[0] += 1.0
    lease = router.try_route(**REQUEST)
    assert lease is not None
    assert lease.url == NEW, "nobody is left whose share it could exceed"
    router.resume_instance(OLD)
    assert takes(router, OLD)
    for held in (*leases, lease):
        assert held is not None
        held.finish()
    assert_idle(router)
    router.close()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_the_state_machine_follows_the_reasons_and_a_log_replays(
    seed: int, tmp_path: Path, clock: list[float]
) -> None:
    draws = random.Random(seed)
    urls = [f"http://engine-{number}:8000" for number in range(3)]
    policy = ("least_requests", "round_robin", "ordered_hold")[seed % 3]
    log = tmp_path / "decisions.jsonl"
    router = irouter.Router(urls[:1], policy, profile="llama-3.1-8b@h100", seed=seed, log=log)
    machine, slots = router._machine, dict.fromkeys(urls, math.inf)
    leases: list[irouter.Lease] = []
    for _ in range(400):
        clock[0] += draws.random() * 2
        there = {entry.url: entry for entry in router.instances if entry.status != "gone"}
        url = draws.choice(urls)
        step = draws.randrange(12)
        if step < 5:
            with contextlib.suppress(NoInstanceError):
                lease = router.try_route(overtake=True, **REQUEST)
                assert lease is not None
                leases.append(lease)
        elif step < 8 and leases:
            leases.pop(draws.randrange(len(leases))).finish(tokens=40)
        elif step == 8:
            slots = {each: draws.choice((0, 2, 5, 50)) for each in urls}
            machine.set_slots({each: int(count) for each, count in slots.items()}, None)
        elif url not in there:
            router.add_instance(url, slow_start_s=draws.choice((0.0, 20.0)))
        elif there[url].status == "ready":
            draws.choice((router.drain_instance, router.remove_instance))(url)
        else:
            draws.choice((router.resume_instance, router.take_back_instance))(url)
        leases = [lease for lease in leases if lease.ending is None]
        for entry in router.instances:
            if entry.status != "gone":
                assert takes(router, entry.url) == machine._gates.is_open(machine.table.number(entry.url))
                if entry.status != "ready" or entry.in_flight >= slots[entry.url]:
                    assert not takes(router, entry.url)
    router.close()
    result = replay(log)
    assert result.difference is None
    assert result.dispatches > 50
