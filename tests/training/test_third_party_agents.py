"""Agents of other packages train on the environments as they are."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is in the environment of `make test-train`")
stable_baselines3 = pytest.importorskip(
    "stable_baselines3", reason="stable-baselines3 is in the environment of `make test-train`"
)

from irouter.training.environment import RoutingEnv, Spec  # noqa: E402 - after the reason to skip


@pytest.mark.parametrize(
    ("name", "spec"),
    [("DQN", Spec(reward="paper", tick_s=0.02)), ("A2C", Spec()), ("PPO", Spec(longest_hold_s=0.1))],
)
def test_an_unmodified_agent_of_stable_baselines3_trains(name: str, spec: Spec) -> None:
    def trained() -> tuple[list[int], float]:
        env = RoutingEnv("paper-main", requests=100, spec=spec)
        options = {"learning_starts": 50} if name == "DQN" else {"n_steps": 64}
        agent = getattr(stable_baselines3, name)("MlpPolicy", env, seed=3, device="cpu", **options)
        before = agent.policy.state_dict()
        first = {key: tensor.clone() for key, tensor in before.items()}
        agent.learn(300)
        after = agent.policy.state_dict()
        change = max(float((after[key] - tensor).abs().max()) for key, tensor in first.items())
        fresh = RoutingEnv("paper-main", requests=100, spec=spec)
        shown, _ = fresh.reset(seed=9)
        actions = []
        for _ in range(30):
            action, _ = agent.predict(shown, deterministic=True)
            shown, *_ = fresh.step(np.int64(action))
            actions.append(int(action))
        return actions, change

    actions, change = trained()
    assert change > 0.0, "learning changes the weights"
    assert trained() == (actions, change), "the same seed learns the same"
