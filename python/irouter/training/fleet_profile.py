"""The latency profile of a fleet, fitted to what its log measured."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter import profiles
from irouter._core import IrouterError
from irouter.calibration import calibrate_times
from irouter.evaluation.settings import DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from irouter.evaluation.traces import Trace
    from irouter.training.fleet_log import FleetLog

TRUSTED_PERCENT: Final = 20.0
"""Held-out error of E2E up to which a fitted profile is trusted."""

# Each of the fit's many replays runs them all.
_MOST_REQUESTS: Final = 1500
_FEWEST_REQUESTS: Final = 50


@dataclasses.dataclass(frozen=True, slots=True)
class FleetProfile:
    """What the instances of a fleet are taken for.

    Attributes:
        profile: The profile.
        held_out_error_percent: Mean absolute error of E2E and of TTFT, by name, on requests that the fit did not see;
            empty where nothing was fitted.
        requests: Requests of one instance that were fitted or held out.
        notes: What was taken for granted, and warnings, a sentence each.
    """

    profile: Mapping[str, Any]
    held_out_error_percent: Mapping[str, float]
    requests: int
    notes: tuple[str, ...]


def fleet_profile(
    log: FleetLog, earlier: Trace, template: str | Path | None, instances: int, seed: int
) -> FleetProfile:
    """The profile of the fleet: fitted where the log has times, else the template as it is.

    Args:
        log: The log.
        earlier: The part of its requests to fit to.
        template: Profile that gives model, scheduler and KV cache, and step times where none were measured; that of
            the log's router without it.
        instances: How many instances served.
        seed: Seed of the draw of the held-out quarter.

    Raises:
        IrouterError: Where step times are neither measured nor given.
    """
    notes: list[str] = []
    if template is not None:
        base = profiles.load(template)
    elif log.profile is not None:
        base = json.loads(log.profile)
    elif earlier.e2e_s is None:
        raise IrouterError(
            f"the log `{earlier.name}` has no `ttft_seconds` and `e2e_seconds` of its requests to fit a profile to, "
            "expected --profile"
        )
    else:
        name = str(DEFAULTS["profile"])
        base = profiles.load(name)
        notes.append(f"Scheduler limits and KV cache are those of `{name}`: give your own with --profile.")
    if earlier.e2e_s is None or earlier.ttft_s is None:
        notes.append(f"Step times are those of `{base['name']}`: the log has none to fit.")
        return FleetProfile(base, {}, 0, tuple(notes))
    first_s, last_s = earlier.arrival_s + earlier.ttft_s, earlier.arrival_s + earlier.e2e_s
    return _fitted(
        earlier, first_s=first_s, last_s=last_s, base=base, instances=instances, seed=seed, notes=notes
    )


def _fitted(
    earlier: Trace,
    *,
    first_s: NDArray[np.float64],
    last_s: NDArray[np.float64],
    base: Mapping[str, Any],
    instances: int,
    seed: int,
    notes: list[str],
) -> FleetProfile:
    if earlier.instance is not None:
        of_one = np.flatnonzero(earlier.instance == np.bincount(earlier.instance).argmax())
    else:
        of_one = np.arange(0, len(earlier), instances)
        if instances > 1:
            notes.append("The log does not say which instance served: step times are fitted as if in turn.")
    sent_s = earlier.arrival_s if earlier.held_s is None else earlier.arrival_s + earlier.held_s
    possible = (sent_s < first_s) & (first_s <= last_s)
    rows = of_one[possible[of_one]]
    if len(of_one) > len(rows):
        notes.append(f"{len(of_one) - len(rows)} requests have times that cannot be, and were not fitted to.")
    rows = rows[np.argsort(sent_s[rows], kind="stable")][:_MOST_REQUESTS]
    if len(rows) < _FEWEST_REQUESTS:
        notes.append(
            f"Step times are those of `{base['name']}`: "
            f"{len(rows)} requests of one instance are too few to fit to, expected at least {_FEWEST_REQUESTS}."
        )
        return FleetProfile(base, {}, len(rows), tuple(notes))
    start_s = sent_s[rows[0]]
    fit = calibrate_times(
        sent_s[rows] - start_s,
        earlier.input_tokens[rows],
        earlier.output_tokens[rows],
        first_s[rows] - start_s,
        last_s[rows] - start_s,
        template=json.dumps(base),
        name=f"{base['name']} as in {earlier.name}",
        data=f"fitted to requests of {earlier.name}",
        seed=seed,
    )
    errors = {quantity.name: quantity.held_out_error_percent for quantity in fit.quantities}
    if errors["E2E"] > TRUSTED_PERCENT:
        notes.append(
            f"The fitted profile is not to be trusted: its E2E is {errors['E2E']:.0f} % off on requests that the fit "
            f"did not see, expected at most {TRUSTED_PERCENT:.0f} %."
        )
    return FleetProfile(fit.profile, errors, len(rows), tuple(notes))
