"""Prompts as the token ids of an encoder, the same way in training and in use."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import IrouterError
from irouter._extras import require

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irouter.prediction.requests import Requests

# Names of the special tokens that families of encoders have: of the start, of the end, and of padding.
_SPECIAL: Final = (("[CLS]", "[SEP]", "[PAD]"), ("<s>", "</s>", "<pad>"))
# What is tokenised of a long prompt, in characters per token of its share: both ends of it.
_CHARACTERS_PER_TOKEN: Final = 12
# Of a prompt that is too long the beginning gets two thirds, the end, where instructions often stand, one.
_HEAD_PARTS, _PARTS = 2, 3


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class EncoderBatch:
    """Rows of token ids, padded to the longest.

    Attributes:
        input_ids: Token ids `[request, position]`.
        attention_mask: 1 where a token stands, 0 where a row is padded.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


class EncoderInputs:
    """Makes the rows of an encoder: the prompt, or both its ends where it is too long, then the task's hint.

    Args:
        tokenizer_file: A `tokenizer.json` of the package `tokenizers`.
        max_tokens: Most tokens of a row.

    Raises:
        IrouterError: For a file that is no tokenizer, or one without the special tokens that encoders have.
    """

    def __init__(self, tokenizer_file: Path, *, max_tokens: int) -> None:
        tokenizers = require("tokenizers", extra="predict", purpose="an encoder")
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:
            raise IrouterError(f"{tokenizer_file}: not a tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens = max_tokens
        for names in _SPECIAL:
            numbers = [self._tokenizer.token_to_id(name) for name in names]
            if None not in numbers:
                self._start, self._end, self._padding = numbers
                return
        raise IrouterError(f"{tokenizer_file}: no tokens {' or '.join(map(str, _SPECIAL))}")

    def rows(self, requests: Requests) -> list[list[int]]:
        """The token ids of each request, as many as it has."""
        shown = self.max_tokens * _CHARACTERS_PER_TOKEN
        texts = [
            prompt if len(prompt) <= 2 * shown else f"{prompt[:shown]} {prompt[-shown:]}"
            for prompt in requests.prompts
        ]
        # Requests of the same task share their hint.
        names = sorted({task for task in requests.tasks if task is not None})
        hints = [f"This is a {name.replace('_', ' ')} task." for name in names]
        encoded = self._tokenizer.encode_batch([*texts, *hints], add_special_tokens=False)
        hint_of = {name: encoding.ids for name, encoding in zip(names, encoded[len(texts) :], strict=True)}
        return [
            self._row(encoding.ids, hint_of.get(task, []) if task is not None else [])
            for encoding, task in zip(encoded, requests.tasks, strict=False)
        ]

    def _row(self, prompt: list[int], hint: list[int]) -> list[int]:
        room = self.max_tokens - 2 - (len(hint) + 1 if hint else 0)
        if len(prompt) > room:
            head = room * _HEAD_PARTS // _PARTS
            prompt = prompt[:head] + prompt[len(prompt) - (room - head) :]
        return [self._start, *prompt, self._end, *([*hint, self._end] if hint else [])]

    def batch(self, rows: Sequence[list[int]]) -> EncoderBatch:
        """Rows of one batch."""
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._padding, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return EncoderBatch(ids, mask)
