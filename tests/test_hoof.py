"""HOOF in VPG: candidates take a real step of the optimizer, are scored, and leave no trace."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION_SPACES, RandomEnv, ScriptedEnv, one_rollout, same, tiny, weights

from sb3_pg.advantage.estimators import gae
from sb3_pg.advantage.gae_lambda import Hoof, segment_returns, weighted_importance_sampling
from sb3_pg.faults import put_back
from sb3_pg.hoof import batch_log_probs, log_probs_after
from sb3_pg.lambda_rules import LambdaRules, lambda_batch


class DelayedBandit(ScriptedEnv):
    """Two steps. The first action is paid for, at the second step and with an insult for it at the first: a critic of
    zero and lambda = 0 learn the insult, and lambda = 1 learns to take action 1."""

    def __init__(self) -> None:
        super().__init__([2], action_space=spaces.Discrete(2))
        self.first = 0

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        if self.steps == 1:
            self.first = int(action)
            return observation, -1.0 * self.first, *rest
        return observation, 3.0 * self.first, *rest


def bandit(gae_lambda: Any, **kwargs: Any) -> Any:
    """With the critic held at zero."""
    settings: dict[str, Any] = dict(n_envs=4, n_steps=32, gamma=1.0, learning_rate=0.02, vf_learning_rate=0.0)
    model = tiny(DelayedBandit, gae_lambda=gae_lambda, **{**settings, **kwargs})
    with th.no_grad():
        for layer in (model.policy.value_net, model.policy.action_net):
            layer.weight.zero_()
            layer.bias.zero_()
    return model


@pytest.mark.parametrize("default", [0.0, 0.5, 1.0])
def test_where_only_high_lambdas_learn_hoof_chooses_one(default: float) -> None:
    """Of 0 and 1, the first makes action 1 rarer and the second more frequent, and only the second is paid for."""
    model = bandit(Hoof(default, (0.0, 1.0)))
    chosen = []
    for _ in range(10):
        one_rollout(model)
        chosen.append(model.rollout_buffer.gae_lambda)
        model.train()
    assert np.mean(np.array(chosen) == 1.0) >= 0.8
    observation = th.zeros(1, 2)
    first = model.policy.get_distribution(observation).distribution.probs[0, 1].item()
    assert first > 0.6
    held = bandit(0.0).learn(10 * 128)
    assert held.policy.get_distribution(observation).distribution.probs[0, 1].item() < 0.4


@pytest.mark.parametrize("rate_of_the_last_update", [0.01, 0.04])
def test_the_score_is_that_of_the_policy_after_a_step_that_another_model_takes(rate_of_the_last_update: float) -> None:
    """Weights after a candidate's step are those of training with that lambda and learning rate, whatever factor was
    chosen for the update before."""
    for gae_lambda, factor in ((0.3, 1.0), (1.0, 2.0)):
        trying, taking = (tiny(n_envs=2, learning_rate=rate) for rate in (0.01, 0.01 * factor))
        buffer = one_rollout(trying)
        batch = lambda_batch(trying, buffer, buffer.trajectories(), LambdaRules())
        trying.policy.optimizer.param_groups[0]["lr"] = rate_of_the_last_update
        tried = batch.log_probs_after(gae_lambda, factor)
        taking.policy.load_state_dict(trying.policy.state_dict())
        one_rollout(taking)
        for name in ("actions", "observations", "rewards", "dones", "values", "next_values"):
            getattr(taking.rollout_buffer, name)[:] = getattr(buffer, name)
        taking.rollout_buffer.advantages = gae(buffer.trajectories(), gamma=0.99, gae_lambda=gae_lambda)
        before = batch_log_probs(taking.policy, buffer.samples()).numpy()
        taking.train()
        after = batch_log_probs(taking.policy, buffer.samples()).numpy()
        assert np.abs(after - before).max() > 1e-4
        np.testing.assert_allclose(tried, after, atol=1e-6)


def optimizer_state(model: Any) -> Any:
    return copy.deepcopy(model.policy.optimizer.state_dict())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(use_rms_prop=True),
        dict(joint_optimizer=True),
        dict(env=lambda: RandomEnv(ACTION_SPACES[0]), use_sde=True),
        dict(policy_kwargs=dict(optimizer_class=th.optim.SGD, optimizer_kwargs=dict(momentum=0.9))),
        dict(policy_kwargs=dict(optimizer_class=th.optim.AdamW)),
    ],
    ids=["Adam", "RMSprop", "joint", "gSDE", "SGD", "AdamW"],
)
@pytest.mark.parametrize("n_updates", [0, 3], ids=["fresh", "trained"])
def test_weights_optimizer_and_learning_rate_are_what_they_were_after_scoring(settings: Any, n_updates: int) -> None:
    model = tiny(n_envs=2, **settings)
    if n_updates:
        model.learn(n_updates * 32)
    before, state = weights(model), optimizer_state(model)
    identities = [id(parameter) for parameter in model.policy.parameters()]
    buffer = one_rollout(model)
    drawn = th.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - SB3's generator
    batch = lambda_batch(model, buffer, buffer.trajectories(), LambdaRules())
    untouched = batch.log_probs()
    for gae_lambda, factor in ((0.0, 1.0), (1.0, 3.0)):
        assert not np.array_equal(batch.log_probs_after(gae_lambda, factor), untouched)
    np.testing.assert_array_equal(batch.log_probs(), untouched)
    assert same(before, weights(model))
    assert same(state, optimizer_state(model))
    assert identities == [id(parameter) for parameter in model.policy.parameters()]
    assert th.equal(drawn[0], th.get_rng_state())
    assert np.array_equal(drawn[1], np.random.get_state()[1])  # noqa: NPY002


def test_everything_is_put_back_when_a_step_fails() -> None:
    model = tiny().learn(32)
    before, state = weights(model), optimizer_state(model)

    def step() -> None:
        with th.no_grad():
            for parameter in model.policy.parameters():
                parameter.add_(1.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log_probs_after(model.policy, model.rollout_buffer.samples(), 2.0, step)
    assert same(before, weights(model))
    assert same(state, optimizer_state(model))


def test_gradients_and_buffers_of_the_policy_are_put_back_too() -> None:
    model = tiny()
    model.policy.register_buffer("counter", th.zeros(1))
    with put_back(model.policy):
        model.policy.counter.add_(1)
        model.policy.action_net.weight.sum().backward()
    assert model.policy.counter.item() == 0
    assert all(parameter.grad is None for parameter in model.policy.parameters())


def test_hoof_falls_back_to_the_default_and_logs_how_many_episodes_were_left() -> None:
    """A learning rate that makes the next policy deterministic: no episode of the batch says what it would do."""
    model = tiny(n_envs=2, n_steps=32, gae_lambda=Hoof(0.7, max_kl=1e9, min_ess=0.9), learning_rate=30.0)
    model.learn(64)
    assert model.logger.name_to_value["train/gae_lambda"] == 0.7
    buffer = model.rollout_buffer
    n_episodes = len(segment_returns(buffer.trajectories(), 0.99)[1])
    assert 1 <= model.logger.name_to_value["gradient/hoof_ess"] < 0.9 * n_episodes


def test_hoof_keeps_the_default_of_an_actor_that_is_frozen_and_the_critic_learns() -> None:
    model = bandit(Hoof(default=0.9), vf_learning_rate=0.01)
    actor = [model.policy.action_net, model.policy.mlp_extractor.policy_net]
    for module in actor:
        module.requires_grad_(False)
    before = weights(model)
    one_rollout(model)
    model.train()
    assert model.logger.name_to_value["train/gae_lambda"] == 0.9
    moved = {key for key, weight in weights(model).items() if not th.equal(weight, before[key])}
    assert moved
    assert all("value_net" in key for key in moved)


def test_the_effective_sample_size_is_that_of_the_chosen_candidate() -> None:
    model = tiny(n_envs=2, n_steps=32, gae_lambda=Hoof(max_kl=1.0, min_ess=0.0), learning_rate=0.05)
    buffer = one_rollout(model)
    batch = lambda_batch(model, buffer, buffer.trajectories(), LambdaRules())
    episodes, returns = segment_returns(buffer.trajectories(), 0.99)
    scores = {
        gae_lambda: weighted_importance_sampling(
            batch.log_probs_after(gae_lambda, 1.0).astype(np.float64) - batch.log_probs(), episodes, returns
        )
        for gae_lambda, _ in model.gae_lambda.candidates
    }
    assert buffer.gae_lambda == max(scores, key=lambda each: scores[each][0])
    model.train()
    assert model.logger.name_to_value["gradient/hoof_ess"] == pytest.approx(scores[buffer.gae_lambda][1])


def test_a_learning_rate_that_hoof_chose_is_the_one_of_the_update() -> None:
    model = bandit(Hoof(1.0, (), learning_rates=(0.1, 4.0), max_kl=10.0, min_ess=0.0), learning_rate=0.005)
    one_rollout(model)
    model.train()
    assert model.gae_lambda.learning_rate_factor == 4.0
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.02)
    assert model.logger.name_to_value["train/learning_rate"] == pytest.approx(0.02)
