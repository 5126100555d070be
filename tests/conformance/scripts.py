"""Event scripts: what happens to a router, in order, the same for a peer's package and for our rule.

A script is a list of events. `submit` asks for a decision; the others tell what became of a request. The requests of a
script are placed where the peer places them, on both sides, so that both see the same state at every decision.
"""

import random
from dataclasses import dataclass
from typing import Any, TypeAlias

Event: TypeAlias = dict[str, Any]

BLOCK_TOKENS = 16
# One character stands for one token. Distinct blocks differ in every character, so that two texts share exactly the
# blocks that their prompts share.
FIRST_CHARACTER = 0x4E00


@dataclass(frozen=True)
class Shape:
    """How much happens, and how alike the prompts are."""

    requests: int
    in_flight: int
    groups: int = 24
    least_prefix_blocks: int = 0
    prefix_blocks: int = 24
    tail_blocks: int = 40
    repeats: float = 0.1
    """Share of requests that repeat an earlier prompt exactly."""
    whole_blocks: bool = False
    """Whether prompts end with a block; otherwise most end within one."""


class Prompts:
    """Prompts in groups with a common prefix; the rest of each is its own."""

    def __init__(self, draws: random.Random, shape: Shape) -> None:
        self._draws = draws
        self._shape = shape
        self._blocks = 0
        self._prefixes = [
            self._fresh(draws.randint(shape.least_prefix_blocks, shape.prefix_blocks))
            for _ in range(shape.groups)
        ]
        self._earlier: list[tuple[int, list[int]]] = []

    def next(self) -> tuple[int, list[int]]:
        """Group and tokens of the next prompt."""
        if self._earlier and self._draws.random() < self._shape.repeats:
            return self._draws.choice(self._earlier)
        tail = self._fresh(self._draws.randint(1, self._shape.tail_blocks))
        group = self._draws.randrange(self._shape.groups)
        tokens = self._prefixes[group] + tail
        if not self._shape.whole_blocks:
            tokens = tokens[: len(tokens) - self._draws.randint(0, BLOCK_TOKENS - 1)]
        self._earlier.append((group, tokens))
        return group, tokens

    def _fresh(self, blocks: int) -> list[int]:
        numbers = range(self._blocks, self._blocks + blocks)
        self._blocks += blocks
        return [FIRST_CHARACTER + number for number in numbers for _ in range(BLOCK_TOKENS)]


def text(tokens: list[int]) -> str:
    """A prompt as text: one character a token."""
    return "".join(map(chr, tokens))


def traffic(shape: Shape, seed: int) -> list[Event]:
    """Requests that come, start, produce and finish in random order, about `in_flight` at a time.

    Events carry the time of one clock in `now_s`, and `seconds` since the request came.
    """
    draws = random.Random(seed)
    prompts = Prompts(draws, shape)
    running: list[Running] = []
    events: list[Event] = []
    now_s = 0.0
    for request in range(shape.requests):
        group, tokens = prompts.next()
        now_s = tick(draws, now_s)
        running.append(Running(request, now_s))
        events.append({
            "event": "submit",
            "request": request,
            "now_s": now_s,
            "tokens": tokens,
            "text": text(tokens),
            "session": group,
            "expected_output_tokens": draws.randint(1, 1200),
        })  # fmt: skip
        # As many steps on the mean as keep the wanted number in flight.
        for _ in range(draws.randint(0, 6)):
            if running:
                now_s = tick(draws, now_s)
                events.append(step(draws, running, shape.in_flight, now_s))
    return events


@dataclass
class Running:
    """A request in flight."""

    request: int
    since_s: float
    produced: int = 0


def tick(draws: random.Random, now_s: float) -> float:
    """A moment later, in whole milliseconds."""
    return round(now_s + draws.randint(1, 40) / 1000, 3)


def step(draws: random.Random, running: list[Running], wanted: int, now_s: float) -> Event:
    """One request gets its first token, or some more, or ends."""
    one = draws.choice(running)
    event = {"request": one.request, "now_s": now_s, "seconds": round(now_s - one.since_s, 3)}
    if one.produced == 0:
        one.produced = 1
        return event | {"event": "first_token"}
    if len(running) > wanted or draws.random() < 0.1:
        running.remove(one)
        return event | {"event": "finished", "tokens": one.produced}
    # Our router hears of output in multiples of 16 tokens.
    one.produced += draws.randint(1, 12) * 16 - one.produced % 16
    return event | {"event": "progress", "tokens": one.produced}


def with_reports(events: list[Event], instances: int, every: int, seed: int) -> list[Event]:
    """The script with new loads of all engines, and a poll, before every so many requests."""
    draws = random.Random(seed)
    told: list[Event] = []
    for event in events:
        if event["event"] == "submit" and event["request"] % every == 0:
            told.extend(report(draws, instance) for instance in range(instances))
            told.append({"event": "polled"})
        told.append(event)
    return told


def report(draws: random.Random, instance: int) -> Event:
    """Any load below the point at which a gateway would spare the engine."""
    waiting = draws.randint(0, 7)
    return {
        "event": "report",
        "instance": instance,
        "running": draws.randint(0, 64),
        "waiting": waiting,
        "queued_prefill_tokens": draws.randint(0, 3000) * waiting,
        "kv_usage": round(draws.uniform(0.0, 0.79), 3),
    }


def placements_only(events: list[Event]) -> list[Event]:
    """The same script for a peer that hears of nothing between dispatch and end."""
    return [event for event in events if event["event"] in {"submit", "finished"}]


def probes(held: int, draws: int) -> list[Event]:
    """Requests that stay, then so many that end at once: decisions at one and the same state."""
    events: list[Event] = []
    for request in range(held + draws):
        tokens = [FIRST_CHARACTER + request] * BLOCK_TOKENS
        events.append({"event": "submit", "request": request, "tokens": tokens, "text": text(tokens)})
        if request >= held:
            events.append({"event": "finished", "request": request, "tokens": 1, "seconds": 1.0})
    return events


def with_homes(events: list[Event]) -> list[Event]:
    """The script after one request of each group that finds every instance idle: it goes to the home of its key."""
    first = {event["session"]: event for event in reversed(events) if event["event"] == "submit"}
    told: list[Event] = []
    for number, group in enumerate(sorted(first), start=len(events)):
        told.append(first[group] | {"request": number, "now_s": 0.0})
        told.append({"event": "finished", "request": number, "now_s": 0.0, "tokens": 1, "seconds": 0.0})
    return told + events
