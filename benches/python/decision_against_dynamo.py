"""Time of a decision, and CPU time of a whole request, beside NVIDIA Dynamo's selection service, in one run.

    make bench-decision

Dynamo (`ai-dynamo-runtime`) runs in a virtual environment of its own; the two take turns. Both choose among instances
with 32 requests each and reserve what they chose, by hashes of 512-token blocks made beforehand, and are told of the
first token, of 50 progress reports and of the end. Both keep every prompt that went out in their prefix index.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time

import numpy as np

from irouter import _core, profiles

REQUESTS = 2000
RESIDENTS = 32
PROGRESS = 50
BLOCK_TOKENS = 512
ROUNDS = 3

SELECTION = """
import asyncio, json, os, sys, time
os.environ.update({"DYN_ROUTER_USE_KV_EVENTS": "false", "DYN_LOG": "error"})
from dynamo.llm import SelectionService
instances, requests, residents, reports, block = map(int, sys.argv[1:])

async def main():
    service = SelectionService(indexer_threads=1)
    for worker in range(instances):
        await service.upsert_worker({"worker_id": worker, "model_name": "m",
            "endpoint": f"http://127.0.0.1:{worker + 1}", "block_size": block})
    def request(number):
        blocks = 1 + number % 6
        hashes = [number * 8 + index for index in range(blocks)]
        return {"model_name": "m", "selection_id": str(number), "block_hashes": hashes, "sequence_hashes": hashes,
            "isl_tokens": blocks * block, "expected_output_tokens": 50 + 131 * number % 700}
    for number in range(residents * instances):
        await service.select_and_reserve(request(number))
        await service.prefill_complete(str(number))
    times = []
    cpu = time.process_time()
    for number in range(10**6, 10**6 + requests):
        own, name = request(number), str(number)
        start = time.perf_counter()
        await service.select_and_reserve(own)
        times.append(time.perf_counter() - start)
        await service.prefill_complete(name)
        for report in range(reports):
            service.add_output_block(name, decay_fraction=1.0 - report / reports)
        await service.free_reservation(name)
    cpu = time.process_time() - cpu
    print(json.dumps([sorted(times)[requests // 2], cpu / requests]))
    service.shutdown()

asyncio.run(main())
"""


def dynamo_s(python: str, instances: int) -> list[float]:
    """Median seconds of a decision, and CPU seconds of a request."""
    numbers = map(str, (instances, REQUESTS, RESIDENTS, PROGRESS, BLOCK_TOKENS))
    command = [python, "-c", SELECTION, *numbers]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    found: list[float] = json.loads(output.splitlines()[-1])
    return found


def irouter_s(policy: str, instances: int) -> list[float]:
    """The same of irouter, each request taken in, decided on and dispatched."""
    profile = profiles.load("llama-3.1-8b@h100")
    profile["kv"] |= {"block_tokens": BLOCK_TOKENS, "blocks": profile["kv"]["blocks"] * 16 // BLOCK_TOKENS}
    router = _core.Router([json.dumps(profile)] * instances, policy)
    now_s, key, times = 0.0, 0, []

    def submit(number: int) -> int:
        blocks = 1 + number % 6
        hashes = [number * 8 + index for index in range(blocks)]
        return router.submit(
            number,
            now_s=now_s,
            prompt_tokens=blocks * BLOCK_TOKENS,
            max_tokens=4096,
            predicted_tokens=50 + 131 * number % 700,
            prompt_blocks=hashes,
        )

    for index in range(RESIDENTS * instances):
        key = submit(index)
        router.dispatch(key, index % instances, now_s=now_s)
        router.progress(key, 1 + index % 9, now_s=now_s)
    cpu_s = time.process_time()
    for number in range(10**6, 10**6 + REQUESTS):
        now_s += 0.001
        start = time.perf_counter()
        key = submit(number)
        decision = router.decide(now_s)
        times.append(time.perf_counter() - start)
        assert isinstance(decision, _core.Decision)
        for report in range(PROGRESS):
            router.progress(key, 1 + report, now_s=now_s)
        router.finished(key, now_s=now_s)
    return [statistics.median(times), (time.process_time() - cpu_s) / REQUESTS]


def main() -> None:
    """Prints one line per policy and cluster size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dynamo-python", required=True, help="interpreter that has ai-dynamo-runtime")
    python = parser.parse_args().dynamo_python
    for instances in (4, 64):
        rounds = [
            {"Dynamo": dynamo_s(python, instances)}
            | {policy: irouter_s(policy, instances) for policy in ("guided", "least_work")}
            for _ in range(ROUNDS)
        ]
        found = {name: np.median([each[name] for each in rounds], axis=0) for name in rounds[0]}
        for name, (decision_s, request_s) in found.items():
            faster, less = found["Dynamo"] / [decision_s, request_s]
            print(
                f"{instances} instances, {name}: decision {1e6 * decision_s:.1f} us ({faster:.1f} times as fast), "
                f"request {1e6 * request_s:.1f} us of CPU ({less:.1f} times less)"
            )


if __name__ == "__main__":
    main()
