"""Simulated requests per second beside NVIDIA Dynamo's offline replay, on the same lengths, in one run.

    make bench-dynamo

Dynamo (`ai-dynamo-runtime`) is measured in a virtual environment of its own; the two take turns; medians are printed.
Both replay Poisson arrivals with the lengths of the Azure conversation trace, five times over, when `../shared/data` is
there, else those of the shipped generator. Dynamo's time is its replay call; irouter's is all of `irouter.simulate`:
reading, saturation and predictions included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

import irouter

ROOT = Path(__file__).parents[2]
TRACE = ROOT.parent / "shared" / "data" / "traces" / "azure2023_conv.parquet"
REQUESTS_PER_SECOND_AND_INSTANCE = 6.0
HASH_TOKENS = 512
COPIES = 5
ROUNDS = 3

REPLAY = """
import sys, time
from dynamo._core import run_mocker_trace_replay
start = time.perf_counter()
run_mocker_trace_replay([sys.argv[1]], num_workers=int(sys.argv[2]), trace_block_size=512)
print(time.perf_counter() - start)
"""


def requests(instances: int) -> pl.DataFrame:
    """Lengths of a real trace, or of generated chats, with Poisson arrivals."""
    if TRACE.is_file():
        lengths = pl.read_parquet(TRACE).select("input_tokens", "output_tokens")
    else:
        run = irouter.simulate("conversation", policy="round_robin")
        lengths = run.to_polars().select("input_tokens", "output_tokens")
    lengths = pl.concat([lengths] * COPIES)
    gaps = np.random.default_rng(0).exponential(
        1.0 / (REQUESTS_PER_SECOND_AND_INSTANCE * instances), len(lengths)
    )
    return lengths.with_columns(arrival_s=np.cumsum(gaps))


def write_mooncake(frame: pl.DataFrame, path: Path) -> None:
    """The requests in Dynamo's default format, every prompt block of its own."""
    first_block = 0
    with path.open("w", encoding="utf-8") as file:
        for row in frame.iter_rows(named=True):
            blocks = -(-row["input_tokens"] // HASH_TOKENS)
            line = {
                "timestamp": round(row["arrival_s"] * 1000),
                "input_length": row["input_tokens"],
                "output_length": row["output_tokens"],
                "hash_ids": list(range(first_block, first_block + blocks)),
            }
            first_block += blocks
            file.write(json.dumps(line) + "\n")


def dynamo_s(python: str, trace: Path, instances: int) -> float:
    """Seconds of one offline replay."""
    command = [python, "-c", REPLAY, str(trace), str(instances)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return float(output.split()[-1])


def irouter_s(trace: Path, instances: int) -> float:
    """Seconds of one simulation of the same requests, on one core, metrics on."""
    start = time.perf_counter()
    run = irouter.simulate(
        trace=trace, profile="llama-3.1-8b@h100", instances=instances, policy="round_robin"
    )
    seconds = time.perf_counter() - start
    assert np.isfinite(run["finished_s"]).all()
    return seconds


def main() -> None:
    """Prints one line per cluster size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dynamo-python", required=True, help="interpreter that has ai-dynamo-runtime")
    python = parser.parse_args().dynamo_python
    for instances in (4, 16):
        frame = requests(instances)
        with tempfile.TemporaryDirectory() as folder:
            theirs, ours = Path(folder, "trace.jsonl"), Path(folder, "trace.parquet")
            write_mooncake(frame, theirs)
            frame.write_parquet(ours)
            pairs = [(dynamo_s(python, theirs, instances), irouter_s(ours, instances)) for _ in range(ROUNDS)]
        dynamo, own = (len(frame) / statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{instances} instances, {len(frame):,} requests: Dynamo {dynamo:,.0f} requests/s, "
            f"irouter {own:,.0f} requests/s, {own / dynamo:.1f} times"
        )


if __name__ == "__main__":
    main()
