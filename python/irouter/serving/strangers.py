"""Requests on an instance that others sent, as far as they can be told."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from irouter._core import IrouterError

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from irouter._core import Router as Core

# Numbers of requests from here on are strangers', in logs too.
STRANGER_NUMBERS: Final = 1 << 62
# A stand-in would grow for ever where its likes come and go: a new one takes its place after so long.
_LIFE_S: Final = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Crowd:
    """The strangers on an instance.

    Attributes:
        running: Those in the engine's batch.
        waiting: Those in its queue.
        context_tokens: Tokens in the KV cache of each that runs.
        prompt_tokens: Prompt tokens of each that waits.
        output_tokens: Tokens that each is expected to produce yet.
    """

    running: int
    waiting: int
    context_tokens: int
    prompt_tokens: int
    output_tokens: int


NOBODY: Final = Crowd(0, 0, 0, 0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What a router has on an instance, as it tells other replicas.

    Attributes:
        slots: Requests that the engine runs at once.
        requests: Requests there.
        context_tokens: Tokens of prompts and of what they have produced, of all of them.
        output_tokens: Tokens that a request produces on average.
    """

    slots: int
    requests: int
    context_tokens: int
    output_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class _StandIn:
    key: int
    born_s: float
    tokens: int
    runs: bool


class Strangers:
    """Keeps stand-ins for strangers in a state machine, so that every policy sees their load."""

    def __init__(
        self,
        opened: Callable[[int, float], contextlib.AbstractContextManager[None]],
        note: Callable[..., None],
    ) -> None:
        """`opened` lets requests be sent to an instance that is shut; `note` writes to the decision log."""
        self._opened, self._note = opened, note
        self._there: dict[int, list[_StandIn]] = {}
        self._number_of: dict[int, int] = {}
        self._made = 0

    def count(self, instance: int) -> int:
        """Stand-ins on an instance."""
        return len(self._there.get(instance, ()))

    def tokens(self, instance: int) -> int:
        """Tokens that the state machine has of them."""
        return sum(stand_in.tokens for stand_in in self._there.get(instance, ()))

    def forget(self, instance: int | None = None) -> None:
        """They went with their instance; without one, with all."""
        for place in [instance] if instance is not None else list(self._there):
            for stand_in in self._there.pop(place, ()):
                del self._number_of[stand_in.key]

    def meet(self, core: Core, instance: int, crowd: Crowd, now: float) -> None:
        """So many are on an instance now."""
        kept: list[_StandIn] = []
        wanted = {True: crowd.running, False: crowd.waiting}
        for stand_in in reversed(self._there.get(instance, [])):
            if wanted[stand_in.runs] > 0 and now - stand_in.born_s < _LIFE_S:
                wanted[stand_in.runs] -= 1
                kept.append(stand_in)
            else:
                number = self._number_of.pop(stand_in.key)
                core.cancelled(stand_in.key, now_s=now)
                self._note(now, "cancelled", request=number, ending="dropped", tokens=None, reason="")
        kept.reverse()
        self._there[instance] = kept
        for runs, missing in wanted.items():
            for _ in range(missing):
                if not self._add(core, instance, crowd, now, runs=runs):
                    return

    def _add(self, core: Core, instance: int, crowd: Crowd, now: float, *, runs: bool) -> bool:
        number = STRANGER_NUMBERS + self._made
        prompt_tokens = max(1, crowd.context_tokens if runs else crowd.prompt_tokens)
        fields: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "max_tokens": max(1, 4 * crowd.output_tokens),
            "predicted_tokens": max(1, crowd.output_tokens),
            "predicted_quantiles": None,
            "prompt_blocks": None,
            "priority": 0,
            "tenant": 0,
            "session": None,
        }
        try:
            key = core.submit(number, now_s=now, deadline_s=None, **fields)
        except IrouterError:
            return False  # longer than anything that fits: what was told of them is wrong
        self._made += 1
        self._note(now, "submitted", request=number, deadline_s=None, **fields)
        with self._opened(instance, now):
            core.dispatch(key, instance, now_s=now)
            self._note(now, "adopted", request=number, instance=instance)
        if runs:
            core.first_token(key, now_s=now)
            self._note(now, "first_token", request=number, cached_tokens=None)
        self._there[instance].append(_StandIn(key, now, prompt_tokens + runs, runs))
        self._number_of[key] = number
        return True
