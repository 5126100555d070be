"""The paper's experiments, run again beside what it prints."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from importlib import resources
from typing import TYPE_CHECKING, Any

from irouter import evaluation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from irouter.evaluation import Comparison


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """One experiment of the paper.

    Attributes:
        title: What it is.
        scenario: The shipped scenario that stands for it, with its unknowns as notes.
        printed: Printed gains of its baselines over round robin in percent, by policy.
        agents: Printed gains of its trained agents.
        seconds: What it prints, or implies, as round robin's time.
    """

    title: str
    scenario: str
    printed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    agents: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Reproduction:
    """The paper's experiments as they come out here.

    Attributes:
        title: What was reproduced.
        reading: What the figures say.
        experiments: Each set-up with its comparison.
    """

    title: str
    reading: tuple[str, ...]
    experiments: tuple[tuple[Setup, Comparison], ...]

    def to_json(self) -> str:
        """Every figure as canonical JSON: the same run gives the same bytes."""
        setups = [
            {**dataclasses.asdict(setup), **comparison.report()} for setup, comparison in self.experiments
        ]
        content = {"title": self.title, "setups": setups}
        return json.dumps(content, sort_keys=True, indent=2, allow_nan=False) + "\n"


def paper(
    *,
    seeds: int | None = None,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Reproduction:
    """Runs every experiment of the paper with its baselines and this project's untrained rules.

    Args:
        seeds: Seeds in place of each scenario's 20.
        threads: Threads to use; 0 is one per core.
        progress: Called as `progress(done, total)`, in thousandths of a set-up.
    """
    content = tomllib.loads(resources.files(__package__).joinpath("paper.toml").read_text("utf-8"))
    setups = [Setup(**setup) for setup in content["setups"]]
    settings: dict[str, Any] = {"policies": content["policies"]}
    if seeds is not None:
        settings["seeds"] = seeds
    experiments = []
    for index, setup in enumerate(setups):
        report = None if progress is None else _share(progress, index, len(setups))
        comparison = evaluation.compare(setup.scenario, threads=threads, progress=report, **settings)
        experiments.append((setup, comparison))
    return Reproduction(content["title"], tuple(content["reading"]), tuple(experiments))


def _share(progress: Callable[[int, int], None], index: int, setups: int) -> Callable[[int, int], None]:
    """Progress of one of several set-ups of different size as progress of all."""
    return lambda done, total: progress(1000 * index + 1000 * done // total, 1000 * setups)
