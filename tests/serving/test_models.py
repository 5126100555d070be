"""Several models behind one proxy."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from irouter import IrouterError
from irouter.serving import Instance
from irouter.serving.proxy import PoolConfig, read_config
from serving.fakes import ANSWER, BODY, PROFILE, bench


def two_models(urls: list[str]) -> dict[str, Any]:
    """One engine for each of two models."""
    first, second = (Instance(url, PROFILE) for url in urls)
    return {
        "models": (
            PoolConfig("small", (first,), policy="round_robin"),
            PoolConfig("large", (second,), policy="least_work"),
        )
    }


def test_a_request_goes_to_the_pool_of_its_model() -> None:
    async def main() -> None:
        async with bench(two_models) as it:
            for model, count in (("small", 3), ("large", 5)):
                for path in ("/v1/completions", "/v1/embeddings", "/tokenize"):
                    for _ in range(count):
                        status, body, _ = await it.ask(path, body=BODY | {"model": model, "input": "x"})
                        assert (status, body) == (200, ANSWER)
            assert [len(fake.asked) for fake in it.fakes] == [9, 15]
            assert [pool.router.statistics.submitted for pool in it.pools.values()] == [9, 15]
            _, page = await it.get("/metrics")
            assert 'irouter_endings_total{ending="finished",model="large"} 15.0' in page
            assert 'irouter_output_tokens_total{model="small"} 21.0' in page
            assert it.quiet()

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/v1/responses"])
@pytest.mark.parametrize("model", ["medium", "", "small ", "Small", "\ud800", "x" * 10_000])
def test_an_unknown_model_is_a_clear_404(path: str, model: str) -> None:
    async def main() -> None:
        async with bench(two_models) as it:
            status, body, _ = await it.ask(path, body=BODY | {"model": model, "input": "x"})
            error = json.loads(body)["error"]
            assert (status, error["code"], error["type"]) == (404, 404, "NotFoundError")
            assert error["message"].startswith("the model ")
            assert error["message"].endswith("does not exist, expected one of `small`, `large`")
            assert len(error["message"]) < 200
            assert sum(len(fake.asked) for fake in it.fakes) == 0

    asyncio.run(main())


def test_what_names_no_model_is_a_bad_request() -> None:
    async def main() -> None:
        async with bench(two_models) as it:
            for raw, expected in ((b"{", 400), (b"[]", 400), (b"{}", 404), (b'{"model": 3}', 404)):
                assert (await it.ask("/v1/embeddings", raw=raw))[0] == expected
            assert (await it.ask(raw=b'{"prompt": "x"}'))[0] == 400

    asyncio.run(main())


def test_the_list_of_models_is_the_union_of_those_that_answer() -> None:
    async def main() -> None:
        async with bench(two_models) as it:
            it.fakes[0].cards = [{"id": "other"}, {"id": "small", "max_model_len": 4096}]
            status, body = await it.get("/v1/models")
            minimal = {"id": "large", "object": "model", "created": 0, "owned_by": "irouter"}
            assert (status, json.loads(body)) == (
                200,
                {"object": "list", "data": [{"id": "small", "max_model_len": 4096}, minimal]},
            )
            it.fakes[1].well = False
            await it.until(lambda: not it.pools["large"].is_well)
            assert [card["id"] for card in json.loads((await it.get("/v1/models"))[1])["data"]] == ["small"]
            assert (await it.get("/health"))[0] == 200, "one model can be served"
            status, raw, _ = await it.ask(body=BODY | {"model": "large"})
            assert (status, b"no instance" in raw) == (503, True)
            it.fakes[0].well = False
            await it.until(lambda: not it.pools["small"].is_well)
            assert (await it.get("/health"))[0] == (await it.get("/v1/models"))[0] == 503

    asyncio.run(main())


def test_models_are_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(
        'policy = "least_work"\nprofile = "p"\n'
        '[[models]]\nname = "a"\n[[models]]\nname = "b"\npolicy = "guided"\nprofile = "q"\ndecision_log = "b.jsonl"\n'
        '[[instances]]\nurl = "http://a"\nmodel = "a"\n[[instances]]\nurl = "http://b"\nmodel = "b"\n'
        '[[instances]]\nurl = "http://c"\nmodel = "b"\nprofile = "r"\n[[dns]]\nurl = "http://d:1"\nmodel = "a"\n'
    )
    config = read_config(path, {}, environment={})
    assert config.pools == (
        PoolConfig("a", (Instance("http://a", "p"),), ("http://d:1",), "least_work", "p"),
        PoolConfig(
            "b",
            (Instance("http://b", "q"), Instance("http://c", "r")),
            policy="guided",
            profile="q",
            decision_log="b.jsonl",
        ),
    )


ONE = '[[models]]\nname = "a"\n[[instances]]\nurl = "http://a"\nmodel = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[models]]\nname = "a"\n', "the model `a` has no instance"),
        (ONE + '[[models]]\nname = "a"\n', "expected each once"),
        (ONE + '[[instances]]\nurl = "http://b"\n', "has the model None, expected `a`"),
        (ONE + '[[instances]]\nurl = "http://b"\nmodel = "b"\n', "has the model 'b', expected `a`"),
        (ONE + '[[instances]]\nurl = "http://a"\nmodel = "a"\n', "expected each once"),
        ('decision_log = "x"\n' + ONE, "a decision_log in each of them"),
        ('[[instances]]\nurl = "http://a"\nmodel = "a"\n', r"expected none: no \[\[models\]\]"),
        ('[[models]]\nnames = "a"\n', "unknown setting of"),
        ('[[dns]]\nurl = "https://a:1"\n', "certificates are not for addresses"),
        ('[[dns]]\nurl = "http://10.0.0.1:1"\n', "expected http://NAME:PORT"),
        ('admin_allowed = ["10.0.0.0/8", "!"]\n' + ONE, "admin_allowed has '!'"),
        ('admin_allowed = "10.0.0.0/8"\n' + ONE, "expected a list of texts"),
        ('shadow_policies = ["external:x"]\n' + ONE, "expected policies of the package"),
        ("slow_start_share = 2.0\n" + ONE, "expected at most 1"),
    ],
)
def test_a_bad_setting_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(text)
    with pytest.raises(IrouterError, match=message):
        read_config(path, {}, environment={})
