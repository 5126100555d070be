"""Fits of a profile, with the error on what the fit did not see."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from irouter import _core, profiles
from irouter._columns import numbers, whole_numbers
from irouter._core import IrouterError
from irouter._extras import require
from irouter._names import nearest
from irouter._tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

_STEP_COUNTS: Final = ("prefill_sequences", "prefill_tokens", "prefill_pairs", "decodes", "decode_context")
_REQUEST_TIMES: Final = ("arrival_s", "first_token_s", "last_token_s")
_REQUEST_COUNTS: Final = ("input_tokens", "output_tokens")


@dataclasses.dataclass(frozen=True, slots=True)
class Quantity:
    """A duration that was measured and that the fitted profile predicts, row by row of the log.

    Attributes:
        name: What it is.
        unit: Its unit.
        measured: As measured.
        predicted: As predicted.
        held_out: Which rows the fit did not see.
        held_out_error_percent: Mean absolute error on those.
    """

    name: str
    unit: str
    measured: NDArray[np.float64]
    predicted: NDArray[np.float64]
    held_out: NDArray[np.bool_]
    held_out_error_percent: float


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted profile and how well it fits.

    Attributes:
        profile: The profile.
        quantities: What was predicted.
        doubts: Why it is not to be trusted, a sentence each; empty where nothing is known against it.
    """

    profile: Mapping[str, Any]
    quantities: Sequence[Quantity]
    doubts: Sequence[str] = ()

    def write_profile(self, path: str | Path) -> None:
        """Writes the profile as JSON, for `profile="path.json"`."""
        Path(path).write_text(json.dumps(self.profile, indent=2) + "\n", encoding="utf-8")

    def write_html(self, path: str | Path) -> None:
        """Writes a page with predicted against measured durations that needs nothing else.

        Raises:
            IrouterError: Without the extra `[cli]`.
        """
        require("plotly", extra="cli", purpose="the plot of a calibration")
        from irouter.calibration import plot  # noqa: PLC0415 - needs the extra [cli]

        Path(path).write_text(plot.page(self), encoding="utf-8")


def calibrate_steps(
    log: str | Path, *, template: str | Path, name: str, form: str = "C", seed: int = 0
) -> Calibration:
    """Fits step times to a log of engine steps.

    Args:
        log: A Parquet, CSV or JSONL file with a row per step: `prefill_sequences`, `prefill_tokens`, `prefill_pairs`
            (sum over the chunks of chunk x (2 x past + chunk)), `decodes`, `decode_context` (sum of the contexts of
            the decoding sequences) and `duration_ms`.
        template: Profile that gives model, scheduler and KV cache: a shipped name or a `.json` file.
        name: Name of the fitted profile.
        form: `C` for curves, `A` for five coefficients.
        seed: Seed of the draw of the held-out quarter.

    Raises:
        IrouterError: Naming the file, the row and the field.
    """
    path = Path(log)
    frame = _read(path, (*_STEP_COUNTS, "duration_ms"))
    counts = {column: whole_numbers(frame[column], path.name, least=0) for column in _STEP_COUNTS}
    measured = numbers(frame["duration_ms"], path.name, least=0.0, expected="a number of milliseconds")
    fit = _core.fit_step_log(
        _template(template),
        name=name,
        data=_source(path, "steps"),
        form=form,
        seed=seed,
        duration_ms=measured,
        **counts,
    )
    error = fit["held_out_error_percent"]
    quantity = Quantity("step", "ms", measured, fit["predicted_ms"], fit["held_out"], error)
    return Calibration(json.loads(fit["profile"]), [quantity])


def calibrate_requests(log: str | Path, *, template: str | Path, name: str, seed: int = 0) -> Calibration:
    """Fits step times to a log of the requests of one instance, by replaying it.

    Args:
        log: A Parquet, CSV or JSONL file with a row per request in order of arrival: `arrival_s`, `input_tokens`,
            `output_tokens`, `first_token_s` and `last_token_s`, times in seconds on one clock.
        template: Profile that gives model, scheduler and KV cache: a shipped name or a `.json` file.
        name: Name of the fitted profile.
        seed: Seed of the draw of the held-out quarter.

    Raises:
        IrouterError: Naming the file, the row and the field.
    """
    path = Path(log)
    frame = _read(path, (*_REQUEST_TIMES, *_REQUEST_COUNTS))
    arrival, first, last = (
        numbers(frame[column], path.name, least=0.0, expected="a number of seconds, zero or more")
        for column in _REQUEST_TIMES
    )
    inputs, outputs = (whole_numbers(frame[column], path.name, least=1) for column in _REQUEST_COUNTS)
    return calibrate_times(
        arrival,
        inputs,
        outputs,
        first,
        last,
        template=_template(template),
        name=name,
        data=_source(path, "requests"),
        seed=seed,
    )


def calibrate_times(
    arrival_s: NDArray[np.float64],
    input_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    first_token_s: NDArray[np.float64],
    last_token_s: NDArray[np.float64],
    *,
    template: str,
    name: str,
    data: str,
    seed: int = 0,
) -> Calibration:
    """The same from columns.

    Args:
        arrival_s: When each request reached the instance, ascending; all times in seconds on one clock.
        input_tokens: Tokens of each prompt.
        output_tokens: Tokens that each produced.
        first_token_s: When its first token was out.
        last_token_s: When its last token was out.
        template: Profile that gives model, scheduler and KV cache, as JSON.
        name: Name of the fitted profile.
        data: What it says of where it comes from.
        seed: Seed of the draw of the held-out quarter.

    Raises:
        IrouterError: Naming the row and the field.
    """
    fit = _core.fit_request_log(
        template,
        name=name,
        data=data,
        arrival_s=arrival_s,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        first_token_s=first_token_s,
        last_token_s=last_token_s,
        seed=seed,
    )
    quantities = [
        Quantity(name, "s", measured - arrival_s, fit[predicted] - arrival_s, fit["held_out"], fit[error])
        for name, measured, predicted, error in (
            ("E2E", last_token_s, "predicted_last_s", "held_out_e2e_error_percent"),
            ("TTFT", first_token_s, "predicted_first_s", "held_out_ttft_error_percent"),
        )
    ]
    return Calibration(json.loads(fit["profile"]), quantities)


def _template(name: str | Path) -> str:
    return json.dumps(profiles.load(name))


def _source(path: Path, kind: str) -> str:
    return f"fitted to the {kind} of {path.name}"


def _read(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    frame = read_table(path, purpose="reading a log")
    for column in columns:
        if column not in frame.columns:
            others = [other for other in frame.columns if other not in columns]
            hint = nearest(column, others) or f"; expected {', '.join(columns)}"
            raise IrouterError(f"{path.name}: no column `{column}`{hint}")
    return frame
