"""Metrics of the proxy, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from irouter.serving.lease import Lease
    from irouter.serving.router import Router

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

    def __init__(self, routers: Mapping[str | None, Router]) -> None:
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

    def __init__(self, routers: Mapping[str | None, Router]) -> None:
        self._routers = routers

    def collect(self) -> Iterator[Metric]:
        model, instance = ["model"], ["model", "instance"]
        waiting = GaugeMetricFamily("irouter_waiting", "Requests at the router.", labels=model)
        in_flight = GaugeMetricFamily("irouter_in_flight", "Requests on an instance.", labels=instance)
        ready = GaugeMetricFamily("irouter_instance_ready", "Whether it takes requests.", labels=instance)
        share = GaugeMetricFamily(
            "irouter_instance_share", "Below 1 while it starts slowly.", labels=instance
        )
        work = GaugeMetricFamily("irouter_instance_work_seconds", "Predicted work on it.", labels=instance)
        endings = CounterMetricFamily(
            "irouter_endings", "How requests left the router.", labels=["model", "ending"]
        )
        policy_failures = CounterMetricFamily(
            "irouter_policy_failures", "Failures of the policy.", labels=model
        )
        prediction_failures = CounterMetricFamily(
            "irouter_prediction_failures", "Failures of the predictor.", labels=model
        )
        for name, router in self._routers.items():
            label, statistics = name or "", router.statistics
            waiting.add_metric([label], statistics.waiting)
            policy_failures.add_metric([label], statistics.fallbacks)
            prediction_failures.add_metric([label], statistics.failed_predictions)
            for ending, count in statistics.endings.items():
                endings.add_metric([label, ending.value], count)
            for entry in router.instances:
                if entry.status != "gone":
                    in_flight.add_metric([label, entry.url], entry.in_flight)
                    ready.add_metric([label, entry.url], float(entry.status == "ready"))
                    share.add_metric([label, entry.url], entry.share)
                    work.add_metric([label, entry.url], entry.work_s)
        yield from (waiting, in_flight, ready, share, work, endings, policy_failures, prediction_failures)
