"""A reproduction in words and tables, for Markdown and HTML alike."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from irouter.evaluation.presentation import ordered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from irouter.evaluation import Comparison, Point
    from irouter.reproduction.paper import Setup

READINGS: Final = (("makespan_s", "makespan"), ("e2e_mean_s", "mean E2E"), ("e2e_p99_s", "P99 E2E"))
"""Figures that a gain is shown in: both readings of the paper's "end-to-end latency", and the tail."""

HEADINGS: Final = ("policy", *(f"{title}, %" for _, title in READINGS), "preemptions", "printed, %")

INTRODUCTION: Final = (
    "A gain is 100 (1 - ratio to round robin) percent with its 95 % interval over paired seeds; above zero is better. "
    'What the paper calls "end-to-end latency" is the makespan of the batch or the mean per request: a reading, so '
    "both stand here, with the tail beside them. No policy but the oracle `decode_balancer` "
    "sees a true length."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A policy in a table: its gains with intervals, preemptions, and what the paper prints."""

    policy: str
    gains: tuple[tuple[float, ...], ...]
    preemptions: int
    printed: float | None

    def cells(self) -> list[str]:
        """The cells after the name."""
        printed = "" if self.printed is None else f"{self.printed:.2f}"
        return [*map(_interval, self.gains), f"{self.preemptions:,}", printed]


def points(setup: Setup, comparison: Comparison) -> Iterator[tuple[str, Point, Mapping[str, float]]]:
    """Title, figures and printed gains of the set-up at each of its loads; what is printed belongs to the first."""
    printed: Mapping[str, float] = setup.gains
    for point in (comparison.main, *comparison.sweep):
        load = point.results["workload"]["load"]
        yield setup.title if point is comparison.main else f"{setup.title}, load {load:.2f}", point, printed
        printed = {}


def situation(setup: Setup, comparison: Comparison, point: Point) -> str:
    """Load, predictor and the seconds of the reference."""
    workload, reference = point.results["workload"], point.figures[comparison.experiment.reference]
    settings = comparison.experiment.settings
    seconds = [reference[key] for key in ("makespan_s", "e2e_mean_s", "e2e_p99_s")]
    text = (
        f"{settings['instances']} x {settings['profile']}, {workload['rate']:.1f} requests/s, "
        f"{workload['load']:.2f} times saturation, {settings['seeds']} seeds, predictor {settings['predictor']}. "
        "Round robin: makespan {:.1f} s, mean E2E {:.1f} s, P99 {:.1f} s".format(*seconds)
    )
    printed = f"; the paper: {setup.seconds}" if setup.seconds and point is comparison.main else ""
    return f"{text}{printed}."


def agents(setup: Setup) -> str:
    """What the paper prints for its trained agents."""
    gains = ", ".join(f"{name} {gain:.2f} %" for name, gain in setup.agents.items())
    return f"Printed for its trained agents: {gains}." if gains else ""


def rows(point: Point, printed: Mapping[str, float]) -> list[Row]:
    """The policies, the lowest mean first."""
    return [
        Row(
            policy=name,
            gains=tuple(_gain(figures["ratio"][key]) for key, _ in READINGS),
            preemptions=figures["preemptions"],
            printed=printed.get(name),
        )
        for name, figures in ordered(point.figures).items()
    ]


def _gain(ratio: list[Any]) -> tuple[float, ...]:
    """A gain in percent, with its interval where there is one, from a ratio."""
    value, low, high = ratio
    ends = () if low is None else (100.0 * (1.0 - high), 100.0 * (1.0 - low))
    return (100.0 * (1.0 - value), *ends)


def _interval(gain: tuple[float, ...]) -> str:
    value, *ends = (f"{part + 0.0:.1f}".replace("-0.0", "0.0") for part in gain)
    return f"{value} [{', '.join(ends)}]" if ends else value
