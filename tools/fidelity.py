"""Replays a real vLLM run on a fitted profile and compares every request.

    python tools/fidelity.py        # prints the figures, writes docs/fidelity.md and docs/fidelity.svg

The run (vLLM 0.19, Llama-3.1-8B on an RTX 4090, 300 requests of ShareGPT lengths, heavily preempted; LLMServingSim,
MIT) is read from `../shared/data` or from `--data FOLDER`. The profile was fitted to kernel timings alone, never to it.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

import irouter

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
RUN = Path("real_runs", "vllm_0.19_llama3.1-8b_rtx4090.csv")
PROFILE = "llama-3.1-8b@rtx4090"

Times = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Latencies:
    """Latencies of each request in seconds, in order of arrival."""

    e2e: Times
    ttft: Times
    tpot: Times

    @classmethod
    def of(cls, arrival: Times, first_token: Times, last_token: Times, output_tokens: Times) -> Latencies:
        """From the times of each request; TPOT is NaN for outputs of one token."""
        gaps = np.where(output_tokens > 1, output_tokens - 1, np.nan)
        return cls(last_token - arrival, first_token - arrival, (last_token - first_token) / gaps)


@dataclasses.dataclass(frozen=True, slots=True)
class Fidelity:
    """A real run beside its replay."""

    real: Latencies
    simulated: Latencies
    preemptions: int

    def errors(self) -> dict[str, float]:
        """Relative error of each figure: simulated over real, less one."""
        figures: dict[str, tuple[Callable[[Times], np.floating], str]] = {
            "E2E mean": (np.mean, "e2e"),
            "E2E P99": (lambda values: np.percentile(values, 99), "e2e"),
            "TTFT mean": (np.mean, "ttft"),
            "TPOT mean": (np.nanmean, "tpot"),
        }
        return {
            name: float(figure(getattr(self.simulated, column)) / figure(getattr(self.real, column)) - 1.0)
            for name, (figure, column) in figures.items()
        }


def replay(data: Path) -> Fidelity:
    """Simulates the requests of the real run on one instance, each reaching the engine when it really did."""
    run = pl.read_csv(data / RUN).sort("arrival_s")
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "run.parquet")
        run.select("arrival_s", input_tokens="input_toks", output_tokens="output_toks").write_parquet(trace)
        simulation = irouter.simulate(
            trace=trace, profile=PROFILE, instances=1, policy="round_robin", dispatch_delay_s=0.0
        )
    columns = ("arrival_s", "first_token_s", "last_token_s", "output_toks")
    real = Latencies.of(*(run[column].to_numpy().astype(np.float64) for column in columns))
    columns = ("arrival_s", "first_token_s", "finished_s", "output_tokens")
    simulated = Latencies.of(*(np.asarray(simulation[column], dtype=np.float64) for column in columns))
    return Fidelity(real, simulated, int(simulation["preemptions"].sum()))


PAGE = """\
# Fidelity

How close does the engine model come to a real engine? A run of vLLM 0.19 with Llama-3.1-8B on one RTX 4090 (300
requests with ShareGPT lengths, so many that the KV cache overflows all the time) is replayed on `{profile}`, whose step
times were fitted to kernel timings alone and never to this run.

| figure | real | simulated | error |
|---|---|---|---|
{rows}
| preemptions | not recorded | {preemptions} | |

Request by request the E2E latencies correlate at {correlation:.4f}; half of the requests are within {median:.1f} % and
nine in ten within {ninetieth:.1f} %.

![Simulated against real latency of each request](fidelity.svg)

The replay is a few percent slow throughout (right), as its TPOT is: a bias of the fitted step times, not scatter.
`python tools/fidelity.py` prints these figures and writes this page; `tests/test_fidelity.py` holds them to limits.
"""


def page(fidelity: Fidelity) -> str:
    """The page as Markdown."""
    real, simulated = fidelity.real, fidelity.simulated
    seconds = {
        "E2E mean": (np.mean(real.e2e), np.mean(simulated.e2e)),
        "E2E P99": (np.percentile(real.e2e, 99), np.percentile(simulated.e2e, 99)),
        "TTFT mean": (np.mean(real.ttft), np.mean(simulated.ttft)),
        "TPOT mean": (np.nanmean(real.tpot), np.nanmean(simulated.tpot)),
    }
    rows = [
        f"| {name} | {seconds[name][0]:.3f} s | {seconds[name][1]:.3f} s | {100 * error:+.1f} % |"
        for name, error in fidelity.errors().items()
    ]
    relative = 100 * np.abs(simulated.e2e / real.e2e - 1.0)
    return PAGE.format(
        profile=PROFILE,
        rows="\n".join(rows),
        preemptions=fidelity.preemptions,
        correlation=np.corrcoef(real.e2e, simulated.e2e)[0, 1],
        median=np.median(relative),
        ninetieth=np.percentile(relative, 90),
    )


def plot(fidelity: Fidelity, path: Path) -> None:
    """Simulated against real E2E and TTFT of each request, and the relative error over time."""
    import matplotlib as mpl  # noqa: PLC0415 - only this function draws

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "fidelity"  # the same bytes each time
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for axis, name, column in zip(axes, ("E2E", "TTFT"), ("e2e", "ttft"), strict=False):
        real, simulated = getattr(fidelity.real, column), getattr(fidelity.simulated, column)
        limit = 1.05 * max(real.max(), simulated.max())
        axis.plot([0, limit], [0, limit], color="0.6", linewidth=1)
        axis.scatter(real, simulated, s=10, alpha=0.6, color="#1f5fa8", linewidths=0)
        axis.set(xlabel=f"real {name}, s", ylabel=f"simulated {name}, s", xlim=(0, limit), ylim=(0, limit))
    error = 100 * (fidelity.simulated.e2e / fidelity.real.e2e - 1.0)
    axes[2].axhline(0, color="0.6", linewidth=1)
    axes[2].scatter(np.arange(len(error)), error, s=10, alpha=0.6, color="#1f5fa8", linewidths=0)
    axes[2].set(xlabel="request, by arrival", ylabel="error of E2E, %")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Prints the figures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds real_runs/")
    fidelity = replay(parser.parse_args().data)
    text = page(fidelity)
    (ROOT / "docs" / "fidelity.md").write_text(text, encoding="utf-8")
    plot(fidelity, ROOT / "docs" / "fidelity.svg")
    print(text)


if __name__ == "__main__":
    main()
