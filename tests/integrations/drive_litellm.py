"""Calls through LiteLLM's Router with our strategy, in the environment of `litellm`; prints what came of them."""

import asyncio
import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

import irouter
from irouter.integrations.litellm import IrouterStrategy


async def main(urls: list[str]) -> dict[str, Any]:
    deployments = [
        {
            "model_name": "m",
            "litellm_params": {"model": "openai/m", "api_key": "none", "api_base": url + "/v1"},
        }
        for url in urls
    ]
    host = litellm.Router(model_list=deployments, num_retries=2, allowed_fails=0, cooldown_time=60)
    router = irouter.Router(policy="least_work", profile="llama-3.1-8b@h100")
    IrouterStrategy(host, router)

    async def call(number: int, *, stream: bool) -> int:
        content = f"Question {number} [irouter-length:short]"
        answer = await host.acompletion(
            model="m", messages=[{"role": "user", "content": content}], max_tokens=40, stream=stream
        )
        if not stream:
            return int(answer.usage.completion_tokens)
        return sum([len((piece.choices[0].delta.content or "").split()) async for piece in answer])

    tokens = await asyncio.gather(*(call(number, stream=number % 2 == 0) for number in range(20)))
    sync = await asyncio.to_thread(
        host.completion,
        model="m",
        messages=[{"role": "user", "content": "[irouter-length:short]"}],
        max_tokens=40,
    )
    for _ in range(100):
        if router.statistics.in_flight == 0:
            break
        await asyncio.sleep(0.05)
    statistics = router.statistics
    return {
        "tokens": tokens,
        "sync_tokens": sync.usage.completion_tokens,
        "endings": {ending.value: count for ending, count in statistics.endings.items()},
        "left": [statistics.waiting, statistics.in_flight],
        "instances": [instance.url for instance in router.instances],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1:]))))
