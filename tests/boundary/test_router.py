"""The compiled router, driven as a proxy drives it."""

import json
import math
import threading
from typing import Any, Literal

import pytest

from irouter import profiles
from irouter._core import Decision, IrouterError, Router

PROFILE = json.dumps(profiles.load("llama-3.1-8b@h100"))


def submit(router: Router, request_id: int, now_s: float, **changes: Any) -> int:
    fields: dict[str, Any] = {"prompt_tokens": 512, "max_tokens": 1024, "predicted_tokens": 180} | changes
    return router.submit(request_id, now_s=now_s, **fields)


def dispatched(router: Router, now_s: float) -> Decision:
    decision = router.decide(now_s)
    assert isinstance(decision, Decision)
    return decision


def test_a_request_goes_through_its_life_and_leaves_nothing_behind() -> None:
    router = Router([PROFILE] * 2, "least_work")
    key = submit(router, 7, 0.0)
    assert router.waiting == 1
    decision = dispatched(router, 0.25)
    assert (decision.request_id, decision.key, decision.instance, decision.waited_s) == (7, key, 0, 0.25)
    assert (router.waiting, router.in_flight) == (0, [1, 0])
    assert router.decide(0.25) is None
    router.first_token(key, now_s=0.3, cached_tokens=0)
    router.progress(key, 16, now_s=0.5)
    router.finished(key, now_s=0.6, tokens=20)
    assert router.in_flight == [0, 0]
    with pytest.raises(IrouterError, match="is not known"):
        router.progress(key, 32, now_s=0.7)


def test_the_least_work_goes_where_less_is_predicted() -> None:
    router = Router([PROFILE] * 2, "least_work")
    submit(router, 0, 0.0, prompt_tokens=8000, predicted_tokens=900)
    assert dispatched(router, 0.0).instance == 0
    for number in (1, 2):
        submit(router, number, 0.0)
        assert dispatched(router, 0.0).instance == 1


def test_a_held_request_says_when_to_ask_again() -> None:
    router = Router([PROFILE], "max_capacity", max_hold_s=math.inf)
    submit(router, 0, 10.0)
    dispatched(router, 10.0)
    submit(router, 1, 10.2)
    until = router.decide(10.2)
    assert until == pytest.approx(11.0)
    assert dispatched(router, 11.0).request_id == 1


def test_a_host_may_follow_its_own_choice_and_see_what_the_policy_would_have_done() -> None:
    router = Router([PROFILE] * 3, "least_requests")
    key = submit(router, 4, 0.0)
    assert {router.preview(0.0) for _ in range(64)} == {(key, 0), (key, 1), (key, 2)}
    assert (router.waiting, router.in_flight) == (1, [0, 0, 0])
    assert router.dispatch(key, 2, now_s=0.0).request_id == 4
    assert (router.preview(0.0), router.in_flight) == (None, [0, 0, 1])
    with pytest.raises(IrouterError, match="does not wait"):
        router.dispatch(key, 0, now_s=0.0)
    router.drain(0, now_s=1.0)
    key = submit(router, 5, 1.0)
    with pytest.raises(IrouterError, match="draining"):
        router.dispatch(key, 0, now_s=1.0)
    assert router.preview(1.0) == (key, 1), "the only ready instance without a request"


FORMS: list[Literal["forecast", "fast_forward", "linear"]] = ["forecast", "fast_forward", "linear"]


@pytest.mark.parametrize("form", FORMS)
def test_a_waiting_request_has_an_impact_on_every_instance_and_a_decision_that_of_its_own(
    form: Literal["forecast", "fast_forward", "linear"],
) -> None:
    router = Router([PROFILE] * 3, "round_robin", impact=form)
    for number in range(8):
        router.dispatch(submit(router, number, 0.0, prompt_tokens=4000, predicted_tokens=900), 0, now_s=0.0)
    router.drain(1, now_s=0.0)
    key = submit(router, 8, 0.0)
    impacts = router.impact(key, now_s=0.0)
    assert [impact.instance for impact in impacts] == [0, 2]
    busy, idle = impacts
    assert 0 < idle.ttft_s < busy.ttft_s < busy.e2e_s
    assert (idle.residents, idle.prompts_ahead, idle.inflicted_s) == (0, 0, 0.0)
    assert (busy.residents, busy.prompts_ahead) == (8, 8)
    assert 0 < busy.largest_inflicted_s <= busy.inflicted_s + 1e-9
    assert 0 < idle.kv_peak_share < busy.kv_peak_share < 1
    assert (busy.preemptions is None) == (form != "fast_forward")
    assert "behind 8 prompts" in busy.explanation
    assert "nobody else there" in idle.explanation
    decision = router.dispatch(key, 2, now_s=0.0)
    assert decision.impact is not None
    assert decision.impact.explanation == idle.explanation
    assert idle.explanation in repr(decision)
    with pytest.raises(IrouterError, match="is not known"):
        router.impact(key + 1, now_s=0.0)


def test_a_cached_prefix_lowers_the_impact() -> None:
    router = Router([PROFILE] * 2, "round_robin")
    blocks = list(range(64))
    first = submit(router, 0, 0.0, prompt_tokens=1024, prompt_blocks=blocks)
    dispatched(router, 0.0)
    router.finished(first, now_s=1.0)
    there, elsewhere = router.impact(
        submit(router, 1, 1.0, prompt_tokens=1024, prompt_blocks=blocks), now_s=1.0
    )
    assert (there.cached_tokens, elsewhere.cached_tokens) == (1008, 0)
    assert there.ttft_s < elsewhere.ttft_s


def test_a_router_estimates_no_impact_where_none_is_wanted() -> None:
    router = Router([PROFILE], "round_robin", impact=None)
    key = submit(router, 0, 0.0)
    with pytest.raises(IrouterError, match="`impact` is off"):
        router.impact(key, now_s=0.0)
    assert dispatched(router, 0.0).impact is None
    with pytest.raises(IrouterError, match=r"unknown form of the impact `fast`"):
        Router([PROFILE], "round_robin", impact="fast")  # type: ignore[arg-type]


def test_a_callable_is_a_policy() -> None:
    seen: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []

    def last(request: dict[str, Any], instances: list[dict[str, Any]]) -> int:
        seen.append((request, instances))
        return int(instances[-1]["instance"])

    router = Router([PROFILE] * 3, last)
    submit(router, 5, 0.0, session=99)
    assert dispatched(router, 0.0).instance == 2
    request, instances = seen[0]
    assert (request["id"], request["prompt_tokens"], request["session"]) == (5, 512, 99)
    assert request["predicted_tokens"] == pytest.approx(180, abs=0.01)
    assert [instance["in_flight"] for instance in instances] == [0, 0, 0]


@pytest.mark.parametrize("answer", [17, "nowhere", None])
def test_a_policy_that_fails_is_replaced_visibly(answer: Any) -> None:
    router = Router([PROFILE] * 2, lambda *_: answer)
    submit(router, 0, 0.0)
    decision = dispatched(router, 0.0)
    assert (decision.instance, decision.fallback, router.fallbacks) == (0, True, 1)


def test_an_instance_that_leaves_names_its_lost_requests_and_may_come_back() -> None:
    router = Router([PROFILE] * 2, "round_robin")
    keys = [submit(router, number, 0.0) for number in range(4)]
    placed = {dispatched(router, 0.0).request_id: number for number in range(4)}
    assert set(placed) == {0, 1, 2, 3}
    lost = router.leave(1, now_s=1.0)
    assert len(lost) == 2
    with pytest.raises(IrouterError, match="is not known"):
        router.finished(keys[lost[0]], now_s=1.0)
    submit(router, 9, 1.0)
    assert dispatched(router, 1.0).instance == 0
    router.join(1, PROFILE, now_s=2.0)
    assert router.in_flight == [3, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens` is 0, expected at least 1"),
        ({"prompt_tokens": 131_072}, "exceed `max_model_len` = 131072 tokens"),
        ({"predicted_tokens": None, "predicted_quantiles": [5.0] * 10 + [math.nan]}, "quantile NaN"),
        ({"predicted_tokens": None, "predicted_quantiles": [9.0, 8.0] + [10.0] * 9}, "at least 9"),
        ({"predicted_quantiles": [5.0] * 11}, "expected one"),
    ],
)
def test_a_bad_request_is_refused_with_its_value(changes: dict[str, Any], message: str) -> None:
    router = Router([PROFILE], "round_robin")
    with pytest.raises(IrouterError, match=message):
        submit(router, 0, 0.0, **changes)
    assert router.waiting == 0


def test_time_cannot_go_back_or_be_infinite() -> None:
    router = Router([PROFILE], "round_robin")
    router.decide(5.0)
    with pytest.raises(IrouterError, match="time went back"):
        router.decide(4.0)
    with pytest.raises(IrouterError, match="now_s"):
        router.decide(math.nan)


def test_an_unknown_policy_suggests_the_nearest() -> None:
    with pytest.raises(IrouterError, match=r"unknown policy `least_wrok`; did you mean `least_work`\?"):
        Router([PROFILE], "least_wrok")


@pytest.mark.timeout(60)  # a hang here is a deadlock
def test_threads_share_a_router_without_losing_a_request() -> None:
    router = Router([PROFILE] * 4, "least_requests")
    failures: list[BaseException] = []

    def client(worker: int) -> None:
        try:
            for number in range(200):
                submit(router, worker * 1000 + number, 0.0)
                decision = router.decide(0.0)
                # Another thread may have dispatched this one's request; then it gets that one's.
                if isinstance(decision, Decision):
                    router.first_token(decision.key, now_s=0.0)
                    router.finished(decision.key, now_s=0.0)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            failures.append(error)

    threads = [threading.Thread(target=client, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    while isinstance(decision := router.decide(0.0), Decision):
        router.finished(decision.key, now_s=0.0)
    assert (router.waiting, router.in_flight) == (0, [0, 0, 0, 0])
