"""The policies of the package."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any, Literal

from irouter import _core


@dataclasses.dataclass(frozen=True, slots=True)
class Tunable:
    """A constant that a search may set.

    Attributes:
        option: Name of the option.
        low: The lowest value tried.
        high: The highest value tried.
        scale: How values between are spaced; a `count` is a whole number.
    """

    option: str
    low: float
    high: float
    scale: Literal["linear", "logarithmic", "count"]


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyInfo:
    """A policy of the package.

    Attributes:
        name: Its name.
        description: What it does, in one line.
        origin: Whose rule it is: `common` knowledge, the `paper`'s, a `peer` router's, or this project's `own`.
        conformance_tested: Whether a test compares its decisions with those of the peer's own package.
        options: Its constants with their defaults.
        equalised: Options with which a peer's rule has what this router knows.
        tunable: Constants that a search may set.
    """

    name: str
    description: str
    origin: Literal["common", "paper", "peer", "own"]
    conformance_tested: bool
    options: Mapping[str, Any]
    equalised: Mapping[str, Any]
    tunable: tuple[Tunable, ...]


@functools.cache
def registry() -> Mapping[str, PolicyInfo]:
    """Every policy by name, in the order in which they are listed."""
    entries = json.loads(_core.policies())
    return {
        entry["name"]: PolicyInfo(
            **entry | {"tunable": tuple(Tunable(**tunable) for tunable in entry["tunable"])}
        )
        for entry in entries
    }
