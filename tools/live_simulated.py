"""Sets live runs of `irouter serve` beside the simulator: the same decisions, and the mean E2E.

    python tools/live_gain.py run --ways round_robin,guided --out gain.jsonl --logs LOGS
    python tools/live_simulated.py gain.jsonl LOGS

Every decision log is replayed, and has to give the same decisions bit for bit. The simulator gets the same arrivals and
true lengths; its router, like the live one, learns of lengths from what finishes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl

import irouter
from irouter._core import IrouterError
from irouter.serving.demo.workload import INSTANCES, TOKEN_BYTES, demo_profile
from irouter.serving.replay import replay
from live_gain import drawn

if TYPE_CHECKING:
    from irouter.serving.demo.workload import DemoWorkload

MARGIN: Final = 0.05


def simulated(workload: DemoWorkload, policy: str) -> float:
    """Mean E2E in seconds that the simulator gives for the requests."""
    with tempfile.TemporaryDirectory(prefix="irouter-live-") as name:
        trace, profile = Path(name) / "requests.csv", Path(name) / "engine.json"
        profile.write_text(json.dumps(demo_profile()), encoding="utf-8")
        columns = {
            "arrival_s": [request.arrival_s for request in workload.requests],
            "input_tokens": [-(-len(request.prompt) // TOKEN_BYTES) for request in workload.requests],
            "output_tokens": [workload.lengths[str(row)] for row in range(len(workload.requests))],
        }
        pl.DataFrame(columns).write_csv(trace)
        run = irouter.simulate(
            trace=trace, policy=policy, profile=str(profile), instances=INSTANCES, predictor="history"
        )
        return float((run["finished_s"] - run["arrival_s"]).mean())


def decisions(log: Path) -> int:
    """Decisions of a log, all of which a replay has taken alike.

    Raises:
        IrouterError: For one that comes out different, or a log that ends too early.
    """
    result = replay(log)
    if result.difference is not None or not result.complete:
        found = result.difference or "it ends before its router did"
        raise IrouterError(f"{log.name}: {found}, expected the same decisions to the end")
    return result.dispatches + result.holds


def main() -> None:
    """Prints a line for each run that has a log, and the mean of each policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", type=Path, help="what `live_gain.py run` has written")
    parser.add_argument("logs", type=Path, help="folder of its decision logs")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in arguments.figures.read_text("utf-8").splitlines()
    ]
    print("| policy | seed | decisions, the same replayed | E2E mean, live | simulated | error |")
    print("|---|---|---|---|---|---|")
    worst = 0.0
    for row in sorted(rows, key=lambda row: (row["way"], row["seed"])):
        log = arguments.logs / f"{row['way']}-{row['seed']}.jsonl"
        if not log.exists():
            continue
        workload = drawn(seed=row["seed"], load=row["load"], duration_s=row["duration_s"])
        expected = simulated(workload, row["way"])
        error = row["e2e_mean_s"] / expected - 1
        worst = max(worst, abs(error))
        cells = [
            row["way"],
            row["seed"],
            f"{decisions(log):,}",
            f"{row['e2e_mean_s']:.2f} s",
            f"{expected:.2f} s",
        ]
        print(f"| {' | '.join(map(str, cells))} | {100 * error:+.1f} % |")
    if worst > MARGIN:
        raise IrouterError(f"an error of {100 * worst:.1f} %, expected at most {100 * MARGIN:.0f} %")


if __name__ == "__main__":
    main()
