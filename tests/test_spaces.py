"""VPG trains on every action space, every kind of observation, and with every combination that is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION_SPACES, DICT, FLAT, IMAGE, RandomEnv, WatchedEnv, one_rollout, same, tiny, weights
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_pg.advantage.baselines import BASELINES
from sb3_pg.advantage.estimators import ESTIMATORS

SMALL_CNN = dict(features_extractor_kwargs=dict(features_dim=8))
SMALL_DICT = dict(features_extractor_kwargs=dict(cnn_output_dim=8))
OBSERVATIONS: list[tuple[str, spaces.Space[Any], str, dict[str, Any]]] = [
    ("flat", FLAT, "MlpPolicy", {}),
    ("matrix", spaces.Box(-1, 1, (2, 3), np.float32), "MlpPolicy", {}),
    ("image", IMAGE, "CnnPolicy", SMALL_CNN),
    ("dict", DICT, "MultiInputPolicy", SMALL_DICT),
    ("discrete", spaces.Discrete(5), "MlpPolicy", {}),
    ("multidiscrete", spaces.MultiDiscrete([3, 4]), "MlpPolicy", {}),
    ("multibinary", spaces.MultiBinary(4), "MlpPolicy", {}),
]


def name(space: Any) -> str:
    return type(space).__name__


def assert_learns(model: Any, updates: int = 2) -> Any:
    """A few updates leave finite weights, and move those of the actor.

    :return: names of the weights that were moved
    """
    before = weights(model)
    model.learn(updates * model.n_steps * model.n_envs)
    after = weights(model)
    assert model._n_updates >= 1
    assert all(th.isfinite(tensor).all() for tensor in after.values())
    trained = {key for key in after if not th.equal(before[key], after[key])}
    assert any("action_net" in key for key in trained)
    return trained


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=name)
@pytest.mark.parametrize(("kind", "space", "policy", "kwargs"), OBSERVATIONS, ids=[row[0] for row in OBSERVATIONS])
def test_vpg_trains_on_every_action_and_observation_space(
    kind: str, space: Any, policy: str, kwargs: Any, action_space: Any, n_envs: int
) -> None:
    n_steps = 4 if kind in ("image", "dict") else 16
    model = tiny(
        lambda: RandomEnv(action_space, space), policy, n_envs=n_envs, n_steps=n_steps, policy_kwargs=dict(kwargs)
    )
    trained = assert_learns(model)
    assert any("value_net" in key for key in trained)
    action, _ = model.predict(model.env.reset())
    assert all(action_space.contains(each) for each in action)


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=name)
@pytest.mark.parametrize("kind", ["flat", "dict"])
def test_the_joint_optimizer_trains_on_every_action_space(action_space: Any, kind: str) -> None:
    _, space, policy, kwargs = next(row for row in OBSERVATIONS if row[0] == kind)
    model = tiny(
        lambda: RandomEnv(action_space, space), policy, n_steps=4, joint_optimizer=True, policy_kwargs=dict(kwargs)
    )
    trained = assert_learns(model)
    assert any("value_net" in key for key in trained)
    assert not hasattr(model.policy, "critic_optimizer")


@pytest.mark.parametrize("sde_sample_freq", [-1, 3])
@pytest.mark.parametrize("squash_output", [False, True])
@pytest.mark.parametrize("joint_optimizer", [False, True])
def test_gsde_trains(sde_sample_freq: int, squash_output: bool, joint_optimizer: bool) -> None:
    space = spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64)
    model = tiny(
        lambda: RandomEnv(space), n_envs=2, use_sde=True, sde_sample_freq=sde_sample_freq,
        joint_optimizer=joint_optimizer, ent_coef=0.01, policy_kwargs=dict(squash_output=squash_output),
    )  # fmt: skip
    assert "log_std" in assert_learns(model)


def test_squashed_actions_are_stored_squashed_and_reach_the_environment_in_its_own_bounds() -> None:
    space = spaces.Box(5.0, 9.0, (2,))
    model = tiny(lambda: WatchedEnv(space), use_sde=True, policy_kwargs=dict(squash_output=True))
    stored = one_rollout(model).actions.reshape(-1, 2)
    assert np.abs(stored).max() <= 1
    np.testing.assert_allclose(model.env.get_attr("actions")[0], 7.0 + 2.0 * stored, rtol=1e-5)


def test_actions_outside_the_bounds_are_stored_as_drawn_and_clipped_for_the_environment() -> None:
    model = tiny(lambda: WatchedEnv(spaces.Box(-0.1, 0.1, (2,))))
    stored = one_rollout(model).actions.reshape(-1, 2)
    assert np.abs(stored).max() > 0.1
    reached = np.array(model.env.get_attr("actions")[0])
    np.testing.assert_array_equal(reached, np.clip(stored, np.float32(-0.1), np.float32(0.1)))


def test_gsde_noise_is_drawn_anew_every_sde_sample_freq_steps() -> None:
    drawn = []
    model = tiny(lambda: RandomEnv(ACTION_SPACES[0]), use_sde=True, sde_sample_freq=4, n_steps=16)
    reset_noise = model.policy.reset_noise
    model.policy.reset_noise = lambda n_envs=1: (drawn.append(n_envs), reset_noise(n_envs))
    one_rollout(model)
    assert drawn == [1] * (1 + 4)


def test_gsde_noise_stays_for_a_whole_rollout_by_default() -> None:
    """The same observation gives the same action, since the noise is a function of the state."""

    class Still(RandomEnv):
        def reset(self, **kwargs: Any) -> Any:
            _, info = super().reset(**kwargs)
            return np.full(3, 0.5), info

        def step(self, action: Any) -> Any:
            return np.full(3, 0.5), *super().step(action)[1:]

    model = tiny(lambda: Still(ACTION_SPACES[0]), use_sde=True)
    first, second = one_rollout(model).actions[:, 0].copy(), one_rollout(model).actions[:, 0].copy()
    assert np.ptp(first, axis=0).max() < 1e-6
    assert not np.allclose(first[0], second[0])


@pytest.mark.parametrize("n_envs", [1, 4])
def test_normalised_observations_and_rewards_train(n_envs: int) -> None:
    env = VecNormalize(make_vec_env(lambda: RandomEnv(ACTION_SPACES[0]), n_envs, seed=0))
    model = tiny(env)
    assert_learns(model)
    rewards, raw_rewards = one_rollout(model).rewards[-1], env.get_original_reward()
    np.testing.assert_array_equal(rewards, env.normalize_reward(raw_rewards))
    assert not np.allclose(rewards, raw_rewards)


def test_stacked_frames_train() -> None:
    images = VecFrameStack(make_vec_env(lambda: RandomEnv(ACTION_SPACES[1], IMAGE), 2, seed=0), n_stack=4)
    assert_learns(tiny(images, "CnnPolicy", n_steps=4, policy_kwargs=dict(SMALL_CNN)))
    flat = VecFrameStack(make_vec_env(lambda: RandomEnv(ACTION_SPACES[1]), 2, seed=0), n_stack=3)
    model = tiny(flat)
    assert_learns(model)
    assert model.rollout_buffer.observations.shape == (16, 2, 9)


WITHOUT_CRITIC = [key for key in BASELINES if key != "value"]


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "n_step:1", "n_step:3"])
def test_every_estimator_trains_with_the_value_baseline(estimator: str) -> None:
    for n_envs in (1, 4):
        trained = assert_learns(tiny(n_envs=n_envs, estimator=estimator, whole_episodes=estimator == "total_return"))
        assert any("value_net" in key for key in trained)
        assert any("q_net" in key for key in trained) == (estimator in ("q", "q_minus_v"))


@pytest.mark.parametrize("whole", [dict(whole_episodes=True), dict(n_episodes=3)], ids=str)
@pytest.mark.parametrize("estimator", ["reward_to_go", "total_return", "gae"])
@pytest.mark.parametrize("baseline", WITHOUT_CRITIC)
def test_every_critic_free_baseline_trains_the_actor_alone(baseline: str, estimator: str, whole: Any) -> None:
    model = tiny(n_envs=2, estimator=estimator, baseline=baseline, gae_lambda=1.0, **whole)
    trained = assert_learns(model)
    assert not any("value_net" in key for key in trained)
    assert "train/value_loss" not in model.logger.name_to_value


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=name)
@pytest.mark.parametrize("joint_optimizer", [False, True])
@pytest.mark.parametrize("policy_loss", ["importance", "clipped"])
def test_several_passes_in_minibatches_train(policy_loss: str, joint_optimizer: bool, action_space: Any) -> None:
    model = tiny(
        lambda: RandomEnv(action_space), n_envs=2, policy_loss=policy_loss, n_epochs=3, batch_size=10, target_kl=1.0,
        clip_range="lin_0.2_0.1", joint_optimizer=joint_optimizer,
    )  # fmt: skip
    assert_learns(model)
    assert model.logger.name_to_value["train/approx_kl"] > 0


@pytest.mark.parametrize("per_step_values", [False, True])
@pytest.mark.parametrize("joint_optimizer", [False, True])
@pytest.mark.parametrize("policy_loss", ["vanilla", "importance", "clipped"])
def test_the_passes_end_when_the_policy_has_moved_by_target_kl(
    policy_loss: str, joint_optimizer: bool, per_step_values: bool
) -> None:
    def steps(target_kl: float | None) -> int:
        model = tiny(
            policy_loss=policy_loss, n_epochs=20, batch_size=8, target_kl=target_kl, learning_rate=0.05,
            joint_optimizer=joint_optimizer, per_step_values=per_step_values,
        )  # fmt: skip
        taken = []
        step = model.policy.optimizer.step
        model.policy.optimizer.step = lambda *args, **kwargs: (taken.append(1), step(*args, **kwargs))[1]
        model.learn(16)
        return len(taken)

    assert steps(None) == 40
    assert 1 <= steps(1e-3) < 10


@pytest.mark.parametrize("joint_optimizer", [False, True])
@pytest.mark.parametrize("truncation", ["bootstrap", "terminal", "discard"])
def test_every_treatment_of_time_limits_trains(truncation: str, joint_optimizer: bool) -> None:
    assert_learns(tiny(n_envs=2, truncation=truncation, joint_optimizer=joint_optimizer))


# Where truncated episodes are discarded, a batch may have one step left
@pytest.mark.filterwarnings("ignore:normalize_advantage=True makes the advantage of this batch of one step zero")
@pytest.mark.parametrize(
    "settings",
    [
        dict(state_discount=True),
        dict(state_discount=True, joint_optimizer=True, whole_episodes=True),
        dict(critic_gae_lambda=0.0),
        dict(critic_gae_lambda=1.0),
        dict(critic_gae_lambda="lin_0.0_1.0", gae_lambda="lin_1.0_0.5"),
        dict(ent_coef="lin_0.1"),
        dict(ent_coef="lin_0.1_0.05"),
        dict(normalize_advantage="center"),
        dict(normalize_advantage="batch"),
        dict(normalize_advantage=False, n_steps=1),
        dict(max_grad_norm=None),
        dict(use_rms_prop=True),
        dict(critic_batch_size=None, batch_size=7, n_critic_updates=3),
        dict(per_step_values=True, batch_size=7),
        dict(n_episodes=2, truncation="discard"),
    ],
    ids=str,
)
def test_every_other_setting_trains(settings: dict[str, Any]) -> None:
    assert_learns(tiny(n_envs=2, **settings))


def test_the_entropy_bonus_follows_its_schedule() -> None:
    def after(ent_coef: Any) -> Any:
        return weights(tiny(ent_coef=ent_coef).learn(32))

    def late(progress_remaining: float) -> float:
        return 0.5 if progress_remaining == 0 else 0.0

    nothing, always, second_update_only = after(0.0), after(0.5), after(late)
    assert not same(second_update_only, nothing)
    assert not same(second_update_only, always)
