"""Scenarios: named comparisons as TOML files, the shipped ones by name, others by file."""

import dataclasses
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from irouter._core import IrouterError
from irouter._shipped import ShippedFiles
from irouter.evaluation.settings import Settings, checked

__all__ = ["Scenario", "load", "names"]

_OWN_KEYS: Final = ("description", "notes", "trace_source")
_SHIPPED: Final = ShippedFiles("scenario", resources.files(__name__), ".toml")


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """A named comparison.

    Attributes:
        name: Name of the scenario.
        description: What it is, in one line.
        settings: What it runs with.
        notes: What is unknown or was chosen, one per line.
        trace_source: Where the trace that it replays is published; empty when it generates its requests.
    """

    name: str
    description: str
    settings: Settings
    notes: tuple[str, ...] = ()
    trace_source: str = ""

    @property
    def replays(self) -> bool:
        """Whether it needs a trace."""
        return self.settings.get("workload", {}).get("kind") == "trace"


def names() -> list[str]:
    """Names of the shipped scenarios."""
    return _SHIPPED.names()


def load(name: str | Path) -> Scenario:
    """Reads a scenario.

    Args:
        name: Name of a shipped scenario, or a `.toml` file.

    Raises:
        IrouterError: For an unknown name, or naming the bad key of a file.
    """
    file = _SHIPPED.read(name)
    return _parse(file.name, file.where, file.text)


def _parse(name: str, where: str, text: str) -> Scenario:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise IrouterError(f"{where}: {error}") from error
    own: dict[str, Any] = {key: content.pop(key) for key in _OWN_KEYS if key in content}
    description = _text(own, "description", where)
    if not description:
        raise IrouterError(f"{where}: no `description`, expected what the scenario is, in one line")
    notes = own.get("notes", [])
    if not (isinstance(notes, list) and all(isinstance(note, str) for note in notes)):
        raise IrouterError(f"{where}: `notes` is {notes!r}, expected a list of texts")
    return Scenario(
        name, description, checked(content, where), tuple(notes), _text(own, "trace_source", where)
    )


def _text(content: Mapping[str, Any], key: str, where: str) -> str:
    value = content.get(key, "")
    if not isinstance(value, str):
        raise IrouterError(f"{where}: `{key}` is {value!r}, expected a text")
    return value
