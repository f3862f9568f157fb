"""Wrong calls: refused with the parameter, the value, and what is accepted; nothing that was saved is damaged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import (
    ACTION_SPACES,
    DICT,
    FLAT,
    RandomEnv,
    SaveAtEveryRollout,
    ScriptedEnv,
    one_rollout,
    same,
    tiny,
    weights,
)
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy as SB3ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg import REINFORCE, VPG

INF, NAN = math.inf, math.nan


def minus_one(_progress_remaining: float) -> float:
    return -1.0


def no_number(_progress_remaining: float) -> Any:
    return "fast"


# (wrong arguments, what the message must hold: the parameter, the value, what is accepted)
WRONG_ARGUMENTS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    # Counts
    (dict(n_steps=0), ("n_steps", "0", "at least 1")),
    (dict(n_steps=-5), ("n_steps", "-5", "at least 1")),
    (dict(n_steps=2.5), ("n_steps", "2.5", "whole number")),
    (dict(n_steps="512"), ("n_steps", "'512'", "whole number")),
    (dict(n_steps=True), ("n_steps", "True", "whole number")),
    (dict(n_steps=None), ("n_steps", "None", "whole number")),
    (dict(n_epochs=0), ("n_epochs", "0", "at least 1")),
    (dict(n_critic_updates=0), ("n_critic_updates", "0", "at least 1")),
    (dict(n_critic_updates=1.5), ("n_critic_updates", "1.5", "whole number")),
    (dict(batch_size=0), ("batch_size", "0", "None", "at least 1")),
    (dict(critic_batch_size=0), ("critic_batch_size", "0", "None", "at least 1")),
    (dict(critic_batch_size="all"), ("critic_batch_size", "'all'", "None", "whole number")),
    (dict(n_episodes=0), ("n_episodes", "0", "None", "at least 1")),
    (dict(n_episodes=-1), ("n_episodes", "-1", "None", "at least 1")),
    (dict(stats_window_size=0), ("stats_window_size", "0", "at least 1")),
    (dict(stats_window_size="x"), ("stats_window_size", "'x'", "whole number")),
    (dict(sde_sample_freq=0), ("sde_sample_freq", "0", "-1")),
    (dict(sde_sample_freq="often"), ("sde_sample_freq", "'often'", "-1")),
    (dict(seed="abc"), ("seed", "'abc'", "None", "whole number")),
    (dict(seed=-1), ("seed", "-1", "None", "whole number")),
    # Numbers
    (dict(gamma=1.01), ("gamma", "1.01", "[0, 1]")),
    (dict(gamma=-0.1), ("gamma", "-0.1", "[0, 1]")),
    (dict(gamma="0.99"), ("gamma", "'0.99'", "[0, 1]")),
    (dict(gamma=NAN), ("gamma", "nan", "[0, 1]")),
    (dict(vf_coef=-0.5), ("vf_coef", "-0.5", "[0, inf)")),
    (dict(vf_coef=INF), ("vf_coef", "inf", "[0, inf)")),
    (dict(max_grad_norm=0), ("max_grad_norm", "0", "None", "above 0")),
    (dict(max_grad_norm="no"), ("max_grad_norm", "'no'", "None", "above 0")),
    (dict(target_kl=0.0), ("target_kl", "0.0", "None", "above 0")),
    (dict(target_kl=-0.01), ("target_kl", "-0.01", "None", "above 0")),
    (dict(use_rms_prop=True, rms_prop_eps=-1.0), ("rms_prop_eps", "-1.0", "0")),
    (dict(rms_prop_eps="small"), ("rms_prop_eps", "'small'", "0")),
    (dict(verbose="loud"), ("verbose", "'loud'", "0", "1", "2")),
    # Schedules
    (dict(learning_rate=-1e-3), ("learning_rate", "-0.001", "[0, inf)")),
    (dict(learning_rate=NAN), ("learning_rate", "nan", "[0, inf)")),
    (dict(learning_rate=INF), ("learning_rate", "inf", "[0, inf)")),
    (dict(learning_rate="0.01"), ("learning_rate", "'0.01'", "lin_")),
    (dict(learning_rate="lin_fast"), ("learning_rate", "'lin_fast'", "lin_START")),
    (dict(learning_rate="lin_0.01_-1"), ("learning_rate", "'lin_0.01_-1'", "[0, inf)")),
    (dict(learning_rate=None), ("learning_rate", "None", "number", "callable")),
    (dict(learning_rate=[0.1]), ("learning_rate", "[0.1]", "number", "callable")),
    (dict(learning_rate=minus_one), ("learning_rate", "-1.0", "[0, inf)")),
    (dict(learning_rate=no_number), ("learning_rate", "fast", "number")),
    (dict(vf_learning_rate=-0.1), ("vf_learning_rate", "-0.1", "[0, inf)")),
    (dict(vf_learning_rate="slow"), ("vf_learning_rate", "'slow'", "lin_START")),
    (dict(gae_lambda=1.5), ("gae_lambda", "1.5", "[0, 1]")),
    (dict(gae_lambda="lin_0.9_1.2"), ("gae_lambda", "'lin_0.9_1.2'", "1.2", "[0, 1]")),
    (dict(critic_gae_lambda=-0.1), ("critic_gae_lambda", "-0.1", "[0, 1]")),
    (dict(ent_coef=-0.01), ("ent_coef", "-0.01", "[0, inf)")),
    (dict(ent_coef=INF), ("ent_coef", "inf", "[0, inf)")),
    (dict(clip_range=-0.2), ("clip_range", "-0.2", "[0, inf)")),
    (dict(clip_range=minus_one), ("clip_range", "-1.0", "[0, inf)")),
    # Choices
    (dict(estimator="gea"), ("estimator", "'gea'", "gae", "n_step:N")),
    (dict(estimator="n_step"), ("estimator", "'n_step'", "n_step:N")),
    (dict(estimator="n_step:0"), ("estimator", "'n_step:0'", "N >= 1")),
    (dict(estimator=None), ("estimator", "None", "callable")),
    (dict(baseline="loo"), ("baseline", "'loo'", "leave_one_out")),
    (dict(baseline=None), ("baseline", "None", "none")),
    (dict(truncation="cut"), ("truncation", "'cut'", "bootstrap", "terminal", "discard")),
    (dict(policy_loss="ppo"), ("policy_loss", "'ppo'", "vanilla", "importance", "clipped")),
    (dict(normalize_advantage="std"), ("normalize_advantage", "'std'", "batch", "center")),
    (dict(normalize_advantage=None), ("normalize_advantage", "None", "True", "False")),
    (dict(policy="MlpPolcy"), ("policy", "'MlpPolcy'", "MlpPolicy", "CnnPolicy", "MultiInputPolicy")),
    (dict(policy=3), ("policy", "3", "MlpPolicy")),
    # Flags
    (dict(whole_episodes="yes"), ("whole_episodes", "'yes'", "True or False")),
    (dict(state_discount=1), ("state_discount", "1", "True or False")),
    (dict(joint_optimizer=None), ("joint_optimizer", "None", "True or False")),
    (dict(per_step_values="no"), ("per_step_values", "'no'", "True or False")),
    (dict(env=lambda: RandomEnv(ACTION_SPACES[0]), use_sde="no"), ("use_sde", "'no'", "True or False")),
    (dict(use_rms_prop="yes"), ("use_rms_prop", "'yes'", "True or False")),
    # Classes, dicts and folders
    (dict(rollout_buffer_class=RolloutBuffer), ("rollout_buffer_class", "RolloutBuffer", "TrajectoryBuffer")),
    (dict(rollout_buffer_class="big"), ("rollout_buffer_class", "'big'", "TrajectoryBuffer")),
    (dict(tensorboard_log=3), ("tensorboard_log", "3", "None")),
    # Combinations
    (
        dict(baseline="mean", estimator="reward_to_go"),
        ("baseline", "'mean'", "whole_episodes=True", "n_episodes", "baseline='value'"),
    ),
    (
        dict(baseline="none", whole_episodes=True),
        ("baseline", "'none'", "gae_lambda", "0.97", "reward_to_go", "total_return"),
    ),
    (dict(baseline="none", whole_episodes=True, gae_lambda="lin_1.0_0.9"), ("baseline", "'none'", "gae_lambda=1")),
    (
        dict(baseline="time_mean", whole_episodes=True, estimator="td_residual"),
        ("baseline", "'time_mean'", "estimator", "'td_residual'", "baseline='value'"),
    ),
    (
        dict(baseline="leave_one_out", n_episodes=2, estimator="n_step:3"),
        ("baseline", "'leave_one_out'", "'n_step:3'", "baseline='value'"),
    ),
    (dict(baseline="none", whole_episodes=True, estimator="q"), ("baseline", "'none'", "'q'", "baseline='value'")),
    (dict(estimator="total_return"), ("estimator", "'total_return'", "whole_episodes=True", "n_episodes")),
    (dict(n_steps=1), ("normalize_advantage", "True", "n_steps", "at least 2")),
    (dict(joint_optimizer=True, vf_learning_rate=1e-3), ("vf_learning_rate", "0.001", "joint_optimizer=False")),
    (dict(joint_optimizer=True, gae_lambda="hoof"), ("'hoof'", "joint_optimizer=False")),
    (dict(joint_optimizer=True, estimator="q"), ("joint_optimizer", "'q'", "joint_optimizer=False")),
    (
        dict(joint_optimizer=True, baseline="none", estimator="reward_to_go", whole_episodes=True),
        ("joint_optimizer", "baseline", "'none'", "joint_optimizer=False"),
    ),
    (dict(estimator="q", policy=SB3ActorCriticPolicy), ("estimator", "'q'", "ActorCriticPolicy", "MlpPolicy")),
    # One episode has nothing to be compared with
    (
        dict(estimator="reward_to_go", baseline="time_mean", n_episodes=1),
        ("baseline", "'time_mean'", "one episode", "more environments"),
    ),
    (
        dict(estimator="total_return", baseline="mean", n_episodes=1, normalize_advantage=False),
        ("baseline", "'mean'", "one episode", "baseline='none'"),
    ),
    (
        dict(estimator="total_return", baseline="none", n_episodes=1),
        ("normalize_advantage=True", "total_return", "normalize_advantage=False"),
    ),
    (dict(vf_learning_rate="3e-3"), ("vf_learning_rate", "'3e-3'", "lin_START", "number")),
]


def as_id(row: Any) -> str:
    return ", ".join(f"{key}={getattr(value, '__name__', value)!r}" for key, value in row[0].items())


@pytest.mark.parametrize("row", WRONG_ARGUMENTS, ids=map(as_id, WRONG_ARGUMENTS))
def test_a_wrong_argument_is_refused_by_name_with_what_is_accepted(row: tuple[dict[str, Any], tuple[str, ...]]) -> None:
    wrong, words = row
    discrete = make_vec_env(lambda: RandomEnv(ACTION_SPACES[1]), 1, seed=0)
    with pytest.raises(ValueError, match=words[0]) as error:
        tiny(**{"env": discrete, **wrong})
    for word in words:
        assert word in str(error.value)


def test_policy_kwargs_that_are_no_dict_are_refused() -> None:
    with pytest.raises(ValueError, match="policy_kwargs"):
        VPG("MlpPolicy", "CartPole-v1", policy_kwargs="wide")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["policy_kwargs", "rollout_buffer_kwargs"])
def test_an_unknown_key_in_a_dict_of_keywords_is_refused_by_name(name: str) -> None:
    with pytest.raises((TypeError, ValueError), match="wdith"):
        tiny(**{name: {"wdith": 64}})


def test_an_unknown_keyword_is_refused_by_name() -> None:
    for algorithm in (VPG, REINFORCE):
        with pytest.raises(TypeError, match="gea_lambda"):
            tiny(algorithm=algorithm, gea_lambda=0.9)


def test_an_unknown_device_is_refused_with_the_devices_there_are() -> None:
    with pytest.raises(RuntimeError, match=r"cpu, cuda.*gpu"):
        tiny(device="gpu")


def test_an_unknown_environment_is_refused_by_name() -> None:
    with pytest.raises(gym.error.NameNotFound, match="NoSuchEnvironment"):
        VPG("MlpPolicy", "NoSuchEnvironment-v0")


def test_no_environment_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="env"):
        VPG("MlpPolicy", None)  # type: ignore[arg-type]


# (action space, observation space, policy, other arguments, error, what the message must hold)
WRONG_SPACES: list[tuple[Any, Any, str, dict[str, Any], type[Exception], tuple[str, ...]]] = [
    (spaces.Tuple([spaces.Discrete(2)]), FLAT, "MlpPolicy", {}, AssertionError, ("Tuple", "Box", "Discrete")),
    (spaces.Dict(a=spaces.Discrete(2)), FLAT, "MlpPolicy", {}, AssertionError, ("Dict", "Box", "Discrete")),
    (spaces.Discrete(2), DICT, "MlpPolicy", {}, ValueError, ("MlpPolicy", "dict", "MultiInputPolicy")),
    (spaces.Discrete(2), DICT, "CnnPolicy", {}, ValueError, ("CnnPolicy", "dict", "MultiInputPolicy")),
    (spaces.Discrete(2), FLAT, "MultiInputPolicy", {}, ValueError, ("MultiInputPolicy", "Box", "MlpPolicy")),
    (spaces.Discrete(2), FLAT, "CnnPolicy", {}, AssertionError, ("Box", "images", "MlpPolicy")),
    (spaces.Discrete(2), FLAT, "MlpPolicy", dict(use_sde=True), ValueError, ("gSDE", "continuous")),
    (ACTION_SPACES[0], FLAT, "MlpPolicy", dict(estimator="q"), ValueError, ("estimator", "'q'", "Discrete", "Box")),
    (
        ACTION_SPACES[2], FLAT, "MlpPolicy", dict(estimator="q_minus_v"), ValueError,
        ("estimator", "'q_minus_v'", "Discrete", "MultiDiscrete"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("action_space", "observation_space", "policy", "others", "error", "words"), WRONG_SPACES)
def test_spaces_that_do_not_fit_are_refused_with_those_that_do(
    action_space: Any, observation_space: Any, policy: str, others: Any, error: type[Exception], words: Any
) -> None:
    with pytest.raises(error) as raised:
        tiny(lambda: RandomEnv(action_space, observation_space), policy, **others)
    for word in words:
        assert word in str(raised.value)


def test_gymnasiums_vectorised_environments_are_refused_with_the_adapter_for_them() -> None:
    env: Any = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    with pytest.raises(ValueError, match=r"Gymnasium's way; accepted are .*make_vec_env.*VectorEnvAdapter"):
        VPG("MlpPolicy", env)
    env.close()


def test_actor_and_critic_with_common_weights_need_a_joint_optimizer() -> None:
    image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    with pytest.raises(ValueError, match=r"joint_optimizer=False.*features_extractor.*joint_optimizer=True"):
        tiny(
            lambda: RandomEnv(spaces.Discrete(2), image), "CnnPolicy",
            policy_kwargs=dict(share_features_extractor=True, features_extractor_kwargs=dict(features_dim=8)),
        )  # fmt: skip


# -- values that go wrong while training ---------------------------------------------------------------------------


def bump(progress_remaining: float) -> float:
    """Within bounds at both ends of the training, out of them in the middle."""
    return 0.5 + 3.0 * progress_remaining * (1.0 - progress_remaining)


def dip(progress_remaining: float) -> float:
    return 0.1 - progress_remaining * (1.0 - progress_remaining)


@pytest.mark.parametrize(
    ("name", "schedule", "others"),
    [
        ("gae_lambda", bump, {}),
        ("critic_gae_lambda", bump, {}),
        ("learning_rate", dip, {}),
        ("vf_learning_rate", dip, {}),
        ("ent_coef", dip, {}),
        ("clip_range", dip, dict(policy_loss="clipped")),
    ],
)
def test_a_schedule_that_leaves_its_bounds_while_training_is_refused_by_name(
    name: str, schedule: Any, others: dict[str, Any]
) -> None:
    model = tiny(**{name: schedule}, **others)
    with pytest.raises(ValueError, match=name):
        model.learn(64)


def wrong_shape(trajectories: Any, **_: float) -> Any:
    return trajectories.rewards[:-1]


def nothing(_trajectories: Any, **_: float) -> Any:
    return None


def not_a_number(trajectories: Any, **_: float) -> Any:
    return trajectories.rewards * np.nan


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (wrong_shape, ("estimator", "wrong_shape", "(15, 1)", "(16, 1)")),
        (nothing, ("estimator", "nothing", "None", "(16, 1)")),
        (not_a_number, ("estimator", "not_a_number", "nan")),
    ],
)
def test_an_estimator_of_the_users_that_gives_nonsense_is_refused_by_name(estimator: Any, words: Any) -> None:
    model = tiny(estimator=estimator)
    before = weights(model)
    with pytest.raises(ValueError, match="estimator") as error:
        model.learn(16)
    for word in words:
        assert word in str(error.value)
    assert same(before, weights(model))


def test_discarding_every_step_is_refused() -> None:
    model = tiny(lambda: ScriptedEnv([4], truncated=True), truncation="discard")
    before = weights(model)
    with pytest.raises(ValueError, match=r"truncation='discard'.*16 steps.*'bootstrap'"):
        model.learn(16)
    assert same(before, weights(model))


def vectorised(faults: dict[int, tuple[str, float]], dict_observations: bool = False, **kwargs: Any) -> DummyVecEnv:
    """Three environments, of which the one at index 1 is faulty."""

    def make(index: int) -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = ScriptedEnv([6, 9], faults=faults if index == 1 else None, **kwargs)
        return InDict(env) if dict_observations else env

    return DummyVecEnv([lambda i=index: make(i) for index in range(3)])  # type: ignore[misc]


class InDict(gym.ObservationWrapper[Any, Any, Any]):
    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict({"position": spaces.Box(-np.inf, np.inf, (2,))})

    def observation(self, observation: Any) -> Any:
        return {"position": observation}


def assert_training_stops_and_the_saved_model_is_unharmed(model: Any, path: Path, words: tuple[str, ...]) -> None:
    """The third of the rollouts of eight steps fails; until then the model is trained and saved."""
    before = weights(model)
    with pytest.raises(ValueError, match=words[0]) as error:
        model.learn(8 * model.n_envs * 5, SaveAtEveryRollout(path))
    for word in words:
        assert word in str(error.value), str(error.value)
    assert str(error.value).endswith(f"; last saved: {path}")
    assert model._n_updates == 2
    assert not same(before, weights(model))
    saved = VPG.load(path, device="cpu")
    assert same(weights(saved), weights(model))
    assert all(th.isfinite(tensor).all() for tensor in weights(saved).values())
    assert same(saved.policy.optimizer.state_dict(), model.policy.optimizer.state_dict())
    assert saved.policy.critic_optimizer.state_dict()["state"].keys()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, before our error
@pytest.mark.parametrize("per_step_values", [False, True])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", ["observation", "reward"])
@pytest.mark.parametrize("space", ACTION_SPACES[:2], ids=lambda space: type(space).__name__)
def test_a_wrong_number_from_the_environment_stops_training_with_environment_and_step(
    tmp_path: Path, space: spaces.Space[Any], kind: str, value: float, per_step_values: bool
) -> None:
    # The 20th step is step 3 of the third rollout; its observation is acted upon in step 4
    env = vectorised({20: (kind, value)}, action_space=space)
    model = tiny(env, n_steps=8, per_step_values=per_step_values)
    step = 4 if kind == "observation" else 3
    words = (f"{kind} of environment 1", str(value), f"step {step}", "finite")
    assert_training_stops_and_the_saved_model_is_unharmed(model, tmp_path / "model.zip", words)


def test_a_wrong_observation_is_named_where_torch_does_not_validate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", False)
    model = tiny(vectorised({20: ("observation", NAN)}), n_steps=8, per_step_values=True)
    words = ("observation of environment 1", "nan", "step 4", "finite")
    assert_training_stops_and_the_saved_model_is_unharmed(model, tmp_path / "model.zip", words)


def test_a_wrong_number_in_a_dict_observation_is_named_with_its_key(tmp_path: Path) -> None:
    model = tiny(vectorised({20: ("observation", NAN)}, dict_observations=True), "MultiInputPolicy", n_steps=8)
    words = ("observation 'position' of environment 1", "nan", "step 4")
    assert_training_stops_and_the_saved_model_is_unharmed(model, tmp_path / "model.zip", words)


def test_a_wrong_number_in_the_last_observation_of_a_batch_is_found(tmp_path: Path) -> None:
    model = tiny(vectorised({24: ("observation", NAN)}, action_space=ACTION_SPACES[0]), n_steps=8)
    words = ("observation of environment 1", "nan", "step 8")
    assert_training_stops_and_the_saved_model_is_unharmed(model, tmp_path / "model.zip", words)


def test_a_wrong_number_at_a_time_limit_is_found(tmp_path: Path) -> None:
    """The terminal observation is in no row of the buffer, but its value is bootstrapped."""
    # Episodes of 6 and 9 steps: the second ends with step 21 - 6 = 15, the third with step 21
    model = tiny(vectorised({21: ("observation", NAN)}, truncated=True), n_steps=8)
    words = ("observation of environment 1", "nan", "step 4")
    assert_training_stops_and_the_saved_model_is_unharmed(model, tmp_path / "model.zip", words)


@pytest.mark.parametrize("kind", ["observation", "reward"])
def test_a_wrong_number_is_traced_to_its_environment_through_vecnormalize(tmp_path: Path, kind: str) -> None:
    """VecNormalize's running mean carries a NaN into every environment."""
    model = tiny(VecNormalize(vectorised({20: (kind, NAN)})), n_steps=8)
    words = (f"{kind} of environment 1", "nan", f"step {4 if kind == 'observation' else 3}")
    assert_training_stops_and_the_saved_model_is_unharmed(model, tmp_path / "model.zip", words)


@pytest.mark.parametrize("kind", ["observation", "reward"])
def test_whole_episode_batches_refuse_wrong_numbers_too(kind: str) -> None:
    model = tiny(vectorised({4: (kind, NAN)}), algorithm=REINFORCE, n_steps=8)
    before = weights(model)
    with pytest.raises(ValueError, match=f"{kind} of environment 1 is nan at step {4 if kind == 'observation' else 3}"):
        model.learn(24)
    assert same(before, weights(model))


@pytest.mark.parametrize("per_step_values", [False, True])
@pytest.mark.parametrize("space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_a_policy_whose_weights_are_not_numbers_is_stopped_at_its_first_action(
    space: spaces.Space[Any], per_step_values: bool
) -> None:
    model = tiny(lambda: RandomEnv(space), n_envs=2, per_step_values=per_step_values)
    with th.no_grad():
        model.policy.action_net.bias.fill_(NAN)
    with pytest.raises(ValueError, match=r"action.* of environment 0 .*nan.* step 0"):
        model.learn(32)
    assert model._n_updates == 0


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy's, which a user sees first
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_returns_that_overflow_do_not_reach_the_weights() -> None:
    model = tiny(lambda: ScriptedEnv([100], reward=1e38), gamma=1.0, gae_lambda=1.0)
    before = weights(model)
    with pytest.raises(ValueError, match="finite"):
        model.learn(16)
    assert same(before, weights(model))


def test_after_an_error_the_same_model_trains_on() -> None:
    model = tiny(vectorised({10: ("reward", NAN)}), n_steps=8)
    with pytest.raises(ValueError, match="reward of environment 1"):
        model.learn(24 * 4)
    trained = weights(model)
    model.learn(24, reset_num_timesteps=False)
    assert not same(trained, weights(model))
    assert all(th.isfinite(tensor).all() for tensor in weights(model).values())


def test_the_buffer_of_another_class_of_algorithm_is_refused_by_collect_rollouts() -> None:
    model = tiny(make_vec_env(lambda: RandomEnv(ACTION_SPACES[1]), 1, seed=0))
    one_rollout(model)
    foreign = RolloutBuffer(16, model.observation_space, model.action_space)
    with pytest.raises((ValueError, AssertionError)):
        model.collect_rollouts(model.env, BaseCallbackThatDoesNothing(), foreign, 16)


class BaseCallbackThatDoesNothing(BaseCallback):
    def _on_step(self) -> bool:
        return True
