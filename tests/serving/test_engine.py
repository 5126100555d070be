"""The emulated engine, seen through the official client."""

import json
import math
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from irouter import IrouterError, Profile, profiles
from irouter.serving.emulator.faults import Faults
from irouter.serving.emulator.lengths import Lengths, read_lengths
from serving.support import Server

PROFILE = "llama-3.1-8b@h100"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    lengths = tmp_path_factory.mktemp("lengths") / "lengths.json"
    lengths.write_text(json.dumps({"short": 3, "long": 200, "endless": 20_000}))
    arguments = ["--profile", PROFILE, "--port", "0", "--lengths", str(lengths), "--prompt-tokens-details"]
    with Server("engine", *arguments) as server:
        yield server


@pytest.fixture(scope="module")
def client(engine: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=engine.url + "/v1", api_key="none", max_retries=0)


def fetch(url: str, data: Any = None) -> bytes:
    body = None if data is None else json.dumps(data).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body)) as answer:  # noqa: S310 - http of our own
        content: bytes = answer.read()
        return content


def figure(engine: Server, name: str) -> float:
    lines = fetch(engine.url + "/metrics").decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))


def test_a_chat_has_the_length_of_its_marker(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": "Hello [irouter-length:short]"}]
    )
    assert chat.usage is not None
    assert (chat.usage.completion_tokens, chat.choices[0].finish_reason) == (3, "stop")
    assert len((chat.choices[0].message.content or "").split()) == 3
    assert chat.usage.prompt_tokens == 7


def test_max_tokens_cuts_an_answer(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="any", prompt="[irouter-length:long]", max_tokens=5)
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (5, "length")


def test_each_piece_has_the_usage_so_far_where_it_is_asked_for(client: openai.OpenAI) -> None:
    pieces = list(
        client.completions.create(
            model="any",
            prompt="[irouter-length:short]",
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        )
    )
    usages = [piece.usage for piece in pieces if piece.usage is not None]
    assert [usage.completion_tokens for usage in usages] == [1, 2, 3, 3]
    assert {usage.prompt_tokens for usage in usages} == {6}


def test_the_metrics_tell_the_size_of_the_cache(engine: Server) -> None:
    page = fetch(engine.url + "/metrics").decode()
    (line,) = [line for line in page.splitlines() if line.startswith("vllm:cache_config_info{")]
    kv = profiles.load(PROFILE)["kv"]
    for label in (
        f'block_size="{kv["block_tokens"]}"',
        f'num_gpu_blocks="{kv["blocks"]}"',
        'enable_prefix_caching="True"',
    ):
        assert label in line


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="any", prompt="A [irouter-length:long]", max_tokens=50)
    pieces = list(
        client.completions.create(
            model="any",
            prompt="A [irouter-length:long]",
            max_tokens=50,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len([piece for piece in pieces if piece.choices]) == 50, "one token each"
    assert [piece.choices[0].finish_reason for piece in pieces[:-1]] == [None] * 49 + ["length"]
    assert pieces[-1].usage is not None
    assert whole.usage is not None
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens == 50


def test_an_answer_takes_the_time_of_the_profile(client: openai.OpenAI) -> None:
    step_ms = Profile(json.dumps(profiles.load(PROFILE))).step_ms(decodes=1, decode_context=10)
    started = time.monotonic()
    client.completions.create(model="any", prompt="B [irouter-length:long]", max_tokens=150)
    took_ms = (time.monotonic() - started) * 1000
    assert 149 * step_ms < took_ms < 149 * step_ms + 1500


def test_a_repeated_prompt_is_in_the_prefix_cache(client: openai.OpenAI) -> None:
    prompt = "a prompt that is long enough for some blocks " * 20
    cached = []
    for _ in range(2):
        usage = client.completions.create(model="any", prompt=prompt, max_tokens=2).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens)
    assert cached == [0, 224]


def test_a_client_that_goes_away_frees_the_engine(client: openai.OpenAI, engine: Server) -> None:
    stream = client.completions.create(
        model="any", prompt="[irouter-length:endless]", max_tokens=20_000, stream=True
    )
    next(stream)
    assert figure(engine, "vllm:num_requests_running") == 1
    stream.close()
    deadline = time.monotonic() + 5
    while figure(engine, "vllm:num_requests_running"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert figure(engine, "vllm:kv_cache_usage_perc") == figure(engine, "vllm:gpu_cache_usage_perc") == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not JSON"),
        (b"[]", "the body is a list, expected an object"),
        (b"{}", "`prompt` is None"),
        (b'{"prompt":"x"}', "`model` is None"),
        (b'{"prompt":"x","model":"m","max_tokens":0}', "`max_tokens` is 0"),
        (b'{"prompt":"x","model":"m","n":2}', "`n` is 2, expected 1"),
        (b'{"prompt":"[irouter-length:unknown]","model":"m"}', "names the length `unknown`"),
        (
            b'{"prompt":"x","model":"m","max_tokens":200000}',
            "output of 200000 tokens, expected at most 131072",
        ),
    ],
)
def test_a_bad_request_is_named(body: bytes, message: str, engine: Server) -> None:
    request = urllib.request.Request(engine.url + "/v1/completions", body)  # noqa: S310 - http of our own
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)  # noqa: S310 - as above
    with refused.value:
        assert refused.value.code == 400
        assert message in json.loads(refused.value.read())["error"]["message"]


def test_faults_are_injected_and_taken_back(client: openai.OpenAI, engine: Server) -> None:
    def ask(**changes: Any) -> Any:
        return client.completions.create(model="any", prompt="[irouter-length:short]", **changes)

    fetch(engine.url + "/faults", {"error_share": 1})
    with pytest.raises(openai.InternalServerError):
        ask()
    fetch(engine.url + "/faults", {"garbage_share": 1})
    with pytest.raises((openai.OpenAIError, UnicodeDecodeError, ValueError)):
        ask().usage.completion_tokens  # noqa: B018 - reading it is what fails
    fetch(engine.url + "/faults", {"close_share": 1})
    with pytest.raises(Exception, match=r"(?i)connection|peer closed|incomplete"):
        list(ask(stream=True))
    fetch(engine.url + "/faults", {"hang_share": 1})
    with pytest.raises(openai.APITimeoutError):
        ask(timeout=0.3)
    fetch(engine.url + "/faults", {})
    assert ask().usage.completion_tokens == 3


def test_it_dies_on_demand() -> None:
    with Server("engine", "--profile", PROFILE, "--port", "0", "--crash-after", "1") as server:
        with pytest.raises(OSError, match=r"(?i)closed|reset"):
            fetch(server.url + "/v1/completions", {"model": "m", "prompt": "x"})
        assert server.process.wait(timeout=10) == -9


def test_drawn_lengths_depend_on_prompt_and_seed_alone() -> None:
    prompts = [f"prompt {number}" for number in range(2000)]
    lengths = [Lengths(1).output_tokens(prompt) for prompt in prompts]
    assert lengths == [Lengths(1).output_tokens(prompt) for prompt in prompts]
    assert lengths != [Lengths(2).output_tokens(prompt) for prompt in prompts]
    logarithms = sorted(math.log(length) for length in lengths)
    assert logarithms[1000] == pytest.approx(math.log(128), abs=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "found a list"), ("{", "not JSON"), ('{"a": 0}', "`a` is 0"), ('{"a": true}', "`a` is True")],
)
def test_a_bad_file_of_lengths_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "lengths.json"
    path.write_text(text)
    with pytest.raises(IrouterError, match=message):
        read_lengths(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected an object"),
        ({"slow": 2}, "fault `slow`"),
        ({"error_share": 2}, "at most 1"),
        ({"slow_factor": 0}, "slow_factor is 0"),
    ],
)
def test_bad_faults_are_named(data: Any, message: str) -> None:
    with pytest.raises(IrouterError, match=message):
        Faults.from_data(data)
