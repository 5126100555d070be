"""A request as callers describe it, made ready for the state machine."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from irouter._core import IrouterError, text_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from irouter.serving.foresight import Foresight


class RequestFields(TypedDict, total=False):
    """What every entry point takes of a request.

    Attributes:
        prompt: Its text, of which prompt tokens and blocks are estimated where they are not given.
        prompt_tokens: Tokens of the prompt.
        prompt_blocks: Hashes of its full blocks, each covering the prompt up to the end of the block.
        max_tokens: Most tokens that it may produce; without it what the context leaves.
        predicted_tokens: Expected output length.
        predicted_quantiles: The output length as quantiles at `LENGTH_LEVELS`.
        session: Requests of one session are kept together by policies that care.
        priority: Higher goes first.
        deadline_s: Seconds from now until it should be done; it does not wait at the router for longer.
        tenant: Tenants share the central queue by weight.
    """

    prompt: str | None
    prompt_tokens: int | None
    prompt_blocks: Sequence[int] | None
    max_tokens: int | None
    predicted_tokens: int | None
    predicted_quantiles: Sequence[float] | NDArray[np.float64] | None
    session: str | int | None
    priority: int
    deadline_s: float | None
    tenant: str | int | None


class ReadyRequest(Protocol):
    """A request with every estimate made.

    Attributes:
        fields: Keywords of the state machine's `submit`, but for times.
        deadline_s: Seconds from its arrival until it should be done.
        max_tokens: Most tokens that it may produce.
        foresight: What the predictor said.
    """

    fields: dict[str, Any]
    deadline_s: float | None
    max_tokens: int
    foresight: Foresight


class PreparedRequest:
    """A request as a caller describes it, with every estimate made: a `ReadyRequest`."""

    __slots__ = ("deadline_s", "fields", "foresight", "max_tokens")

    def __init__(
        self,
        *,
        block_tokens: int,
        max_model_len: int,
        foresight: Foresight,
        prompt: str | None = None,
        prompt_tokens: int | None = None,
        prompt_blocks: Sequence[int] | None = None,
        max_tokens: int | None = None,
        predicted_tokens: int | None = None,
        predicted_quantiles: Sequence[float] | NDArray[np.float64] | None = None,
        session: str | int | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
        tenant: str | int | None = None,
    ) -> None:
        """Estimates what is not given.

        Raises:
            IrouterError: For a request without `prompt` and `prompt_tokens`, or a deadline that is not positive.
        """
        if prompt is not None:
            prompt = encodable(prompt)
            blocks, tokens = text_blocks(prompt, block_tokens)
            prompt_blocks = blocks if prompt_blocks is None else prompt_blocks
            prompt_tokens = tokens if prompt_tokens is None else prompt_tokens
        if prompt_tokens is None:
            raise IrouterError("a request has neither `prompt` nor `prompt_tokens`, expected one")
        if deadline_s is not None and not (deadline_s > 0 and math.isfinite(deadline_s)):
            raise IrouterError(f"deadline_s is {deadline_s}, expected a positive number of seconds from now")
        if predicted_tokens is None and predicted_quantiles is None:
            predicted_quantiles = foresight.quantiles
        self.foresight = foresight
        self.deadline_s = deadline_s
        self.max_tokens = max(1, max_model_len - prompt_tokens) if max_tokens is None else max_tokens
        self.fields: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "max_tokens": self.max_tokens,
            "predicted_tokens": predicted_tokens,
            "predicted_quantiles": predicted_quantiles,
            "prompt_blocks": prompt_blocks,
            "priority": priority,
            "tenant": 0 if tenant is None else number_of(tenant, bits=32),
            "session": None if session is None else number_of(session, bits=64),
        }


def encodable(text: str) -> str:
    """The text with `?` for halves of surrogate pairs, which JSON can have and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def number_of(name: str | int, *, bits: int) -> int:
    """The number that stands for a session or tenant: itself, or a hash of its name.

    Raises:
        IrouterError: For a number that does not fit.
    """
    if isinstance(name, int):
        if not 0 <= name < 1 << bits:
            raise IrouterError(f"{name} is no session or tenant, expected a name or a number below 2^{bits}")
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=bits // 8).digest()
    return int.from_bytes(digest, "little")
