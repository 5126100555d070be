"""Suites: versioned lists of points at which policies are measured."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from irouter._names import unknown
from irouter.evaluation.settings import Settings

Kind = Literal["compare", "capacity"]
"""What is measured at a point: latencies at one load, or the highest load at which the SLO is met."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """How much of a suite is run.

    Attributes:
        windows: Windows of each point, unless the point has fewer.
        requests: Arrivals of each window, warm-up included, unless the point has fewer.
        capacity_windows: The same of searches for a capacity.
        probes: Loads that such a search tries on each window.
        limited: Whether the suite's limits on slow policies hold.
    """

    windows: int
    requests: int
    capacity_windows: int
    probes: int
    limited: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement of every policy.

    Attributes:
        name: Name of the point, unique in its suite.
        title: What it is, in a few words.
        scenario: Scenario that it runs.
        scenario_class: Class of scenarios under which the leaderboard counts it; empty for a point of a sweep.
        sweep: The sweep that it belongs to; empty for a point of the leaderboard.
        base: The point that a point of a sweep varies.
        kind: What is measured.
        settings: What differs from the scenario.
        policies: Policies that run; every one when empty.
        queued: Whether immediate policies run behind a central queue as well.
        windows: Most windows; `None` for as many as the mode has.
        requests: Most arrivals of a window; `None` for as many as the mode has.
        trace_files: Names, without suffix, that the file of its trace may have.
        trace_from_s: Arrivals of the trace before this time are left out.
    """

    name: str
    title: str
    scenario: str
    scenario_class: str = ""
    sweep: str = ""
    base: str = ""
    kind: Kind = "compare"
    settings: Settings = dataclasses.field(default_factory=Settings)
    policies: tuple[str, ...] = ()
    queued: bool = False
    windows: int | None = None
    requests: int | None = None
    trace_files: tuple[str, ...] = ()
    trace_from_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A versioned list of points.

    Attributes:
        name: Name and version, such as `v1`.
        description: What it is, in one line.
        reference: The policy that ratios are against.
        modes: How much may be run, by name.
        limits: Most windows of slow policies, by name, in modes that are limited.
        points: The points, in the order of reports.
    """

    name: str
    description: str
    reference: str
    modes: Mapping[str, Mode]
    limits: Mapping[str, int]
    points: tuple[Point, ...]

    def mode(self, name: str) -> Mode:
        """The mode of that name.

        Raises:
            IrouterError: For an unknown name.
        """
        if name not in self.modes:
            raise unknown("mode", name, self.modes, f"the suite `{self.name}` has {', '.join(self.modes)}")
        return self.modes[name]

    def select(self, points: Sequence[str] | None) -> tuple[Point, ...]:
        """The points of these names (a sweep's name stands for all of its points); every point without names.

        Raises:
            IrouterError: For an unknown name.
        """
        if points is None:
            return self.points
        known = list(
            dict.fromkeys(name for point in self.points for name in (point.sweep, point.name) if name)
        )
        for name in points:
            if name not in known:
                raise unknown("point", name, known, f"the suite `{self.name}` has {', '.join(known)}")
        return tuple(point for point in self.points if {point.name, point.sweep} & set(points))
