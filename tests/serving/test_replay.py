"""The decision log and its replay."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import irouter
from irouter import IrouterError
from irouter.cli.app import app
from irouter.serving.replay import replay
from serving.support import URLS, assert_idle


def record(path: Path, policy: str, profile: Path, **changes: Any) -> None:
    """Serves a short, busy life with every kind of event into a log."""
    draws = random.Random(7)

    async def client(router: irouter.Router) -> None:
        async with router.acquire(
            prompt="common " * 40 + "x" * draws.randrange(400),
            max_tokens=60,
            predicted_tokens=draws.randrange(1, 60),
            tenant=draws.choice("ab"),
            priority=draws.randrange(2),
        ) as lease:
            lease.first_token(cached_tokens=0)
            await asyncio.sleep(draws.random() * 0.003)
            lease.progress(draws.randrange(2, 60))
            if draws.random() < 0.1:
                lease.fail("an example")

    async def main(router: irouter.Router) -> None:
        tasks = []
        for number in range(120):
            tasks.append(asyncio.create_task(client(router)))
            await asyncio.sleep(0.0002)
            if number == 40:
                router.drain_instance(URLS[0])
                router.resume_instance(URLS[0])
                router.drain_instance(URLS[0])
                router.report(URLS[1], waiting=1, running=2, kv_usage=0.5)
            elif number == 60:
                router.remove_instance(URLS[0])
            elif number == 80:
                router.add_instance(URLS[0])
                assert router.try_route(prompt_tokens=9, max_tokens=3, overtake=True, exclude=[URLS[1]])
        for task in draws.sample(tasks, 20):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with irouter.Router(
        URLS, policy, profile=profile, seed=3, tenant_weights={"a": 2.0}, log=path, **changes
    ) as router:
        asyncio.run(main(router))
        assert_idle(router)


@pytest.mark.parametrize(
    "policy",
    ["central_shortest(ageing=0.05)", "ordered_hold", "random", "power_of_two", "vllm_dp", "cache_aware"],
)
def test_a_replayed_log_gives_the_same_decisions_bit_for_bit(
    policy: str, small_profile: Path, tmp_path: Path
) -> None:
    log = tmp_path / "decisions.jsonl"
    record(log, policy, small_profile)
    result = replay(log, shadows=["round_robin", policy.partition("(")[0]])
    assert (result.difference, result.complete) == (None, True)
    assert (result.requests, result.dispatches > 80) == (121, True)
    for shadow in result.shadows:
        seen = shadow.same + shadow.elsewhere + shadow.other_request + shadow.held
        assert seen == result.dispatches
        assert shadow.sent <= result.holds


def test_the_shadow_of_a_policy_without_chance_is_itself(small_profile: Path, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    record(log, "least_work", small_profile)
    result = replay(log, shadows=["least_work", "round_robin"])
    own, other = result.shadows
    assert own.elsewhere == own.other_request == own.held == 0
    assert other.elsewhere > 0


def test_what_numpy_gives_is_logged_and_replayed(small_profile: Path, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    with irouter.Router(URLS, "least_work", profile=small_profile, log=log) as router:
        lengths, blocks = np.full(11, 7.5), np.array([1, 2**63 - 1])
        with router.acquire(
            prompt_tokens=int(blocks[0]) + 40,
            max_tokens=50,
            predicted_quantiles=lengths,
            prompt_blocks=blocks.tolist(),
        ):
            pass
    assert (replay(log).difference, replay(log).dispatches, replay(log).complete) == (None, 1, True)


def test_a_log_ends_at_its_limit_and_what_is_there_is_replayed(small_profile: Path, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    record(log, "central_fcfs", small_profile, log_limit_bytes=20_000)
    assert log.stat().st_size < 20_000 + 100
    result = replay(log)
    assert (result.complete, result.difference, result.requests > 10) == (False, None, True)


def test_a_decision_that_was_changed_is_found(small_profile: Path, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    record(log, "least_work", small_profile)
    lines = log.read_text().splitlines()
    changed = next(number for number, line in enumerate(lines) if '"dispatched"' in line)
    entry = json.loads(lines[changed])
    lines[changed] = json.dumps(entry | {"instance": 1 - entry["instance"]})
    log.write_text("\n".join(lines))
    assert (replay(log).difference or "").startswith(f"line {changed + 1}: dispatched")
    done = CliRunner().invoke(app, ["replay", str(log)])
    assert isinstance(done.exception, IrouterError)


def test_the_command_prints_what_others_would_have_done(small_profile: Path, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    record(log, "least_work", small_profile)
    done = CliRunner().invoke(app, ["replay", str(log), "--policies", "random,round_robin"])
    assert done.exit_code == 0, done.output
    assert "every decision is the same" in done.output
    assert "round_robin" in done.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a decision log"),
        ("{}\n", "expected a decision log"),
        ('{"log":"irouter","version":99}\n', "of version 1"),
        ('{"log":"irouter","version":1,"policy":null,"label":"mine"}\n', "`mine` is a function or a program"),
        ("not json\n", "line 1: expected a JSON object, found 'not json'"),
    ],
)
def test_what_is_no_log_is_refused(text: str, message: str, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    log.write_text(text)
    with pytest.raises(IrouterError, match=message):
        replay(log)
