"""REINFORCE is VPG with other defaults."""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import ACTION_SPACES, IMAGE, RandomEnv, ScriptedEnv, one_rollout, same, tiny, weights

from sb3_pg import REINFORCE, VPG

PRESET = dict(estimator="reward_to_go", baseline="none", whole_episodes=True, gae_lambda=1.0)


def test_reinforce_is_vpg_with_reward_to_go_of_whole_episodes_and_no_baseline() -> None:
    reinforce = tiny(algorithm=REINFORCE, n_envs=2).learn(100)
    vpg = tiny(algorithm=VPG, n_envs=2, **PRESET).learn(100)
    assert same(weights(reinforce), weights(vpg))
    assert {name: getattr(reinforce, name) for name in PRESET} == PRESET


def test_reinforce_takes_every_argument_of_vpg() -> None:
    others = {
        name: parameter.default
        for name, parameter in signature(VPG.__init__).parameters.items()
        if name not in ("self", "policy", "env", "device", *PRESET)
    }
    model = REINFORCE("MlpPolicy", "CartPole-v1", device="cpu", **{**others, "n_steps": 7, "_init_setup_model": False})
    assert model.n_steps == 7


@pytest.mark.parametrize("space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_reinforce_moves_the_actor_and_not_the_critic(space: Any) -> None:
    model = tiny(lambda: RandomEnv(space), algorithm=REINFORCE, n_envs=2)
    before = weights(model)
    model.learn(100)
    after = weights(model)
    assert not th.equal(before["action_net.weight"], after["action_net.weight"])
    for key in ("value_net.weight", "mlp_extractor.value_net.0.weight"):
        assert th.equal(before[key], after[key])


def test_without_a_critic_the_actor_learns_a_features_extractor_that_it_would_share() -> None:
    shared = dict(net_arch=[], share_features_extractor=True)
    make = partial(tiny, lambda: RandomEnv(ACTION_SPACES[1], IMAGE), "CnnPolicy", policy_kwargs=shared)
    model = make(REINFORCE)
    before = weights(model)
    model.learn(16)
    after = weights(model)
    assert not th.equal(before["features_extractor.cnn.0.weight"], after["features_extractor.cnn.0.weight"])
    assert th.equal(before["value_net.weight"], after["value_net.weight"])
    with pytest.raises(ValueError, match=r"share the parameters features_extractor\."):
        make(REINFORCE, baseline="value")


def test_the_weight_of_a_step_is_its_discounted_return() -> None:
    model = tiny(lambda: ScriptedEnv([3, 2]), algorithm=REINFORCE, n_steps=5, gamma=0.5)
    buffer = one_rollout(model)
    np.testing.assert_allclose(buffer.advantages[:, 0], [1.75, 1.5, 1.0, 1.5, 1.0])


def test_a_time_limit_ends_the_return_where_there_is_no_critic() -> None:
    model = tiny(lambda: ScriptedEnv([3], truncated=True), algorithm=REINFORCE, n_steps=3, gamma=0.5)
    np.testing.assert_allclose(one_rollout(model).advantages[:, 0], [1.75, 1.5, 1.0])


def test_with_a_value_baseline_the_critic_is_fitted_to_monte_carlo_returns() -> None:
    model = tiny(lambda: ScriptedEnv([3, 2]), algorithm=REINFORCE, baseline="value", n_steps=5, gamma=0.5)
    buffer = one_rollout(model)
    returns = [1.75, 1.5, 1.0, 1.5, 1.0]
    np.testing.assert_allclose(buffer.returns[:, 0], returns, rtol=1e-5)
    np.testing.assert_allclose(buffer.advantages[:, 0], np.array(returns) - buffer.values[:, 0], rtol=1e-5)
    before = weights(model)
    model.train()
    assert not th.equal(before["value_net.weight"], weights(model)["value_net.weight"])


@pytest.mark.filterwarnings("ignore:baseline='time_mean' makes every advantage:UserWarning")
@pytest.mark.parametrize("baseline", ["mean", "time_mean", "leave_one_out"])
def test_the_other_baselines_go_with_it(baseline: str) -> None:
    model = tiny(lambda: ScriptedEnv([2]), algorithm=REINFORCE, baseline=baseline, n_steps=4, gamma=1.0)
    # Every episode is the same, so that only the mean over all steps, 1.5, leaves something
    expected = [0.5, -0.5, 0.5, -0.5] if baseline == "mean" else [0.0] * 4
    np.testing.assert_allclose(one_rollout(model).advantages[:, 0], expected, atol=1e-6)


def test_reinforce_learns_the_better_arm_of_a_bandit() -> None:
    class Bandit(ScriptedEnv):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, float(action == 1), *rest

    model = tiny(lambda: Bandit([1]), algorithm=REINFORCE, learning_rate=0.05, n_steps=32, n_envs=2)
    model.learn(64 * 30)
    buffer = one_rollout(model)
    assert buffer.rewards.mean() > 0.9


def test_what_comes_after_the_environment_has_to_be_named() -> None:
    """VPG's third parameter is the learning rate, and REINFORCE's first of its own is another."""
    with pytest.raises(TypeError, match="positional"):
        REINFORCE("MlpPolicy", "CartPole-v1", 1e-3)  # type: ignore[misc]


@pytest.mark.parametrize(("baseline", "kwargs"), [("time_mean", {}), ("mean", dict(estimator="total_return"))])
def test_a_batch_of_which_the_baseline_leaves_nothing_is_warned_of(baseline: str, kwargs: dict[str, Any]) -> None:
    model = tiny(lambda: ScriptedEnv([20]), algorithm=REINFORCE, baseline=baseline, **kwargs)
    with pytest.warns(UserWarning, match=f"baseline='{baseline}' makes every advantage of this batch zero"):
        model.learn(20)


@pytest.mark.parametrize("normalize_advantage", [True, "center"])
def test_a_batch_of_one_step_of_which_normalisation_leaves_nothing_is_warned_of(normalize_advantage: Any) -> None:
    kwargs: Any = dict(algorithm=REINFORCE, n_episodes=1, n_steps=1)
    with pytest.warns(UserWarning, match=f"normalize_advantage={normalize_advantage!r} makes the advantage"):
        tiny(lambda: ScriptedEnv([1]), normalize_advantage=normalize_advantage, **kwargs).learn(2)
    model = tiny(lambda: ScriptedEnv([1]), normalize_advantage=False, **kwargs)
    before = weights(model)
    assert not same(weights(model.learn(2)), before)
