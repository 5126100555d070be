"""`POST /predict`: alone, in the proxy, and what it says of bad input."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from irouter import prediction
from irouter._core import IrouterError
from irouter.cli import main
from irouter.prediction import LENGTH_LEVELS
from irouter.serving.instances import Instance
from irouter.serving.predict import MOST_PROMPTS, predict_app
from irouter.serving.proxy import ApiKey, PoolConfig, ProxyConfig, make_app
from serving.support import Server


def history() -> prediction.HistoryPredictor:
    """Knows one application of 40 tokens and one of 700."""
    predictor = prediction.HistoryPredictor()
    for _ in range(200):
        predictor.observe("Hello there", 40, app="short")
        predictor.observe("Hello there", 700, app="long")
    return predictor


async def ask(app: Any, raw: bytes | dict[str, Any], **headers: str) -> tuple[int, Any]:
    body = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as session,
        session.post(server.make_url("/predict"), data=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


def test_lengths_are_those_of_the_predictor() -> None:
    predictor = history()
    asked = {"prompts": ["Hello there"] * 2, "apps": ["short", "long"], "tasks": None}
    status, body = asyncio.run(ask(predict_app(predictor), asked))
    assert (status, body["levels"]) == (200, list(LENGTH_LEVELS))
    told = predictor.predict(["Hello there"] * 2, apps=["short", "long"])
    short, long = body["predictions"]
    assert [short["quantiles"], long["quantiles"]] == told.quantiles.tolist()
    assert (short["expected_output_tokens"], long["expected_output_tokens"]) == (40, 700)
    assert short["source"] == "model"


def test_a_front_answers_within_its_budget_and_says_who_did() -> None:
    async def main() -> list[str]:
        with prediction.PredictorService(history()) as front:
            asked = {"prompts": ["Hello there"], "apps": ["long"]}
            return [(await ask(predict_app(front), asked))[1]["predictions"][0]["source"] for _ in range(3)]

    sources = asyncio.run(main())
    assert sources[0] in {"model", "fallback"}
    assert sources[-1] == "cache"


def test_the_proxy_answers_with_its_own_predictor_and_asks_for_its_key() -> None:
    async def main(**headers: str) -> tuple[int, Any]:
        instances = (Instance("http://127.0.0.1:9", "llama-3.1-8b@h100"),)
        config = ProxyConfig(instances=instances, keys=(ApiKey("team", "secret"),), predictor="lengths")
        app, _ = make_app(config, predictors={"lengths": history()})
        return await ask(app, {"prompts": ["Hello there"], "apps": ["short"]}, **headers)

    assert asyncio.run(main())[0] == 401
    status, body = asyncio.run(main(Authorization="Bearer secret"))
    assert (status, body["predictions"][0]["expected_output_tokens"]) == (200, 40)


def test_the_proxy_asks_the_predictor_of_the_model() -> None:
    other = prediction.HistoryPredictor()
    for _ in range(200):
        other.observe("Hello there", 300)

    async def main(**model: str) -> tuple[int, Any]:
        pools = tuple(
            PoolConfig(name, (Instance(url, "llama-3.1-8b@h100"),), predictor=name)
            for name, url in (("small", "http://127.0.0.1:9"), ("large", "http://127.0.0.1:10"))
        )
        app, _ = make_app(ProxyConfig(models=pools), predictors={"small": history(), "large": other})
        return await ask(app, {"prompts": ["Hello there"], "apps": ["short"]} | model)

    for model, tokens in (("small", 40), ("large", 300)):
        status, body = asyncio.run(main(model=model))
        assert (status, body["predictions"][0]["expected_output_tokens"]) == (200, tokens)
    for unknown in ({"model": "huge"}, {}):
        status, body = asyncio.run(main(**unknown))
        assert status == 404
        assert "does not exist, expected one of `small`, `large`" in body["error"]["message"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the body is not JSON"),
        (b'{"prompts": ["ab\xff\xfe"]}', "the body is not JSON"),
        (b"[1]", "the body is a list, expected an object"),
        (b"{}", "`prompts` has 0 texts, expected 1 to 256"),
        ({"prompts": []}, "`prompts` has 0 texts"),
        ({"prompts": ["x"] * (MOST_PROMPTS + 1)}, "`prompts` has 257 texts, expected 1 to 256"),
        ({"prompts": "one text"}, "`prompts` is 'one text', expected a list"),
        ({"prompts": ["fine", ""]}, "prompt 1 is empty, expected a text"),
        ({"prompts": ["x" * 1_000_000]}, "prompt 0 has 1,000,000 bytes, expected at most 999,999"),
        (b'{"prompts": ["ab\\udcff"]}', "expected text that can be written as UTF-8"),
        ({"prompts": [7]}, "prompt 0 is 7, expected a text"),
        (
            {"prompts": ["x"], "tasks": ["a", "b"]},
            "`tasks` is 2 values, expected a list with one per prompt (1)",
        ),
        ({"prompts": ["x"], "apps": [3]}, "`apps` has 3, expected names or None"),
        (
            {"prompts": ["x"], "temperature": 1},
            "unknown field `temperature`, expected prompts, tasks, apps, model",
        ),
        ({"prompts": ["x"], "model": 3}, "`model` is 3, expected text"),
    ],
)
def test_bad_input_is_named(raw: bytes | dict[str, Any], message: str) -> None:
    status, body = asyncio.run(ask(predict_app(history()), raw))
    assert status == 400
    assert message in body["error"]["message"]


def test_a_missing_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(SystemExit) as ended:
        main(["predictor", "serve", str(tmp_path)])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert (
        'irouter predictor serve needs the package `aiohttp`: run pip install "irouter-llm[serve]"' in printed
    )


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_command_serves_a_folder(tmp_path: Path) -> None:
    kinds = [{"output_tokens": 700, "app": "long"}, {"output_tokens": 40, "app": "short"}]
    rows = [{"prompt": f"Hello there {number}", **kinds[number % 2]} for number in range(600)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "lengths"
    prediction.train(prediction.read_log(tmp_path / "log.jsonl"), folder, backend="history")

    async def main(url: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session:
            asked = {"prompts": ["Hello there 7"] * 2, "apps": ["short", "long"]}
            async with session.post(url, json=asked) as answer:
                return answer.status, await answer.json()

    with Server("predictor", "serve", str(folder), "--port", "0", "--budget-ms", "2000") as server:
        status, body = asyncio.run(main(server.url))
    assert status == 200
    short, long = (told["expected_output_tokens"] for told in body["predictions"])
    assert short < 100
    assert long > 400


def test_a_budget_that_is_none_is_named() -> None:
    with pytest.raises(IrouterError, match="`budget_ms` is 0"):
        prediction.ServiceOptions(budget_ms=0)
