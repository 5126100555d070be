"""An experiment: settings with every name resolved, as the simulator reads it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from irouter import _core, profiles, scenarios
from irouter._core import IrouterError
from irouter._names import unknown
from irouter.evaluation.settings import DEFAULTS, checked, conditions_of, layered
from irouter.evaluation.traces import Trace, read_trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ANY_TRACE: Final = "trace"
"""The scenario of a trace that comes without one."""

# What the simulator is not told: it serves the report only.
_REPORT_ONLY: Final = ("reference",)
_ROUTER_PROFILES: Final = ("exact", "fitted")


@dataclasses.dataclass(frozen=True, slots=True)
class Experiment:
    """What is to be run.

    Attributes:
        name: Name of the scenario, or of the trace that stands for one.
        settings: Every setting, resolved.
        trace: The trace, for an experiment that replays one.
        notes: What is unknown or was chosen, one per line.
    """

    name: str
    settings: Mapping[str, Any]
    trace: Trace | None
    notes: tuple[str, ...]

    @property
    def policies(self) -> list[str]:
        """Names of the policies, the reference among them."""
        return list(self.settings["policies"])

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

    def to_json(self) -> str:
        """The experiment as the simulator reads it."""
        content = {name: value for name, value in self.settings.items() if name not in _REPORT_ONLY}
        content["name"] = self.name
        content["profile"] = profiles.load(content["profile"])
        if content["router_profile"] not in _ROUTER_PROFILES:
            content["router_profile"] = profiles.load(content["router_profile"])
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
    merged["policies"] = _policies(merged.get("policies"), merged["reference"])
    read = read_trace(trace) if isinstance(trace, str | Path) else trace
    name = read.name if scenario is None and read is not None else loaded.name
    return Experiment(name=name, settings=merged, trace=read, notes=loaded.notes)


def _policies(chosen: Sequence[str] | None, reference: str) -> list[str]:
    """The chosen policies without repetition, the reference first where it is not among them."""
    known = [name for name, _ in _core.policies()]
    chosen = known if chosen is None else list(dict.fromkeys(chosen))
    if not chosen:
        raise IrouterError("no policies: expected at least one name")
    for name in (*chosen, reference):
        if name not in known:
            raise unknown("policy", name, known, "`irouter policies` lists them")
    return list(chosen) if reference in chosen else [reference, *chosen]
