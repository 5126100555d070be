"""Puts load on a prediction service and prints how long its answers took, who gave them, and how memory went.

python tools/predictor_load.py FOLDER --data LOG --rate 500 --seconds 600

Requests come at even gaps, prompts and lengths from the log, a quarter of them repeated. Each length is observed at
once.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from pathlib import Path

import numpy as np

from irouter import prediction
from irouter.prediction import PredictorService, RequestLog, ServiceOptions

# Share of requests that come again soon after, as templates and retries do.
REPEATED = 0.25
# Of the newest so many.
RECENT = 1000


def memory_mib() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


async def drive(
    service: PredictorService, log: RequestLog, rate: float, seconds: float
) -> tuple[list[float], list[float]]:
    """Waits in seconds of every answer, and memory in MiB each second."""
    generator = np.random.default_rng(0)
    waits: list[float] = []
    memory: list[float] = []

    async def ask(number: int, row: int) -> None:
        # Prompts of a small log are made many: a number in front makes each one new.
        prompt = f"{number}. {log.requests.prompts[row]}"
        start = time.perf_counter()
        answer = await service.answer_async(prompt, task=log.requests.tasks[row], app=log.requests.apps[row])
        waits.append(time.perf_counter() - start)
        service.observe(answer, int(log.output_tokens[row]), cut=bool(log.cut[row]))

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            repeats = number > 0 and generator.random() < REPEATED
            chosen = max(0, number - int(generator.integers(1, RECENT))) if repeats else number
            group.create_task(ask(chosen, chosen % len(log)))
            if number % int(rate) == 0:
                memory.append(memory_mib())
    return waits, memory


def main() -> None:
    """Runs it and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="a request log")
    parser.add_argument("--rate", type=float, default=500.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--budget-ms", type=float, default=ServiceOptions().budget_ms)
    arguments = parser.parse_args()
    log = prediction.read_log(arguments.data)
    # A cache that fills soon, so that memory shows whether it is bounded.
    options = ServiceOptions(budget_ms=arguments.budget_ms, cache_entries=20_000)
    with PredictorService(prediction.load(arguments.folder), options=options) as service:
        waits, memory = asyncio.run(drive(service, log, arguments.rate, arguments.seconds))
        counts, quality = service.counts, service.quality
    median, high = (1000 * float(value) for value in np.quantile(waits, (0.5, 0.99)))
    print(f"asked {counts.calls:,}, answered {len(waits):,}; wait {median:.2f} ms median, {high:.2f} ms P99")
    for name in ("cache", "model", "fallback", "late", "shed", "errors"):
        print(f"  {name}: {getattr(counts, name) / counts.calls:.1%}")
    print(f"  rows per batch: {counts.rows / max(1, counts.batches):.1f}")
    third = max(1, len(memory) // 3)
    print(
        f"memory: {np.mean(memory[third : 2 * third]):.0f} MiB in the second third, {memory[-1]:.0f} MiB at the end"
    )
    for name, found in quality.items():
        print(f"{name}: {found}")


if __name__ == "__main__":
    main()
