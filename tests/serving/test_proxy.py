"""The proxy against engines that are scripted, in one event loop."""

import asyncio
import json
import logging
import types
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from irouter import IrouterError
from irouter.serving import Instance
from irouter.serving.openai import parse
from irouter.serving.proxy import ApiKey, forward, read_config
from irouter.serving.proxy.keys import KeyRing
from irouter.serving.proxy.tokens import StreamCounter, TokenRatio
from serving.fakes import ANSWER, BODY, bench

FIELDS = st.sampled_from(
    [
        "prompt",
        "messages",
        "content",
        "text",
        "model",
        "max_tokens",
        "stream",
        "stream_options",
        "choices",
        "delta",
        "usage",
    ]
)


@pytest.mark.parametrize("way", ["trouble", "hang_up"])
def test_a_request_goes_elsewhere_when_an_engine_fails_before_its_first_byte(way: str) -> None:
    async def main() -> None:
        async with bench(open_s=30.0) as it:
            it.fakes[0].handler = getattr(it.fakes[0], way)
            for _ in range(8):
                assert (await it.ask())[:2] == (200, ANSWER)
            assert len(it.fakes[0].asked) == 3, "then the breaker opens"
            assert len(it.fakes[1].asked) == 8
            assert it.quiet()

    asyncio.run(main())


def test_output_lengths_are_learned_from_requests_that_finish(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"

    async def main() -> None:
        async with bench(decision_log=str(log)) as it:
            for _ in range(100):
                await it.ask()
            assert it.router.statistics.failed_predictions == 0

    asyncio.run(main())
    submitted = [json.loads(line) for line in log.read_text().splitlines() if '"predicted_quantiles"' in line]
    medians = [event["predicted_quantiles"][5] for event in submitted]
    assert len(medians) == 100
    assert medians[0] > 20
    assert medians[-1] == pytest.approx(7, abs=0.5)


def test_an_engine_that_is_well_again_is_taken_back_and_starts_clean() -> None:
    async def main() -> None:
        async with bench() as it:
            it.fakes[0].well = False
            it.fakes[0].handler = it.fakes[0].trouble
            for _ in range(4):
                await it.ask()
            await asyncio.sleep(0.3)
            assert [entry.status for entry in it.router.instances] == ["draining", "ready"]
            it.fakes[0].well, it.fakes[0].handler = True, it.fakes[0].answer
            await asyncio.sleep(0.4)
            assert [(entry.status, entry.generation) for entry in it.router.instances] == [
                ("ready", 1),
                ("ready", 0),
            ]

    asyncio.run(main())


def test_no_request_is_sent_twice_after_its_first_byte() -> None:
    async def main() -> None:
        async with bench() as it:
            for fake in it.fakes:
                fake.handler = fake.break_off
            with pytest.raises(aiohttp.ClientPayloadError):
                await it.ask(body=BODY | {"stream": True})
            assert sum(len(fake.asked) for fake in it.fakes) == 1
            for fake in it.fakes:
                fake.handler = fake.garbage
            status, body, _ = await it.ask()
            assert (status, json.loads(body)["error"]["message"]) == (
                502,
                "the engine failed: its answer is not JSON",
            )
            assert sum(len(fake.asked) for fake in it.fakes) == 2
            assert it.quiet()

    asyncio.run(main())


def test_a_client_that_leaves_as_its_stream_begins_has_cancelled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Left(web.StreamResponse):
        async def prepare(self, _request: Any) -> Any:
            raise aiohttp.ClientConnectionResetError("the client is gone")

    async def main() -> None:
        async with bench() as it:
            for fake in it.fakes:
                fake.handler = fake.break_off
            monkeypatch.setattr(forward, "web", types.SimpleNamespace(StreamResponse=Left))
            with pytest.raises(aiohttp.ClientError):
                await it.ask()
            await it.until(it.quiet)
            endings = {ending.value: count for ending, count in it.router.statistics.endings.items() if count}
            assert endings == {"cancelled": 1}

    asyncio.run(main())
    assert "internal_error" not in caplog.text


def test_the_last_engine_s_own_error_reaches_the_client() -> None:
    async def main() -> None:
        async with bench() as it:
            for fake in it.fakes:
                fake.handler = fake.trouble
            assert (await it.ask())[:2] == (503, b"overloaded")
            assert [len(fake.asked) for fake in it.fakes] == [1, 1]
            assert it.quiet()

    asyncio.run(main())


def test_an_engine_that_hangs_is_given_up_after_its_time() -> None:
    async def main() -> None:
        async with bench(request_timeout_s=0.2) as it:
            it.fakes[0].handler = it.fakes[0].hang
            assert (await it.ask())[0] == 200
            for fake in it.fakes:
                fake.handler = fake.hang
            status, body, _ = await it.ask()
            assert (status, b"the engine failed: timeout" in body) == (502, True)
            assert it.quiet()

    asyncio.run(main())


def test_without_an_instance_that_is_well_there_is_503() -> None:
    async def main() -> None:
        async with bench() as it:
            for fake in it.fakes:
                fake.well, fake.handler = False, fake.hang_up
            await asyncio.sleep(0.4)
            status, _, headers = await it.ask()
            assert (status, headers["Retry-After"]) == (503, "1")
            assert (await it.get("/health"))[0] == 503

    asyncio.run(main())


def test_keys_are_asked_for_and_stay_here(caplog: pytest.LogCaptureFixture) -> None:
    keys = (ApiKey("team-a", "first-secret"), ApiKey("team-b", "second-secret"))

    async def main() -> None:
        async with bench(keys=keys, upstream_key="engine-secret", log_requests=True) as it:
            for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "first-secret"}):
                status, body, headers = await it.ask(headers=header)
                assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
                assert b"secret" not in body
            assert (await it.get("/metrics"))[0] == 401
            assert (await it.get("/health"))[0] == 200
            good = {
                "Authorization": "Bearer second-secret",
                "traceparent": "00-1-2-01",
                "x-irouter-session": "s",
            }
            assert (await it.ask(headers=good))[0] == 200
            asked = it.fakes[0].asked[0]
            assert (asked["authorization"], asked["traceparent"]) == ("Bearer engine-secret", "00-1-2-01")
            assert "x-irouter-session" not in asked
            status, page = await it.get("/metrics", headers=good)
            assert status == 200
            assert "secret" not in page
            assert 'irouter_requests_total{code="401",endpoint="/v1/completions"} 3.0' in page

    with caplog.at_level(logging.INFO, "irouter.serve"):
        asyncio.run(main())
    assert len(caplog.records) > 4
    assert not any("secret" in str(record.__dict__) for record in caplog.records)


@pytest.mark.parametrize(
    ("path", "raw", "headers", "status", "message"),
    [
        ("/v1/completions", b"{", {}, 400, "not JSON"),
        ("/v1/completions", b"[" * 100_000, {}, 400, "not JSON"),
        ("/v1/completions", b"\xff\xfe", {}, 400, "not JSON"),
        ("/v1/completions", b'{"prompt": 5, "model": "m"}', {}, 400, "`prompt` is 5"),
        ("/v1/completions", b'{"prompt": [], "model": "m"}', {}, 400, "`prompt` is []"),
        ("/v1/chat/completions", b'{"messages": [5], "model": "m"}', {}, 400, "`messages[0]` is 5"),
        ("/v1/chat/completions", b'{"messages": {}, "model": "m"}', {}, 400, "`messages` is {}"),
        ("/v1/completions", b"x" * 2000, {}, 413, ""),
        (
            "/v1/completions",
            b'{"prompt":"x","model":"m"}',
            {"x-irouter-priority": "high"},
            400,
            "x-irouter-priority is 'high'",
        ),
        (
            "/v1/completions",
            b'{"prompt":"x","model":"m"}',
            {"x-irouter-deadline-s": "nan"},
            400,
            "x-irouter-deadline-s",
        ),
        ("/v1/unknown", b"{}", {}, 404, "Not Found"),
    ],
)
def test_a_bad_request_is_refused_here(
    path: str, raw: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    async def main() -> None:
        async with bench(max_body_bytes=1000 if status == 413 else 1 << 20) as it:
            found, body, _ = await it.ask(path, raw=raw, headers=headers)
            assert (found, message in json.loads(body)["error"]["message"]) == (status, True), body
            assert sum(len(fake.asked) for fake in it.fakes) == 0
            assert it.quiet()

    asyncio.run(main())


def test_what_only_an_engine_understands_is_passed_through() -> None:
    async def main() -> None:
        async with bench() as it:
            for path in ("/v1/embeddings", "/v1/responses", "/tokenize"):
                assert (await it.ask(path, body={"input": "x" * 300_000}))[:2] == (200, ANSWER)
            several = BODY | {"prompt": ["one", "two"], "n": 2}
            assert (await it.ask(body=several))[0] == 200
            tokens = BODY | {"prompt": [[1, 2], [3]], "max_tokens": 10_000_000}
            assert (await it.ask(body=tokens))[0] == 200, "whether it is too long is for the engine to say"
            assert (await it.get("/v1/models"))[1] == '{"data": []}'
            assert it.quiet()

    asyncio.run(main())


def test_a_stream_is_counted_however_it_is_cut() -> None:
    events = b"".join(b'data: {"choices":[{"delta":{"content":" wor"}}]}\n\n' for _ in range(40))
    whole = (
        events
        + b'data: {"choices":[],"usage":{"completion_tokens":40}}\r\n\r\ndata: not json\n\ndata: [DONE]\n\n'
    )
    for step in (1, 7, 64, len(whole)):
        counter = StreamCounter(TokenRatio())
        for start in range(0, len(whole), step):
            counter.feed(whole[start : start + step])
        assert (counter.tokens, counter.done, counter.usage) == (40, True, {"completion_tokens": 40})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(JSON, st.sampled_from(["/v1/completions", "/v1/chat/completions"]))
def test_any_json_is_a_request_or_a_named_error(data: Any, path: str) -> None:
    try:
        found = parse(path, json.dumps(data).encode()).prompt
    except IrouterError as error:
        found = str(error)
    # No other exception, and no text that cannot be hashed or sent.
    assert found.encode("utf-8", "strict").decode() == found


@settings(max_examples=200)
@given(
    st.lists(
        st.binary(max_size=30) | JSON.map(lambda data: b"data: " + json.dumps(data).encode() + b"\n"),
        max_size=8,
    )
)
def test_whatever_an_engine_streams_is_counted_without_an_error(chunks: list[bytes]) -> None:
    counter = StreamCounter(TokenRatio())
    for chunk in chunks:
        before = counter.tokens
        counter.feed(chunk)
        assert counter.tokens >= 0
        assert counter.tokens >= before or counter.text_bytes > 0


def test_half_a_surrogate_pair_is_routed_like_any_text() -> None:
    async def main() -> None:
        async with bench() as it:
            raw = b'{"model": "m", "prompt": "\\ud800 and more"}'
            assert (await it.ask(raw=raw))[:2] == (200, ANSWER)
            assert it.quiet()

    asyncio.run(main())


def test_pieces_of_several_tokens_are_counted_by_their_text() -> None:
    counter = StreamCounter(TokenRatio())
    for _ in range(10):
        counter.feed(b'data: {"choices":[{"text":" wor ld, and so on. "}]}\n\n')
    assert counter.tokens == 50, "twenty bytes a piece, four a token"
    words = StreamCounter(TokenRatio())
    for _ in range(10):
        words.feed(b'data: {"choices":[{"text":" longer"}]}\n\n')
    assert words.tokens == 10, "a longer word is one token"


def test_a_ratio_is_learned_from_usage() -> None:
    ratio = TokenRatio()
    for _ in range(200):
        ratio.learn(600, 200)
    assert ratio.tokens(3000) == pytest.approx(1000, rel=0.01)
    ratio.learn(10**9, 1)
    assert ratio.bytes_per_token < 5, "one answer moves it little"


def test_a_key_ring_knows_each_key_and_no_part_of_one() -> None:
    ring = KeyRing((ApiKey("a", "secret-a"), ApiKey("b", "secret-b")))
    assert [ring.tenant(f"Bearer {secret}") for secret in ("secret-a", "secret-b")] == ["a", "b"]
    wrong = [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer secret-",
        "Basic secret-a",
        "Bearer secret-a x",
        "Bearer \udcff",
    ]
    assert [ring.tenant(header) for header in wrong] == [None] * len(wrong)
    assert KeyRing(()).tenant(None) == "default"
    assert "secret" not in repr(ApiKey("a", "secret-a"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("portt = 1", "unknown setting `portt`; did you mean `port`"),
        ('port = "1"', "setting `port` is '1', expected a whole number"),
        ("retries = -1", "retries is -1, expected at least 0"),
        ("open_s = 0", "open_s is 0.0, expected a positive number"),
        ('host = "0.0.0.0"', "beyond loopback and there is no API key"),
        ('host = "::"', "beyond loopback"),
        ('tls_key = "x"', "one without the other"),
        ('[[keys]]\nname = "a"', "no `env`"),
        ('[[keys]]\nname = "a"\nenv = "UNSET"', "UNSET is not set"),
        ('[[keys]]\nname = "a"\nsecret = "x"', "unknown setting of"),
        ('keys = "x"', "expected tables"),
        ('[[instances]]\nurl = "ftp://x"', "expected http://HOST:PORT"),
        ("]", "not TOML"),
    ],
)
def test_a_bad_setting_is_named_before_anything_starts(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(text)
    urls = None if "instances" in text else ["http://a"]
    with pytest.raises(IrouterError, match=message):
        read_config(path, {"instances": urls}, environment={})


def test_settings_come_from_the_file_the_command_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(
        'port = 1\nopen_s = 3\nupstream_key_env = "ENGINE"\n[[instances]]\nurl = "http://a"\nprofile = "p"\n'
        '[[keys]]\nname = "team"\nenv = "TEAM"\nweight = 2\n'
    )
    config = read_config(
        path, {"port": 2, "policy": None}, environment={"TEAM": "t-secret", "ENGINE": "e-secret"}
    )
    assert (config.port, config.open_s, config.policy) == (2, 3.0, "guided")
    assert config.instances == (Instance("http://a", "p"),)
    assert (config.keys, config.upstream_key) == ((ApiKey("team", "t-secret", 2.0),), "e-secret")
    assert "secret" not in repr(config)
    beyond = {"instances": ["http://b"], "host": "10.0.0.9"}
    config = read_config(None, beyond, environment={"IROUTER_API_KEY": "k"})
    assert config.keys == (ApiKey("default", "k"),)
    with pytest.raises(IrouterError, match="no instance"):
        read_config(None, {}, environment={})
