"""Metrics under vLLM's names, old and new."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

if TYPE_CHECKING:
    from irouter.serving.emulator.realtime import RealTimeEngine
    from irouter.serving.instances import LoadedProfile


class EngineMetrics:
    """What vLLM's `/metrics` has, of an emulated engine."""

    def __init__(self, engine: RealTimeEngine, profile: LoadedProfile, model: str) -> None:
        self._engine = engine
        self._registry = CollectorRegistry()
        label = {"model_name": model}

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["model_name"], registry=self._registry).labels(**label)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ["model_name"], registry=self._registry).labels(**label)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(name, text, ["model_name"], registry=self._registry).labels(**label)

        self._running = gauge("vllm:num_requests_running", "Requests in the batch.")
        self._waiting = gauge("vllm:num_requests_waiting", "Requests in the queue.")
        self._kv_usage = gauge("vllm:kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1.")
        self._kv_usage_before = gauge("vllm:gpu_cache_usage_perc", "The same under its name before vLLM v1.")
        self._preemptions = gauge("vllm:num_preemptions", "Preemptions.")
        cache = {
            "block_size": str(profile.block_tokens),
            "num_gpu_blocks": str(profile.kv_tokens // profile.block_tokens),
            "enable_prefix_caching": str(profile.has_prefix_cache),
        }
        Info("vllm:cache_config", "What the KV cache is.", registry=self._registry).info(cache)
        self.prompt_tokens = counter("vllm:prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens produced.")
        self.successes = counter("vllm:request_success", "Requests answered in full.")
        self.first_token_s = histogram("vllm:time_to_first_token_seconds", "Time to the first token.")
        self.end_to_end_s = histogram("vllm:e2e_request_latency_seconds", "Time to the last token.")

    def page(self) -> bytes:
        """The page, in Prometheus' text format."""
        load = self._engine.load
        self._running.set(load["running"])
        self._waiting.set(load["waiting"])
        self._kv_usage.set(load["kv_usage"])
        self._kv_usage_before.set(load["kv_usage"])
        self._preemptions.set(self._engine.preemptions)
        return generate_latest(self._registry)
