"""Metrics of the proxy, for Prometheus."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from irouter.serving.errors import DisconnectedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from irouter.serving.base_router import BaseRouter
    from irouter.serving.lease import Lease

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
_DECISION_SECONDS: Final = (1e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 0.01, 0.1, 1, 10, 60)


class ProxyMetrics:
    """Counts and times. Labels are names of the configuration and of the API, so that there are a few of them."""

    def __init__(self, router: BaseRouter) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "irouter_requests",
            "Requests answered, by endpoint and status.",
            ["endpoint", "code"],
            registry=registry,
        )
        self.retries = Counter("irouter_retries", "Requests that were sent again.", registry=registry)
        self.prompt_tokens = Counter(
            "irouter_prompt_tokens", "Prompt tokens that engines told.", registry=registry
        )
        self.output_tokens = Counter(
            "irouter_output_tokens", "Output tokens, told or counted.", registry=registry
        )
        self.end_to_end_s = Histogram(
            "irouter_request_seconds", "Arrival to the last byte.", registry=registry, buckets=_SECONDS
        )
        self.first_token_s = Histogram(
            "irouter_first_token_seconds",
            "Arrival to the first token, streamed.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.token_gap_s = Histogram(
            "irouter_token_gap_seconds",
            "Mean time between tokens of an answer, streamed.",
            registry=registry,
            buckets=_SECONDS,
        )
        decision = Histogram(
            "irouter_decision_seconds",
            "Time of a decision: the predictor, the queue, the policy.",
            ["stage"],
            registry=registry,
            buckets=_DECISION_SECONDS,
        )
        self._stages = [decision.labels(stage=stage) for stage in ("predict", "queue", "decide")]
        registry.register(_RouterCollector(router))

    def answered(self, endpoint: str, code: int) -> None:
        """A request was answered."""
        self._requests.labels(endpoint=endpoint, code=str(code)).inc()

    def decided(self, lease: Lease) -> None:
        """A request got a lease."""
        for stage, seconds in zip(
            self._stages, (lease.predict_s, lease.waited_s, lease.decide_s), strict=True
        ):
            stage.observe(seconds)

    def page(self) -> bytes:
        """The page, in Prometheus' text format."""
        return generate_latest(self._registry)


class _RouterCollector(Collector):
    """What the router itself says, when it is asked."""

    def __init__(self, router: BaseRouter) -> None:
        self._router = router

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "irouter_daemon_connected",
            "Whether the router that is asked for decisions is there; 1 without a daemon.",
            value=float(self._router.connected),
        )
        with contextlib.suppress(DisconnectedError):
            yield from self._figures()

    def _figures(self) -> Iterator[Metric]:
        statistics = self._router.statistics
        yield GaugeMetricFamily("irouter_waiting", "Requests at the router.", value=statistics.waiting)
        yield GaugeMetricFamily(
            "irouter_degraded",
            "Whether replicas on other hosts are out of touch.",
            value=float(statistics.degraded),
        )
        in_flight = GaugeMetricFamily("irouter_in_flight", "Requests on an instance.", labels=["instance"])
        ready = GaugeMetricFamily("irouter_instance_ready", "Whether it takes requests.", labels=["instance"])
        work = GaugeMetricFamily(
            "irouter_instance_work_seconds", "Predicted work on it.", labels=["instance"]
        )
        strangers = GaugeMetricFamily("irouter_strangers", "Requests of others on it.", labels=["instance"])
        age = GaugeMetricFamily(
            "irouter_engine_report_age_seconds", "Age of its engine's last report.", labels=["instance"]
        )
        for instance in self._router.instances:
            strangers.add_metric([instance.url], instance.strangers)
            if instance.report_age_s is not None:
                age.add_metric([instance.url], instance.report_age_s)
            in_flight.add_metric([instance.url], instance.in_flight)
            ready.add_metric([instance.url], float(instance.status == "ready"))
            work.add_metric([instance.url], instance.work_s)
        yield from (in_flight, ready, work, strangers, age)
        endings = CounterMetricFamily("irouter_endings", "How requests left the router.", labels=["ending"])
        for ending, count in statistics.endings.items():
            endings.add_metric([ending.value], count)
        yield endings
        yield CounterMetricFamily(
            "irouter_policy_failures", "Failures of the policy.", value=statistics.fallbacks
        )
        yield CounterMetricFamily(
            "irouter_prediction_failures", "Failures of the predictor.", value=statistics.failed_predictions
        )
