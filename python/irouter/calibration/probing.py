"""A profile fitted to what a live endpoint does while it is probed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import numpy as np

from irouter import _core
from irouter._core import IrouterError
from irouter.calibration.fit import Calibration, Quantity
from irouter.calibration.held_streams import MeasuredStep
from irouter.calibration.live_endpoint import LiveEndpoint
from irouter.calibration.mixed_load import replay, run_mixed_load
from irouter.calibration.probes import EngineLimits, Prober, Prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from irouter.calibration.live_endpoint import Endpoint, EndpointFacts
    from irouter.calibration.mixed_load import LoadRequest

# How the time is spent: prompts alone, streams held, prompts that meet them, and the load that judges the fit.
_SHARES: Final = (0.2, 0.4, 0.15, 0.25)
_SHARES_UNMIXED: Final = (0.25, 0.5, 0.0, 0.25)
_LEAST_SECONDS: Final = 10.0
# Errors in percent beyond which a fit is not to be trusted.
_MOST_STEP_ERROR: Final = 10.0
_MOST_E2E_ERROR: Final = 10.0
_MOST_TTFT_ERROR: Final = 25.0
# Both sides of a time to the first token get this before they are compared, as in a fit to requests.
_GRACE_S: Final = 0.01
# Share of the prompt tokens that an endpoint may count beyond ours: streams that were ended are counted late.
_MOST_FOREIGN: Final = 0.02
_FEWEST_REQUESTS: Final = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """What is known of the engine beside what its endpoint says.

    Attributes:
        template: Profile that gives the scheduler, as a dictionary.
        name: Name of the fitted profile.
        seconds: How long to probe, about.
        kv_blocks: Blocks of the KV cache; None: as the endpoint's metrics say.
        max_num_seqs: Most requests in a batch; None: as the template says.
        max_num_batched_tokens: Most tokens in a step; None: as the template says.
        form: `C` for curves, `A` for five coefficients.
        seed: Seed of prompts, sizes and of the draw of the held-out quarter of the steps.
    """

    template: Mapping[str, Any]
    name: str
    seconds: float = 120.0
    kv_blocks: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    form: str = "C"
    seed: int = 0

    def __post_init__(self) -> None:
        if not _LEAST_SECONDS <= self.seconds < float("inf"):
            raise IrouterError(f"`seconds` is {self.seconds}, expected at least {_LEAST_SECONDS:g}")

    def profile_of(self, facts: EndpointFacts) -> dict[str, Any]:
        """The template with what this engine has.

        Raises:
            IrouterError: Where nobody says how large the KV cache is.
        """
        template = self.template
        blocks = self.kv_blocks or facts.kv_blocks
        if blocks is None:
            raise IrouterError(
                "the endpoint's metrics have no `vllm:cache_config_info` with `num_gpu_blocks`, expected the blocks "
                "of its KV cache by --kv-blocks"
            )
        scheduler = dict(template["scheduler"])
        scheduler["max_num_seqs"] = self.max_num_seqs or scheduler["max_num_seqs"]
        scheduler["max_num_batched_tokens"] = (
            self.max_num_batched_tokens or scheduler["max_num_batched_tokens"]
        )
        kv = dict(template["kv"]) | {"blocks": blocks}
        kv["block_tokens"] = facts.block_tokens or kv["block_tokens"]
        if facts.prefix_cache is not None:
            kv["prefix_cache"] = facts.prefix_cache
        return {
            **template,
            "model": facts.model,
            # Nobody asks an endpoint what it runs on.
            "accelerator": "unknown",
            "max_model_len": facts.max_model_len or template["max_model_len"],
            "scheduler": scheduler,
            "kv": kv,
        }


def calibrate_endpoint(
    url: str,
    options: ProbeOptions,
    *,
    model: str | None = None,
    api_key: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Fits step times to a live endpoint that nobody else uses, and judges them by a load that the fit never saw.

    Prompts alone, streams held together and prompts that meet those give the times of steps; see `docs/calibrate.md`.

    Args:
        url: The endpoint, such as `http://localhost:8000`.
        options: What is known of its engine.
        model: The model, where it serves several.
        api_key: Key that it asks for.
        progress: Called as `progress(done, total)` after each of the four parts.

    Raises:
        IrouterError: For an endpoint that does not answer as it should, or too little time for a fit.
    """

    async def run() -> Calibration:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            endpoint = LiveEndpoint(url, session, model=model, api_key=api_key)
            return await calibrate_live(endpoint, options, progress)

    return asyncio.run(run())


async def calibrate_live(
    endpoint: Endpoint, options: ProbeOptions, progress: Callable[[int, int], None] | None = None
) -> Calibration:
    """What `calibrate_endpoint` does, of any endpoint, on the running event loop."""
    tell = progress or (lambda _done, _total: None)
    facts = await endpoint.facts()
    template = options.profile_of(facts)
    limits = _limits(template)
    generator = random.Random(options.seed)  # noqa: S311 - sizes and words, no secrets
    prompts = Prompts(generator)
    before = await endpoint.prompt_tokens_served()
    await prompts.learn(endpoint)
    round_trip_s = await endpoint.round_trip_s()
    prober = Prober(endpoint, limits, prompts, round_trip_s)
    parts = [options.seconds * share for share in (_SHARES if limits.mixes else _SHARES_UNMIXED)]
    steps: list[MeasuredStep] = []
    for done, (probe, seconds) in enumerate(
        zip((prober.prefills, prober.decodes, prober.mixed_steps), parts[:3], strict=True), start=1
    ):
        steps += await probe(seconds)
        tell(done, len(parts))
    fit = _fit(template, steps, options, facts)
    requests = await run_mixed_load(
        endpoint,
        prompts,
        limits,
        generator,
        seconds=parts[3],
        step_s=1e-3 * max(step.duration_ms for step in steps if step.decodes and not step.prefill_tokens),
        round_trip_s=round_trip_s,
    )
    tell(len(parts), len(parts))
    after = await endpoint.prompt_tokens_served()
    foreign = 0.0 if before is None or after is None else (after - before) / endpoint.prompt_tokens - 1
    return _judged(fit, steps, requests, limits, foreign)


def _limits(profile: Mapping[str, Any]) -> EngineLimits:
    scheduler, kv = profile["scheduler"], profile["kv"]
    return EngineLimits(
        sequences=scheduler["max_num_seqs"],
        step_tokens=scheduler["max_num_batched_tokens"],
        model_tokens=profile["max_model_len"],
        kv_tokens=kv["blocks"] * kv["block_tokens"],
        mixes=scheduler["mode"] != "vllm-v0",
    )


def _fit(
    template: Mapping[str, Any], steps: Sequence[MeasuredStep], options: ProbeOptions, facts: EndpointFacts
) -> dict[str, Any]:
    columns: dict[str, Any] = {
        field.name: np.array(
            [getattr(step, field.name) for step in steps],
            dtype=np.float64 if field.name == "duration_ms" else np.int64,
        )
        for field in dataclasses.fields(MeasuredStep)
    }
    try:
        return _core.fit_step_log(
            json.dumps(template),
            name=options.name,
            data=f"fitted to {facts.model}, probed for {options.seconds:g} s",
            form=options.form,
            seed=options.seed,
            **columns,
        )
    except IrouterError as error:
        raise IrouterError(
            f"what was measured in {options.seconds:g} s gives no profile: {error}; expected more --seconds, or an "
            "engine that has its machine for itself"
        ) from error


def _judged(
    fit: Mapping[str, Any],
    steps: Sequence[MeasuredStep],
    requests: Sequence[LoadRequest],
    limits: EngineLimits,
    foreign: float,
) -> Calibration:
    """The fit with its errors on steps that it did not see and on the load, and what is to be said against it."""
    profile = json.loads(fit["profile"])
    measured_ms = np.array([step.duration_ms for step in steps])
    first_s, last_s = replay(requests, profile)
    arrival_s = np.array([request.arrival_s for request in requests])
    e2e_s = np.array([request.last_token_s for request in requests]) - arrival_s
    ttft_s = np.array([request.first_token_s for request in requests]) - arrival_s
    unseen = np.ones(len(requests), dtype=bool)

    def error_percent(predicted: Any, measured: Any, grace_s: float) -> float:
        return 100 * float(np.mean(np.abs((predicted + grace_s) / (measured + grace_s) - 1)))

    e2e_error = error_percent(last_s - arrival_s, e2e_s, 0.0)
    ttft_error = error_percent(first_s - arrival_s, ttft_s, _GRACE_S)
    step_error = float(fit["held_out_error_percent"])
    profile["source"]["held_out_error_percent"] = round(e2e_error, 2)
    doubts = [
        f"the mean error of {what} is {error:.1f} %, expected at most {most:g} %"
        for what, error, most in (
            ("steps", step_error, _MOST_STEP_ERROR),
            ("E2E under a mixed load", e2e_error, _MOST_E2E_ERROR),
            ("TTFT under a mixed load", ttft_error, _MOST_TTFT_ERROR),
        )
        if error > most
    ]
    if len(requests) < _FEWEST_REQUESTS:
        doubts.append(f"the mixed load had {len(requests)} requests, expected at least {_FEWEST_REQUESTS}")
    if foreign > _MOST_FOREIGN:
        doubts.append(f"others sent {foreign:.0%} more prompt tokens than the probes")
    seen = profile["source"]["fitted_sequences"]
    if seen < limits.sequences:
        doubts.append(f"batches of more than {seen} were not seen, {limits.sequences} may occur")
    return Calibration(
        profile,
        [
            Quantity("step", "ms", measured_ms, fit["predicted_ms"], fit["held_out"], step_error),
            Quantity("E2E", "s", e2e_s, last_s - arrival_s, unseen, e2e_error),
            Quantity("TTFT", "s", ttft_s, first_s - arrival_s, unseen, ttft_error),
        ],
        doubts,
    )
