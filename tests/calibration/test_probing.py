"""Probing finds the profile of an emulated engine again, and says when it did not."""

import asyncio
import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from calibration import virtual_time
from irouter import IrouterError, Profile, profiles
from irouter.calibration import Calibration
from irouter.calibration.live_endpoint import EndpointFacts, TimedAnswer, now
from irouter.calibration.probing import ProbeOptions, calibrate_live
from irouter.cli import main
from irouter.serving.emulator.realtime import RealTimeEngine
from serving.support import Server

V100 = "llama-2-7b@v100-paper"
H100 = "llama-3.1-8b@h100"


class EmulatedEndpoint:
    """The engine model behind a connection that takes `delay_s` each way."""

    def __init__(self, profile: dict[str, Any], *, delay_s: float = 0.002, step_noise: float = 0.0) -> None:
        self._engine = RealTimeEngine(
            json.dumps(profile), speed=1.0, seed=3, step_noise=step_noise, chunk_tokens=1
        )
        self._delay_s = delay_s
        self._profile = profile
        self.prompt_tokens = 0
        self.foreign_tokens = 0
        self.fails_from_s = math.inf

    async def facts(self) -> EndpointFacts:
        kv = self._profile["kv"]
        return EndpointFacts(
            model="emulated",
            max_model_len=self._profile["max_model_len"],
            block_tokens=kv["block_tokens"],
            kv_blocks=kv["blocks"],
            prefix_cache=False,
        )

    async def prompt_tokens_served(self) -> float:
        return self.prompt_tokens + self.foreign_tokens

    async def round_trip_s(self) -> float:
        return 2 * self._delay_s

    async def complete(self, answer: TimedAnswer, prompt: str, output_tokens: int) -> None:
        await asyncio.sleep(self._delay_s)
        tokens = len(prompt) // 4
        pieces = self._engine.generate(prompt_tokens=tokens, output_tokens=output_tokens, prompt_blocks=None)
        async with contextlib.aclosing(pieces):
            async for produced, _ in pieces:
                if now() > self.fails_from_s:
                    raise IrouterError("the stream broke")
                if not answer.started.is_set():
                    answer.prompt_tokens = tokens
                    self.prompt_tokens += tokens
                answer.token_s.extend([now() + self._delay_s] * (produced - len(answer.token_s)))
                answer.started.set()
        await asyncio.sleep(self._delay_s)


def probe(
    true: dict[str, Any],
    *,
    foreign_tokens: int = 0,
    noise: float = 0.0,
    fails_from_s: float = math.inf,
    **options: Any,
) -> Calibration:
    """A calibration of an engine like `true`, with only its scheduler known."""
    template = profiles.load(H100) | {"scheduler": true["scheduler"]}

    async def run() -> Calibration:
        endpoint = EmulatedEndpoint(true, step_noise=noise)
        endpoint.fails_from_s = fails_from_s
        task = asyncio.create_task(
            calibrate_live(endpoint, ProbeOptions(template=template, name="mine", **options))
        )
        await asyncio.sleep(1.0)
        endpoint.foreign_tokens = foreign_tokens
        return await task

    return virtual_time.run(run())


def small(name: str, **scheduler: Any) -> dict[str, Any]:
    """A shipped profile with other limits."""
    profile = profiles.load(name)
    profile["scheduler"] |= scheduler
    return profile


def step_ms(profile: Any, **shape: int) -> float:
    none = dict.fromkeys(
        ("prefill_sequences", "prefill_tokens", "prefill_pairs", "decodes", "decode_context"), 0
    )
    return Profile(json.dumps(dict(profile))).step_ms(**(none | shape))


def test_the_coefficients_of_an_engine_without_noise_are_found_again_within_two_percent() -> None:
    true = small(V100)
    fitted = probe(true, seconds=60, form="A")
    found = fitted.profile["step_time"]
    assert found["form"]["constant_ms"] == pytest.approx(34.0, rel=0.02)
    assert found["prefill_token_ms"] == pytest.approx(0.32, rel=0.02)
    assert found["decode_sequence_ms"] == pytest.approx(0.02, rel=0.02)
    assert found["decode_context_token_ms"] == pytest.approx(0.0005, rel=0.02)
    assert fitted.profile["kv"] == {"block_tokens": 16, "blocks": 1932, "prefix_cache": False}
    assert (fitted.profile["model"], fitted.profile["accelerator"]) == ("emulated", "unknown")
    _, e2e, ttft = fitted.quantities
    assert e2e.held_out_error_percent < 0.2
    # A step takes 34 ms: which of them an arrival just misses decides a part of it.
    assert ttft.held_out_error_percent < 3


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_steps_of_every_kind_are_found_again_where_the_scheduler_mixes_them(noise: float) -> None:
    true = small(H100, max_num_seqs=32)
    fitted = probe(true, seconds=60, noise=noise)
    for tokens in (64, 512, 1500):
        prompt = {"prefill_sequences": 1, "prefill_tokens": tokens, "prefill_pairs": tokens * tokens}
        for decodes in (0, 4, 16, 32):
            shape = prompt | {"decodes": decodes, "decode_context": 200 * decodes}
            if decodes:
                alone = {"decodes": decodes, "decode_context": 200 * decodes}
                assert step_ms(fitted.profile, **alone) == pytest.approx(step_ms(true, **alone), rel=0.06)
            if decodes <= 16:
                assert step_ms(fitted.profile, **shape) == pytest.approx(step_ms(true, **shape), rel=0.1)
    step, e2e, ttft = fitted.quantities
    assert step.held_out_error_percent < 5
    assert e2e.held_out_error_percent < 5
    assert ttft.held_out_error_percent < 15
    assert e2e.held_out.all()
    assert not fitted.doubts
    assert fitted.profile["source"]["held_out_error_percent"] == pytest.approx(
        e2e.held_out_error_percent, abs=0.01
    )


def test_the_same_engine_and_seed_give_the_same_profile() -> None:
    true = small(H100, max_num_seqs=8)
    assert probe(true, seconds=20).profile == probe(true, seconds=20).profile


def test_a_fit_that_noise_spoils_is_doubted() -> None:
    fitted = probe(small(H100, max_num_seqs=8), seconds=20, noise=0.6)
    assert any("the mean error of steps is" in doubt for doubt in fitted.doubts)


def test_a_fit_beside_the_traffic_of_others_is_doubted() -> None:
    fitted = probe(small(H100, max_num_seqs=8), seconds=20, foreign_tokens=10_000_000)
    assert any("others sent" in doubt for doubt in fitted.doubts)


def test_a_batch_that_the_cache_never_let_be_seen_is_doubted() -> None:
    true = small(H100, max_num_seqs=64)
    true["kv"]["blocks"] = 200
    fitted = probe(true, seconds=20)
    seen = fitted.profile["source"]["fitted_sequences"]
    assert seen < 64
    assert f"batches of more than {seen} were not seen, 64 may occur" in fitted.doubts


def test_an_engine_that_takes_fewer_streams_than_it_should_is_an_error_that_says_so() -> None:
    true = small(H100, max_num_seqs=4)
    with pytest.raises(IrouterError, match=r"^4 of 5 streams began, expected all: .*--max-num-seqs"):
        probe(true, seconds=20, max_num_seqs=8)


@pytest.mark.parametrize("fails_from_s", [0.0, 2.0, 6.0, 12.0, 18.0])
def test_an_engine_that_fails_in_the_middle_is_an_error_that_says_so(fails_from_s: float) -> None:
    with pytest.raises(IrouterError, match=r"^the stream broke$"):
        probe(small(H100, max_num_seqs=4), seconds=20, fails_from_s=fails_from_s)


def test_too_little_time_is_an_error_that_says_so() -> None:
    true = small(V100)
    with pytest.raises(
        IrouterError, match=r"^what was measured in 10 s gives no profile: `steps` is \d+, .* more --seconds"
    ):
        probe(true, seconds=10)
    with pytest.raises(IrouterError, match="`seconds` is 9, expected at least 10"):
        probe(true, seconds=9)


def test_an_endpoint_without_metrics_needs_the_size_of_its_cache() -> None:
    options = ProbeOptions(template=profiles.load(H100), name="mine")
    with pytest.raises(IrouterError, match="--kv-blocks"):
        options.profile_of(EndpointFacts(model="m"))
    given = dataclasses.replace(options, kv_blocks=50, max_num_seqs=4, max_num_batched_tokens=64)
    profile = given.profile_of(EndpointFacts(model="m", max_model_len=777))
    assert (profile["kv"]["blocks"], profile["max_model_len"]) == (50, 777)
    assert (profile["scheduler"]["max_num_seqs"], profile["scheduler"]["max_num_batched_tokens"]) == (4, 64)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_probes_a_server_and_writes_a_profile_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    true = tmp_path / "true.json"
    true.write_text(json.dumps(small(H100, max_num_seqs=4)))
    mine = tmp_path / "mine.json"
    with Server("engine", "--profile", str(true), "--port", "0", "--speed", "0.25") as engine:
        arguments = ["--profile", str(true), "--seconds", "30", "--out", str(mine)]
        with pytest.raises(SystemExit) as ended:
            main(["calibrate", "--probe", engine.url + "/v1", *arguments])
    assert not ended.value.code
    written = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in written] == ["step", "E2E", "TTFT"]
    assert 'id="calibration"' in mine.with_suffix(".html").read_text(encoding="utf-8")
    fitted = profiles.load(mine)
    alone = {"decodes": 4, "decode_context": 400}
    # The server runs at a quarter of the speed; how evenly is the machine's affair.
    ratio = step_ms(fitted, **alone) / step_ms(json.loads(true.read_text()), **alone)
    assert ratio == pytest.approx(4.0, rel=0.5)


def test_an_endpoint_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--profile", H100, "--out", str(tmp_path / "mine.json")]
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--probe", "http://127.0.0.1:9", *arguments])
    assert ended.value.code
    assert "error: http://127.0.0.1:9/v1/models: " in capsys.readouterr().err
