"""Throws random events at the compiled router, bad ones among them, and checks that it ends as an idle one.

python tools/fuzz_router.py --events 1000000
"""

import argparse
import collections
import contextlib
import json
import math
import random
from typing import TYPE_CHECKING, Any

from irouter import Decision, IrouterError, profiles
from irouter._core import Router

if TYPE_CHECKING:
    from collections.abc import Callable

POLICIES = (
    "least_work",
    "central_fcfs",
    "ordered_hold",
    "smg_least_load",
    "dynamo_kv",
    "round_robin",
    "guided",
)
HELD = ("prompt_tokens", "produced_tokens", "remaining_output_tokens", "work_seconds")
MOST_INSTANCES = 4
# An episode begins with a new router, so that events meet young routers and old.
EPISODE_EVENTS = 2000
# Events, and how often they come.
EVENTS = {
    "submit": 9,
    "decide": 9,
    "place": 2,
    "dispatch": 2,
    "first_token": 6,
    "progress": 6,
    "finished": 6,
    "failed": 1,
    "cancelled": 3,
    "join": 1,
    "drain": 1,
    "resume": 1,
    "leave": 1,
    "report": 3,
    "wait": 6,
    "preview": 1,
    "impact": 1,
}
# What the boundary refuses by type, before the state machine sees it.
REFUSED = (IrouterError, OverflowError, TypeError, ValueError)


def small_profile() -> str:
    """An engine with four batch slots and a cache that little fills."""
    profile = profiles.load("llama-2-7b@v100-paper")
    profile["scheduler"]["max_num_seqs"] = 4
    profile["kv"]["blocks"] = 400
    return json.dumps(profile)


class Episode:
    """A router, and a second account of what it was told."""

    def __init__(self, policy: str, draws: random.Random, counts: collections.Counter[str]) -> None:
        self.profile = small_profile()
        self.router = Router([self.profile] * 2, policy, seed=draws.getrandbits(32))
        self.draws, self.counts = draws, counts
        self.now_s = 0.0
        self.keys: list[int] = []
        self.submitted = 0

    def number(self, most: int) -> int:
        """Mostly one that fits; now and then nonsense."""
        if self.draws.random() < 0.02:
            return self.draws.choice([-1, 0, most, 2**31, 2**63, 2**64])
        return self.draws.randrange(max(1, most))

    def key(self) -> int:
        """Of a request, mostly of one that lives."""
        if self.keys and self.draws.random() < 0.97:
            return self.draws.choice(self.keys[-15:])
        return self.number(1000)

    def submit(self) -> None:
        """A request comes."""
        draws = self.draws
        prompt_tokens = 1 + self.number(600)
        fields: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "max_tokens": 1 + self.number(300),
            "priority": draws.randrange(-1, 2),
            "tenant": draws.randrange(3),
            "session": draws.choice([None, draws.randrange(5)]),
            "deadline_s": draws.choice([None, None, self.now_s + draws.random(), math.nan]),
            "prompt_blocks": [block << 8 | draws.randrange(3) for block in range(prompt_tokens % 700 // 16)],
        }
        kind = draws.randrange(4)
        if kind == 0:
            fields["predicted_tokens"] = 1 + self.number(400)
        elif kind == 1:
            fields["predicted_quantiles"] = sorted(
                draws.random() * 400 for _ in range(draws.choice([11, 11, 3]))
            )
        self.keys.append(self.router.submit(self.submitted, now_s=self.now_s, **fields))
        self.submitted += 1

    def step(self) -> None:
        """One event."""
        router, draws, now = self.router, self.draws, self.now_s
        event = draws.choices(list(EVENTS), list(EVENTS.values()))[0]
        instance = self.number(MOST_INSTANCES)
        calls: dict[str, Callable[[], object]] = {
            "submit": self.submit,
            "decide": lambda: router.decide(now),
            "place": lambda: router.place(self.key(), now_s=now, excluded=[instance]),
            "dispatch": lambda: router.dispatch(self.key(), instance, now_s=now),
            "first_token": lambda: router.first_token(self.key(), now_s=now, cached_tokens=self.number(700)),
            "progress": lambda: router.progress(self.key(), self.number(320), now_s=now),
            "finished": lambda: router.finished(
                self.key(), now_s=now, tokens=draws.choice([None, self.number(300)])
            ),
            "failed": lambda: router.failed(self.key(), now_s=now),
            "cancelled": lambda: router.cancelled(self.key(), now_s=now),
            "join": lambda: router.join(instance, self.profile, now_s=now),
            "drain": lambda: router.drain(instance, now_s=now),
            "resume": lambda: router.resume(instance, now_s=now),
            "leave": lambda: router.leave(instance, now_s=now),
            "report": lambda: router.report(
                instance,
                now_s=now,
                waiting=self.number(50),
                running=self.number(50),
                kv_usage=draws.choice([draws.random(), 0.0, 1.0, 1.5, math.nan]),
            ),
            "wait": self.wait,
            "preview": lambda: router.preview(now),
            "impact": lambda: router.impact(self.key(), now_s=now),
        }
        try:
            outcome = calls[event]()
        except REFUSED:
            self.counts["refused"] += 1
        else:
            self.counts["dispatched"] += isinstance(outcome, Decision)
        self.counts[event] += 1

    def wait(self) -> None:
        """Time passes; now and then it is told to run backwards, which is refused."""
        if self.draws.random() < 0.02:
            self.router.decide(self.draws.choice([-1.0, math.nan, math.inf, self.now_s - 1]))
        self.now_s += self.draws.expovariate(20)

    def check(self) -> None:
        """No sum is negative, and requests are in one place each."""
        for entry in self.router.instances:
            sums = [
                value
                for name, value in entry.items()
                if isinstance(value, int | float) and name != "instance"
            ]
            expect(all(value >= 0 for value in sums), entry)
            expect(entry["awaiting_first_token"] <= entry["in_flight"], entry)
            expect(entry["queued_prefill_tokens"] <= entry["prompt_tokens"], entry)

    def end(self) -> None:
        """Everything is cancelled; what is left has leaked."""
        for key in self.keys:
            with contextlib.suppress(IrouterError):
                self.router.cancelled(key, now_s=self.now_s)
        for number in range(len(self.router.instances)):
            with contextlib.suppress(IrouterError):
                self.router.leave(number, now_s=self.now_s)
        expect(self.router.waiting == 0, self.router.waiting)
        expect(not any(self.router.in_flight), self.router.in_flight)
        for entry in self.router.instances:
            expect(not any(entry[name] for name in HELD), entry)


def expect(holds: bool, found: object) -> None:  # noqa: FBT001 - like `assert`, that optimising would leave out
    """Raises: AssertionError when something does not hold."""
    if not holds:
        raise AssertionError(f"found {found}")


def run(events: int, seed: int) -> collections.Counter[str]:
    """So many events; what they were.

    Raises:
        AssertionError: When something leaked or a sum went wrong.
    """
    draws = random.Random(seed)  # noqa: S311 - seeded draws, not secrets
    counts: collections.Counter[str] = collections.Counter()
    done = 0
    while done < events:
        episode = Episode(draws.choice(POLICIES), draws, counts)
        for number in range(EPISODE_EVENTS):
            episode.step()
            if number % 50 == 0:
                episode.check()
        episode.end()
        done += EPISODE_EVENTS
        counts["episodes"] += 1
        counts["requests"] += episode.submitted
    counts["events"] = done
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, count in sorted(run(arguments.events, arguments.seed).items()):
        print(f"{name:14} {count:>9,}")
    print("nothing leaked, nothing panicked")
