"""The requests of the demo: those of a scenario or a trace, with texts in place of lengths."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Final

import irouter
from irouter import profiles
from irouter._core import IrouterError

if TYPE_CHECKING:
    from pathlib import Path

SCENARIO: Final = "paper-main"
PROFILE: Final = "llama-2-7b@v100-paper"
# As small as the paper's times imply: where memory is short, it matters who is sent where.
_KV_BLOCKS: Final = 575
INSTANCES: Final = 4
# What the simulator draws before it is cut at the duration; more would be more than one machine sends.
_MOST_REQUESTS: Final = 5000
# An engine takes so many bytes of text for a token.
TOKEN_BYTES: Final = 4
_MAX_TOKENS: Final = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class DemoRequest:
    """A request.

    Attributes:
        arrival_s: When it is sent, from the start.
        prompt: Its text, which names its length for the engine alone.
        max_tokens: Most tokens that it asks for.
    """

    arrival_s: float
    prompt: str
    max_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class DemoWorkload:
    """What the demo runs.

    Attributes:
        requests: The requests, in order of arrival.
        lengths: True output lengths by key, for the engines.
    """

    requests: tuple[DemoRequest, ...]
    lengths: dict[str, int]


def demo_profile() -> dict[str, Any]:
    """The engines of the demo: slow ones with little memory, so that a laptop can play several."""
    profile = profiles.load(PROFILE)
    profile["kv"]["blocks"] = _KV_BLOCKS
    return profile


def demo_workload(
    profile: Path, *, trace: Path | None, load: float, duration_s: float, seed: int
) -> DemoWorkload:
    """The arrivals of a scenario or a trace, at `load` of what the engines can do.

    Args:
        profile: File with the profile of the engines.
        trace: A trace; None: the scenario of the paper.
        load: Arrivals as a share of saturation.
        duration_s: How long requests arrive.
        seed: Which draw, or which window of the trace.

    Raises:
        IrouterError: For a bad trace, or one without a request in that time.
    """
    settings: dict[str, Any] = {} if trace is not None else {"kv_blocks": None}
    run = irouter.simulate(
        SCENARIO if trace is None else None,
        trace=trace,
        policy="round_robin",
        profile=str(profile),
        instances=INSTANCES,
        load=load,
        requests=_MOST_REQUESTS if trace is None else None,
        first_seed=seed,
        drop_too_long=True,
        **settings,
    )
    arrivals = run["arrival_s"] - run["arrival_s"][0]
    rows = range(int((arrivals <= duration_s).sum()))
    if not rows or arrivals[-1] <= 0:
        raise IrouterError(f"no request arrives within {duration_s:g} s, expected a longer trace or duration")
    requests, lengths = [], {}
    limit: int = json.loads(profile.read_text(encoding="utf-8"))["max_model_len"]
    for row in rows:
        key, output_tokens = str(row), int(run["output_tokens"][row])
        prompt = _text(key, int(run["input_tokens"][row]))
        prompt_tokens = -(-len(prompt) // TOKEN_BYTES)
        lengths[key] = output_tokens
        max_tokens = min(max(_MAX_TOKENS, output_tokens), limit - prompt_tokens)
        requests.append(DemoRequest(float(arrivals[row]), prompt, max_tokens))
    return DemoWorkload(tuple(requests), lengths)


def _text(key: str, tokens: int) -> str:
    """A text of so many tokens, or as few as the marker needs, that shares no prefix with another."""
    return f"{key}: [irouter-length:{key}] ".ljust(TOKEN_BYTES * tokens, "x")
