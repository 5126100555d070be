"""The proxy in front of two emulated engines, seen through the official client."""

import concurrent.futures
import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from irouter.serving.replay import replay
from serving.support import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROFILE = "llama-3.1-8b@h100"
# One for all: making one takes longer than a request.
HTTP = httpx2.Client(timeout=60)


@pytest.fixture(scope="module", autouse=True)
def close_client() -> Iterator[None]:
    yield
    HTTP.close()


@pytest.fixture(scope="module")
def lengths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lengths") / "lengths.json"
    path.write_text(json.dumps({"short": 12, "long": 400, "longest": 2000}))
    return path


def start_engine(lengths: Path, port: int = 0, chunk_tokens: int = 1) -> Server:
    arguments = ["--profile", PROFILE, "--port", str(port), "--speed", "2", "--lengths", str(lengths)]
    return Server("engine", *arguments, "--chunk-tokens", str(chunk_tokens))


def start_proxy(tmp_path: Path, *engines: Server, settings: str = "") -> Server:
    config = tmp_path / "proxy.toml"
    config.write_text(
        f'policy = "least_work"\nprofile = "{PROFILE}"\nhealth_interval_s = 0.2\nopen_s = 0.2\n{settings}'
    )
    urls = [argument for engine in engines for argument in ("--instance", engine.url)]
    return Server("serve", "--port", "0", "--config", str(config), *urls, log=tmp_path / "proxy.log")


@pytest.fixture(scope="module")
def engines(lengths: Path) -> Iterator[tuple[Server, Server]]:
    with start_engine(lengths) as first, start_engine(lengths, chunk_tokens=3) as second:
        yield first, second


@pytest.fixture(scope="module")
def proxy(engines: tuple[Server, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_proxy(tmp_path_factory.mktemp("proxy"), *engines) as server:
        yield server


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60)


def figures(server: Server) -> dict[str, float]:
    """Metrics by name, summed over labels, and by name with labels."""
    sums: dict[str, float] = {}
    for line in HTTP.get(server.url + "/metrics").text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            for key in {name, name.partition("{")[0]}:
                sums[key] = sums.get(key, 0.0) + float(value)
    return sums


def assert_quiet(proxy: Server, *engines: Server) -> None:
    """Nothing waits or runs anywhere, and every request that the router took in has ended."""
    deadline = time.monotonic() + 10
    while True:
        found = [figures(engine)["vllm:num_requests_running"] for engine in engines]
        router = figures(proxy)
        found += [
            router["irouter_waiting"],
            router["irouter_in_flight"],
            router["irouter_instance_work_seconds"],
        ]
        if not any(found):
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_bodies_are_those_of_the_engine_byte_for_byte(
    proxy: Server,
    engines: tuple[Server, Server],
    path: str,
    stream: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    for number in range(10):
        prompt = f"Question {number} [irouter-length:short]"
        text = (
            {"prompt": prompt} if "chat" not in path else {"messages": [{"role": "user", "content": prompt}]}
        )
        body = {
            "model": "m",
            "stream": stream,
            "max_tokens": 40,
            "stream_options": {"include_usage": True},
            **text,
        }
        answer = HTTP.post(proxy.url + path, json=body)
        direct = [HTTP.post(engine.url + path, json=body).content for engine in engines]
        assert answer.status_code == 200
        assert answer.content in direct
        assert answer.headers["content-type"].startswith(
            "text/event-stream" if stream else "application/json"
        )


def test_errors_of_the_engine_are_passed_on(proxy: Server, engines: tuple[Server, Server]) -> None:
    body = {"model": "m", "prompt": "[irouter-length:unknown]"}
    answer = HTTP.post(proxy.url + "/v1/completions", json=body)
    direct = HTTP.post(engines[0].url + "/v1/completions", json=body)
    assert (answer.status_code, answer.content) == (400, direct.content)


def test_the_official_client_works_and_tokens_are_counted(
    proxy: Server, engines: tuple[Server, Server]
) -> None:
    client = client_of(proxy)
    before = figures(proxy)
    for number in range(6):
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": f"{number} [irouter-length:short]"}], stream=True
        )
        text = "".join(piece.choices[0].delta.content or "" for piece in stream)
        assert len(text.split()) == 12
    assert_quiet(proxy, *engines)
    after = figures(proxy)
    assert after["irouter_output_tokens_total"] - before["irouter_output_tokens_total"] == 72, (
        "pieces of one and three"
    )
    assert after["irouter_first_token_seconds_count"] - before["irouter_first_token_seconds_count"] == 6
    assert client.models.list().data[0].id == PROFILE
    assert HTTP.get(proxy.url + "/health").status_code == 200


def test_aborts_reach_the_engines_and_leave_nothing_behind(
    proxy: Server, engines: tuple[Server, Server]
) -> None:
    def one(number: int) -> str:
        draws = random.Random(number)
        body = {
            "model": "m",
            "prompt": f"{number} [irouter-length:long]",
            "max_tokens": 400,
            "stream": number % 3 > 0,
        }
        timeout = draws.uniform(0.001, 0.6) if draws.random() < 0.5 else 60
        try:
            with HTTP.stream("POST", proxy.url + "/v1/completions", json=body, timeout=timeout) as answer:
                started = time.monotonic()
                for _ in answer.iter_bytes():
                    if time.monotonic() - started > timeout:
                        return "aborted"
        except httpx2.TimeoutException:
            return "aborted"
        return str(answer.status_code)

    before = figures(proxy)
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        outcomes = list(pool.map(one, range(120)))
    assert set(outcomes) == {"aborted", "200"}
    assert_quiet(proxy, *engines)
    after = figures(proxy)
    endings = {
        name: after.get(f'irouter_endings_total{{ending="{name}",model=""}}', 0)
        for name in ("finished", "cancelled")
    }
    ended = after["irouter_endings_total"] - before.get("irouter_endings_total", 0)
    assert endings["finished"] >= outcomes.count("200")
    assert outcomes.count("200") <= ended <= 120
    assert endings["cancelled"] > 10


def test_a_killed_instance_costs_its_own_requests_an_error_and_no_other(
    lengths: Path, tmp_path: Path
) -> None:
    def start() -> Server:
        return start_engine(lengths, chunk_tokens=10)

    with start() as stays, start() as dies, start_proxy(tmp_path, stays, dies) as proxy:
        client = client_of(proxy)

        def one(number: int) -> str:
            try:
                stream = client.completions.create(
                    model="m", prompt=f"{number} [irouter-length:longest]", max_tokens=2000, stream=True
                )
                pieces = sum(len(piece.choices) for piece in stream)
            except (openai.APIError, httpx2.TransportError):
                return "error"
            # The first token is a piece of its own.
            return "whole" if pieces == 201 else f"silently short: {pieces}"

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            running = [pool.submit(one, number) for number in range(20)]
            deadline = time.monotonic() + 60
            while figures(dies)["vllm:num_requests_running"] < 10:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            dies.process.kill()
            outcomes = [future.result() for future in running]
            assert outcomes.count("whole") + outcomes.count("error") == 20, outcomes
            assert outcomes.count("error") == 10, "ten were there"
            assert [one(number) for number in range(100, 103)] == ["whole"] * 3, (
                "sent elsewhere before the first byte"
            )
        assert_quiet(proxy, stays)
        assert "instance_out" in (tmp_path / "proxy.log").read_text()


def test_sigterm_lets_requests_finish_and_takes_no_more(
    engines: tuple[Server, Server], tmp_path: Path
) -> None:
    log = tmp_path / "decisions.jsonl"
    with start_proxy(tmp_path, *engines, settings=f'decision_log = "{log}"') as proxy:
        stream = client_of(proxy).completions.create(
            model="m", prompt="[irouter-length:long]", max_tokens=300, stream=True
        )
        next(stream)
        proxy.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        refused = HTTP.post(proxy.url + "/v1/completions", json={"model": "m", "prompt": "x"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        rest = sum(len(piece.choices) for piece in stream)
        assert rest in {299, 99}, "to the end, in pieces of one or three"
        assert proxy.process.wait(timeout=10) == 0
    replayed = replay(log)
    assert (replayed.requests, replayed.dispatches, replayed.difference, replayed.complete) == (
        1,
        1,
        None,
        True,
    )


def test_a_full_queue_is_answered_with_429(lengths: Path, tmp_path: Path, small_profile: Path) -> None:
    settings = f'max_waiting = 0\npolicy = "central_fcfs"\nprofile = "{small_profile}"\n'
    with start_engine(lengths) as engine:
        config = tmp_path / "proxy.toml"
        config.write_text(settings)
        with Server("serve", "--port", "0", "--config", str(config), "--instance", engine.url) as proxy:

            def one(number: int) -> httpx2.Response:
                body = {"model": "m", "prompt": f"{number} [irouter-length:long]", "max_tokens": 100}
                return HTTP.post(proxy.url + "/v1/completions", json=body, timeout=60)

            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(one, range(16)))
            codes = [answer.status_code for answer in answers]
            assert set(codes) == {200, 429}
            refused: Any = next(answer for answer in answers if answer.status_code == 429)
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert_quiet(proxy, engine)
