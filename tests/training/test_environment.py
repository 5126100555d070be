"""The environments keep Gymnasium's contract."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode

import irouter
from irouter import IrouterError
from irouter.training import weights
from irouter.training.environment import RoutingEnv, RoutingVectorEnv, Spec

PAPER: Spec = {"reward": "paper", "tick_s": 0.02}


@pytest.mark.parametrize("spec", [PAPER, {}])
def test_gymnasium_finds_no_fault(spec: Spec) -> None:
    check_env(RoutingEnv("paper-main", requests=50, spec=spec), skip_render_check=True)


def test_the_papers_state_is_27_numbers_and_5_actions_for_4_instances() -> None:
    env = RoutingEnv("paper-main", requests=50, spec=PAPER)
    shown, info = env.reset(seed=1)
    assert shown.shape == (27,) == (len(env.feature_names),)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    assert env.action_space.n == 5
    assert info["action_mask"].tolist() == [1, 1, 1, 1, 1]
    eight = RoutingEnv("paper-8-instances", requests=50, spec=PAPER)
    assert (len(eight.feature_names), eight.action_space) == (51, gymnasium.spaces.Discrete(9))


def test_the_environments_of_a_vector_are_single_ones() -> None:
    together = RoutingVectorEnv("paper-main", num_envs=3, spec=PAPER, requests=40)
    assert together.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    alone = [RoutingEnv("paper-main", requests=40, spec=PAPER) for _ in range(3)]
    shown, infos = together.reset(seed=5)
    each = [env.reset(seed=5 + index) for index, env in enumerate(alone)]
    generator = np.random.default_rng(0)
    seeds = [5, 6, 7]
    for _ in range(150):
        for row, (numbers, info) in enumerate(each):
            assert data_equivalence(shown[row], numbers, exact=True)
            assert infos["action_mask"][row].tolist() == info["action_mask"].tolist()
        actions = generator.integers(5, size=3)
        shown, rewards, terminated, truncated, infos = together.step(actions)
        for row, env in enumerate(alone):
            if env._over:  # the vector begins the next episode by itself
                seeds[row] += 3
                each[row] = env.reset(seed=seeds[row])
                assert rewards[row] == 0.0
                continue
            numbers, reward, ended, cut, info = env.step(actions[row])
            each[row] = (numbers, info)
            assert (rewards[row], terminated[row], truncated[row]) == (reward, ended, cut)
    assert min(seeds) >= 8, "every environment has begun a second episode"


def test_what_a_step_returned_stays_as_it_was() -> None:
    together = RoutingVectorEnv("paper-main", num_envs=2, requests=40)
    shown, infos = together.reset(seed=1)
    kept = (shown.copy(), infos["action_mask"].copy())
    for _ in range(20):
        together.step(np.zeros(2, np.int64))
    assert np.array_equal(shown, kept[0])
    assert np.array_equal(infos["action_mask"], kept[1])


def test_an_agent_that_takes_turns_gets_what_round_robin_gets() -> None:
    # So few that every instance has spare capacity for its turn.
    env = RoutingEnv("paper-main", requests=120)
    env.reset(seed=2)
    lost, step, over = 0.0, 0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(np.int64(step % 4))
        lost, step, over = lost - reward, step + 1, terminated or truncated
    figures = irouter.compare(
        "paper-main", policies=["round_robin"], requests=120, seeds=1, first_seed=2
    ).policies
    assert lost / 120 == pytest.approx(figures["round_robin"]["e2e_mean_s"], rel=1e-9)


# Features have no bounds that hold for every cluster.
@pytest.mark.filterwarnings("ignore:.*Box observation space m.* value is -?infinity:UserWarning")
def test_what_guided_sees_is_shown_pair_by_pair() -> None:
    _, features = weights.features()
    env = RoutingEnv("paper-main", requests=50, spec={"observation": "pairs"})
    check_env(env, skip_render_check=True)
    shown, info = env.reset(seed=1)
    candidates = (len(info["action_mask"]) - 1) // 4
    assert shown.shape == (candidates * 4 * len(features),)
    assert env.feature_names[len(features)] == f"candidate_0_instance_1_{features[0]}"
    assert info["action_mask"].sum() == 4 + 1, "one request waits, and hold"
    assert not shown[4 * len(features) :].any()
    # One more instance than it looks at, of which the action mask says nothing.
    many = RoutingEnv("paper-main", requests=50, instances=17, spec={"observation": "pairs"})
    assert many.action_space == gymnasium.spaces.Discrete(candidates * 16 + 1)


def test_bad_values_are_named() -> None:
    with pytest.raises(IrouterError, match=r"unknown variant `colours`, expected `counts`"):
        RoutingEnv("paper-main", spec={"observation": "colours"})
    with pytest.raises(IrouterError, match="`tick_s` is -1, expected a positive number of seconds"):
        RoutingEnv("paper-main", spec={"tick_s": -1.0})
    with pytest.raises(IrouterError, match="`environments` is 0, expected at least 1"):
        RoutingVectorEnv("paper-main", num_envs=0)
    env = RoutingEnv("paper-main", requests=5)
    with pytest.raises(IrouterError, match="call `reset`"):
        env.step(np.int64(0))
    env.reset(seed=0)
    with pytest.raises(IrouterError, match="`action` is 5, expected a number from 0 to 4, which is hold"):
        env.step(np.int64(5))
