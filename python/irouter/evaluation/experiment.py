"""An experiment: settings with every name resolved, as the simulator reads it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from irouter import profiles, scenarios
from irouter._core import IrouterError
from irouter.evaluation.policies import PolicyChoice, PolicyFunction, choose
from irouter.evaluation.settings import DEFAULTS, checked, conditions_of, layered
from irouter.evaluation.traces import Trace, read_trace

if TYPE_CHECKING:
    from collections.abc import Mapping

ANY_TRACE: Final = "trace"
"""The scenario of a trace that comes without one."""

# What the simulator is told in another way, or not at all.
_NOT_PASSED_ON: Final = ("policies", "reference", "sweep")
_ROUTER_PROFILES: Final = ("exact", "fitted")
# Predictors that are read from files, by the beginning of their names.
_CONFUSION: Final = "confusion:"
_MODEL: Final = "model:"


@dataclasses.dataclass(frozen=True, slots=True)
class Experiment:
    """What is to be run.

    Attributes:
        name: Name of the scenario, or of the trace that stands for one.
        settings: Every setting, resolved.
        policies: The policies, the reference among them.
        trace: The trace, for an experiment that replays one.
        notes: What is unknown or was chosen, one per line.
    """

    name: str
    settings: Mapping[str, Any]
    policies: tuple[PolicyChoice, ...]
    trace: Trace | None
    notes: tuple[str, ...]

    @property
    def functions(self) -> dict[str, PolicyFunction]:
        """Policies of the caller's own, by name."""
        return {choice.name: choice.function for choice in self.policies if choice.function is not None}

    @property
    def reference(self) -> str:
        """The policy that ratios are against."""
        return str(self.settings["reference"])

    @property
    def conditions(self) -> str:
        """Name of the conditions."""
        return conditions_of(self.settings)

    def at_load(self, load: float) -> Experiment:
        """The same at another load."""
        settings = layered(self.settings, checked({"load": load}, "sweep"))
        return dataclasses.replace(self, settings=settings)

    def to_json(self, *, only_seeds: range | None = None) -> str:
        """The experiment as the simulator reads it: all of it, or the part of it that some of its seeds are."""
        content = {name: value for name, value in self.settings.items() if name not in _NOT_PASSED_ON}
        content["name"] = self.name
        if only_seeds is not None:
            content["only_seeds"] = {"start": only_seeds.start, "end": only_seeds.stop}
        content["policies"] = [choice.to_data() for choice in self.policies]
        content["profile"] = profiles.load(content["profile"])
        content["profile"]["scheduler"] |= content.pop("scheduler", {})
        if content["router_profile"] not in _ROUTER_PROFILES:
            content["router_profile"] = profiles.load(content["router_profile"])
        if content["predictor"].startswith(_CONFUSION):
            content["confusion"] = read_confusion(Path(content["predictor"].removeprefix(_CONFUSION)))
        return json.dumps(content, sort_keys=True, allow_nan=False)


def resolve(
    scenario: str | Path | None, trace: str | Path | Trace | None, settings: Mapping[str, Any]
) -> Experiment:
    """Puts scenario, trace and settings together.

    Args:
        scenario: Name or `.toml` file of a scenario; `trace` when only a trace is given.
        trace: The trace, or its file.
        settings: What the caller sets, in force over the scenario.

    Raises:
        IrouterError: Naming the bad value.
    """
    if scenario is None and trace is None:
        shipped = ", ".join(scenarios.names())
        raise IrouterError(f"nothing to compare on: name a scenario ({shipped}) or give a trace")
    loaded = scenarios.load(ANY_TRACE if scenario is None else scenario)
    if trace is None and loaded.replays:
        source = f": {loaded.trace_source}" if loaded.trace_source else ""
        raise IrouterError(f"the scenario `{loaded.name}` replays a trace: give its file{source}")
    if trace is not None and not loaded.replays:
        raise IrouterError(f"the scenario `{loaded.name}` generates its requests, it takes no trace")
    merged = layered(DEFAULTS, loaded.settings, checked(settings, "settings"))
    if merged.get("clients") is not None and merged.get("sweep"):
        raise IrouterError(
            "`sweep` is over arrival rates: expected none with `clients`, who wait for answers"
        )
    policies = choose(merged.get("policies"), merged["reference"])
    read = read_trace(trace) if isinstance(trace, str | Path) else trace
    if merged["predictor"].startswith(_MODEL):
        if read is None:
            raise IrouterError(
                f"predictor {merged['predictor']}: the scenario `{loaded.name}` has no texts, expected a trace that has"
            )
        read = read.with_predictions(merged["predictor"].removeprefix(_MODEL))
    name = read.name if scenario is None and read is not None else loaded.name
    return Experiment(name=name, settings=merged, policies=tuple(policies), trace=read, notes=loaded.notes)


def read_confusion(path: Path) -> dict[str, Any]:
    """A measured confusion matrix: `edges` and `counts`.

    Args:
        path: Folder of a predictor, or a JSON file that has the matrix at its top or as `confusion`, such as
            `irouter predictor eval --json` writes.

    Raises:
        IrouterError: For a file without a matrix.
    """
    file = path / "card.json" if path.is_dir() else path
    if not file.is_file():
        raise IrouterError(f"predictor {_CONFUSION}{path}: no file {file}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        matrix = content.get("confusion", content)
        return {"edges": list(matrix["edges"]), "counts": [list(row) for row in matrix["counts"]]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IrouterError(
            f"{file}: {type(error).__name__}: {error}; "
            "expected `edges` and `counts` of a confusion matrix, or both in `confusion`"
        ) from error
