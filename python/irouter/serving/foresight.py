"""What predictors say of a request before it is routed, and what they are told afterwards."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import TypeIs


class LengthQuantiles(Protocol):
    """Predicted output lengths."""

    @property
    def quantiles(self) -> Any:
        """One row per prompt: quantiles at `LENGTH_LEVELS`, in tokens."""


class Predictor(Protocol):
    """Predicts output lengths from prompts. It is called in the caller's thread, and has to be quick there."""

    def predict(self, prompts: Sequence[str], /) -> LengthQuantiles:
        """Predicts the output length of each prompt."""


@runtime_checkable
class LearningPredictor(Predictor, Protocol):
    """A predictor that is told of requests that finished."""

    def observe(self, prompt: str, output_tokens: int, *, cut: bool) -> None:
        """Learns how many tokens a request produced; `cut` when `max_tokens` ended it."""


@runtime_checkable
class PredictorFront(Protocol):
    """A front that answers within a budget, such as `irouter.prediction.PredictorService`."""

    def answer(self, prompt: str, /) -> Any:
        """An answer whose `lengths` are those of the prompt."""

    async def answer_async(self, prompt: str, /) -> Any:
        """The same, without blocking the event loop."""

    def observe(self, answer: Any, output_tokens: int, *, cut: bool) -> None:
        """Takes in how a request turned out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Foresight:
    """What is known of a request's output length.

    Attributes:
        quantiles: Quantiles at `LENGTH_LEVELS`; None where nothing is known.
        learn: To be called as `learn(output_tokens, cut=...)` when it has finished, where somebody learns.
        seconds: How long it took.
        failed: Whether the predictor raised.
    """

    quantiles: list[float] | None = None
    learn: Callable[..., None] | None = None
    seconds: float = 0.0
    failed: bool = False


def is_front(predictor: Predictor | PredictorFront) -> TypeIs[PredictorFront]:
    """Whether it answers within a budget."""
    return _has_methods_of(PredictorFront, type(predictor))


def _learns(predictor: Predictor) -> TypeIs[LearningPredictor]:
    return _has_methods_of(LearningPredictor, type(predictor))


# Looking for the methods of a protocol takes longer than most predictions, so each class is looked at once.
@functools.cache
def _has_methods_of(protocol: type, kind: type) -> bool:
    return issubclass(kind, protocol)


def foresee(predictor: Predictor | PredictorFront, prompt: str) -> Foresight:
    """Asks a predictor. Whatever fails in it does not stop routing; it is said."""
    started = time.perf_counter()
    try:
        if is_front(predictor):
            return _of_answer(predictor, predictor.answer(prompt), started)
        learn = functools.partial(predictor.observe, prompt) if _learns(predictor) else None
        return Foresight(_row(predictor.predict([prompt])), learn, time.perf_counter() - started)
    except Exception:  # noqa: BLE001 - as promised
        return Foresight(seconds=time.perf_counter() - started, failed=True)


async def foresee_async(predictor: Predictor | PredictorFront, prompt: str) -> Foresight:
    """Asks a predictor, without blocking the event loop where it is a front."""
    if not is_front(predictor):
        return foresee(predictor, prompt)
    started = time.perf_counter()
    try:
        return _of_answer(predictor, await predictor.answer_async(prompt), started)
    except Exception:  # noqa: BLE001 - as in `foresee`
        return Foresight(seconds=time.perf_counter() - started, failed=True)


def _of_answer(front: PredictorFront, answer: Any, started: float) -> Foresight:
    learn = functools.partial(front.observe, answer)
    return Foresight(_row(answer.lengths), learn, time.perf_counter() - started)


def _row(lengths: LengthQuantiles) -> list[float]:
    return [float(quantile) for quantile in lengths.quantiles[0]]
