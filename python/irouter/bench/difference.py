"""Differences between two results, figure by figure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from irouter.bench.result import Result

_OF_A_POINT: Final = ("scenario_sha256", "trace_sha256", "predictor", "conditions", "seeds")
_OF_A_RESULT: Final = ("version", "suite", "mode")


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One value in two versions; `None` where a version does not have it.

    Attributes:
        point: Name of the point; empty for the result as a whole.
        policy: Name of the policy; empty for the point as a whole.
        key: Key of the value.
        one: In the first version.
        other: In the second.
    """

    point: str
    policy: str
    key: str
    one: Any
    other: Any

    @property
    def change(self) -> float | None:
        """Relative change from the first to the second, where both are numbers and the first is not 0."""
        numbers = isinstance(self.one, int | float) and isinstance(self.other, int | float)
        return (self.other - self.one) / abs(self.one) if numbers and self.one else None


def diff(one: Result, other: Result) -> list[Difference]:
    """Everything by which two results differ, the figures by point, policy and key."""
    found = [
        Difference("", "", key, one.data[key], other.data[key])
        for key in _OF_A_RESULT
        if one.data[key] != other.data[key]
    ]
    for name in {**one.entries, **other.entries}:
        if name in one.entries and name in other.entries:
            found += _point(name, one.entries[name], other.entries[name])
        else:
            found.append(Difference(name, "", "point", *_presence(name, one.entries, other.entries)))
    return found


def _point(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Difference]:
    for key in _OF_A_POINT:
        if one[key] != other[key]:
            yield Difference(name, "", key, one[key], other[key])
    for policy in {**one["policies"], **other["policies"]}:
        if policy not in one["policies"] or policy not in other["policies"]:
            present = _presence(policy, one["policies"], other["policies"])
            yield Difference(name, policy, "policy", *present)
            continue
        left, right = (dict(leaves(point["policies"][policy])) for point in (one, other))
        for key in {**left, **right}:
            if left.get(key) != right.get(key):
                yield Difference(name, policy, key, left.get(key), right.get(key))


def _presence(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str | None, str | None]:
    return ("present" if name in one else None), ("present" if name in other else None)


def leaves(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value of a policy's figures by its path, such as `ratio.e2e_mean_s[1]`."""
    for key, value in figures.items():
        yield from _leaves(value, f"{prefix}{key}")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from leaves(value, f"{path}.")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{path}[{index}]")
    else:
        yield path, value
