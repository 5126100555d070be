"""A live run beside the simulator."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from live_gain import drawn, measured
from live_simulated import MARGIN, decisions, simulated


@pytest.mark.slow
def test_a_live_run_is_replayed_alike_and_takes_what_the_simulator_says(tmp_path: Path) -> None:
    workload = drawn(seed=0, load=1.0, duration_s=6.0)
    # Short enough that the last answer ends soon.
    short = {key: min(length, 200) for key, length in workload.lengths.items()}
    workload = dataclasses.replace(workload, lengths=short)
    log = tmp_path / "decisions.jsonl"
    figures = asyncio.run(measured("guided", workload, log=log))
    assert figures.finished == len(workload.requests) > 50
    assert decisions(log) >= len(workload.requests)
    assert figures.e2e_mean_s == pytest.approx(simulated(workload, "guided"), rel=MARGIN)
