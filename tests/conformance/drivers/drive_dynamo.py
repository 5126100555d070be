"""Dynamo's selection core under an event script: runs in the environment of `ai-dynamo-runtime`.

Reads one header line and one event per line from standard input, and writes for each submitted request one line with
the instances that Dynamo would take: where the request was booked first, then what further draws at the same state
gave.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

# Further draws at the same state: equals are drawn at random, and each draw shows one of them.
DRAWS = 12


class Selection:
    """The service, and what each request has produced so far."""

    def __init__(self, instances: int, block_tokens: int) -> None:
        # The service reads its configuration from the environment when the module is first used.
        from dynamo.llm import SelectionService

        self.service = SelectionService(indexer_threads=1)
        self.instances = instances
        self.block_tokens = block_tokens
        self.expected: dict[str, int | None] = {}
        self.blocks: dict[str, int] = {}
        self.prompt_tokens: dict[str, int] = {}

    async def start(self) -> None:
        for worker in range(self.instances):
            await self.service.upsert_worker(
                {
                    "worker_id": worker,
                    "model_name": "m",
                    "endpoint": f"http://127.0.0.1:{worker + 1}",
                    "block_size": self.block_tokens,
                }
            )

    async def submit(self, event: dict[str, Any]) -> list[int]:
        name = str(event["request"])
        request = {
            "model_name": "m",
            "token_ids": event["tokens"],
            "expected_output_tokens": event.get("expected_output_tokens"),
        }
        others = {
            (await self.service.select({**request, "selection_id": f"{name}/{draw}"}))["worker_id"]
            for draw in range(DRAWS)
        }
        booked = (await self.service.select_and_reserve({**request, "selection_id": name}))["worker_id"]
        self.expected[name] = request["expected_output_tokens"]
        self.prompt_tokens[name] = len(event["tokens"])
        self.blocks[name] = -(-len(event["tokens"]) // self.block_tokens)
        return [booked, *sorted(others - {booked})]

    async def first_token(self, event: dict[str, Any]) -> None:
        await self.service.prefill_complete(str(event["request"]))

    async def progress(self, event: dict[str, Any]) -> None:
        """Books each output block that was begun, as Ray Serve does for Dynamo."""
        name, produced = str(event["request"]), event["tokens"]
        expected = self.expected[name]
        left = None if expected is None else max(0.0, 1.0 - produced / expected)
        while self.blocks[name] * self.block_tokens < self.prompt_tokens[name] + produced:
            self.blocks[name] += 1
            self.service.add_output_block(name, decay_fraction=left)

    async def finished(self, event: dict[str, Any]) -> None:
        await self.service.free_reservation(str(event["request"]))


async def run(lines: Iterable[str]) -> None:
    lines = iter(lines)
    header = json.loads(next(lines))
    os.environ.update({"DYN_ROUTER_USE_KV_EVENTS": "false", "DYN_LOG": "error", **header["environment"]})
    selection = Selection(header["instances"], header["block_tokens"])
    await selection.start()
    for line in lines:
        event = json.loads(line)
        answer = await getattr(selection, event["event"])(event)
        if answer is not None:
            print(json.dumps(answer), flush=True)
    selection.service.shutdown()


if __name__ == "__main__":
    asyncio.run(run(sys.stdin))
