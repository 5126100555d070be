"""The record of a search, from which it goes on where it was interrupted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from irouter._core import IrouterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Journal:
    """Objectives of the candidates of each generation, in a file of JSON lines.

    The first line says which search it is. A search draws the same candidates again, so that their objectives
    are all that it needs to go on.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        """Opens the file, or begins it; without a path nothing is kept.

        Args:
            path: The file.
            facts: What the search is given, but for how long it goes on, as JSON has it.

        Raises:
            IrouterError: For a file of another search, or that is none.
        """
        self._path = path
        self._done: dict[int, tuple[list[float], int]] = {}
        if path is None:
            return
        about = dict(facts)
        if not path.exists():
            path.write_text(json.dumps(about) + "\n", encoding="utf-8")
            return
        try:
            first, *rest = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self._done = {entry["generation"]: (entry["objectives"], entry["requests"]) for entry in rest}
        except (ValueError, KeyError, TypeError) as error:
            raise IrouterError(f"{path}: {error}; expected the journal of a search") from error
        if first != about:
            differing = sorted(name for name in about if first.get(name) != about[name])
            raise IrouterError(f"{path} is of another search: its {', '.join(differing)} differ")

    def get(self, generation: int) -> tuple[list[float], int] | None:
        """Objectives of a generation that was run before, and the requests that it simulated."""
        return self._done.get(generation)

    def add(self, generation: int, objectives: Sequence[float], requests: int) -> None:
        """Keeps a generation."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                entry = {"generation": generation, "objectives": list(objectives), "requests": requests}
                file.write(json.dumps(entry) + "\n")
