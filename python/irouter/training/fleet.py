"""A fleet in the simulator: windows of its log's earlier part to train on, and of its later part to judge by."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import LengthHistory
from irouter.evaluation.experiment import resolve
from irouter.evaluation.objective import REFERENCE
from irouter.evaluation.parts import run_experiments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irouter.evaluation.experiment import Experiment
    from irouter.evaluation.traces import Trace

EARLIER_SHARE: Final = 0.7
"""Share of the log's time that is trained on."""

TRAINING_WINDOWS: Final = 4
"""Windows at each load in a generation."""

VALIDATION_WINDOWS: Final = 20
"""Windows at each load of the later part."""

HISTORY: Final = "history"
"""The lengths that a router learns from finished requests of the same application and prompt size."""

LOGGED: Final = "logged"
"""The lengths that the log's own predictor said."""

_WINDOW_S: Final = 120.0
_FEWEST_REQUESTS: Final = 200
_MOST_REQUESTS: Final = 4000
_NOISE: Final = {"step_noise": 0.08, "instance_noise": 0.05}
# So many requests are predicted before any of them counts as finished.
_IN_FLIGHT: Final = 100
_MODEL: Final = "model:"


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """What is trained and judged on.

    Attributes:
        earlier: Workloads of the earlier part, one for each load, their windows numbered by seeds.
        later: The same of the later part.
        split_s: Seconds from the first arrival at which the parts meet.
        predictor: Where predicted lengths come from.
    """

    earlier: tuple[Experiment, ...]
    later: tuple[Experiment, ...]
    split_s: float
    predictor: str

    def training(self, generation: int) -> list[Experiment]:
        """Windows of a generation, others than those of the generations around it."""
        seeds = {"first_seed": generation * TRAINING_WINDOWS, "seeds": TRAINING_WINDOWS}
        return [_with(point, seeds) for point in self.earlier]

    def validation(self) -> list[Experiment]:
        """The windows to judge by."""
        return [_with(point, {"first_seed": 0, "seeds": VALIDATION_WINDOWS}) for point in self.later]


def parts_of(trace: Trace) -> tuple[Trace, Trace, float]:
    """The earlier and the later part of a trace, and the seconds at which they meet.

    Raises:
        IrouterError: Where one of them is empty.
    """
    split_s = float(trace.arrival_s[0] + EARLIER_SHARE * (trace.arrival_s[-1] - trace.arrival_s[0]))
    return trace.until(split_s), trace.since(split_s), split_s


def fleet(
    trace: Trace,
    *,
    profile: Path,
    instances: int,
    predictor: str | None,
    loads: Sequence[float] | None,
    settings: Mapping[str, Any],
    threads: int = 0,
) -> Fleet:
    """Puts a log's requests on a cluster.

    Args:
        trace: The requests.
        profile: Profile of the instances.
        instances: How many there are.
        predictor: Where predicted lengths come from: a name that `irouter compare` knows. Without it, `logged` where
            the log has what its predictor said of every request, else `history`.
        loads: Shares of saturation; as logged without.
        settings: Other settings of the experiments.
        threads: Threads of this machine; 0 is one per core.

    Raises:
        IrouterError: For a log too short to be parted, or naming a bad value.
    """
    predictor = predictor or (HISTORY if trace.predicted_quantiles is None else LOGGED)
    if predictor == HISTORY:
        trace = dataclasses.replace(trace, predicted_quantiles=_learned(trace))
    earlier, later, split_s = parts_of(trace)
    cluster = {
        **_NOISE,
        **settings,
        "profile": str(profile),
        "instances": instances,
        "drop_too_long": True,
        "policies": [REFERENCE],
        "reference": REFERENCE,
    }

    def at_loads(part: Trace) -> tuple[Experiment, ...]:
        return tuple(_workload(part, cluster, predictor, load, threads) for load in loads or (None,))

    return Fleet(at_loads(earlier), at_loads(later), split_s, predictor)


def _workload(
    part: Trace, cluster: Mapping[str, Any], predictor: str, load: float | None, threads: int
) -> Experiment:
    """The part at a load, in windows of two minutes."""
    is_known = predictor in {HISTORY, LOGGED}
    base = resolve(None, part, {**cluster, "predictor": "none" if is_known else predictor})
    if is_known:
        # The trace has them, as a model's that has read it.
        base = _with(base, {"predictor": f"{_MODEL}{predictor}"})
    point = base if load is None else base.at_load(load)
    (found,) = run_experiments([_with(point, {"requests": 1, "seeds": 1})], threads=threads)
    workload = found["workload"]
    most = min(_MOST_REQUESTS, len(part) * int(workload["copies"] or 1))
    requests = int(np.clip(workload["rate"] * _WINDOW_S, min(_FEWEST_REQUESTS, most), most))
    return _with(point, {"requests": requests})


def _with(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    return dataclasses.replace(experiment, settings={**experiment.settings, **settings})


def _learned(trace: Trace) -> NDArray[np.float64]:
    """What a history that goes through the log says of each request, `[request, level]`.

    A request is told of when a hundred more have arrived, so that none is known before it has ended.
    """
    history = LengthHistory()
    applications = np.zeros(len(trace), np.int64) if trace.application is None else trace.application
    said = []
    for first in range(0, len(trace), _IN_FLIGHT):
        rows = slice(first, first + _IN_FLIGHT)
        said.append(history.predict(applications[rows], trace.input_tokens[rows]))
        before = slice(max(0, first - _IN_FLIGHT), first)
        for application, prompt, output in zip(
            applications[before], trace.input_tokens[before], trace.output_tokens[before], strict=True
        ):
            history.observe(int(application), int(prompt), int(output))
    return np.concatenate(said)
