"""The paper's agents: trained alike from the same seed, evaluated alike in PyTorch and in Rust."""

import dataclasses
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the environment of `make test-train`")

import irouter  # noqa: E402 - after the reason to skip
from irouter import IrouterError, _core  # noqa: E402
from irouter.cli import main  # noqa: E402
from irouter.training import paper_agents  # noqa: E402
from irouter.training.double_dqn import (  # noqa: E402
    Args,
    Learner,
    exchanged,
    greedy,
    q_network,
    scales_of,
    to_the_next_choice,
    train,
    weights,
)
from irouter.training.environment import RoutingEnv  # noqa: E402

SMALL = Args(requests=60, episodes=3, exploring_episodes=2, warm_up=64, batch=32, train_every=2, replay=200)
TOLERANCE = 1e-5
"""By how much a value in Rust may differ from PyTorch's, as a share of the largest."""


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    trained = [weights(train(args), args) for args in (SMALL, SMALL, dataclasses.replace(SMALL, seed=1))]
    assert trained[0] == trained[1]
    assert tensors(trained[0]) != tensors(trained[2])


def tensors(content: bytes) -> bytes:
    """The file without its header."""
    return content[8 + struct.unpack("<Q", content[:8])[0] :]


def test_rust_computes_what_pytorch_computes() -> None:
    torch.manual_seed(3)
    network = q_network(27, (64, 64), 5)
    highest = RoutingEnv("paper-main", requests=10).observation_space.high  # type: ignore[attr-defined]
    shown = np.random.default_rng(0).uniform(0, 0.2, (500, 27)).astype(np.float32) * highest
    content = weights(network, Args())
    names = json.loads(header(content)["irouter"])["features"]
    with torch.no_grad():
        expected = network(torch.from_numpy(shown / scales_of(names))).numpy()
    found = _core.network_outputs(content, shown)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def header(content: bytes) -> dict[str, Any]:
    length = struct.unpack("<Q", content[:8])[0]
    metadata: dict[str, Any] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata


def test_the_greedy_agent_does_the_same_in_the_environment_and_as_a_policy() -> None:
    torch.manual_seed(5)
    network = q_network(27, (64, 64), 5)
    content = weights(network, Args())
    env = RoutingEnv("paper-main", requests=150, spec={"tick_s": 0.02})
    shown, info = env.reset(seed=4)
    scales = scales_of(env.feature_names)
    lost, over, chosen = 0.0, False, set()
    while not over:
        action = greedy(network, shown / scales, info["action_mask"].astype(bool))
        shown, reward, terminated, truncated, info = env.step(np.int64(action))
        lost, over = lost - reward, terminated or truncated
        chosen.add(action)
    assert len(chosen) > 1, "the network of this seed tells states apart"
    agent = paper_agents.choice("agent", content)
    run = irouter.compare("paper-main", policies=[agent], requests=150, seeds=1, first_seed=4)
    assert run.policies["agent"]["e2e_mean_s"] == pytest.approx(lost / 150, rel=1e-9)


def test_guidance_fades_and_the_future_comes_in() -> None:
    guide = {name: Args(guidance=guidance).guide for name, guidance in paper_agents.VARIANTS.items()}
    assert guide["baseline"](1) == (0.0, 0.99)
    assert guide["workload-aware"](7) == (1.0, 0.99)
    weight, future = guide["workload-guided"](2)
    assert (weight, future) == pytest.approx((0.99 * np.exp(-1.0), 0.99 * (1 - np.exp(-1.0))))
    exploration = [Args().exploration(episode) for episode in (1, 20, 21)]
    assert exploration == pytest.approx([1.0, 0.05, 0.0])
    rates = [
        Args(episodes=11, learning_rate=1.0, last_learning_rate=0.0).rate(episode) for episode in (1, 6, 11)
    ]
    assert rates == pytest.approx([1.0, 0.5, 0.0])
    short = [Args(episodes=6).exploration(episode) for episode in (1, 4, 5)]
    assert short == pytest.approx([1.0, 0.05, 0.0])


def test_a_gradient_step_moves_the_value_of_an_action_towards_its_reward() -> None:
    torch.manual_seed(0)
    learner = Learner(3, 2, Args(hidden=(16,), learning_rate=1e-2, reward_scale=1.0, guidance="constant"))
    horizon_s = 0.02 / -math.log(0.99)
    batch = {
        "shown": torch.ones(8, 3),
        "action": torch.zeros(8, dtype=torch.int64),
        "terms": torch.tensor([1.0 / horizon_s, 1.5, -1.0]).expand(8, 3),
        "ticks": torch.ones(8),
        "terminated": torch.ones(8, dtype=torch.bool),
        "next_shown": torch.ones(8, 3),
        "next_open": torch.ones(8, 2, dtype=torch.bool),
    }
    for _ in range(500):
        learner.step(batch)
    # The episode ends there, so that the future counts for nothing: 1 + 1.5 - 1.
    assert float(learner.network(torch.ones(3))[0].detach()) == pytest.approx(1.5, abs=0.01)


def test_instances_change_places_with_all_that_is_said_of_them() -> None:
    generator = np.random.default_rng(0)
    open_actions = torch.from_numpy(generator.random((40, 5)) < 0.5)
    batch = {
        "shown": torch.from_numpy(generator.random((40, 27), np.float32)),
        "action": torch.arange(40) % 5,
        "next_shown": torch.from_numpy(generator.random((40, 27), np.float32)),
        "next_open": open_actions,
        "ticks": torch.arange(40),
    }
    order = np.array([2, 0, 3, 1])
    changed = exchanged(batch, order)
    for shown in ("shown", "next_shown"):
        before, after = batch[shown].numpy(), changed[shown].numpy()
        assert np.array_equal(before[:, :3], after[:, :3])
        assert np.array_equal(before[:, 3:].reshape(40, 4, 6)[:, order], after[:, 3:].reshape(40, 4, 6))
    assert torch.equal(changed["next_open"][:, :4], open_actions[:, order])
    assert torch.equal(changed["next_open"][:, 4], open_actions[:, 4])
    meant = [4 if action == 4 else order[action] for action in changed["action"].tolist()]
    assert meant == batch["action"].tolist(), "an action names the same instance as before"
    assert changed["ticks"] is batch["ticks"]


def test_what_comes_between_two_choices_is_added_up() -> None:
    env = RoutingEnv("paper-main", requests=400, spec={"reward": "paper_progress", "tick_s": 0.02})
    _, info = env.reset(seed=1)
    completions, seconds, choices, over = 0.0, 0.0, 0, False
    while not over:
        passed = to_the_next_choice(env, int(info["action_mask"].argmax()))
        completions, seconds, choices = completions + passed.terms[1], seconds + passed.seconds, choices + 1
        info, over = passed.info, passed.over
        assert over or info["action_mask"][:-1].any(), "some instance is open, or the episode is over"
    assert choices == 400, "it always sends, and each request is one choice"
    assert completions == 60 * 400
    run = irouter.compare("paper-main", policies=["round_robin"], requests=400, seeds=1, first_seed=1)
    assert seconds == pytest.approx(run.policies["round_robin"]["makespan_s"], rel=0.5), (
        "not only the choices' ticks"
    )


def test_the_command_trains_the_agent_that_a_reproduction_looks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--agent", "workload-aware", "--episodes", "3", "--requests", "60", "--seed", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["train", *arguments, "--out", str(tmp_path / "agents")])
    assert ended.value.code == 0
    found = paper_agents.found(tmp_path / "agents", "paper-main")
    assert [choice.label for choice in found] == ["agent:workload-aware"]
    content = paper_agents.file_of(tmp_path / "agents", "paper-main", "workload-aware").read_bytes()
    about = json.loads(header(content)["irouter"])["training"]
    assert (about["guidance"], about["episodes"], about["requests"], about["seed"]) == ("constant", 3, 60, 1)
    said = capsys.readouterr().out
    assert "episode 3:" in said
    assert "is kept: mean E2E" in said


def test_weights_of_another_cluster_are_refused() -> None:
    content = weights(q_network(27, (64, 64), 5), Args())
    agent = paper_agents.choice("agent", content)
    with pytest.raises(
        IrouterError, match="`instances` is 8, expected 4, which the weights were trained for"
    ):
        irouter.compare("paper-8-instances", policies=[agent], requests=50, seeds=1)
    narrow = paper_agents.choice("agent", weights(q_network(27, (8,), 4), Args()))
    with pytest.raises(IrouterError, match="the network has 4 outputs, expected 5"):
        irouter.compare("paper-main", policies=[narrow], requests=50, seeds=1)
