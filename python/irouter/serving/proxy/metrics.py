"""Metrics of the proxy, for Prometheus."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from irouter.serving.errors import DisconnectedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from irouter.serving.base_router import BaseRouter
    from irouter.serving.instances import InstanceStatus
    from irouter.serving.lease import Lease, RouterStatistics

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
_DECISION_SECONDS: Final = (1e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 0.01, 0.1, 1, 10, 60)


class PoolMetrics:
    """Counts and times of one model."""

    def __init__(self, metrics: ProxyMetrics, model: str) -> None:
        self.retries = metrics.retries.labels(model=model)
        self.prompt_tokens = metrics.prompt_tokens.labels(model=model)
        self.output_tokens = metrics.output_tokens.labels(model=model)
        self.first_token_s = metrics.first_token_s.labels(model=model)
        self.token_gap_s = metrics.token_gap_s.labels(model=model)
        self._stages = [
            metrics.decision_s.labels(model=model, stage=stage) for stage in ("predict", "queue", "decide")
        ]

    def decided(self, lease: Lease) -> None:
        """A request got a lease."""
        for stage, seconds in zip(
            self._stages, (lease.predict_s, lease.waited_s, lease.decide_s), strict=True
        ):
            stage.observe(seconds)


class ProxyMetrics:
    """Counts and times. Labels are names of the configuration and of the API, so that there are a few of them.

    The label `model` is empty where there is one pool for any model.
    """

    def __init__(self, routers: Mapping[str | None, BaseRouter]) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "irouter_requests",
            "Requests answered, by endpoint and status.",
            ["endpoint", "code"],
            registry=registry,
        )
        self.end_to_end_s = Histogram(
            "irouter_request_seconds", "Arrival to the last byte.", registry=registry, buckets=_SECONDS
        )
        model = ["model"]
        self.retries = Counter("irouter_retries", "Requests that were sent again.", model, registry=registry)
        self.prompt_tokens = Counter(
            "irouter_prompt_tokens", "Prompt tokens that engines told.", model, registry=registry
        )
        self.output_tokens = Counter(
            "irouter_output_tokens", "Output tokens, told or counted.", model, registry=registry
        )
        self.first_token_s = Histogram(
            "irouter_first_token_seconds",
            "Arrival to the first token, streamed.",
            model,
            registry=registry,
            buckets=_SECONDS,
        )
        self.token_gap_s = Histogram(
            "irouter_token_gap_seconds",
            "Mean time between tokens of an answer, streamed.",
            model,
            registry=registry,
            buckets=_SECONDS,
        )
        self.decision_s = Histogram(
            "irouter_decision_seconds",
            "Time of a decision: the predictor, the queue, the policy.",
            ["model", "stage"],
            registry=registry,
            buckets=_DECISION_SECONDS,
        )
        self._pools = {name: PoolMetrics(self, name or "") for name in routers}
        registry.register(_RouterCollector(routers))

    def of(self, model: str | None) -> PoolMetrics:
        """Those of one model."""
        return self._pools[model]

    def answered(self, endpoint: str, code: int) -> None:
        """A request was answered."""
        self._requests.labels(endpoint=endpoint, code=str(code)).inc()

    def page(self) -> bytes:
        """The page, in Prometheus' text format."""
        return generate_latest(self._registry)


class _RouterCollector(Collector):
    """What the routers themselves say, when they are asked."""

    def __init__(self, routers: Mapping[str | None, BaseRouter]) -> None:
        self._routers = routers

    def collect(self) -> Iterator[Metric]:
        families = _Families()
        for name, router in self._routers.items():
            label = name or ""
            families.connected.add_metric([label], float(router.connected))
            with contextlib.suppress(DisconnectedError):
                families.add(label, router.statistics, router.instances)
        yield from vars(families).values()


class _Families:
    """What there is to say of routers, by model."""

    def __init__(self) -> None:
        model, instance = ["model"], ["model", "instance"]
        self.connected = GaugeMetricFamily(
            "irouter_daemon_connected",
            "Whether the router that is asked for decisions is there; 1 without a daemon.",
            labels=model,
        )
        self.waiting = GaugeMetricFamily("irouter_waiting", "Requests at the router.", labels=model)
        self.degraded = GaugeMetricFamily(
            "irouter_degraded", "Whether replicas on other hosts are out of touch.", labels=model
        )
        self.in_flight = GaugeMetricFamily("irouter_in_flight", "Requests on an instance.", labels=instance)
        self.ready = GaugeMetricFamily(
            "irouter_instance_ready", "Whether it takes requests.", labels=instance
        )
        self.share = GaugeMetricFamily(
            "irouter_instance_share", "Below 1 while it starts slowly.", labels=instance
        )
        self.work = GaugeMetricFamily(
            "irouter_instance_work_seconds", "Predicted work on it.", labels=instance
        )
        self.strangers = GaugeMetricFamily("irouter_strangers", "Requests of others on it.", labels=instance)
        self.report_age = GaugeMetricFamily(
            "irouter_engine_report_age_seconds", "Age of its engine's last report.", labels=instance
        )
        self.endings = CounterMetricFamily(
            "irouter_endings", "How requests left the router.", labels=["model", "ending"]
        )
        self.policy_failures = CounterMetricFamily(
            "irouter_policy_failures", "Failures of the policy.", labels=model
        )
        self.prediction_failures = CounterMetricFamily(
            "irouter_prediction_failures", "Failures of the predictor.", labels=model
        )

    def add(self, model: str, statistics: RouterStatistics, instances: Sequence[InstanceStatus]) -> None:
        """Takes in what a router says."""
        self.waiting.add_metric([model], statistics.waiting)
        self.degraded.add_metric([model], float(statistics.degraded))
        self.policy_failures.add_metric([model], statistics.fallbacks)
        self.prediction_failures.add_metric([model], statistics.failed_predictions)
        for ending, count in statistics.endings.items():
            self.endings.add_metric([model, ending.value], count)
        for entry in instances:
            if entry.status == "gone":
                continue
            labels = [model, entry.url]
            self.in_flight.add_metric(labels, entry.in_flight)
            self.ready.add_metric(labels, float(entry.status == "ready"))
            self.share.add_metric(labels, entry.share)
            self.work.add_metric(labels, entry.work_s)
            self.strangers.add_metric(labels, entry.strangers)
            if entry.report_age_s is not None:
                self.report_age.add_metric(labels, entry.report_age_s)
