"""New instances take few requests at first."""

import math
from pathlib import Path
from typing import Any

import pytest

import irouter
from irouter._core import Router as Core
from irouter.serving.decision_log import DecisionLog
from irouter.serving.instances import LoadedProfile
from irouter.serving.limits import Limits
from irouter.serving.machine import Machine
from irouter.serving.replay import replay
from irouter.serving.slow_start import Ramp
from serving.support import assert_idle

PROFILE = "llama-3.1-8b@h100"
OLD, NEW = "http://old:8000", "http://new:8000"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of `time.monotonic`, as the only entry."""
    time = [1000.0]
    monkeypatch.setattr("irouter.serving.machine.time.monotonic", lambda: time[0])
    return time


@pytest.mark.parametrize("policy", ["least_requests", "round_robin", "central_fcfs", "guided"])
def test_a_new_instance_holds_a_share_that_grows(policy: str, clock: list[float]) -> None:
    router = irouter.Router([OLD], policy, profile=PROFILE)
    leases = [router.try_route(prompt_tokens=100, predicted_tokens=100) for _ in range(40)]
    router.add_instance(NEW, slow_start_s=60.0, slow_start_share=0.25)
    for age_s in (0.0, 20.0, 40.0, 59.0):
        clock[0] = 1000.0 + age_s
        leases += [router.try_route(prompt_tokens=100, predicted_tokens=100) for _ in range(30)]
        old, new = router.instances
        share = 0.25 + 0.75 * age_s / 60
        assert old.share == 1.0
        assert new.share == pytest.approx(share)
        assert new.status == "ready", "it is the policy that sees it full, not the operator"
        assert 1 <= new.in_flight <= max(1, math.floor(share * old.in_flight)), policy
    clock[0] = 1061.0
    leases += [router.try_route(prompt_tokens=100, predicted_tokens=100) for _ in range(100)]
    old, new = router.instances
    assert new.share == 1.0
    assert old.in_flight + new.in_flight == 260
    if policy in {"least_requests", "guided"}:
        assert abs(old.in_flight - new.in_flight) <= 60, "by then it takes what it can"
    for lease in leases:
        assert lease is not None
        lease.finish()
    assert_idle(router)
    router.close()


def test_without_another_instance_there_is_no_limit(clock: list[float]) -> None:
    router = irouter.Router([OLD], "least_requests", profile=PROFILE)
    router.add_instance(NEW, slow_start_s=60.0)
    leases = [router.try_route(prompt_tokens=10, predicted_tokens=10) for _ in range(20)]
    assert [entry.in_flight for entry in router.instances] == [16, 4]
    retry = router.try_route(exclude=[OLD], overtake=True, prompt_tokens=10, predicted_tokens=10)
    assert retry is not None
    assert retry.url == NEW, "a retry has nowhere else to go"
    router.drain_instance(OLD)
    leases += [router.try_route(prompt_tokens=10, predicted_tokens=10) for _ in range(5)]
    assert [entry.in_flight for entry in router.instances] == [16, 10]
    router.drain_instance(NEW)
    router.resume_instance(NEW)
    assert [entry.share for entry in router.instances] == [1.0, 1.0], (
        "who was stopped on the way starts at once"
    )
    clock[0] += 1.0
    router.remove_instance(NEW)
    assert sum(lease is not None and lease.ending == "lost" for lease in (*leases, retry)) == 10
    router.close()


def test_a_slow_start_is_in_the_decision_log(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    router = irouter.Router([OLD], "least_work", profile=PROFILE, log=log)
    leases = [router.try_route(prompt_tokens=50, predicted_tokens=50) for _ in range(10)]
    router.add_instance(NEW, slow_start_s=60.0)
    for number in range(60):
        leases.append(router.try_route(prompt_tokens=50, predicted_tokens=50))
        if number % 3 == 0:
            lease = leases.pop(0)
            assert lease is not None
            lease.finish(tokens=50)
    router.close()
    result = replay(log, shadows=["round_robin"])
    assert (result.difference, result.dispatches) == (None, 70)
    events = log.read_text()
    assert events.count('"draining"') > 3
    assert events.count('"resumed"') > 3


def test_a_clock_that_begins_anew_keeps_the_share(tmp_path: Path, clock: list[float]) -> None:
    log = DecisionLog(tmp_path / "log.jsonl", 1 << 20, {})
    limits = Limits(lease_ttl_s=math.inf, max_waiting=10, renew_after_s=100.0)

    def make_core() -> Core:
        return Core([], "least_requests")

    machine = Machine(make_core, limits, log)
    machine.join(OLD, LoadedProfile(PROFILE), Ramp(0.0, 0.25))
    clock[0] += 90.0
    machine.join(NEW, LoadedProfile(PROFILE), Ramp(60.0, 0.25))
    clock[0] += 30.0
    assert [entry.share for entry in machine.instances()] == [1.0, pytest.approx(0.625)]
    machine.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slow_start_s": -1.0}, "slow_start_s is -1.0"),
        ({"slow_start_s": math.inf}, "slow_start_s is inf"),
        ({"slow_start_share": 0.0}, "slow_start_share is 0.0"),
        ({"slow_start_share": 1.5}, "slow_start_share is 1.5"),
    ],
)
def test_a_bad_ramp_is_named(settings: dict[str, Any], message: str) -> None:
    router = irouter.Router([], "least_work", profile=PROFILE)
    with pytest.raises(irouter.IrouterError, match=message):
        router.add_instance(NEW, **settings)
    assert router.instances == []
    router.close()
