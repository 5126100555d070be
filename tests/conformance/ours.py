"""Our rule under an event script, with every request placed where the peer placed it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from conformance.scripts import BLOCK_TOKENS, Event
from irouter import profiles
from irouter._core import Router

MAX_TOKENS = 100_000
# Draws at the same state: what a rule takes by lot among equals shows as several instances.
DRAWS = 24


@dataclass(frozen=True)
class Decision:
    """Where a peer would send a request and where our rule would: what was drawn first, then others that were drawn."""

    request: int
    theirs: Sequence[int]
    ours: Sequence[int]

    @property
    def outcome(self) -> str:
        """`equal`, `tied` or `different`."""
        if not set(self.theirs) & set(self.ours):
            return "different"
        return "equal" if len(self.theirs) == len(self.ours) == 1 else "tied"


def profile() -> str:
    """An engine with blocks of the scripts' size, and room for everything that a script holds."""
    fields = profiles.load("llama-3.1-8b@h100")
    fields["kv"] = fields["kv"] | {"blocks": 1_000_000, "block_tokens": BLOCK_TOKENS}
    fields["max_model_len"] = 1_000_000
    return json.dumps(fields)


def block_hashes(tokens: Sequence[int]) -> list[int]:
    """A hash for each full block, of all tokens up to its end."""
    digest = hashlib.blake2b(digest_size=8)
    hashes = []
    for end in range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
        digest.update(repr(tokens[end - BLOCK_TOKENS : end]).encode())
        hashes.append(int.from_bytes(digest.digest(), "little") >> 1)
    return hashes


def replay(
    policy: str, instances: int, events: Sequence[Event], theirs: Sequence[Sequence[int]]
) -> list[Decision]:
    """Runs the script; `theirs` are the peer's decisions in order, the first of each is where the request goes."""
    router = Router([profile()] * instances, policy, seed=1, max_hold_s=float("inf"), dispatch_delay_s=0.0)
    answers = iter(theirs)
    keys: dict[int, int] = {}
    decisions = []
    now_s = 0.0
    for event in events:
        now_s = event.get("now_s", now_s)
        match event:
            case {"event": "submit", "request": request, "tokens": tokens}:
                expected = event.get("expected_output_tokens")
                key = keys[request] = router.submit(
                    request,
                    now_s=now_s,
                    prompt_tokens=len(tokens),
                    max_tokens=MAX_TOKENS,
                    predicted_tokens=expected,
                    prompt_blocks=block_hashes(tokens),
                    session=event.get("session"),
                )
                ours = [choice[1] for _ in range(DRAWS) if (choice := router.preview(now_s))]
                answer = next(answers)
                decisions.append(Decision(request, answer, list(dict.fromkeys(ours))))
                router.dispatch(key, answer[0], now_s=now_s)
            case {"event": "first_token", "request": request}:
                router.first_token(keys[request], now_s=now_s)
            case {"event": "progress", "request": request, "tokens": tokens}:
                router.progress(keys[request], tokens, now_s=now_s)
            case {"event": "finished", "request": request}:
                router.finished(keys.pop(request), now_s=now_s, tokens=event.get("tokens"))
            case {"event": "report", "instance": instance, **report}:
                router.report(instance, now_s=now_s, **report)
    return decisions
