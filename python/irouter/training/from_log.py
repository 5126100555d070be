"""Training of `guided` for one fleet, from its own log of requests."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any, Final

from irouter import _core
from irouter._core import IrouterError
from irouter.evaluation.objective import REFERENCE, Objective
from irouter.evaluation.policies import PolicyChoice
from irouter.training import weights
from irouter.training.fleet import fleet, parts_of
from irouter.training.fleet_log import read_fleet_log
from irouter.training.fleet_profile import fleet_profile
from irouter.training.journal import Journal
from irouter.training.search import Search
from irouter.training.validation import HAND_RULES, Validation, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from irouter.evaluation.executors import Executor
    from irouter.evaluation.objective import Goal
    from irouter.training.fleet import Fleet
    from irouter.training.fleet_log import FleetLog
    from irouter.training.fleet_profile import FleetProfile

MINUTES: Final = 10.0
"""Budget without one."""

CANDIDATE: Final = "guided(trained)"
"""What a verdict calls the weights that were found."""

SHIPPED: Final = "guided"
"""And those of the package."""


@dataclasses.dataclass(frozen=True, slots=True)
class FleetTraining:
    """What training from a log came to.

    Attributes:
        tensors: The weights found, whether or not they are better.
        header: What the header of their file says.
        verdict: How they do on the later part of the log.
        log: The log.
        profile: What the instances are taken for.
        fleet: The workloads.
        notes: What was taken for granted, and warnings, a sentence each.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    header: Mapping[str, Any]
    verdict: Verdict
    log: FleetLog
    profile: FleetProfile
    fleet: Fleet
    notes: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """Every figure as plain data."""
        return {**self.header, "notes": list(self.notes)}


def train_from_log(
    log: Path,
    out: Path,
    *,
    profile: str | Path | None = None,
    instances: int | None = None,
    predictor: str | None = None,
    loads: Sequence[float] | None = None,
    goal: Goal = "e2e",
    tail_limit: float = 1.0,
    miss_weight: float = 0.0,
    start_weight: float = 0.0,
    loss_weight: float = 0.0,
    slo: Mapping[str, float] | None = None,
    minutes: float | None = None,
    generations: int | None = None,
    seed: int = 0,
    drop_empty: bool = False,
    threads: int = 0,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FleetTraining:
    """Trains weights of `guided` for the fleet that a log is of, and judges them on its later part.

    The weights that ship with the package are where the search starts; it trains on the first 70 % of the log's time.
    On the rest the result meets the shipped weights, the best rules by hand, and the weights in `out` where there are
    any. They are written to `out` only where they are better than all of these: than what they replace (the weights in
    `out`, else those of the package) by more than chance, than the others on the mean.

    Beside `out` come the profile (`.profile.json`), the report (`.report.json`) and, while the search goes on, its
    record (`.jsonl`), from which the same call goes on when it was interrupted.

    Args:
        log: A router's decision log, or a CSV, Parquet or JSONL file
            (:func:`irouter.training.fleet_log.read_fleet_log`).
        out: File of weights.
        profile: Profile of the instances: scheduler limits and KV cache, and step times where the log has no latencies
            to fit them to. Needed unless the log has latencies or is a decision log.
        instances: How many instances there are; needed where the log does not say.
        predictor: Where predicted lengths come from, as in `irouter compare`. Without it what the log's predictor said,
            else the history of the log by application and prompt size.
        loads: Shares of saturation to train and judge at; as logged without.
        goal: The figure.
        tail_limit: Ratio of the tail up to which it costs nothing.
        miss_weight: What the requests that miss the SLO count beside the goal.
        start_weight: What P99 TTFT counts beside the goal.
        loss_weight: What a figure above round robin's counts more.
        slo: What goodput counts, `ttft_s` and `tpot_s` in seconds.
        minutes: Budget in minutes, all of it together; 10 unless there are `generations`.
        generations: The most generations of the search, 16 candidates each.
        seed: Seed of the search.
        drop_empty: Leave out rows of a table without input or output.
        threads: Threads of this machine; 0 is one per core. The result does not depend on it.
        executor: Where to run in place of threads of this machine. The result does not depend on it.
        progress: Called as `progress(generations done, generations)`.

    Raises:
        IrouterError: Naming the bad value.
        MissingExtraError: Without the extra `[train]`.
    """
    began = time.monotonic()
    objective = Objective(goal, tail_limit, miss_weight, start_weight, loss_weight)
    replaced = _replaced(out)
    fleet_log = read_fleet_log(log, drop_empty=drop_empty)
    count = instances or fleet_log.instances
    if count is None:
        raise IrouterError(
            f"the log `{log.name}` does not say how many instances there are, expected --instances"
        )
    earlier, _, _ = parts_of(fleet_log.trace)
    found_profile = fleet_profile(fleet_log, earlier, profile, count, seed)
    profile_file = out.with_suffix(".profile.json")
    profile_file.write_text(json.dumps(found_profile.profile, indent=2) + "\n", encoding="utf-8")
    workloads = fleet(
        fleet_log.trace,
        profile=profile_file,
        instances=count,
        predictor=predictor,
        loads=loads,
        settings={} if slo is None else {"slo": dict(slo)},
        threads=threads,
    )
    # The rivals first: what that takes says what is to be left for judging the candidate.
    validation = Validation(workloads.validation(), objective, threads=threads, executor=executor)
    validation.run([PolicyChoice(REFERENCE)])
    before = time.monotonic()
    validation.run([PolicyChoice(SHIPPED)])
    for_one_s = time.monotonic() - before
    others = [PolicyChoice(rule) for rule in HAND_RULES]
    validation.run(others if replaced is None else [*others, replaced])
    if minutes is None and generations is None:
        minutes = MINUTES
    left = None if minutes is None else minutes - (time.monotonic() - began + 2.0 * for_one_s) / 60.0
    first = weights.shipped()
    facts = {
        "goal": goal,
        "tail_limit": tail_limit,
        "miss_weight": miss_weight,
        "start_weight": start_weight,
        "loss_weight": loss_weight,
        "log": log.name,
        "log_sha256": hashlib.sha256(log.read_bytes()).hexdigest(),
        "profile": found_profile.profile,
        "instances": count,
        "predictor": workloads.predictor,
        "loads": list(loads) if loads is not None else None,
        "slo": dict(slo) if slo is not None else None,
        "start": weights.digest(first),
        "seed": seed,
    }
    search = Search(
        objective=objective,
        points=workloads.training,
        seed=seed,
        threads=threads,
        executor=executor,
    )
    record = out.with_suffix(".jsonl")
    journal = Journal(record, facts)
    tensors, curve = search.run(first, journal, generations=generations, minutes=left, progress=progress)
    validation.run([PolicyChoice("guided", {"weights": weights.to_option(tensors)}, as_label=CANDIDATE)])
    verdict = validation.verdict(CANDIDATE, SHIPPED if replaced is None else replaced.label)
    header = {
        **facts,
        "log_requests": len(fleet_log.trace),
        "log_requests_left_out": fleet_log.left_out,
        "trained_on_first_s": round(workloads.split_s - float(fleet_log.trace.arrival_s[0]), 3),
        "profile_held_out_error_percent": dict(found_profile.held_out_error_percent),
        "generations": len(curve),
        "requests": search.requests,
        "curve": [round(value, 4) for value in curve],
        "validation": verdict.to_data(),
    }
    result = FleetTraining(
        tensors,
        header,
        verdict,
        fleet_log,
        found_profile,
        workloads,
        _notes(fleet_log, found_profile, verdict),
    )
    report = json.dumps(result.report(), indent=2, sort_keys=True) + "\n"
    out.with_suffix(".report.json").write_text(report, encoding="utf-8")
    if verdict.accepted:
        out.write_bytes(weights.to_bytes(tensors, header))
    # A later log gets a search of its own.
    record.unlink()
    return result


def _replaced(out: Path) -> PolicyChoice | None:
    """The weights that are in the file, if there is one.

    Raises:
        IrouterError: Where they cannot be compared with, such as weights for other features.
    """
    if not out.exists():
        return None
    content = base64.b64encode(out.read_bytes()).decode()
    choice = PolicyChoice("guided", {"weights": content}, as_label=out.name)
    try:
        _core.Router([], choice.to_spec())
    except IrouterError as error:
        raise IrouterError(f"{out} cannot be compared with: {error}; expected weights of `guided`") from error
    return choice


def _notes(log: FleetLog, profile: FleetProfile, verdict: Verdict) -> tuple[str, ...]:
    notes = list(profile.notes)
    if log.left_out:
        notes.append(f"{log.left_out} requests without an end, or without tokens, are left out.")
    if not verdict.disjoint:
        notes.append(
            "Windows of the later part share requests: intervals cover the alignment of arrivals only."
        )
    return tuple(notes)
