"""The paper's experiments, run again beside what it prints."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from irouter import evaluation
from irouter._core import IrouterError
from irouter.training.paper_agents import file_of, found, label

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from irouter.evaluation import Comparison


EXAMPLE: Final = ("paper-main", "workload-guided")
"""A scenario and an agent that is trained for it."""


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

    @property
    def gains(self) -> dict[str, float]:
        """Printed gains of baselines and agents, by the names that reports have."""
        return {**self.printed, **{label(variant): gain for variant, gain in self.agents.items()}}


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
    agents: Path | None = None,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Reproduction:
    """Runs every experiment of the paper with its baselines and this project's untrained rules.

    Args:
        seeds: Seeds in place of each scenario's 20.
        agents: Folder with trained agents (`irouter train --agent`); each joins the set-up that it
            was trained for.
        threads: Threads to use; 0 is one per core.
        progress: Called as `progress(done, total)`, in thousandths of a set-up.

    Raises:
        IrouterError: When none of the set-ups has an agent in the folder.
    """
    content = tomllib.loads(resources.files(__package__).joinpath("paper.toml").read_text("utf-8"))
    setups = [Setup(**setup) for setup in content["setups"]]
    settings: dict[str, Any] = {} if seeds is None else {"seeds": seeds}
    trained = {setup.scenario: [] if agents is None else found(agents, setup.scenario) for setup in setups}
    if agents is not None and not any(trained.values()):
        raise IrouterError(f"no agent in {agents}: expected files such as {file_of(agents, *EXAMPLE).name}")
    experiments = []
    for index, setup in enumerate(setups):
        report = None if progress is None else _share(progress, index, len(setups))
        policies = [*content["policies"], *trained[setup.scenario]]
        comparison = evaluation.compare(
            setup.scenario, policies=policies, threads=threads, progress=report, **settings
        )
        experiments.append((setup, comparison))
    return Reproduction(content["title"], tuple(content["reading"]), tuple(experiments))


def _share(progress: Callable[[int, int], None], index: int, setups: int) -> Callable[[int, int], None]:
    """Progress of one of several set-ups of different size as progress of all."""
    return lambda done, total: progress(1000 * index + 1000 * done // total, 1000 * setups)
