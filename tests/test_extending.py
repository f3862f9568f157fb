"""What a researcher puts over VPG counts: losses, optimizers, layers, estimators, baselines, rules, buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION_SPACES, RandomEnv, one_rollout, same, weights
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_pg import VPG, TunableA2C
from sb3_pg.advantage.baselines import BASELINES
from sb3_pg.advantage.estimators import ESTIMATORS, EstimatorEntry, Trajectories, gae
from sb3_pg.rollout.buffer import Samples, TrajectoryBuffer
from sb3_pg.tunable import TunableLambda
from sb3_pg.zoo import search_spaces


def of(kind: type[VPG], **kwargs: Any) -> Any:
    """A tiny model of a subclass."""
    return kind("MlpPolicy", RandomEnv(spaces.Discrete(2)), n_steps=8, device="cpu", seed=0, **kwargs)


# -- losses ----------------------------------------------------------------------------------------------------------


class HalfTheCriticsLoss(VPG):
    """Counts how often it is asked."""

    asked = 0

    def _critic_losses(self, data: Samples) -> dict[str, th.Tensor]:
        self.asked += 1
        terms = super()._critic_losses(data)
        return {name: 0.5 * term for name, term in terms.items()}


def test_a_critic_s_loss_of_one_s_own_is_the_one_that_is_trained_with() -> None:
    model = of(HalfTheCriticsLoss, n_critic_updates=3).learn(8)
    assert model.asked == 3
    stock = of(VPG, n_critic_updates=3).learn(8)
    halved, whole = (each.logger.name_to_value["train/value_loss"] for each in (model, stock))
    assert halved == pytest.approx(0.5 * whole, rel=0.05)


class KeepsRatios(VPG):
    """Its loss compares the policy with the one that collected."""

    def _policy_loss(self, log_probs: th.Tensor, data: Samples) -> th.Tensor:
        self.ratios = (log_probs - data.old_log_prob).exp().detach()
        return super()._policy_loss(log_probs, data)


@pytest.mark.parametrize("joint", [False, True])
def test_a_policy_loss_of_one_s_own_is_told_the_old_log_probabilities(joint: bool) -> None:
    model = of(KeepsRatios, joint_optimizer=joint).learn(8)
    assert model.ratios.numpy() == pytest.approx(1.0, abs=1e-6)


# -- optimizers and layers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", ["groups", "options"])
def test_an_optimizer_of_the_same_class_that_is_another_is_not_replaced_in_silence(own: str) -> None:
    model = of(VPG)
    weights = list(model.policy.parameters())
    groups: Any = [dict(params=weights[:2], weight_decay=0.0), dict(params=weights[2:])] if own == "groups" else weights
    eps = {} if own == "groups" else dict(betas=(0.5, 0.9))
    model.policy.optimizer = th.optim.Adam(groups, lr=0.1, **{"eps": 1e-5, **eps})
    with pytest.warns(UserWarning, match=r"policy\.optimizer, Adam, .* two of Adam, with optimizer_kwargs=.*one group"):
        model.learn(8)


def test_an_optimizer_that_is_put_in_for_both_networks_is_not_replaced_in_silence() -> None:
    model = of(VPG)
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=0.1, momentum=0.9)
    with pytest.warns(UserWarning, match=r"policy\.optimizer, SGD, .* replaced by two of Adam"):
        model.learn(8)


@pytest.mark.parametrize("layer", ["action_net", "value_net"])
def test_a_layer_that_is_put_in_is_trained(layer: str) -> None:
    model = of(VPG)
    old = getattr(model.policy, layer)
    setattr(model.policy, layer, nn.Linear(old.in_features, old.out_features))
    before = getattr(model.policy, layer).weight.detach().clone()
    model.learn(16)
    assert not th.equal(getattr(model.policy, layer).weight, before)


# -- estimators and baselines ----------------------------------------------------------------------------------------


def centred_in_place(trajectories: Trajectories, *, gamma: float, gae_lambda: Any) -> Any:
    trajectories.rewards -= trajectories.rewards.mean()
    trajectories.values *= 0
    return gae(trajectories, gamma=gamma, gae_lambda=gae_lambda)


def test_an_estimator_that_writes_into_its_arrays_leaves_the_batch_and_the_critic_s_targets_as_they_are() -> None:
    own, stock = one_rollout(of(VPG, estimator=centred_in_place)), one_rollout(of(VPG))
    for name in ("rewards", "values", "returns"):
        assert np.array_equal(getattr(own, name), getattr(stock, name)), name
    assert not np.array_equal(own.advantages, stock.advantages)


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(ESTIMATORS, "mine", EstimatorEntry(centred_in_place))
    return "mine"


def test_an_estimator_of_one_s_own_has_a_lambda_for_rules_to_choose_under_its_name_too(mine: str) -> None:
    model = of(VPG, estimator=mine, gae_lambda="auto").learn(8)
    assert "train/gae_lambda" in model.logger.name_to_value


def test_an_estimator_that_is_registered_late_is_searched(mine: str) -> None:
    assert search_spaces.vpg_estimators() == ["gae", mine]
    assert mine in search_spaces.reinforce_estimators()


def test_what_is_no_entry_in_the_table_of_estimators_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS, "bare", centred_in_place)  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"ESTIMATORS\['bare'\]=.* EstimatorEntry"):
        of(VPG, estimator="bare")


def test_a_tensor_is_no_psi() -> None:
    model = of(VPG, estimator=lambda t, **_: th.zeros(t.rewards.shape))
    with pytest.raises(ValueError, match=r"estimator=.* gave tensor"):
        model.learn(8)


@pytest.mark.parametrize(
    ("given", "said"), [(np.zeros(3), r"shape \(3,\)"), (None, "None"), (np.zeros((1, 8, 1)), "shape")]
)
def test_a_baseline_of_another_shape_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, given: Any, said: str
) -> None:
    monkeypatch.setitem(BASELINES, "odd", lambda *_: given)
    model = of(VPG, estimator="reward_to_go", baseline="odd", whole_episodes=True)
    with pytest.raises(ValueError, match=rf"baseline='odd' gave {said}"):
        model.learn(8)


def test_a_baseline_may_be_one_number_for_each_step_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASELINES, "five", lambda psi, _: np.full((len(psi), 1), 5.0))
    model = of(VPG, estimator="reward_to_go", baseline="five", whole_episodes=True)
    one_rollout(model)
    stock = of(VPG, estimator="reward_to_go", baseline="none", whole_episodes=True)
    one_rollout(stock)
    assert np.allclose(model.rollout_buffer.advantages, stock.rollout_buffer.advantages - 5.0)


# -- rules -----------------------------------------------------------------------------------------------------------


class Scales:
    """Lambda 0.5, and a factor that is only there once it has chosen."""

    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def choose(self, _: Any) -> float:
        self.learning_rate_factor = self.factor
        return 0.5


@pytest.mark.parametrize("factor", [-1.0, 0.0, np.inf, np.nan, "2"])
def test_a_factor_that_would_send_the_step_uphill_is_refused(factor: Any) -> None:
    model = of(VPG, gae_lambda=Scales(factor))
    before = weights(model)
    with pytest.raises(ValueError, match=r"gae_lambda=.* learning_rate_factor=.*above 0"):
        model.learn(8)
    assert same(weights(model), before)


def test_a_factor_that_would_scale_the_critic_s_steps_too_is_refused() -> None:
    of(VPG, gae_lambda=Scales(2.0)).learn(8)
    with pytest.raises(ValueError, match=r"learning_rate_factor=2\.0.*joint_optimizer"):
        of(VPG, gae_lambda=Scales(2.0), joint_optimizer=True).learn(8)


@pytest.mark.parametrize("given", [lambda batch: batch.trajectories, lambda *, other: other])
def test_a_function_that_is_no_schedule_hears_what_one_is_and_what_a_rule_is(given: Any) -> None:
    with pytest.raises(ValueError, match=r"gae_lambda: the schedule.*progress_remaining.*choose\(batch\)"):
        of(VPG, gae_lambda=given)


class Squashed(ActorCriticPolicy):
    """With another distribution than SB3's standard ones."""

    def _build(self, lr_schedule: Any) -> None:
        self.action_dist = SquashedDiagGaussianDistribution(self.action_space.shape[0])  # type: ignore[index]
        super()._build(lr_schedule)


@pytest.mark.parametrize("kind", [VPG, TunableA2C])
def test_auto_without_the_last_layer_s_gradient_is_refused_when_the_model_is_built(kind: Any) -> None:
    env = RandomEnv(ACTION_SPACES[0])
    kind(Squashed, env, gae_lambda=0.9)
    with pytest.raises(ValueError, match=r"gae_lambda='auto'.*SquashedDiagGaussianDistribution"):
        kind(Squashed, env, gae_lambda="auto")


class TunableRecurrentPPO(TunableLambda, RecurrentPPO):
    """A host with a buffer of its own."""


def test_a_host_whose_buffer_asks_no_rule_refuses_rules_and_takes_schedules() -> None:
    kwargs: dict[str, Any] = dict(n_steps=8, batch_size=8, seed=0, device="cpu")
    env = RandomEnv(spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"gae_lambda='auto'.*RecurrentRolloutBuffer.*asks no rule"):
        TunableRecurrentPPO("MlpLstmPolicy", env, gae_lambda="auto", **kwargs)
    model = TunableRecurrentPPO("MlpLstmPolicy", env, gae_lambda="lin_0.9_0.5", **kwargs).learn(16)
    assert model.rollout_buffer.gae_lambda == pytest.approx(0.7)


# -- buffers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "compute_returns_and_advantage"])
def test_a_buffer_whose_method_would_not_be_called_is_refused(name: str) -> None:
    kind = type("Own", (TrajectoryBuffer,), {name: print})
    with pytest.raises(ValueError, match=rf"rollout_buffer_class=.*{name}.*estimator"):
        of(VPG, rollout_buffer_class=kind)
    of(VPG, rollout_buffer_class=type("Own", (TrajectoryBuffer,), {"log": print}))
