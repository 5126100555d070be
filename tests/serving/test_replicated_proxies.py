"""Proxies of several hosts that divide engines through Redis, as processes."""

import concurrent.futures
import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from serving.support import Server, eventually
from serving.test_replicas import REDIS, Redis

PROFILE = "llama-3.1-8b@h100"
SLOTS = 4

pytestmark = [
    pytest.mark.skipif(REDIS is None, reason="redis-server is not installed (apt-get install redis-server)"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


@contextlib.contextmanager
def proxies(tmp_path: Path, redis: Redis, engine: Server) -> Iterator[list[Server]]:
    config = tmp_path / "proxy.toml"
    settings = f'redis = "{redis.url}"\nredis_group = "test"\nslots_per_instance = {SLOTS}\n'
    config.write_text(f'profile = "{PROFILE}"\n{settings}[[instances]]\nurl = "{engine.url}"\n')
    serve = ("serve", "--port", "0", "--config", str(config))
    with Server(*serve) as first, Server(*serve) as second:
        yield [first, second]


def figure(page: str, name: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))


def test_two_proxies_never_have_more_on_an_engine_than_its_slots(tmp_path: Path) -> None:
    redis = Redis()
    try:
        with (
            Server("engine", "--profile", PROFILE, "--port", "0", "--speed", "4") as engine,
            proxies(tmp_path, redis, engine) as both,
            httpx2.Client(timeout=120, limits=httpx2.Limits(max_connections=None)) as http,
            concurrent.futures.ThreadPoolExecutor(24) as pool,
        ):

            def ask(number: int) -> int:
                body = {"model": "m", "prompt": f"Question {number}", "max_tokens": 150, "ignore_eos": True}
                return http.post(both[number % 2].url + "/v1/completions", json=body).status_code

            asked = [pool.submit(ask, number) for number in range(48)]
            most = 0.0
            while not all(future.done() for future in asked):
                page = http.get(engine.url + "/metrics").text
                most = max(
                    most,
                    figure(page, "vllm:num_requests_running") + figure(page, "vllm:num_requests_waiting"),
                )
            assert [future.result() for future in asked] == [200] * 48
            assert 1 < most <= SLOTS
            redis.kill()
            for proxy in both:
                eventually(
                    lambda proxy=proxy: (
                        figure(http.get(proxy.url + "/metrics").text, "irouter_degraded") == 1
                    ),  # type: ignore[misc]
                    30,
                )
            assert {ask(number) for number in range(4)} == {200}, "it serves on its share"
    finally:
        redis.kill()
