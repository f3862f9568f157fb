"""With a joint optimizer and SB3's collection, VPG is A2C: the same weights, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION_SPACES, DICT, IMAGE, AskedThroughTorch, RandomEnv, same, weights
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg import VPG

AS_A2C = dict(
    learning_rate=7e-4, n_steps=5, gae_lambda=1.0, normalize_advantage=False, joint_optimizer=True, use_rms_prop=True,
    per_step_values=True,
)  # fmt: skip


def same_weights(one: Any, other: Any) -> bool:
    return same(weights(one), weights(other))


def trained_pair(
    env_fn: Any, policy: Any = "MlpPolicy", updates: int = 20, wrap: Any = None, vpg: Any = AS_A2C, **kwargs: Any
) -> Any:
    """VPG and A2C after the same number of updates from the same seed.

    :param vpg: settings of VPG's
    :param kwargs: of both
    """
    models = []
    for algorithm, settings in ((VPG, vpg), (A2C, {})):
        env = make_vec_env(env_fn, n_envs=4, seed=3)
        env = wrap(env) if wrap else env
        model = algorithm(policy, env, seed=3, **{**settings, **kwargs})
        models.append(model.learn(updates * 5 * 4))
    return models


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_twenty_updates_give_a2cs_weights_bit_for_bit(action_space: spaces.Space[Any]) -> None:
    vpg, a2c = trained_pair(lambda: RandomEnv(action_space))
    assert vpg._n_updates == a2c._n_updates == 20
    assert same_weights(vpg, a2c)


def test_a_smaller_lambda_entropy_and_adam_give_a2cs_weights_too() -> None:
    settings = dict(use_rms_prop=False, gae_lambda=0.9, ent_coef=0.01, gamma=0.95)
    assert same_weights(*trained_pair(lambda: RandomEnv(ACTION_SPACES[0]), **settings))


def test_gsde_gives_a2cs_weights() -> None:
    assert same_weights(*trained_pair(lambda: RandomEnv(ACTION_SPACES[0]), use_sde=True, sde_sample_freq=4))


def test_normalised_observations_and_rewards_give_a2cs_weights() -> None:
    assert same_weights(*trained_pair(lambda: RandomEnv(ACTION_SPACES[1]), wrap=VecNormalize))


def test_images_give_a2cs_weights() -> None:
    assert same_weights(*trained_pair(lambda: RandomEnv(spaces.Discrete(3), IMAGE), "CnnPolicy", updates=3))


def test_dict_observations_give_a2cs_weights() -> None:
    assert same_weights(*trained_pair(lambda: RandomEnv(spaces.Discrete(3), DICT), "MultiInputPolicy", updates=3))


def test_from_the_same_rollout_train_gives_a2cs_weights() -> None:
    """Independently of how the rollout came about: A2C's buffer is filled from VPG's."""
    space = ACTION_SPACES[0]
    vpg = VPG("MlpPolicy", make_vec_env(lambda: RandomEnv(space), 4, seed=1), seed=1, **AS_A2C)
    a2c = A2C("MlpPolicy", make_vec_env(lambda: RandomEnv(space), 4, seed=1), seed=1)
    a2c.policy.load_state_dict(vpg.policy.state_dict())
    _, callback = vpg._setup_learn(100)
    vpg.collect_rollouts(vpg.env, callback, vpg.rollout_buffer, 5)
    a2c._setup_learn(100)
    for name in ("observations", "actions", "values", "log_probs", "advantages", "returns", "rewards"):
        getattr(a2c.rollout_buffer, name)[:] = getattr(vpg.rollout_buffer, name)
    a2c.rollout_buffer.full = True
    set_random_seed(0)
    vpg.train()
    set_random_seed(0)
    a2c.train()
    assert same_weights(vpg, a2c)


def test_without_per_step_values_the_weights_agree_to_rounding() -> None:
    """Values in one batch after the rollout, and no permutation, change nothing but the last bits."""
    pair = trained_pair(
        lambda: RandomEnv(ACTION_SPACES[2]), AskedThroughTorch, updates=1, vpg={**AS_A2C, "per_step_values": False}
    )
    ours, theirs = map(weights, pair)
    for key in ours:
        assert th.allclose(ours[key], theirs[key], atol=1e-6), key
