"""What is in a batch: whole episodes or fixed steps, the ends of episodes, SB3's contract at every step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from helpers import ACTION_SPACES, RandomEnv, ScriptedEnv, one_rollout, same, set_linear_critic, tiny, weights
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize

from sb3_pg import REINFORCE, VPG
from sb3_pg.rollout import collector

LINEAR = dict(net_arch=dict(pi=[8], vf=[]))
# Three environments whose episodes differ widely in length
LENGTHS = ([2, 3], [11], [1, 30, 4])


def side_by_side(*lengths: Any, **kwargs: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda each=each: Monitor(ScriptedEnv(each, **kwargs)) for each in lengths])


def episodes_in_share(buffer: Any, env_index: int) -> list[int]:
    """Lengths of the episodes that the valid steps of an environment make up; they must be whole, and come first."""
    valid, dones = buffer.valid[:, env_index], buffer.dones[:, env_index]
    last = np.flatnonzero(valid)[-1]
    assert valid[: last + 1].all()
    assert dones[last]
    ends = np.flatnonzero(dones[: last + 1])
    return np.diff(ends, prepend=-1).tolist()


# -- whole episodes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm_settings", [dict(baseline="none"), dict(baseline="value")], ids=str)
def test_n_episodes_takes_exactly_so_many_of_every_environment(algorithm_settings: Any) -> None:
    model = tiny(side_by_side(*LENGTHS), algorithm=REINFORCE, n_episodes=3, **algorithm_settings)
    buffer = one_rollout(model)
    assert [episodes_in_share(buffer, index) for index in range(3)] == [[2, 3, 2], [11] * 3, [1, 30, 4]]
    assert buffer.n_valid == 7 + 33 + 35
    assert len(buffer.rewards) == 35


def test_whole_episodes_go_on_to_the_end_of_the_episode_that_reaches_n_steps() -> None:
    buffer = one_rollout(tiny(side_by_side(*LENGTHS), algorithm=REINFORCE, n_steps=10))
    assert [episodes_in_share(buffer, index) for index in range(3)] == [[2, 3, 2, 3], [11], [1, 30]]


def test_an_episode_that_ends_with_n_steps_is_the_last() -> None:
    buffer = one_rollout(tiny(side_by_side([5], [10]), algorithm=REINFORCE, n_steps=10))
    assert [episodes_in_share(buffer, index) for index in range(2)] == [[5, 5], [10]]
    assert len(buffer.rewards) == 10


@pytest.mark.parametrize("settings", [dict(n_episodes=2), dict(n_steps=7)], ids=str)
def test_every_episode_that_was_started_for_the_batch_is_whole_and_in_it(settings: Any) -> None:
    """First-finished-first-kept would leave long episodes out."""
    model = tiny(lambda: RandomEnv(ACTION_SPACES[1]), algorithm=REINFORCE, n_envs=4, **settings)
    for _ in range(3):
        buffer = one_rollout(model)
        for index in range(4):
            lengths = episodes_in_share(buffer, index)
            if "n_episodes" in settings:
                assert len(lengths) == 2
            else:
                assert sum(lengths[:-1]) < 7 <= sum(lengths)
        model.train()


def test_only_valid_steps_are_trained_on() -> None:
    model = tiny(side_by_side(*LENGTHS), algorithm=REINFORCE, n_episodes=3, baseline="value")
    buffer = one_rollout(model)
    samples = buffer.samples()
    assert len(samples.advantages) == len(samples.actions) == 75
    np.testing.assert_array_equal(samples.observations, buffer.observations[buffer.valid])
    trained = tiny(side_by_side(*LENGTHS), algorithm=REINFORCE, n_episodes=3, baseline="value")
    other = one_rollout(trained)
    np.testing.assert_array_equal(other.actions, buffer.actions)
    for array in (other.advantages, other.returns, other.rewards):
        array[~other.valid] = 1e6
    for each in (model, trained):
        np.random.seed(0)  # noqa: NPY002  the minibatches of the critic come from it, as in SB3
        each.train()
    assert same(weights(model), weights(trained))


def test_every_batch_of_whole_episodes_begins_with_fresh_ones() -> None:
    model = tiny(side_by_side(*LENGTHS), algorithm=REINFORCE, n_episodes=1)
    for _ in range(3):
        buffer = one_rollout(model)
        np.testing.assert_array_equal(buffer.observations[0, :, 0], 0.0)
        np.testing.assert_array_equal(buffer.times[0], 0)
        assert buffer.episode_starts[0].all()


def test_fresh_episodes_are_not_reset_twice_where_all_ended_together() -> None:
    model = tiny(side_by_side([4], [4]), algorithm=REINFORCE, n_episodes=1)
    assert [one_rollout(model).observations[0, 0, 1] for _ in range(3)] == [0.0, 1.0, 2.0]


def test_all_steps_count_as_timesteps_those_that_are_thrown_away_too() -> None:
    model = tiny(side_by_side(*LENGTHS), algorithm=REINFORCE, n_episodes=3)
    model.learn(1)
    assert model.num_timesteps == 35 * 3


@pytest.mark.parametrize("settings", [dict(n_episodes=1), dict(whole_episodes=True)], ids=str)
def test_an_environment_without_an_end_is_refused_in_whole_episode_batches(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(collector, "LONGEST_EPISODE", 50)
    model = tiny(side_by_side([3], [10**9]), **settings)
    with pytest.raises(ValueError, match=r"environment 1 did not end its episode.*whole_episodes=True and n_episodes"):
        model.learn(16)


def test_many_short_episodes_are_no_endless_one_and_an_endless_one_after_short_ones_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collector, "LONGEST_EPISODE", 50)
    model = tiny(side_by_side([3], [40]), n_episodes=60)
    n_steps = model.n_steps
    assert len(one_rollout(model).rewards) == 2400 > 50 + n_steps
    model = tiny(side_by_side([3, 10**9], [4]), n_episodes=60)
    with pytest.raises(ValueError, match=rf"environment 0 did not end its episode within {50 + n_steps} steps"):
        one_rollout(model)


# -- fixed steps -----------------------------------------------------------------------------------------------------


def test_fixed_rollouts_go_on_where_the_last_one_ended() -> None:
    model = tiny(side_by_side([7, 3], [4]), n_steps=5)
    seen = np.concatenate([one_rollout(model).observations[:, :, 0].copy() for _ in range(4)])
    assert seen[:, 0].astype(int).tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2] * 2
    assert seen[:, 1].astype(int).tolist() == [0, 1, 2, 3] * 5


@pytest.mark.parametrize("per_step_values", [False, True])
def test_observations_rewards_and_ends_are_a2cs(per_step_values: bool) -> None:
    """Where an environment does not care for actions, everything but them is the same as in SB3."""
    ours = tiny(side_by_side([7, 3], [4]), n_steps=5, per_step_values=per_step_values)
    theirs = tiny(side_by_side([7, 3], [4]), algorithm=A2C, n_steps=5)
    _, callback = theirs._setup_learn(100)
    for _ in range(3):
        buffer = one_rollout(ours)
        theirs.collect_rollouts(theirs.env, callback, theirs.rollout_buffer, 5)
        for name in ("observations", "rewards", "episode_starts"):
            np.testing.assert_array_equal(getattr(buffer, name), getattr(theirs.rollout_buffer, name), err_msg=name)
        np.testing.assert_array_equal(ours._last_obs, theirs._last_obs)
        np.testing.assert_array_equal(ours._last_episode_starts, theirs._last_episode_starts)
        assert ours.num_timesteps == theirs.num_timesteps


@pytest.mark.parametrize("per_step_values", [False, True])
@pytest.mark.parametrize("space", ACTION_SPACES[:2], ids=lambda space: type(space).__name__)
def test_episode_statistics_are_a2cs(space: Any, per_step_values: bool) -> None:
    def statistics(algorithm: Any, **settings: Any) -> list[tuple[float, int]]:
        env = make_vec_env(lambda: IgnoresActions(space), 3, seed=5)
        model = tiny(env, algorithm=algorithm, stats_window_size=20, **settings).learn(200)
        return [(info["r"], info["l"]) for info in model.ep_info_buffer]

    ours = statistics(VPG, per_step_values=per_step_values)
    assert ours == statistics(A2C)
    assert len(ours) == 20


class IgnoresActions(RandomEnv):
    def step(self, _action: Any) -> Any:
        return super().step(np.zeros(1))


def test_episodes_that_a_monitor_reports_in_the_middle_are_counted() -> None:
    """EpisodicLifeEnv and the like: "episode" may be in the info without a done, and the other way round."""

    class Reporting(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            observation, reward, terminated, truncated, info = self.env.step(action)
            if self.env.steps == 2:
                info = {"episode": {"r": 1.0, "l": 2, "t": 0.0}}
            return observation, reward, terminated, truncated, info

    model = tiny(DummyVecEnv([lambda: Reporting(ScriptedEnv([4]))]), n_steps=16)
    one_rollout(model)
    assert [info["l"] for info in model.ep_info_buffer] == [2] * 4


def test_success_is_counted_and_logged() -> None:
    model = tiny(side_by_side([4]), n_steps=16).learn(32, log_interval=None)
    assert list(model.ep_success_buffer) == [True, False] * 4
    logged = {}
    model.logger.record = lambda key, value, *_, **__: logged.update({key: value})
    model.dump_logs()
    assert logged["rollout/success_rate"] == 0.5


def test_success_is_counted_without_a_monitor_too() -> None:
    model = tiny(DummyVecEnv([lambda: ScriptedEnv([4])]), n_steps=16)
    one_rollout(model)
    assert list(model.ep_success_buffer) == [True, False] * 2
    assert not model.ep_info_buffer


# -- the ends of episodes --------------------------------------------------------------------------------------------


def hand_case(truncation: str, truncated: bool, **settings: Any) -> Any:
    """Reward 1, V = 10 everywhere, gamma 0.5, episodes of three steps, a rollout of five."""
    model = tiny(
        side_by_side([3], truncated=truncated), n_steps=5, gamma=0.5, gae_lambda=1.0, truncation=truncation,
        policy_kwargs=LINEAR, **settings,
    )  # fmt: skip
    set_linear_critic(model, [0.0, 0.0], bias=10.0)
    return one_rollout(model)


PER_STEP = pytest.mark.parametrize("per_step_values", [False, True])


@PER_STEP
def test_a_truncated_episode_is_bootstrapped_with_the_terminal_value(per_step_values: bool) -> None:
    buffer = hand_case("bootstrap", truncated=True, per_step_values=per_step_values)
    # 1 + 0.5 * 10 at the limit, and the same at the rollout's end
    np.testing.assert_allclose(buffer.returns[:, 0], [3.0, 4.0, 6.0, 4.0, 6.0])
    np.testing.assert_allclose(buffer.advantages[:, 0], [-7.0, -6.0, -4.0, -6.0, -4.0])
    np.testing.assert_array_equal(buffer.next_values[:, 0], 10.0)


@PER_STEP
def test_a_truncated_episode_can_be_taken_for_a_terminated_one(per_step_values: bool) -> None:
    buffer = hand_case("terminal", truncated=True, per_step_values=per_step_values)
    np.testing.assert_allclose(buffer.returns[:, 0], [1.75, 1.5, 1.0, 4.0, 6.0])
    np.testing.assert_array_equal(buffer.next_values[:, 0], [10.0, 10.0, 0.0, 10.0, 10.0])


@PER_STEP
def test_a_truncated_episode_can_be_discarded(per_step_values: bool) -> None:
    buffer = hand_case("discard", truncated=True, per_step_values=per_step_values)
    assert buffer.valid[:, 0].tolist() == [False] * 3 + [True] * 2
    np.testing.assert_allclose(buffer.returns[3:, 0], [4.0, 6.0])
    assert len(buffer.samples().advantages) == 2


@PER_STEP
@pytest.mark.parametrize("truncation", ["bootstrap", "terminal", "discard"])
def test_a_terminated_episode_is_never_bootstrapped(truncation: str, per_step_values: bool) -> None:
    buffer = hand_case(truncation, truncated=False, per_step_values=per_step_values)
    np.testing.assert_allclose(buffer.returns[:, 0], [1.75, 1.5, 1.0, 4.0, 6.0])
    assert buffer.n_valid == 5


def normalised_hand_case(truncation: str, **settings: Any) -> Any:
    """The same under VecNormalize: rewards of 1 become 0.5, and V(s) = 9 + steps, from the normalised observation."""
    env = VecNormalize(side_by_side([3], truncated=True), gamma=0.5, training=False)
    env.ret_rms.var = np.array(4.0)
    env.obs_rms.mean, env.obs_rms.var = np.array([1.0, 0.0]), np.array([4.0, 1.0])
    model = tiny(env, n_steps=5, gamma=0.5, gae_lambda=1.0, truncation=truncation, policy_kwargs=LINEAR, **settings)
    set_linear_critic(model, [2.0, 0.0], bias=10.0)
    return one_rollout(model)


@PER_STEP
def test_with_vecnormalize_a_truncated_episode_is_bootstrapped_in_normalised_units(per_step_values: bool) -> None:
    buffer = normalised_hand_case("bootstrap", per_step_values=per_step_values)
    np.testing.assert_allclose(buffer.rewards[:, 0], 0.5, rtol=1e-6)
    np.testing.assert_allclose(buffer.next_values[:, 0], [10.0, 11.0, 12.0, 10.0, 11.0], rtol=1e-6)
    # 0.5 + 0.5 * 12 at the limit, 0.5 + 0.5 * 11 at the rollout's end
    np.testing.assert_allclose(buffer.returns[:, 0], [2.375, 3.75, 6.5, 3.5, 6.0], rtol=1e-6)
    np.testing.assert_allclose(buffer.advantages[:, 0], [-6.625, -6.25, -4.5, -5.5, -4.0], rtol=1e-6)


@PER_STEP
def test_with_vecnormalize_a_truncated_episode_can_be_taken_for_a_terminated_one(per_step_values: bool) -> None:
    buffer = normalised_hand_case("terminal", per_step_values=per_step_values)
    np.testing.assert_allclose(buffer.returns[:, 0], [0.875, 0.75, 0.5, 3.5, 6.0], rtol=1e-6)
    np.testing.assert_allclose(buffer.advantages[:, 0], [-8.125, -9.25, -10.5, -5.5, -4.0], rtol=1e-6)


@PER_STEP
def test_with_vecnormalize_a_truncated_episode_can_be_discarded(per_step_values: bool) -> None:
    buffer = normalised_hand_case("discard", per_step_values=per_step_values)
    assert buffer.valid[:, 0].tolist() == [False] * 3 + [True] * 2
    np.testing.assert_allclose(buffer.returns[3:, 0], [3.5, 6.0], rtol=1e-6)
    np.testing.assert_allclose(buffer.samples().advantages, [-5.5, -4.0], rtol=1e-6)


@pytest.mark.parametrize("truncation", ["bootstrap", "terminal", "discard"])
def test_without_a_critic_a_time_limit_ends_the_return_or_takes_the_episode_out(truncation: str) -> None:
    for normalize, reward in ((False, 1.0), (True, 0.5)):
        env: Any = side_by_side([3], [2, 4], truncated=True)
        if normalize:
            env = VecNormalize(env, gamma=0.5, training=False)
            env.ret_rms.var = np.array(4.0)
        model = tiny(env, algorithm=REINFORCE, n_episodes=2, gamma=0.5, truncation=truncation)
        if truncation == "discard":
            with pytest.raises(ValueError, match="left none of the 12 steps"):
                one_rollout(model)
            continue
        expected = [[1.75, 1.5, 1.0, 1.75, 1.5, 1.0], [1.5, 1.0, 1.875, 1.75, 1.5, 1.0]]
        np.testing.assert_allclose(one_rollout(model).advantages.T, reward * np.array(expected), rtol=1e-6)


def test_discarding_reaches_back_to_the_rows_of_an_episode_that_began_before_the_rollout() -> None:
    model = tiny(side_by_side([4], [7], truncated=True), n_steps=6, truncation="discard")
    assert one_rollout(model).valid.T.tolist() == [[False] * 4 + [True] * 2, [True] * 6]
    assert one_rollout(model).valid.T.tolist() == [[False] * 6, [False] + [True] * 5]


def test_rewards_in_the_buffer_are_raw() -> None:
    """SB3 would have added gamma * V(terminal observation) at the limit."""
    np.testing.assert_array_equal(hand_case("bootstrap", truncated=True).rewards, 1.0)


@PER_STEP
def test_the_terminal_observation_is_that_of_its_own_step_and_environment(per_step_values: bool) -> None:
    """V(s) is the time step, plus a hundred for each episode: every terminal value tells where it came from."""
    model = tiny(
        side_by_side([3, 5], [4, 2], truncated=True), n_steps=9, policy_kwargs=LINEAR, per_step_values=per_step_values
    )
    set_linear_critic(model, [1.0, 100.0])
    buffer = one_rollout(model)
    expected = [
        [1.0, 2.0, 3.0, 101.0, 102.0, 103.0, 104.0, 105.0, 201.0],
        [1.0, 2.0, 3.0, 4.0, 101.0, 102.0, 201.0, 202.0, 203.0],
    ]
    np.testing.assert_allclose(buffer.next_values.T, expected)
    np.testing.assert_allclose(buffer.values[1:].T, [
        [1.0, 2.0, 100.0, 101.0, 102.0, 103.0, 104.0, 200.0],
        [1.0, 2.0, 3.0, 100.0, 101.0, 200.0, 201.0, 202.0],
    ])  # fmt: skip


@PER_STEP
def test_with_vecnormalize_the_terminal_observation_is_the_normalised_one(per_step_values: bool) -> None:
    env = VecNormalize(side_by_side([3], truncated=True), norm_reward=False)
    seen = []
    step_wait = env.step_wait

    def watched() -> Any:
        observations, rewards, dones, infos = step_wait()
        seen.append(infos[0]["terminal_observation"].copy() if dones[0] else observations[0].copy())
        return observations, rewards, dones, infos

    env.step_wait = watched  # type: ignore[method-assign]
    model = tiny(env, n_steps=8, policy_kwargs=LINEAR, per_step_values=per_step_values)
    set_linear_critic(model, [1.0, 3.0])
    buffer = one_rollout(model)
    np.testing.assert_allclose(buffer.next_values[:, 0], np.array(seen) @ [1.0, 3.0], rtol=1e-5, atol=1e-6)
    # Not the raw one: that has 3 steps, and the running mean of a few observations is taken off
    assert np.abs(seen[2][0]) < 3.0


def test_with_vecnormalize_observations_are_stored_as_the_policy_saw_them() -> None:
    env = VecNormalize(make_vec_env(lambda: RandomEnv(ACTION_SPACES[1]), 2, seed=0))
    returned = []
    step_wait = env.step_wait

    def watched() -> Any:
        result = step_wait()
        returned.append((result[0].copy(), result[1].copy()))
        return result

    env.step_wait = watched  # type: ignore[method-assign]
    model = tiny(env)
    buffer = one_rollout(model)
    np.testing.assert_allclose(buffer.observations[1:], [each[0] for each in returned[:-1]], rtol=1e-6)
    np.testing.assert_allclose(buffer.rewards, [each[1] for each in returned], rtol=1e-6)


class ReusingVecEnv(DummyVecEnv):
    """Hands out its last observation of an episode in the same array each time."""

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = super().step_wait()
        for index in np.flatnonzero(dones):
            if not hasattr(self, "kept"):
                self.kept = np.array(infos[index]["terminal_observation"])
            self.kept[...] = infos[index]["terminal_observation"]
            infos[index]["terminal_observation"] = self.kept
        return observations, rewards, dones, infos


def test_an_environment_that_writes_over_its_last_observation_does_not_change_bootstrap_values() -> None:
    returns = [
        one_rollout(tiny(kind([lambda: TimeLimit(RandomEnv(ACTION_SPACES[1]), 3)]), n_steps=32)).returns
        for kind in (DummyVecEnv, ReusingVecEnv)
    ]
    np.testing.assert_array_equal(*returns)


def test_an_environment_that_writes_over_its_observation_does_not_change_the_buffer() -> None:
    class Reusing(ScriptedEnv):
        memory = np.zeros(2, dtype=np.float32)

        def _observation(self) -> Any:
            self.memory[:] = super()._observation()
            return self.memory

    buffer = one_rollout(tiny(DummyVecEnv([lambda: Reusing([4])]), n_steps=6))
    assert buffer.observations[:, 0, 0].astype(int).tolist() == [0, 1, 2, 3, 0, 1]


def test_actions_keep_their_shape_and_kind_in_the_buffer() -> None:
    shapes = {"Box": (2,), "Discrete": (1,), "MultiDiscrete": (2,), "MultiBinary": (3,)}
    for space in ACTION_SPACES:
        actions = one_rollout(tiny(lambda space=space: RandomEnv(space), n_envs=2)).actions
        assert actions.shape == (16, 2, *shapes[type(space).__name__])
        assert (actions.dtype.kind == "f") == isinstance(space, spaces.Box)


class Locals(BaseCallback):
    """Keeps what SB3's loop shows of the critic and of the policy."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[type, tuple[int, ...]]] = []

    def _on_step(self) -> bool:
        self.found = [(type(self.locals[name]), tuple(self.locals[name].shape)) for name in ("values", "log_probs")]
        return True


def test_callbacks_see_values_and_log_probabilities_as_a2cs_do() -> None:
    ours, theirs = Locals(), Locals()
    tiny(n_envs=2, per_step_values=True).learn(32, callback=ours)
    tiny(n_envs=2, algorithm=A2C).learn(32, callback=theirs)
    assert ours.found == theirs.found == [(th.Tensor, (2, 1)), (th.Tensor, (2,))]


class WholeNumbers(VecEnvWrapper):
    """Ends of episodes as numbers."""

    def __init__(self, venv: VecEnv, dtype: Any) -> None:
        super().__init__(venv)
        self.dtype = dtype

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards, dones.astype(self.dtype), infos


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
@pytest.mark.parametrize("whole_episodes", [False, True])
def test_ends_of_episodes_may_be_numbers(dtype: Any, whole_episodes: bool) -> None:
    env = DummyVecEnv([lambda: ScriptedEnv([3]), lambda: ScriptedEnv([5])])
    plain = tiny(env, whole_episodes=whole_episodes).learn(64)
    env = DummyVecEnv([lambda: ScriptedEnv([3]), lambda: ScriptedEnv([5])])
    wrapped = tiny(WholeNumbers(env, dtype), whole_episodes=whole_episodes).learn(64)
    assert same(weights(plain), weights(wrapped))
