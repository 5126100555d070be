"""What a prompt's form says of the answer's length, beside its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FORM_FEATURES: Final = ("log_characters", "log_words", "log_lines", "digit_share", "question_marks")
"""Names of the columns of :func:`form_features`."""


def form_features(prompts: Sequence[str]) -> NDArray[np.float32]:
    """Figures of each prompt, `[prompt, feature]`: logarithms of its size, digits and question marks."""
    rows = np.empty((len(prompts), len(FORM_FEATURES)), dtype=np.float32)
    for row, prompt in enumerate(prompts):
        digits = sum(character.isdigit() for character in prompt[:_READ])
        rows[row] = (
            np.log1p(len(prompt)),
            np.log1p(prompt.count(" ")),
            np.log1p(prompt.count("\n")),
            digits / min(len(prompt), _READ),
            min(prompt.count("?"), _MOST_QUESTIONS),
        )
    return rows


# Characters in which digits are counted: enough of a long prompt.
_READ: Final = 2000
_MOST_QUESTIONS: Final = 5
