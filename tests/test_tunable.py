"""A2C, PPO and TRPO with our lambda: with a number they are SB3's, with a rule the advantages are the rule's."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import (
    ACTION_SPACES,
    DICT,
    IMAGE,
    Counting,
    PerStep,
    RandomEnv,
    Saying,
    ScriptedEnv,
    one_rollout,
    same,
    set_linear_critic,
    tiny,
    weights,
)
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg import VPG, TunableA2C, TunablePPO, TunableTRPO
from sb3_pg.advantage.estimators import gae
from sb3_pg.advantage.gae_lambda import GradientAgreement, Hoof, LambdaBatch
from sb3_pg.doctor.experience import describe_training, lambda_in_use
from sb3_pg.gradient.callbacks import GradientStatisticsCallback
from sb3_pg.gradient.per_episode import split_episodes
from sb3_pg.lambda_rules import LambdaRules, lambda_batch
from sb3_pg.rollout.tunable_buffer import TunableBuffer, TunableDictRolloutBuffer, TunableRolloutBuffer

HOSTS: dict[Any, Any] = {TunableA2C: A2C, TunablePPO: PPO, TunableTRPO: TRPO}
SETTINGS: dict[Any, dict[str, Any]] = {
    TunableA2C: {},
    TunablePPO: dict(batch_size=16, n_epochs=2),
    TunableTRPO: dict(batch_size=16, n_critic_updates=1, cg_max_steps=3),
}
RULES = ["length:0.5", "explained_variance", "auto:0.9"]
each_algorithm = pytest.mark.parametrize("algorithm", list(HOSTS), ids=lambda algorithm: algorithm.__name__)


def ours(algorithm: Any, env: Any = None, **kwargs: Any) -> Any:
    return tiny(env, algorithm=algorithm, **{"n_envs": 2, **SETTINGS[algorithm], **kwargs})


def host_of(algorithm: Any, env: Any = None, **kwargs: Any) -> Any:
    return tiny(env, algorithm=HOSTS[algorithm], **{"n_envs": 2, **SETTINGS[algorithm], **kwargs})


def logged(model: Any) -> dict[str, Any]:
    return {key: value for key, value in model.logger.name_to_value.items() if not key.startswith("time/")}


def memory(model: Any) -> Any:
    return vars(model._lambda_rules._kept["gae_lambda"][1])


class StopsAfter(BaseCallback):
    """Ends training at the first step after so many."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def _on_step(self) -> bool:
        return self.num_timesteps <= self.steps


# -- a number --------------------------------------------------------------------------------------------------------

PARTS = spaces.Dict({key: part for key, part in DICT.items() if key != "image"})
KINDS: dict[str, dict[str, Any]] = {
    "Box": dict(env=lambda: RandomEnv(ACTION_SPACES[0])),
    "Discrete": dict(env=lambda: RandomEnv(ACTION_SPACES[1])),
    "Dict": dict(env=lambda: RandomEnv(ACTION_SPACES[1], PARTS), policy="MultiInputPolicy"),
    "time-outs": dict(env=lambda: ScriptedEnv([3, 5], truncated=True), n_steps=40),
    "gsde": dict(env=lambda: RandomEnv(ACTION_SPACES[0]), use_sde=True, sde_sample_freq=4),
    "VecNormalize": dict(wrap=VecNormalize),
}


@pytest.mark.parametrize("kind", KINDS)
@each_algorithm
def test_with_a_number_the_weights_and_the_log_are_the_hosts_bit_for_bit(algorithm: Any, kind: str) -> None:
    models = []
    for make in (ours, host_of):
        settings = dict(KINDS[kind])
        env, wrap = settings.pop("env", lambda: RandomEnv(ACTION_SPACES[1])), settings.pop("wrap", lambda env: env)
        env = wrap(make_vec_env(env, n_envs=2, seed=0))
        models.append(make(algorithm, env, gae_lambda=0.9, gamma=0.97, **settings))
        models[-1].learn(3 * 2 * models[-1].n_steps)
    assert models[0]._n_updates == models[1]._n_updates
    assert same(weights(models[0]), weights(models[1]))
    assert logged(models[0]) == logged(models[1]) | {"train/gae_lambda": 0.9}


@each_algorithm
def test_the_default_lambda_is_the_hosts(algorithm: Any) -> None:
    one, other = ours(algorithm).learn(64), host_of(algorithm).learn(64)
    assert one.gae_lambda == other.gae_lambda
    assert same(weights(one), weights(other))


class SetsLambda(BaseCallback):
    """What somebody without a schedule would do."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        progress = 1 - self.num_timesteps / self.locals["total_timesteps"]
        self.model.rollout_buffer.gae_lambda = 0.5 + 0.4 * progress


@each_algorithm
def test_a_schedule_is_a_host_whose_lambda_is_set_by_hand(algorithm: Any) -> None:
    host = host_of(algorithm).learn(160, SetsLambda())
    for schedule in ("lin_0.9_0.5", lambda progress: 0.5 + 0.4 * progress):
        model = ours(algorithm, gae_lambda=schedule).learn(160)
        assert same(weights(model), weights(host))
        assert model.logger.name_to_value["train/gae_lambda"] == pytest.approx(0.5 + 0.4 * 0.2)
    assert not same(weights(host), weights(host_of(algorithm).learn(160)))


def test_another_training_begins_at_the_beginning_of_the_schedule() -> None:
    model = ours(TunableA2C, gae_lambda="lin_0.9_0.1").learn(160)
    one_rollout(model)
    assert model.rollout_buffer.gae_lambda == pytest.approx(0.9, abs=0.01)


# -- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Box", "Dict", "VecNormalize"])
@pytest.mark.parametrize("rule", RULES)
@each_algorithm
def test_every_rule_trains_wherever_a_number_does(algorithm: Any, rule: str, kind: str) -> None:
    settings = dict(KINDS[kind])
    env, wrap = settings.pop("env", lambda: RandomEnv(ACTION_SPACES[1])), settings.pop("wrap", lambda env: env)
    model = ours(algorithm, wrap(make_vec_env(env, n_envs=2, seed=0)), gae_lambda=rule, **settings)
    before = weights(model)
    model.learn(2 * 2 * model.n_steps)
    assert not same(before, weights(model))
    assert 0 <= model.logger.name_to_value["train/gae_lambda"] <= 1
    assert model.gae_lambda == rule


@each_algorithm
def test_a_rule_that_stays_on_its_default_changes_no_bit_of_the_training(algorithm: Any) -> None:
    one, other = ours(algorithm, gae_lambda="auto:0.9").learn(96), host_of(algorithm, gae_lambda=0.9).learn(96)
    assert one.logger.name_to_value["train/gae_lambda"] == 0.9
    assert same(weights(one), weights(other))


def slow_advantages(data: Any, gamma: float, gae_lambda: Any) -> Any:
    """By definition: each later TD residual of the episode, times the discounts and lambdas on the way there."""
    n_steps, n_envs = data.rewards.shape
    advantages = np.zeros((n_steps, n_envs))
    for env_index in range(n_envs):
        for first in range(n_steps):
            weight = 1.0
            for step in range(first, n_steps):
                value, after = float(data.values[step, env_index]), float(data.next_values[step, env_index])
                advantages[first, env_index] += weight * (data.rewards[step, env_index] + gamma * after - value)
                weight *= gamma * gae_lambda[step, env_index]
                if data.dones[step, env_index]:
                    break
    return advantages


@pytest.mark.parametrize("truncated", [True, False])
def test_a_lambda_for_each_step_gives_the_advantages_of_the_definition(truncated: bool) -> None:
    rule = PerStep()
    model = ours(
        TunableA2C, lambda: ScriptedEnv([3, 5], truncated=truncated), gae_lambda=rule, n_steps=12, gamma=0.9
    )  # fmt: skip
    buffer = one_rollout(model)
    data = model._lambda_rules._asked["gae_lambda"][1].batch
    expected = slow_advantages(data, 0.9, rule.choose(LambdaBatch(data, 0.9, 1.0, *[None] * 4)))  # type: ignore[arg-type, list-item]
    np.testing.assert_allclose(buffer.advantages, expected, atol=1e-5)
    np.testing.assert_allclose(buffer.returns, expected + data.values, atol=1e-5)


def data_of(model: Any) -> Any:
    """The rollout that was just collected, with raw rewards."""
    last = model.policy.predict_values(model.policy.obs_to_tensor(model._last_obs)[0]).detach()
    return model.rollout_buffer.trajectories(last, model._last_episode_starts)


@pytest.mark.parametrize("gae_lambda", [0.3, 0.8])
@pytest.mark.parametrize("make", [lambda: RandomEnv(ACTION_SPACES[0]), lambda: ScriptedEnv([3], truncated=True)])
def test_sb3s_recursion_on_its_rewards_is_ours_on_raw_ones(make: Any, gae_lambda: float) -> None:
    """So that a rule compares lambdas by the advantages that the update will have."""
    model = ours(TunablePPO, make, gae_lambda=Saying(gae_lambda), n_steps=40)
    buffer = one_rollout(model)
    data = data_of(model)
    np.testing.assert_allclose(buffer.advantages, gae(data, gamma=0.99, gae_lambda=gae_lambda), atol=1e-5)


class WithReward(ScriptedEnv):
    """Rewards 1, 2, 3 ... of all steps."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float(self.all_steps), *rest


@pytest.mark.parametrize("truncated", [True, False])
def test_rules_are_given_raw_rewards_and_the_value_at_a_time_limit_apart(truncated: bool) -> None:
    """By hand: V(s) = 10 * (steps into the episode) + (number of the episode), episodes of three steps."""
    model = ours(
        TunableA2C, lambda: WithReward([3], truncated=truncated), n_envs=1, n_steps=5, gamma=0.5,
        gae_lambda=PerStep(), learning_rate=0.0, policy_kwargs=dict(net_arch=dict(pi=[8], vf=[])),
    )  # fmt: skip
    set_linear_critic(model, [10.0, 1.0])
    buffer = one_rollout(model)
    data = model._lambda_rules._asked["gae_lambda"][1].batch
    limit = 30.0 if truncated else 0.0
    np.testing.assert_allclose(data.rewards[:, 0], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(data.dones[:, 0], [False, False, True, False, False])
    np.testing.assert_allclose(data.values[:, 0], [0, 10, 20, 1, 11])
    np.testing.assert_allclose(data.next_values[:, 0], [10, 20, limit, 11, 21], rtol=1e-6)
    np.testing.assert_allclose(buffer.rewards[:, 0], [1, 2, 3 + 0.5 * limit, 4, 5])
    np.testing.assert_array_equal(data.times[:, 0], [0, 1, 2, 0, 1])
    assert data.valid.all()


def test_the_length_of_an_episode_is_counted_over_rollouts() -> None:
    model = ours(TunableA2C, lambda: ScriptedEnv([7]), n_envs=1, n_steps=5, gae_lambda="length:1")
    expected = [[5] * 5, [7, 7, 3, 3, 3], [7, 7, 7, 7, 1], [6] * 5]  # as far as each rollout knows
    for lengths in expected:
        np.testing.assert_allclose(one_rollout(model).gae_lambda[:, 0], 1 - 1 / np.array(lengths))


def test_the_length_is_still_known_after_a_rollout_that_a_callback_ended() -> None:
    model = ours(TunableA2C, lambda: ScriptedEnv([100]), n_envs=1, n_steps=5, gae_lambda="length:1").learn(10)
    model.learn(10, StopsAfter(12), reset_num_timesteps=False)
    one_rollout(model)
    assert model.rollout_buffer.times[-1] == 10 + 2 + 5 - 1  # SB3 drops the step at which it is told to stop


def test_the_target_of_the_critic_keeps_the_default_of_a_rule_that_judges_policy_gradients() -> None:
    model = ours(TunablePPO, gae_lambda=Saying(0.1, default=0.6))
    buffer = one_rollout(model)
    data = data_of(model)
    np.testing.assert_allclose(buffer.advantages, gae(data, gamma=0.99, gae_lambda=0.1), atol=1e-5)
    np.testing.assert_allclose(buffer.returns, data.values + gae(data, gamma=0.99, gae_lambda=0.6), atol=1e-5)
    model.train()
    assert model.logger.name_to_value["train/critic_gae_lambda"] == 0.6


def test_a_rules_gradients_are_those_of_the_hosts_policy_and_advantages() -> None:
    """All pairs of episodes, one at a time, by autograd."""
    model = ours(TunablePPO, n_steps=24, gae_lambda=PerStep())
    buffer = one_rollout(model)
    data = model._lambda_rules._asked["gae_lambda"][1].batch
    batch = lambda_batch(model, buffer, data, LambdaRules())
    np.testing.assert_allclose(batch.log_probs(), buffer.log_probs.reshape(-1), atol=1e-5)
    advantages = gae(data, gamma=0.99, gae_lambda=np.array([0.3, 1.0])[:, None, None])
    found = batch.gradient_products(advantages)
    assert found is not None
    blocks, counts = split_episodes(data.dones)
    psi = advantages.reshape(2, -1)
    psi = (psi - psi.mean(axis=1, keepdims=True)) / psi.std(axis=1, keepdims=True, ddof=1)
    observations = th.as_tensor(buffer.observations.reshape(48, -1))
    actions = th.as_tensor(buffer.actions.reshape(48)).long()
    layer = model.policy.action_net
    c = np.zeros((2, len(counts), layer.weight.numel() + layer.bias.numel()))
    for k in range(2):
        for block in range(len(counts)):
            _, log_prob, _ = model.policy.evaluate_actions(observations, actions)
            chosen = th.as_tensor(np.where(blocks.ravel() == block, psi[k], 0.0), dtype=th.float32)
            gradients = th.autograd.grad((chosen * log_prob).sum(), [layer.weight, layer.bias])
            c[k, block] = th.cat([gradient.flatten() for gradient in gradients]).numpy()
    n = len(counts)
    assert 3 < n <= 32  # each episode its own block
    for k in range(2):
        cross = np.mean([c[k, i] @ c[1, j] for i in range(n) for j in range(n) if i != j])
        assert found.cross[k] == pytest.approx(cross, rel=1e-3, abs=1e-4)
        assert found.square[k] == pytest.approx(c[k].sum(axis=0) @ c[k].sum(axis=0) / n**2, rel=1e-3)


def test_images_and_discrete_observations_can_be_tuned_too() -> None:
    images = tiny(lambda: RandomEnv(spaces.Discrete(3), IMAGE), "CnnPolicy", TunableA2C, n_steps=8, gae_lambda="auto")
    discrete = ours(TunableTRPO, lambda: RandomEnv(spaces.Discrete(3), spaces.Discrete(4)), gae_lambda="auto")
    for model in (images, discrete):
        model.learn(2 * model.n_steps * model.n_envs)
        assert memory(model)["n_updates"] == 1  # the first batch gives the unit


# -- what is logged, kept and saved ----------------------------------------------------------------------------------


def test_a_rule_learns_from_completed_updates_only() -> None:
    rule = Counting()
    model = ours(TunableA2C, gae_lambda=rule)
    for _ in range(3):
        one_rollout(model)
        assert model.rollout_buffer.gae_lambda == 0.5
    model.train()
    assert (model.gae_lambda.n_batches, rule.n_batches) == (1, 0)
    assert model.logger.name_to_value["gradient/lambda_score"] == 1.0
    one_rollout(model)
    model.policy.optimizer.step = lambda *_: 1 / 0  # the update fails
    with pytest.raises(ZeroDivisionError):
        model.train()
    assert model.gae_lambda.n_batches == 1


@pytest.mark.parametrize("rule", ["lin_0.9_0.5", *RULES])
@each_algorithm
def test_a_loaded_model_goes_on_to_the_bit_with_what_its_rule_has_learned(
    algorithm: Any, rule: str, tmp_path: Path
) -> None:
    through = ours(algorithm, gae_lambda=rule).learn(160)
    broken = ours(algorithm, gae_lambda=rule)
    broken.learn(160, StopsAfter(64))
    broken.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", ours(algorithm).env, device="cpu")
    assert loaded.gae_lambda == rule
    loaded.learn(160 - loaded.num_timesteps, reset_num_timesteps=False)
    assert loaded.num_timesteps == through.num_timesteps == 160
    assert same(weights(loaded), weights(through))
    assert logged(loaded) == logged(through)
    if rule not in ("lin_0.9_0.5", "length:0.5"):
        assert str(memory(loaded)) == str(memory(through)) != str(memory(broken))


@each_algorithm
def test_a_file_of_the_host_goes_on_as_one_of_ours(algorithm: Any, tmp_path: Path) -> None:
    host = host_of(algorithm, gae_lambda=0.9).learn(64)
    host.save(tmp_path / "host")
    loaded = algorithm.load(tmp_path / "host", host.env, device="cpu")
    assert type(loaded.rollout_buffer) is TunableRolloutBuffer
    assert same(weights(loaded), weights(host))
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.logger.name_to_value["train/gae_lambda"] == 0.9
    tuned = algorithm.load(tmp_path / "host", host.env, device="cpu", gae_lambda="auto:0.8").learn(32)
    assert tuned.logger.name_to_value["train/gae_lambda"] == 0.8


def test_files_of_other_algorithms_are_refused(tmp_path: Path) -> None:
    ours(TunablePPO).save(tmp_path / "ppo")
    tiny().save(tmp_path / "vpg")
    others = ((VPG, "ppo"), (TunablePPO, "vpg"), (TunableTRPO, "ppo"), (TunableTRPO, "vpg"))
    for algorithm, name in (*others, (TunableA2C, "ppo"), (TunableA2C, "vpg")):
        with pytest.raises(ValueError, match=f"another algorithm; {algorithm.__name__}"):
            algorithm.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"gae_lamda=.*TunablePPO; did you mean gae_lambda"):
        TunablePPO.load(tmp_path / "ppo", gae_lamda=0.9)


def test_the_doctor_reads_lambda_of_a_rule_from_a_file(tmp_path: Path) -> None:
    ours(TunablePPO, gae_lambda="length:0.5").learn(64).save(tmp_path / "model")
    loaded = TunablePPO.load(tmp_path / "model", device="cpu")
    chosen = lambda_in_use(loaded)
    assert 0 < chosen < 1
    assert describe_training(loaded, "", 2).gae_lambda == chosen


@each_algorithm
def test_the_gradients_are_seen_while_it_trains(algorithm: Any) -> None:
    model = ours(algorithm, gae_lambda="explained_variance").learn(
        64, GradientStatisticsCallback(every=1), log_interval=100
    )
    assert {"gradient/snr", "gradient/variance"} <= set(model.logger.name_to_value)
    assert same(weights(model), weights(ours(algorithm, gae_lambda="explained_variance").learn(64)))


def test_the_run_in_tensorboard_has_our_name_unless_another_is_given(tmp_path: Path) -> None:
    model = ours(TunableA2C, tensorboard_log=str(tmp_path))
    model.learn(32)
    model.learn(32, None, 1)
    model.learn(32, None, 1, "mine")
    model.learn(32, tb_log_name="other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["TunableA2C_1", "TunableA2C_2", "mine_1", "other_1"]


# -- buffers of the user's -------------------------------------------------------------------------------------------


class Own(RolloutBuffer):
    """Computes with lambda at once, and takes an argument."""

    def __init__(self, *args: Any, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale, self.first_lambda = scale, self.gae_lambda + 0.0

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: Any) -> None:
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages *= self.scale


class OwnTunable(TunableRolloutBuffer):
    """One that rules work with."""


@each_algorithm
def test_a_buffer_of_the_users_takes_numbers_and_schedules(algorithm: Any) -> None:
    own = dict(rollout_buffer_class=Own, rollout_buffer_kwargs=dict(scale=2.0))
    one, other = (make(algorithm, gae_lambda=0.9, **own).learn(96) for make in (ours, host_of))
    assert same(weights(one), weights(other))
    assert (type(one.rollout_buffer), one.rollout_buffer.scale) == (Own, 2.0)
    scheduled = ours(algorithm, gae_lambda="lin_0.9_0.5", **own).learn(160)
    assert scheduled.rollout_buffer.first_lambda == 0.9
    assert same(weights(scheduled), weights(host_of(algorithm, **own).learn(160, SetsLambda())))


def test_a_buffer_of_the_users_takes_no_rule_unless_it_is_derived_from_ours() -> None:
    for make in (lambda: ours(TunablePPO, gae_lambda="auto", rollout_buffer_class=Own), switched_to_a_rule):
        with pytest.raises(ValueError, match=r"gae_lambda='auto'.*rollout_buffer_class=.*Own.*TunableRolloutBuffer"):
            make()
    model = ours(TunablePPO, gae_lambda="auto", rollout_buffer_class=OwnTunable).learn(32)
    assert type(model.rollout_buffer) is OwnTunable


def switched_to_a_rule() -> None:
    model = ours(TunablePPO, gae_lambda=0.9, rollout_buffer_class=Own)
    model.gae_lambda = "auto"
    model.learn(32)


def test_sb3s_own_buffers_are_replaced_by_ours() -> None:
    assert type(ours(TunableA2C, rollout_buffer_class=RolloutBuffer).rollout_buffer) is TunableRolloutBuffer
    kind = {**KINDS["Dict"], "rollout_buffer_class": DictRolloutBuffer}
    assert type(ours(TunableA2C, **kind).rollout_buffer) is TunableDictRolloutBuffer


def test_a_buffer_that_does_not_fit_the_observations_is_refused_as_the_hosts_do() -> None:
    for make in (ours, host_of):
        with pytest.raises(AssertionError, match="DictRolloutBuffer must be used with Dict obs space only"):
            make(TunableA2C, rollout_buffer_class=DictRolloutBuffer)


def test_a_rule_on_the_model_is_followed_by_a_number_and_the_other_way_round() -> None:
    model = ours(TunableA2C, gae_lambda="auto:0.9").learn(32)
    model.gae_lambda = 0.3
    model.learn(32)
    assert model._lambda_rules.log == {"train/gae_lambda": 0.3}, "what the rule recorded is not logged again"
    assert isinstance(model.rollout_buffer, TunableBuffer)
    assert model.rollout_buffer.choose_lambdas is None
    model.gae_lambda = Counting()
    assert model.learn(64).logger.name_to_value["train/gae_lambda"] == 0.25


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("atuo", ("'atuo'", "[0, 1]", "'auto'", "'length:ALPHA'", "choose")),
        (1.5, ("gae_lambda=1.5", "[0, 1]")),
        (True, ("gae_lambda=True", "number")),
        ("lin_0.9_1.2", ("1.2", "[0, 1]")),
        ("auto:2", ("'auto:2'", "[0, 1]")),
        ([0.9], ("[0.9]", "callable")),
        (GradientAgreement, ("class", "GradientAgreement(...)")),
        ("hoof", ("gae_lambda='hoof'", "optimizer", "'auto'", "'explained_variance'")),
        (Saying(0.9, learning_rate_factor=2.0), ("learning_rate_factor", "accepted are")),
    ],
    ids=lambda value: f"{getattr(value, '__name__', value)}"[:14] if not isinstance(value, (tuple, Saying)) else "",
)
@each_algorithm
def test_wrong_lambdas_are_refused_with_what_is_accepted(algorithm: Any, value: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="gae_lambda") as error:
        ours(algorithm, gae_lambda=value)
    for word in words:
        assert word in str(error.value)


def test_auto_with_gsde_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gae_lambda='auto'.*use_sde=False"):
        ours(TunablePPO, lambda: RandomEnv(ACTION_SPACES[0]), gae_lambda="auto", use_sde=True)


@pytest.mark.parametrize("value", [1.5, float("nan"), "high", np.full((3, 1), 0.5), np.full((16, 2), 2.0)])
def test_a_rule_that_chooses_nonsense_is_refused_and_nothing_is_trained(value: Any) -> None:
    model = ours(TunableA2C, gae_lambda=Saying(value))
    before = weights(model)
    with pytest.raises(ValueError, match=r"gae_lambda.*\[0, 1\].*\(16, 2\)"):
        model.learn(32)
    assert same(before, weights(model))


def test_a_schedule_that_leaves_its_bounds_while_training_is_refused() -> None:
    model = ours(TunableA2C, gae_lambda=lambda progress: 0.9 + 2 * progress * (1 - progress))
    with pytest.raises(ValueError, match=r"gae_lambda is 1\.2.* at this point of the training"):
        model.learn(160)


def test_a_rule_that_asks_for_steps_of_the_actors_optimizer_is_told_where_there_is_one() -> None:
    class Trying:
        def choose(self, batch: LambdaBatch) -> float:
            return float(batch.log_probs_after(0.9, 1.0).mean())

    with pytest.raises(ValueError, match=r"log_probs_after.*TunableTRPO.*accepted are VPG"):
        ours(TunableTRPO, gae_lambda=Trying()).learn(32)
    assert hasattr(Hoof(), "learning_rate_factor"), "by which a host knows such rules"


@pytest.mark.parametrize("algorithm", [TunableA2C, TunablePPO])
def test_a_model_that_has_trained_can_be_copied_and_its_buffer_pickled(algorithm: Any) -> None:
    model = ours(algorithm, gae_lambda="explained_variance").learn(32)
    model.predict(model.observation_space.sample())
    copied = copy.deepcopy(model)
    buffer = pickle.loads(pickle.dumps(model.rollout_buffer))
    assert same(weights(model), weights(copied))
    np.testing.assert_array_equal(buffer.advantages, model.rollout_buffer.advantages)
    assert copied.learn(32, reset_num_timesteps=False).num_timesteps == 64


@pytest.mark.parametrize("number", [np.float64(0.9), np.float32(0.9), np.int64(1), np.linspace(0.8, 1, 3)[1]])
@pytest.mark.parametrize("algorithm", [VPG, TunableA2C, TunablePPO])
def test_numpys_numbers_are_numbers(algorithm: Any, number: Any) -> None:
    make = tiny if algorithm is VPG else partial(ours, algorithm)
    one, other = (make(gae_lambda=value).learn(32) for value in (number, float(number)))
    assert same(weights(one), weights(other))


def test_an_array_is_no_lambda() -> None:
    with pytest.raises(ValueError, match=r"gae_lambda=array\(\[0.5, 0.9\]\) .*number"):
        tiny(gae_lambda=np.array([0.5, 0.9]))
