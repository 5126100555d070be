"""The proxy in front of two real vLLM servers, seen through the official client."""

import concurrent.futures
import contextlib
import dataclasses
import json
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest

import vllm_servers
from real.tap import Tap
from serving.support import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not vllm_servers.is_installed(), reason="`make vllm-environment` installs vLLM and a model"
    ),
]

MOST_TOKENS = 48
AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Two engines, what each sent, and the proxy in front."""

    engines: Sequence[vllm_servers.VllmServer]
    taps: Sequence[Tap]
    proxy: Server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("vllm")
    with contextlib.ExitStack() as stack:
        engines = stack.enter_context(vllm_servers.two_servers(folder))
        taps = [stack.enter_context(Tap(engine.url)) for engine in engines]
        config = folder / "proxy.toml"
        # The machine has no core left for anybody to be on time.
        config.write_text(
            'policy = "least_requests"\nprofile = "llama-3.1-8b@h100"\nretries = 0\nfailures_to_open = 1000\n'
            "request_timeout_s = 1800\nread_timeout_s = 1800\nhealth_timeout_s = 60\n"
        )
        instances = [argument for tap in taps for argument in ("--instance", tap.url)]
        proxy = Server("serve", "--port", "0", "--config", str(config), *instances, log=folder / "proxy.log")
        yield Cluster(engines, taps, stack.enter_context(proxy))


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=1800)


def mixed_requests(count: int, *, temperature: float | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Chats and completions of all sizes, some with the usage: the name of the API and its arguments."""
    generator = random.Random(20)
    subjects = ("rivers", "the moon", "bread", "a town by the sea", "prime numbers", "Zürich 東京 🚲")
    requests = []
    for number in range(count):
        text = f"{number}. Write about {generator.choice(subjects)}. " + "Say why. " * generator.choice(
            (1, 2, 5, 12, 27, 60)
        )
        arguments: dict[str, Any] = {
            "model": vllm_servers.MODEL,
            "max_tokens": generator.randint(1, MOST_TOKENS),
            "temperature": generator.choice([0.0, 0.7]) if temperature is None else temperature,
            "seed": number,
            "stream": True,
        }
        if generator.random() < 0.5:
            arguments["stream_options"] = {"include_usage": True}
        if generator.random() < 0.5:
            requests.append(("chat", arguments | {"messages": [{"role": "user", "content": text}]}))
        else:
            requests.append(("completions", arguments | {"prompt": text}))
    return requests


def bytes_of(client: openai.OpenAI, api: str, arguments: dict[str, Any]) -> bytes:
    endpoint = client.chat.completions if api == "chat" else client.completions
    with endpoint.with_streaming_response.create(**arguments) as answer:
        return b"".join(answer.iter_bytes())


def said(client: openai.OpenAI, api: str, arguments: dict[str, Any]) -> tuple[str, list[str], list[Any]]:
    """Text, reasons to finish and usage of an answer, as the client reads it."""
    text, reasons, usages = "", [], []
    endpoint: Any = client.chat.completions if api == "chat" else client.completions
    for piece in endpoint.create(**arguments):
        for choice in piece.choices:
            text += (choice.delta.content if api == "chat" else choice.text) or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
        usages += [piece.usage.model_dump()] if piece.usage else []
    return text, reasons, usages


def assert_bytes_are_the_engines(cluster: Cluster, count: int) -> None:
    client = client_of(cluster.proxy.url)
    # The client leaves a stream at its last event; what was before may still be ending.
    while any(tap.under_way for tap in cluster.taps):
        time.sleep(0.05)
    earlier = [len(tap.bodies) for tap in cluster.taps]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        received = list(pool.map(lambda request: bytes_of(client, *request), mixed_requests(count)))
    sent = [tap.bodies[start:] for tap, start in zip(cluster.taps, earlier, strict=True)]
    assert all(sent), "both engines took part"
    assert sorted(received) == sorted(body for bodies in sent for body in bodies)
    assert len(set(received)) == count
    for body, (_, arguments) in zip(received, mixed_requests(count), strict=True):
        events = [line for line in body.split(b"\n\n") if line]
        assert events[-1] == b"data: [DONE]"
        pieces = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
        assert any(choice.get("finish_reason") for piece in pieces for choice in piece["choices"])
        usages = [piece["usage"] for piece in pieces if piece.get("usage")]
        assert len(usages) == ("stream_options" in arguments)
        assert all(usage["completion_tokens"] <= arguments["max_tokens"] for usage in usages)


def assert_answers_are_those_of_an_engine_alone(cluster: Cluster, count: int) -> None:
    proxy = client_of(cluster.proxy.url)
    engines = [client_of(engine.url) for engine in cluster.engines]
    for number, request in enumerate(mixed_requests(count, temperature=0.0)):
        through = said(proxy, *request)
        assert through == said(engines[number % 2], *request), request
        assert through[0]
        assert len(through[1]) == 1


def test_twenty_answers_are_the_bytes_that_the_engine_sent(cluster: Cluster) -> None:
    assert_bytes_are_the_engines(cluster, 20)


def test_twenty_answers_one_at_a_time_are_those_of_asking_the_engine(cluster: Cluster) -> None:
    assert_answers_are_those_of_an_engine_alone(cluster, 20)


@pytest.mark.real
def test_two_hundred_answers_are_the_bytes_that_the_engine_sent(cluster: Cluster) -> None:
    assert_bytes_are_the_engines(cluster, 200)


@pytest.mark.real
def test_two_hundred_answers_one_at_a_time_are_those_of_asking_the_engine(cluster: Cluster) -> None:
    assert_answers_are_those_of_an_engine_alone(cluster, 200)
