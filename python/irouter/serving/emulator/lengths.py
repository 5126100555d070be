"""True output lengths, which only an engine knows."""

from __future__ import annotations

import json
import math
import random
import re
from typing import TYPE_CHECKING, Final

from irouter._core import IrouterError

if TYPE_CHECKING:
    from pathlib import Path

# What a prompt carries so that the engine finds its length: every proxy passes it on.
MARKER: Final = re.compile(r"\[irouter-length:([\w.-]{1,64})\]")
# A log-normal length that spans what public traces have.
_MEDIAN_TOKENS: Final = 128.0
_SIGMA: Final = 1.2


class Lengths:
    """The output length of each request: that of its marker, else a draw that prompt and seed determine."""

    def __init__(self, seed: int, by_key: dict[str, int] | None = None) -> None:
        self._seed = seed
        self._by_key = by_key or {}

    def output_tokens(self, prompt: str) -> int:
        """Tokens that the request would produce if nothing cut it.

        Raises:
            IrouterError: For a marker whose length is not known.
        """
        marker = MARKER.search(prompt)
        if marker is None:
            draw = random.Random(f"{self._seed} {prompt}").gauss(0.0, _SIGMA)  # noqa: S311 - a seeded draw, no secret
            return max(1, round(_MEDIAN_TOKENS * math.exp(draw)))
        known = self._by_key.get(marker[1])
        if known is None:
            raise IrouterError(
                f"the prompt names the length `{marker[1]}`, expected one of the file of --lengths"
            )
        return known


def read_lengths(path: Path) -> dict[str, int]:
    """Lengths by key, from a JSON object such as `{"a": 120, "b": 7}`.

    Raises:
        IrouterError: For a file that is none, or naming the bad entry.
    """
    if not path.is_file():
        raise IrouterError(f"no file {path}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IrouterError(f"{path.name}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise IrouterError(
            f"{path.name}: expected an object of lengths by key, found a {type(data).__name__}"
        )
    for key, value in data.items():
        if type(value) is not int or value < 1:
            raise IrouterError(
                f"{path.name}: `{key}` is {value!r:.60}, expected a whole number of at least 1"
            )
    return data
