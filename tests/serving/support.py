"""What the tests of the live router share."""

import irouter

URLS = ("http://a:8000", "http://b:8000")


def assert_idle(router: irouter.Router) -> None:
    """Nothing waits, nothing is on an instance, every sum is zero and every request has ended once."""
    statistics = router.statistics
    assert (statistics.waiting, statistics.in_flight) == (0, 0)
    assert sum(statistics.endings.values()) == statistics.submitted
    for instance in router.instances:
        sums = (
            instance.in_flight,
            instance.awaiting_first_token,
            instance.queued_prefill_tokens,
            instance.prompt_tokens,
            instance.produced_tokens,
            instance.remaining_output_tokens,
            instance.work_s,
        )
        assert sums == (0,) * 7, instance
