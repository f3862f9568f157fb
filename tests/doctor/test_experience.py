"""Whole episodes of a frozen policy, none of them preferred, and nothing of the model changed."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION_SPACES, DICT, RandomEnv, ScriptedEnv, same, tiny, weights
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg import REINFORCE, VPG, TunableA2C
from sb3_pg.doctor import experience
from sb3_pg.doctor.diagnosis import diagnose
from sb3_pg.doctor.experience import check_policy, choose_layers, describe_training, gather, lambda_in_use
from sb3_pg.envs.finite_mdp import FiniteMDPVectorEnv
from sb3_pg.exact.expectation import expected_gradient
from sb3_pg.exact.mdp import softmax_policy
from sb3_pg.exact.problems import short_or_long
from sb3_pg.rollout.vec_env import VectorEnvAdapter


def gathered(model: Any, n_batches: int = 4, **kwargs: Any) -> Any:
    training = describe_training(model, "test", model.n_envs)
    return training, gather(model, training, n_batches, progress=False, **kwargs)


def test_episodes_are_whole() -> None:
    model = tiny(lambda: ScriptedEnv((3, 5, 2)), n_envs=2, n_steps=4)
    _, found = gathered(model)
    assert (found.episodes[found.valid] >= 0).all()
    for number in range(found.episodes.max() + 1):
        steps = found.episodes == number
        assert found.times[steps].tolist() == list(range(steps.sum()))
        assert found.dones[steps].tolist() == [False] * (steps.sum() - 1) + [True]
    lengths = np.bincount(found.episodes[found.valid])
    assert set(lengths) == {2, 3, 5}
    assert found.rewards.shape == found.values.shape == found.observations.shape
    assert [len(factors.delta) for factors in found.factors] == [found.rewards.size] * len(found.factors)


def test_no_episode_is_preferred_for_being_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experience, "_ROWS", 1)  # short pieces, so that many episodes are open at the end
    mdp = short_or_long(12)
    env = VectorEnvAdapter(FiniteMDPVectorEnv(400, mdp))
    model = tiny(env, n_steps=12, policy_kwargs=dict(net_arch=[]))
    with th.no_grad():
        for parameter in model.policy.action_net.parameters():
            parameter[:] = 0.0
    _, found = gathered(model, 2)
    lengths = np.bincount(found.episodes[found.valid])
    share = float(np.mean(lengths == 1))
    assert set(lengths) == {1, 12}
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / len(lengths))
    # All that have ended by then would be too many short ones
    ended = found.dones.sum()
    short = (found.dones & (found.times == 0)).sum()
    assert short / ended - 0.5 > 6 * np.sqrt(0.25 / ended)


def test_values_are_those_of_the_critic() -> None:
    model = tiny(lambda: ScriptedEnv((3,), truncated=True), n_steps=6)
    _, found = gathered(model)
    policy = model.policy
    with th.no_grad():
        first, last = (policy.predict_values(th.tensor([[steps, 0.0]])).item() for steps in (0, 3))
    model.env.reset()
    assert found.times[:4, 0].tolist() == [0, 1, 2, 0]
    assert first != last
    # The second number of the observation counts episodes, and a fresh environment begins with its first one
    number = int(model.env.envs[0].unwrapped.episode)
    assert number >= found.episodes.max()
    assert np.isfinite(found.values).all()
    assert (found.next_values[found.dones] != 0).all()
    np.testing.assert_array_equal(found.next_values[:-1][~found.dones[:-1]], found.values[1:][~found.dones[:-1]])


def test_the_same_observation_has_the_same_number() -> None:
    model = tiny(lambda: ScriptedEnv((3,)), n_steps=6)
    _, found = gathered(model)
    shown = found.observations[:, 0]
    assert len(set(shown.tolist())) == len(shown)  # the number of the episode is in the observation
    mdp = VectorEnvAdapter(FiniteMDPVectorEnv(3, "random_chain"))
    _, chain = gathered(tiny(mdp, n_steps=20))
    assert len(np.unique(chain.observations)) == 5


@pytest.mark.parametrize("algorithm", [VPG, REINFORCE, A2C, PPO])
@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_every_algorithm_and_action_space_is_read(algorithm: Any, action_space: Any) -> None:
    kwargs = dict(batch_size=8) if algorithm is PPO else {}
    model = tiny(lambda: RandomEnv(action_space), algorithm=algorithm, n_envs=2, **kwargs)
    training, found = gathered(model)
    assert diagnose(found, training).n_episodes > 7
    assert training.uses_critic is (algorithm is not REINFORCE)
    assert training.minibatch == (8 if algorithm is PPO else None)


@pytest.mark.parametrize(("gae_lambda", "learnt"), [(0.9, 0), (0.9, 32), ("auto", 32)])
def test_time_limits_are_read_with_a_tunable_algorithm_too(gae_lambda: Any, learnt: int) -> None:
    def make(algorithm: Any, **kwargs: Any) -> Any:
        return tiny(lambda: ScriptedEnv([3, 2], truncated=True), algorithm=algorithm, n_envs=2, **kwargs)

    model = make(TunableA2C, gae_lambda=gae_lambda)
    if learnt:
        model.learn(learnt)
    _, found = gathered(model)
    _, plain = gathered(make(A2C))
    assert np.array_equal(found.rewards, plain.rewards)
    assert model.learn(32).num_timesteps == 32


@pytest.mark.parametrize(
    ("kwargs", "layers"),
    [
        (dict(use_sde=True), "the last layer"),
        (dict(env=lambda: RandomEnv(ACTION_SPACES[1], DICT), policy="MultiInputPolicy"), "the last layer"),
        (dict(estimator="q_minus_v", env=lambda: RandomEnv(ACTION_SPACES[1])), "all layers"),
        (dict(n_episodes=2, estimator="gae", gae_lambda=1.0), "all layers"),
    ],
    ids=["gSDE", "dict", "Q", "episodes"],
)
def test_every_kind_of_policy_is_read(kwargs: dict[str, Any], layers: str) -> None:
    model = tiny(**{"env": lambda: RandomEnv(ACTION_SPACES[0]), **kwargs})
    training, found = gathered(model)
    assert found.layers == layers
    assert diagnose(found, training).n_groups > 3
    assert (found.q_values is not None) == ("estimator" in kwargs and kwargs["estimator"] == "q_minus_v")


def test_nothing_of_the_model_changes() -> None:
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(ACTION_SPACES[0])] * 2), training=False)
    model = tiny(env, n_steps=8)
    before, statistics = weights(model), copy.deepcopy((env.obs_rms.__dict__, env.ret_rms.__dict__))
    gathered(model)
    assert same(before, weights(model))
    assert str((env.obs_rms.__dict__, env.ret_rms.__dict__)) == str(statistics)


def test_the_gradient_of_a_table_is_the_exact_one() -> None:
    mdp = short_or_long(4)
    model = tiny(VectorEnvAdapter(FiniteMDPVectorEnv(50, mdp)), n_steps=40, gae_lambda=0.9, gamma=1.0,
                 policy_kwargs=dict(net_arch=[]), normalize_advantage=False, seed=3)  # fmt: skip
    values = np.array([0.5, -0.3, 0.2, -0.5, 0.0])
    with th.no_grad():
        for parameter in model.policy.action_net.parameters():
            parameter[:] = 0.0
        model.policy.value_net.weight[0] = th.as_tensor(values)
        model.policy.value_net.bias[:] = 0.0
    training, found = gathered(model, 3)
    policy = softmax_policy(np.zeros((5, 2)))
    result = diagnose(found, training)
    table = expected_gradient(mdp, policy, "gae", gae_lambda=0.9, values=values, n_steps=40, n_batches=20)
    # An episode has as many steps as its mean length; the biases' gradient is the sum over the states
    per_episode = table * result.mean_length
    signal = per_episode @ per_episode + np.sum(per_episode.reshape(5, 2).sum(axis=0) ** 2)
    assert abs(result.signal.value[0] - signal) < 4 * result.signal.standard_error[0]
    assert result.signal.standard_error[0] < 0.2 * signal


def test_the_last_layer_alone_on_request_or_for_large_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    assert choose_layers(model.policy, last_layer=False)
    assert not choose_layers(model.policy, last_layer=True)
    monkeypatch.setattr(experience, "_MOST_PARAMETERS", 10)
    assert not choose_layers(model.policy, last_layer=False)


def test_a_task_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experience, "LONGEST_EPISODE", 300)
    model = tiny(lambda: ScriptedEnv((10**6,)))
    with pytest.raises(ValueError, match=r"no episode ended within \d+ steps; the doctor needs whole episodes"):
        gathered(model)


def test_more_memory_than_there_may_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experience, "_MOST_BYTES", 2**10)
    with pytest.raises(ValueError, match=r"64 steps would take 0\.0 GiB .*: --last-layer, or a smaller --n-batches"):
        gathered(tiny())


def test_algorithms_that_cannot_be_read_are_refused() -> None:
    box = spaces.Box(-1, 1, (3,), np.float32)
    for model in (
        tiny(lambda: RandomEnv(ACTION_SPACES[1], box), algorithm=DQN, n_steps=1),
        tiny(algorithm=RecurrentPPO, policy="MlpLstmPolicy"),
    ):
        with pytest.raises(
            ValueError, match=f"{type(model).__name__} with .* cannot be examined; accepted are on-policy"
        ):
            check_policy(model)
    check_policy(tiny())


def test_a_policy_without_a_linear_last_layer_is_refused() -> None:
    model = tiny()
    model.policy.action_net = th.nn.Sequential(model.policy.action_net)
    with pytest.raises(ValueError, match="has no linear last layer action_net"):
        gathered(model)


def test_a_critic_whose_values_overflow_is_refused() -> None:
    model = tiny(policy_kwargs=dict(net_arch=[]))
    with th.no_grad():
        model.policy.value_net.weight.fill_(3e38)
        model.policy.value_net.bias.fill_(3e38)
    with pytest.raises(ValueError, match=r"values of environment \d hold -?(inf|nan) at step \d+ of the rollout"):
        gathered(model)


def test_the_lambda_in_use_is_the_schedules_last() -> None:
    model = tiny(gae_lambda="lin_0.9_0.5", n_steps=8)
    assert lambda_in_use(model) == 0.9
    model.learn(16)
    assert lambda_in_use(model) == pytest.approx(0.5)
    assert describe_training(model, "", 1, 0.7).gae_lambda == 0.7


def test_the_lambda_in_use_is_what_a_rule_chose_last() -> None:
    model = tiny(gae_lambda="length:0.5", n_steps=32)
    with pytest.raises(ValueError, match=r"gae_lambda='length:0\.5' is chosen at every update, and was not yet"):
        lambda_in_use(model)
    model.learn(32)
    assert 0 < lambda_in_use(model) < 1
    training, found = gathered(model)
    assert training.gae_lambda == lambda_in_use(model)
    assert diagnose(found, training).n_episodes > 7


def test_settings_are_read_from_the_model() -> None:
    model = tiny(truncation="terminal", normalize_advantage="center", state_discount=True, n_steps=12)
    found = describe_training(model, "name", 3)
    assert (found.bootstraps, found.centred, found.state_discount) == (False, True, True)
    assert (found.name, found.n_envs, found.n_steps, found.whole_episodes) == ("name", 3, 12, False)
    assert found.batch_steps(100.0) == 36
    assert describe_training(tiny(algorithm=REINFORCE), "", 2).batch_steps(100.0) == 200
    assert describe_training(tiny(algorithm=REINFORCE, n_episodes=3), "", 2).batch_steps(10.0) == 60
    assert describe_training(tiny(normalize_advantage=False), "", 1).centred is False
    assert describe_training(tiny(algorithm=A2C), "", 1).centred is False
    named = describe_training(tiny(estimator=_own_estimator), "", 1)
    assert named.estimator == "_own_estimator"


def _own_estimator(trajectories: Any, *, gamma: float, gae_lambda: float) -> Any:  # noqa: ARG001
    return trajectories.rewards


def test_environments_with_one_long_and_one_short_episode_wait_for_the_long_one() -> None:
    lengths = iter([(2,), (30,)])

    def make() -> gym.Env[Any, Any]:
        return ScriptedEnv(next(lengths))

    model = tiny(make, n_envs=2, n_steps=4)
    _, found = gathered(model, 2)
    assert (found.episodes[:, 1] >= 0).sum() % 30 == 0
    assert found.valid[:, 1].any()
