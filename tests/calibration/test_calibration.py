"""Calibration: a profile is found again in a log of what it does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import irouter
from irouter import IrouterError, Profile, profiles
from irouter.calibration import calibrate_requests, calibrate_steps
from irouter.cli import main

TEMPLATE = "llama-2-7b@v100-paper"


def step_log(path: Path, *, steps: int = 900) -> Path:
    """Steps of the paper's engine, which prefills and decodes apart."""
    generator = np.random.default_rng(1)
    profile = Profile(json.dumps(profiles.load(TEMPLATE)))
    rows: list[dict[str, Any]] = []
    for index in range(steps):
        if index % 2:
            tokens = int(generator.integers(16, 4000))
            shape = {"prefill_sequences": 1, "prefill_tokens": tokens, "prefill_pairs": tokens * tokens}
            shape |= {"decodes": 0, "decode_context": 0}
        else:
            decodes = int(generator.integers(1, 128))
            shape = {"prefill_sequences": 0, "prefill_tokens": 0, "prefill_pairs": 0}
            shape |= {"decodes": decodes, "decode_context": decodes * int(generator.integers(10, 1000))}
        rows.append({**shape, "duration_ms": profile.step_ms(**shape)})
    pl.DataFrame(rows).write_parquet(path)
    return path


def request_log(path: Path) -> Path:
    """Requests of one instance of the paper's engine."""
    # Without a way from the router, a request arrives at the engine when it arrives.
    run = irouter.simulate(
        "paper-main-card", policy="round_robin", instances=1, rate=1.5, requests=150, dispatch_delay_s=0.0
    )
    columns = ["arrival_s", "input_tokens", "output_tokens", "first_token_s", "finished_s"]
    run.to_polars().select(columns).rename({"finished_s": "last_token_s"}).write_csv(path)
    return path


@pytest.mark.parametrize("form", ["A", "C"])
def test_the_steps_of_a_profile_are_found_again(tmp_path: Path, form: str) -> None:
    fitted = calibrate_steps(step_log(tmp_path / "steps.parquet"), template=TEMPLATE, name="mine", form=form)
    (steps,) = fitted.quantities
    assert steps.held_out_error_percent < 0.5
    assert 0.15 < steps.held_out.mean() < 0.35
    np.testing.assert_allclose(steps.predicted, steps.measured, rtol=0.05)
    assert fitted.profile["step_time"]["form"]["kind"] == form
    assert fitted.profile["source"]["data"] == "fitted to the steps of steps.parquet"


def test_the_requests_of_a_profile_are_found_again(tmp_path: Path) -> None:
    fitted = calibrate_requests(request_log(tmp_path / "requests.csv"), template=TEMPLATE, name="mine")
    e2e, ttft = fitted.quantities
    assert e2e.held_out_error_percent < 3.0
    assert ttft.held_out_error_percent < 20.0
    assert len(e2e.measured) == len(e2e.predicted) == len(e2e.held_out) >= 150


def test_the_command_writes_a_profile_that_runs_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = step_log(tmp_path / "steps.parquet")
    with pytest.raises(SystemExit) as ended:
        main(
            ["calibrate", "--step-log", str(log), "--profile", TEMPLATE, "--out", str(tmp_path / "mine.json")]
        )
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("step: mean error 0.")
    assert 'id="calibration"' in (tmp_path / "mine.html").read_text(encoding="utf-8")
    mine = str(tmp_path / "mine.json")
    settings: dict[str, Any] = {"policies": ["round_robin"], "requests": 100, "seeds": 1, "sweep": []}
    fitted, true = (irouter.compare("paper-main-card", profile=name, **settings) for name in (mine, TEMPLATE))
    ratio = fitted.policies["round_robin"]["e2e_mean_s"] / true.policies["round_robin"]["e2e_mean_s"]
    assert ratio == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"duration_ms": [-1.0]}, "`duration_ms` is -1.0, expected a number of milliseconds"),
        ({"decodes": [-1]}, "`decodes` is -1.0, expected a whole number of at least 0"),
        ({"decodes": [1.5]}, "`decodes` is 1.5, expected a whole number of at least 0"),
    ],
)
def test_a_bad_step_is_named(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    good = pl.read_parquet(step_log(tmp_path / "good.parquet", steps=3))
    bad = good.with_columns(
        pl.Series(name, [*good[name][:-1], *values], strict=False, dtype=pl.Float64)
        for name, values in change.items()
    )
    bad.write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(IrouterError) as raised:
        calibrate_steps(tmp_path / "bad.parquet", template=TEMPLATE, name="mine")
    assert str(raised.value) == f"bad.parquet: row 3: {complaint}"


def test_a_missing_column_suggests_the_nearest(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(
        "arrival_s,input_toks,output_tokens,first_token_s,last_token_s\n0,1,1,1,1\n", encoding="utf-8"
    )
    with pytest.raises(
        IrouterError, match=r"^log\.csv: no column `input_tokens`; did you mean `input_toks`\?$"
    ):
        calibrate_requests(log, template=TEMPLATE, name="mine")


def test_too_short_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IrouterError, match="200"):
        calibrate_steps(step_log(tmp_path / "steps.parquet", steps=100), template=TEMPLATE, name="mine")


@pytest.mark.parametrize(
    "logs",
    [
        [],
        ["--step-log", "a.csv", "--request-log", "b.csv"],
        ["--step-log", "a.csv", "--probe", "http://localhost:8000"],
    ],
)
def test_exactly_one_log_is_taken(logs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *logs, "--profile", TEMPLATE, "--out", "mine.json"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: give one of --step-log, --request-log and --probe\n"
