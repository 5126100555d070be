"""LiteLLM's router under an event script: runs in the environment of `litellm`.

Reads one header line and one event per line from standard input, and writes for each submitted request one line with
the deployments that LiteLLM would take: the one that the request is then booked on first. Calls are booked through the
strategy's own logging hooks, as LiteLLM does around each call to a model; no model is called.
"""

import asyncio
import datetime as dt
import json
import os
import random
import sys
from collections.abc import Iterable
from typing import Any

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Strategy:
    """A router of LiteLLM with one deployment per instance, and the calls in flight.

    It is asked `draws` times more at the same state: equals are drawn at random, and each draw shows one of them.
    """

    def __init__(self, instances: int, strategy: str, arguments: dict[str, Any], draws: int) -> None:
        import litellm

        self.draws = draws
        self.response = litellm.ModelResponse
        self.usage = litellm.Usage
        self.router = litellm.Router(
            model_list=[
                {
                    "model_name": "m",
                    "litellm_params": {
                        "model": "openai/m",
                        "api_key": "none",
                        "api_base": f"http://127.0.0.1:{n + 1}",
                    },
                    "model_info": {"id": f"{n}"},
                }
                for n in range(instances)
            ],
            routing_strategy=strategy,
            routing_strategy_args=arguments,
        )
        self.logger = (
            self.router.leastbusy_logger if strategy == "least-busy" else self.router.lowestlatency_logger
        )
        self.calls: dict[int, dict[str, Any]] = {}
        self.first_token_seconds: dict[int, float] = {}

    async def pick(self) -> int:
        kwargs = {"stream": True, "metadata": {}}
        deployment = await self.router.async_get_available_deployment(
            model="m", request_kwargs=kwargs, messages=[{"role": "user", "content": "x"}]
        )
        return int(deployment["model_info"]["id"])

    async def submit(self, event: dict[str, Any]) -> list[int]:
        booked = await self.pick()
        others = {await self.pick() for _ in range(self.draws)}
        call = {
            "stream": True,
            "litellm_params": {"metadata": {"model_group": "m"}, "model_info": {"id": str(booked)}},
        }
        self.calls[event["request"]] = call
        if hasattr(self.logger, "log_pre_api_call"):
            self.logger.log_pre_api_call("m", [], call)
        return [booked, *sorted(others - {booked})]

    async def first_token(self, event: dict[str, Any]) -> None:
        self.first_token_seconds[event["request"]] = event["seconds"]

    async def finished(self, event: dict[str, Any]) -> None:
        call = self.calls.pop(event["request"])
        first = self.first_token_seconds.pop(event["request"], event["seconds"])
        call["completion_start_time"] = START + dt.timedelta(seconds=first)
        tokens = event["tokens"]
        usage = self.usage(prompt_tokens=1, completion_tokens=tokens, total_tokens=tokens + 1)
        end = START + dt.timedelta(seconds=event["seconds"])
        await self.logger.async_log_success_event(call, self.response(usage=usage), START, end)


async def run(lines: Iterable[str]) -> None:
    lines = iter(lines)
    header = json.loads(next(lines))
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    random.seed(header["seed"])
    strategy = Strategy(header["instances"], header["strategy"], header["arguments"], header["draws"])
    for line in lines:
        event = json.loads(line)
        answer = await getattr(strategy, event["event"])(event)
        if answer is not None:
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(run(sys.stdin))
