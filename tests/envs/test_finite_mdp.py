"""A finite MDP as an environment: Gymnasium's contract, the MDP's own dynamics, and LineWorld's as one."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_with_gymnasium
from stable_baselines3.common.env_checker import check_env as check_with_sb3

from sb3_pg import VPG
from sb3_pg.envs.finite_mdp import NAMED, FiniteMDPEnv, FiniteMDPVectorEnv, line_world
from sb3_pg.envs.line_world import LineWorld
from sb3_pg.exact.mdp import FiniteMDP, softmax_policy
from sb3_pg.exact.problems import random_chain, two_state
from sb3_pg.exact.sampling import sample
from sb3_pg.rollout.vec_env import VectorEnvAdapter

STAY, LEAVE = 0, 1


@pytest.mark.parametrize("name", NAMED)
def test_every_named_problem_passes_gymnasiums_and_sb3s_checks(name: str) -> None:
    env = gym.make("FiniteMDP-v0", mdp=name, time_limit=50).unwrapped
    assert isinstance(env, FiniteMDPEnv)
    check_with_gymnasium(env)
    check_with_sb3(env)


def test_an_episode_of_the_two_state_problem() -> None:
    env = FiniteMDPEnv("two_state")
    observation, info = env.reset(seed=0)
    np.testing.assert_array_equal(observation, [1.0, 0.0])
    assert info == {}
    assert env.step(STAY)[1:] == (1.0, False, False, {})
    observation, reward, terminated, truncated, _ = env.step(LEAVE)
    np.testing.assert_array_equal(observation, [0.0, 1.0])
    assert (reward, terminated, truncated) == (0.0, True, False)


@pytest.mark.parametrize("limit_is_terminal", [False, True])
def test_a_time_limit_truncates_unless_it_is_a_part_of_the_task(limit_is_terminal: bool) -> None:
    env = FiniteMDPEnv(dataclasses.replace(two_state(), time_limit=2, limit_is_terminal=limit_is_terminal))
    for _ in range(2):
        env.reset()
        assert env.step(STAY)[2:4] == (False, False)
        assert env.step(STAY)[2:4] == (limit_is_terminal, not limit_is_terminal)


def test_the_same_seed_gives_the_same_episodes() -> None:
    def played(seed: int) -> list[Any]:
        env = FiniteMDPEnv("random_chain")
        record = [env.reset(seed=seed)[0].tolist()]
        for step in range(50):
            observation, reward, terminated, truncated, _ = env.step(step % 3)
            record += [observation.tolist(), reward]
            if terminated or truncated:
                record.append(env.reset()[0].tolist())
        return record

    assert played(1) == played(1)
    assert played(1) != played(2)


def test_steps_have_the_mdps_distribution() -> None:
    mdp, env = random_chain(seed=2), FiniteMDPEnv(random_chain(seed=2))
    env.reset(seed=0)
    counts, n = np.zeros(6), 4000
    for _ in range(n):
        env.reset(options={"state": 3})
        _, reward, terminated, _, _ = env.step(1)
        assert reward == mdp.rewards[3, 1, env.state]
        assert terminated == (env.state == 5)
        counts[env.state] += 1
    expected = n * mdp.transitions[3, 1]
    assert np.abs((counts - expected) / np.sqrt(expected)).max() < 4.0


def test_features_take_the_place_of_the_one_hot_observation() -> None:
    env = FiniteMDPEnv("pessimal", features=np.ones((5, 1)))
    assert env.observation_space.shape == (1,)
    assert env.reset()[0].tolist() == [1.0]
    assert env.step(0)[0].tolist() == [1.0]


def test_an_observation_belongs_to_the_caller() -> None:
    env = FiniteMDPEnv("two_state")
    env.reset()[0][:] = 7.0
    assert env.reset()[0].tolist() == [1.0, 0.0]


def test_the_picture_shows_the_state() -> None:
    env = FiniteMDPEnv("two_state", render_mode="rgb_array")
    env.reset()
    begun = env.render()
    env.step(LEAVE)
    ended = env.render()
    assert begun is not None
    assert ended is not None
    assert begun.shape == ended.shape == (56, 112, 3)
    assert begun[0, 0].tolist() == ended[0, 60].tolist() == [38, 84, 164]
    assert begun[0, 60].tolist() != begun[0, 0].tolist()


def test_an_environment_can_be_copied_with_its_state() -> None:
    env = FiniteMDPEnv("random_chain")
    env.reset(seed=4)
    copied = pickle.loads(pickle.dumps(env))
    for one, other in zip(env.step(0), copied.step(0), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(mdp="garnet"), "mdp='garnet' is unknown; accepted are two_state, random_chain"),
        (dict(features=np.ones((2, 2))), r"features has shape \(2, 2\).*needs \(6, n_features\)"),
        (dict(render_mode="human"), "render_mode='human'"),
    ],
    ids=["mdp", "features", "render_mode"],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FiniteMDPEnv(**arguments)


def test_wrong_calls_are_refused() -> None:
    env = FiniteMDPEnv("two_state")
    with pytest.raises(gym.error.ResetNeeded):
        env.step(STAY)
    with pytest.raises(ValueError, match="options has the key 'speed'"):
        env.reset(options={"speed": 1})
    with pytest.raises(ValueError, match=r"options has state=1: accepted are \[0\]"):
        env.reset(options={"state": 1})
    env.reset()
    with pytest.raises(ValueError, match="action=2: accepted are the integers from 0 to 1"):
        env.step(2)
    env.step(LEAVE)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(STAY)


# -- many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time_limit", [None, 3])
def test_the_vector_environment_gives_terminal_observations_and_begins_anew_in_the_same_step(
    time_limit: int | None,
) -> None:
    mdp = random_chain(seed=2, time_limit=time_limit)
    env = VectorEnvAdapter(FiniteMDPVectorEnv(50, mdp))
    env.seed(3)
    states = env.reset().argmax(axis=1)
    times = np.zeros(50, dtype=int)
    for _ in range(30):
        env.step_async(np.ones(50, dtype=int))
        observations, rewards, dones, infos = env.step_wait()
        for index in range(50):
            last = infos[index]["terminal_observation"] if dones[index] else observations[index]
            next_state = int(last.argmax())
            assert rewards[index] == pytest.approx(mdp.rewards[states[index], 1, next_state], abs=1e-6)
            truncated = infos[index].get("TimeLimit.truncated", False)
            assert dones[index] == (next_state == 5 or truncated)
            assert truncated == (time_limit == times[index] + 1 and next_state != 5)
        times = np.where(dones, 0, times + 1)
        states = observations.argmax(axis=1)
        assert (states != 5).all()


def test_the_vector_environment_plays_what_numpy_samples() -> None:
    mdp = random_chain(seed=2, time_limit=4)
    rollout = sample(mdp, softmax_policy(np.zeros((6, 3))), 20_000, np.random.default_rng(1), n_steps=10)
    env = FiniteMDPVectorEnv(2000, mdp)
    env.reset(seed=5)
    actions = np.random.default_rng(6)
    played = np.array([env.step(actions.integers(3, size=2000))[1] for _ in range(10)])
    difference = played.mean(axis=1) - rollout.rewards.mean(axis=1)
    assert np.abs(difference / (rollout.rewards.std() / np.sqrt(2000))).max() < 4.0


def test_gymnasium_makes_the_vector_environment() -> None:
    env = gym.make_vec("FiniteMDP-v0", num_envs=4, vectorization_mode="vector_entry_point", mdp="two_state")
    assert env.reset(seed=0)[0].tolist() == [[1.0, 0.0]] * 4
    with pytest.raises(ValueError, match="one seed, and no options"):
        env.unwrapped.reset(seed=[1, 2, 3, 4])


def test_the_whole_pipeline_learns_the_two_state_problem() -> None:
    """Staying pays, up to the time limit."""
    env = VectorEnvAdapter(FiniteMDPVectorEnv(16, "two_state", time_limit=10))
    model = VPG("MlpPolicy", env, n_steps=32, learning_rate=0.1, seed=0, device="cpu").learn(3000)
    assert np.mean([info["r"] for info in model.ep_info_buffer]) > 8.0


# -- LineWorld -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimensions", "grid_size"), [(1, 10), (1, 3), (2, 3)])
def test_lineworld_as_an_mdp_has_lineworlds_dynamics(dimensions: int, grid_size: int) -> None:
    length = 4
    env = LineWorld(grid_size=grid_size, dimensions=dimensions, episode_length=length)
    mdp = line_world(grid_size, dimensions, length)
    n_cells = grid_size**dimensions
    rng = np.random.default_rng(0)

    def state() -> int:
        position, target = (
            np.ravel_multi_index(each, (grid_size,) * dimensions) for each in (env.position, env.target)
        )
        return int(position) * n_cells + int(target)

    assert mdp.n_states == n_cells**2
    for _ in range(50):
        env.reset(seed=int(rng.integers(1000)))
        for step in range(length):
            before, action = state(), int(rng.integers(env.action_space.n))
            _, reward, terminated, truncated, _ = env.step(action)
            assert mdp.transitions[before, action, state()] == 1.0
            assert mdp.rewards[before, action, state()] == reward
            assert (terminated, truncated) == (step == length - 1, False)
    assert (mdp.time_limit, mdp.limit_is_terminal) == (length, True)
    np.testing.assert_allclose(mdp.start, 1.0 / n_cells**2)


def test_a_finite_mdp_of_ones_own() -> None:
    coin = np.array([[[0.0, 0.5, 0.5]] * 2, [[0.0, 1.0, 0.0]] * 2, [[0.0, 0.0, 1.0]] * 2])
    mdp = FiniteMDP(coin, coin, np.array([1.0, 0.0, 0.0]), np.array([False, True, True]), gamma=1.0)
    env = FiniteMDPEnv(mdp)
    env.reset(seed=0)
    assert env.step(0)[1:4] == (0.5, True, False)
