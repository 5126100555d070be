"""Suites as TOML files, the shipped ones by name, others by file."""

from __future__ import annotations

import collections
import dataclasses
import tomllib
import typing
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeVar

from irouter import scenarios
from irouter._core import IrouterError
from irouter._names import unknown
from irouter._shipped import ShippedFiles
from irouter.bench.suite import Mode, Point, Suite
from irouter.evaluation.settings import check_value, checked, layered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Entry = TypeVar("Entry", Mode, Point)

_SUITE_KEYS: Final = (
    "description", "reference", "settings", "groups", "modes", "limits", "points", "sweeps",
)  # fmt: skip
_SWEEP_KEYS: Final = ("name", "title", "point", "policies", "windows", "requests", "cases")
_SHIPPED: Final = ShippedFiles("suite", resources.files(__package__) / "suites", ".toml")
# Keys of a file that are no words for a field in Python.
_FIELDS: Final = {"class": "scenario_class"}


def names() -> list[str]:
    """Names of the shipped suites."""
    return _SHIPPED.names()


def load(name: str | Path) -> Suite:
    """Reads a suite.

    Args:
        name: Name of a shipped suite, or a `.toml` file.

    Raises:
        IrouterError: For an unknown name, or naming the bad entry of a file.
    """
    file = _SHIPPED.read(name)
    return _parse(file.name, file.where, file.text)


def _parse(name: str, where: str, text: str) -> Suite:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise IrouterError(f"{where}: {error}") from error
    _refuse_others(content, _SUITE_KEYS, where)
    modes = {
        mode: _entry(Mode, entry, f"{where}: mode `{mode}`")
        for mode, entry in content.get("modes", {}).items()
    }
    points = [_point(entry, content, where) for entry in content.get("points", [])]
    for sweep in content.get("sweeps", []):
        points += [_point(entry, content, where) for entry in _cases(sweep, points, where)]
    for part, value in (("points", points), ("modes", modes)):
        if not value:
            raise IrouterError(f"{where}: no `{part}`, expected at least one")
    counts = collections.Counter(point.name for point in points)
    repeated = [point for point, count in counts.items() if count > 1]
    if repeated:
        raise IrouterError(f"{where}: two points have the name `{repeated[0]}`")
    return Suite(
        name=name,
        description=content.get("description", ""),
        reference=content.get("reference", "round_robin"),
        modes=modes,
        limits=content.get("limits", {}),
        points=tuple(points),
    )


def _point(entry: Mapping[str, Any], content: Mapping[str, Any], where: str) -> Point:
    """A point under the settings and with the groups of policies of its suite."""
    fields = {_FIELDS.get(key, key): value for key, value in entry.items()}
    where = f"{where}: point `{fields.get('name', '?')}`"
    groups = content.get("groups", {})
    if "policies" in fields:
        if fields["policies"] not in groups:
            error = unknown("group", str(fields["policies"]), groups, f"groups are {', '.join(groups)}")
            raise IrouterError(f"{where}: {error}")
        fields["policies"] = tuple(groups[fields["policies"]])
    if "trace_files" in fields:
        fields["trace_files"] = tuple(fields["trace_files"])
    common = checked(content.get("settings", {}), where)
    fields["settings"] = layered(common, checked(fields.get("settings", {}), where))
    point = _entry(Point, fields, where)
    if scenarios.load(point.scenario).replays != bool(point.trace_files):
        raise IrouterError(
            f"{where}: `trace_files` is {list(point.trace_files)}, expected names for the trace of a scenario that "
            "replays one, and none otherwise"
        )
    return point


def _cases(sweep: Mapping[str, Any], points: Sequence[Point], where: str) -> Iterator[dict[str, Any]]:
    """The points of a sweep: one point of the suite under other settings each."""
    where = f"{where}: sweep `{sweep.get('name', '?')}`"
    _refuse_others(sweep, _SWEEP_KEYS, where)
    for key in ("name", "title", "point", "cases"):
        if key not in sweep:
            raise IrouterError(f"{where}: no `{key}`")
    by_name = {point.name: point for point in points}
    if sweep["point"] not in by_name:
        error = unknown("point", str(sweep["point"]), by_name, f"known are {', '.join(by_name)}")
        raise IrouterError(f"{where}: {error}")
    base = by_name[sweep["point"]]
    for case, settings in sweep["cases"].items():
        yield {
            "name": f"{sweep['name']}/{case}",
            "title": f"{sweep['title']}: {case}",
            "sweep": sweep["name"],
            "base": base.name,
            "scenario": base.scenario,
            "settings": layered(base.settings, checked(settings, f"{where}: {case}")),
            "trace_from_s": base.trace_from_s,
            **({"trace_files": base.trace_files} if base.trace_files else {}),
            **{key: sweep[key] for key in ("policies", "windows", "requests") if key in sweep},
        }


def _entry(kind: type[Entry], fields: Mapping[str, Any], where: str) -> Entry:
    """A mode or a point of a file, each field of its type."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    _refuse_others(fields, tuple(known), where)
    hints = typing.get_type_hints(kind)
    for name, field in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in fields:
            raise IrouterError(f"{where}: no `{name}`")
        if name in fields and name != "settings":
            check_value(name, fields[name], hints[name], where)
    return kind(**fields)


def _refuse_others(entry: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    listing = f"known are {', '.join(known)}"
    for key in entry:
        if key not in known:
            raise IrouterError(f"{where}: {unknown('key', key, known, listing)}")
