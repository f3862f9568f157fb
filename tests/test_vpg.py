"""What VPG promises: its gradient, its optimizers and schedules, its log, and respect for what a policy overrides."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
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
    CriticInTorch,
    RandomEnv,
    ScriptedEnv,
    one_rollout,
    same,
    set_linear_critic,
    tiny,
    weights,
)
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import sb3_pg.vpg
from sb3_pg import REINFORCE, VPG, TunableA2C
from sb3_pg.hoof import batch_log_probs
from sb3_pg.policies import has_split_optimizers

SGD = dict(optimizer_class=th.optim.SGD)


def name(space: Any) -> str:
    return type(space).__name__


def parameters(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def sgd(**kwargs: Any) -> Any:
    """Plain gradient descent on unnormalised advantages: a step is the gradient times the learning rate."""
    settings: dict[str, Any] = dict(
        n_envs=2, max_grad_norm=None, normalize_advantage=False, learning_rate=0.1, n_critic_updates=1,
        critic_batch_size=None,
    )  # fmt: skip
    return tiny(**{**settings, **kwargs}, policy_kwargs=dict(SGD))


# -- the same seed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ACTION_SPACES, ids=name)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(space: Any) -> None:
    def trained(seed: int) -> Any:
        return weights(tiny(lambda: RandomEnv(space), n_envs=2, seed=seed).learn(96))

    assert same(trained(3), trained(3))
    assert not same(trained(3), trained(4))


def test_whole_episodes_and_minibatches_repeat_with_the_seed_too() -> None:
    settings = dict(n_episodes=3, batch_size=5, critic_batch_size=5, policy_loss="clipped", n_epochs=2, n_envs=2)
    first, second = (weights(tiny(**settings).learn(100)) for _ in range(2))
    assert same(first, second)


# -- the gradient ----------------------------------------------------------------------------------------------------


def expected_step(model: Any, loss_of: Any, learning_rate: float, optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    """Where one step of gradient descent leads, by autograd on a copy of the policy."""
    policy = type(model.policy)(**model.policy._get_constructor_parameters())
    policy.load_state_dict(model.policy.state_dict())
    loss_of(policy).backward()
    ours = dict(zip(map(id, model.policy.parameters()), policy.parameters(), strict=True))
    copies = [ours[id(parameter)] for parameter in parameters(optimizer)]
    return [(copy - learning_rate * copy.grad).detach() for copy in copies]


def flat(buffer: Any, array: Any) -> th.Tensor:
    valid = np.ones(buffer.rewards.shape, dtype=bool) if buffer.valid is None else buffer.valid
    return th.as_tensor(np.ascontiguousarray(array[valid]))


def log_probs(policy: Any, buffer: Any) -> tuple[th.Tensor, th.Tensor]:
    distribution = policy.get_distribution(flat(buffer, buffer.observations))
    actions = flat(buffer, buffer.actions)
    actions = actions.flatten() if isinstance(policy.action_space, spaces.Discrete) else actions.float()
    return distribution.log_prob(actions), distribution.entropy()


def assert_actor_steps_to(model: Any, expected: list[th.Tensor]) -> None:
    for parameter, target in zip(parameters(model.policy.optimizer), expected, strict=True):
        np.testing.assert_allclose(parameter.detach(), target, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy_loss", ["vanilla", "importance", "clipped"])
@pytest.mark.parametrize("space", ACTION_SPACES, ids=name)
def test_one_update_is_a_step_up_the_gradient_of_log_pi_times_the_advantage(space: Any, policy_loss: str) -> None:
    """All three losses have this gradient at the policy that collected."""
    model = sgd(env=lambda: RandomEnv(space), policy_loss=policy_loss)
    buffer = one_rollout(model)
    advantages = flat(buffer, buffer.advantages)
    assert advantages.std() > 0.1

    def loss(policy: Any) -> th.Tensor:
        return -(log_probs(policy, buffer)[0] * advantages).mean()

    expected, before = expected_step(model, loss, 0.1, model.policy.optimizer), weights(model)
    model.train()
    assert_actor_steps_to(model, expected)
    assert not same(before, weights(model))


def test_advantages_are_centred_and_scaled_to_deviation_one_by_default() -> None:
    for normalize, scaled in ((True, True), ("batch", True), ("center", False)):
        model = sgd(normalize_advantage=normalize)
        buffer = one_rollout(model)
        used = flat(buffer, buffer.advantages)
        used = used - used.mean()
        used = used / used.std() if scaled else used

        def loss(policy: Any, used: th.Tensor = used, buffer: Any = buffer) -> th.Tensor:
            return -(log_probs(policy, buffer)[0] * used).mean()

        expected = expected_step(model, loss, 0.1, model.policy.optimizer)
        model.train()
        assert_actor_steps_to(model, expected)


def test_the_entropy_bonus_is_added_with_its_weight() -> None:
    model = sgd(ent_coef=0.3)
    buffer = one_rollout(model)

    def loss(policy: Any) -> th.Tensor:
        log_prob, entropy = log_probs(policy, buffer)
        return -(log_prob * flat(buffer, buffer.advantages)).mean() - 0.3 * entropy.mean()

    expected = expected_step(model, loss, 0.1, model.policy.optimizer)
    model.train()
    assert_actor_steps_to(model, expected)


def test_the_state_discount_weighs_step_t_of_an_episode_by_gamma_to_the_t() -> None:
    """Across a rollout's end, too: an episode goes on counting in the next one."""
    model = sgd(env=lambda: ScriptedEnv([7, 3]), gamma=0.5, state_discount=True, n_steps=5)
    for rollout_times in ([0, 1, 2, 3, 4], [5, 6, 0, 1, 2], [0, 1, 2, 3, 4]):
        buffer = one_rollout(model)
        discounts = th.tensor(rollout_times)[:, None].expand(5, 2).flatten()

        def loss(policy: Any, buffer: Any = buffer, discounts: th.Tensor = discounts) -> th.Tensor:
            return -(0.5**discounts * flat(buffer, buffer.advantages) * log_probs(policy, buffer)[0]).mean()

        expected = expected_step(model, loss, 0.1, model.policy.optimizer)
        model.train()
        assert_actor_steps_to(model, expected)


def test_the_state_discount_starts_anew_where_training_does() -> None:
    model = sgd(env=lambda: ScriptedEnv([100]), state_discount=True, n_steps=5)
    model.learn(10)
    assert one_rollout(model).times[:, 0].tolist() == [5, 6, 7, 8, 9]
    model.env.reset()
    model._last_obs = None
    assert one_rollout(model).times[:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "constant"), [(dict(n_episodes=3), 3 * 2), (dict(whole_episodes=True, n_steps=16), 16 * 2)], ids=str
)
def test_whole_episodes_are_summed_and_divided_by_a_constant(settings: Any, constant: int) -> None:
    """The number of steps that came out is no constant: dividing by it would favour short episodes."""
    model = sgd(estimator="reward_to_go", baseline="none", **settings)
    buffer = one_rollout(model)
    assert flat(buffer, buffer.advantages).numel() != constant

    def loss(policy: Any) -> th.Tensor:
        return -(log_probs(policy, buffer)[0] * flat(buffer, buffer.advantages)).sum() / constant

    expected = expected_step(model, loss, 0.1, model.policy.optimizer)
    model.train()
    assert_actor_steps_to(model, expected)


def test_the_critic_steps_down_the_mean_squared_error_to_the_returns() -> None:
    model = sgd(vf_learning_rate=0.05)
    buffer = one_rollout(model)

    def loss(policy: Any) -> th.Tensor:
        values = policy.predict_values(flat(buffer, buffer.observations)).flatten()
        return ((values - flat(buffer, buffer.returns)) ** 2).mean()

    expected = expected_step(model, loss, 0.05, model.policy.critic_optimizer)
    model.train()
    for parameter, target in zip(parameters(model.policy.critic_optimizer), expected, strict=True):
        np.testing.assert_allclose(parameter.detach(), target, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        dict(critic_batch_size=None, max_grad_norm=None),
        dict(critic_batch_size=10),
        dict(use_rms_prop=True, max_grad_norm=0.01),
        dict(algorithm=REINFORCE, baseline="value", n_episodes=2),
        dict(policy_kwargs=dict(net_arch=[6, 5], activation_fn=nn.ReLU)),
        dict(policy_kwargs=dict(net_arch=dict(pi=[4], vf=[]))),
    ],
    ids=str,
)
def test_a_stock_critic_is_fitted_as_torch_fits_it(settings: dict[str, Any]) -> None:
    """Whatever is used to be faster, value and gradient are the same to rounding."""
    fitted = []
    for policy in ("MlpPolicy", CriticInTorch):
        model = tiny(policy=policy, **{"n_envs": 2, "n_critic_updates": 5, **settings})
        model.learn(32)
        fitted.append((weights(model), model.logger.name_to_value))
    (ours, our_log), (theirs, their_log) = fitted
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], atol=1e-5, err_msg=key)
    for key in ("train/value_loss", "train/critic_grad_norm", "train/explained_variance"):
        assert our_log[key] == pytest.approx(their_log[key], rel=1e-3), key


@pytest.mark.parametrize("joint_optimizer", [False, True])
def test_a_batch_that_is_too_large_for_one_pass_gives_the_same_update(
    monkeypatch: pytest.MonkeyPatch, joint_optimizer: bool
) -> None:
    def updated() -> Any:
        settings = dict(joint_optimizer=joint_optimizer, target_kl=1.0, critic_batch_size=10, ent_coef=0.1)
        return weights(
            tiny(lambda: RandomEnv(ACTION_SPACES[1], DICT), "MultiInputPolicy", n_steps=12, **settings).learn(12)
        )

    whole = updated()
    monkeypatch.setattr("sb3_pg.rollout.observations.PIECE_BYTES", 4 * 5 * (36 * 36 + 3 + 4))
    for key, cut in updated().items():
        np.testing.assert_allclose(cut, whole[key], atol=1e-5, err_msg=key)


def test_each_gradient_is_clipped_by_its_own_norm() -> None:
    model = sgd(max_grad_norm=1e-3)
    one_rollout(model)
    before = {id(p): p.detach().clone() for p in model.policy.parameters()}
    model.train()
    for optimizer in (model.policy.optimizer, model.policy.critic_optimizer):
        moved = th.cat([(p.detach() - before[id(p)]).flatten() for p in parameters(optimizer)])
        assert moved.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-2)
    assert model.logger.name_to_value["train/grad_norm"] > 1e-3
    assert model.logger.name_to_value["train/critic_grad_norm"] > 1e-3


def test_the_number_of_steps_of_each_optimizer_is_as_asked() -> None:
    model = tiny(
        n_envs=2, n_steps=16, n_epochs=3, batch_size=10, policy_loss="clipped", n_critic_updates=5, critic_batch_size=16
    )
    model.learn(32)
    assert {int(state["step"]) for state in model.policy.optimizer.state.values()} == {3 * 4}
    assert {int(state["step"]) for state in model.policy.critic_optimizer.state.values()} == {5 * 2}


# -- two optimizers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ACTION_SPACES, ids=name)
def test_every_weight_belongs_to_exactly_one_of_the_two_optimizers(space: Any) -> None:
    policy = tiny(lambda: RandomEnv(space)).policy
    actor, critic = ({id(p) for p in parameters(opt)} for opt in (policy.optimizer, policy.critic_optimizer))
    assert not actor & critic
    assert actor | critic == {id(p) for p in policy.parameters()}
    assert id(policy.value_net.weight) in critic
    assert id(policy.action_net.weight) in actor


@pytest.mark.parametrize(
    ("policy", "env"),
    [("MlpPolicy", None), ("MultiInputPolicy", lambda: RandomEnv(ACTION_SPACES[1], DICT))],
    ids=["flat", "dict"],
)
def test_a_step_of_one_optimizer_leaves_the_others_weights_alone(policy: str, env: Any) -> None:
    for frozen in ("optimizer", "critic_optimizer"):
        model = tiny(env, policy, n_steps=4)
        before = weights(model)
        getattr(model.policy, frozen).step = lambda *_, **__: None
        model.learn(4)
        still = {id(parameter) for parameter in parameters(getattr(model.policy, frozen))}
        moved = {
            key: not th.equal(before[key], parameter.detach()) for key, parameter in model.policy.named_parameters()
        }
        for key, parameter in model.policy.named_parameters():
            assert not (moved[key] and id(parameter) in still), key
        assert any(moved.values())


def test_both_learning_rates_follow_their_schedules_at_every_update() -> None:
    model = tiny(learning_rate="lin_0.01", vf_learning_rate=lambda progress_remaining: 0.1 + progress_remaining)
    rates, train = [], model.train

    def watched() -> None:
        train()
        both = (model.policy.optimizer, model.policy.critic_optimizer)
        rates.append([group["lr"] for optimizer in both for group in optimizer.param_groups])

    model.train = watched
    model.learn(64)
    np.testing.assert_allclose(rates, [[0.01 * p, 0.1 + p] for p in (0.75, 0.5, 0.25, 0.0)])


def test_without_a_rate_of_its_own_the_critic_has_the_actors() -> None:
    model = tiny(learning_rate="lin_0.01").learn(32)
    model.learn(16 * 4)
    assert model.policy.critic_optimizer.param_groups[0]["lr"] == model.policy.optimizer.param_groups[0]["lr"] == 0.0


def test_without_a_rate_of_its_own_the_critic_follows_a_schedule_that_a_callback_puts_in() -> None:
    model = tiny()
    model.lr_schedule = lambda _: 1e-5
    model.learn(16)
    for optimizer in (model.policy.optimizer, model.policy.critic_optimizer):
        assert optimizer.param_groups[0]["lr"] == 1e-5


def test_a_layer_that_was_replaced_is_trained() -> None:
    model = tiny()
    model.policy.value_net = th.nn.Linear(8, 1)
    model.policy.optimizer = model.policy.optimizer_class(model.policy.parameters(), lr=1e-3)  # as SB3 needs it
    before = model.policy.value_net.weight.detach().clone()
    model.learn(16)
    assert not th.equal(model.policy.value_net.weight, before)
    assert has_split_optimizers(model.policy)


def test_a_policy_that_was_loaded_from_a_file_is_trained(tmp_path: Path) -> None:
    tiny().policy.save(tmp_path / "policy")
    model = tiny()
    model.policy = type(model.policy).load(tmp_path / "policy")
    before = weights(model)
    assert not same(weights(model.learn(16)), before)


@pytest.mark.parametrize("algorithm", [VPG, REINFORCE, partial(TunableA2C, gae_lambda="auto")])
def test_a_compiled_policy_trains_as_the_policy_in_it(algorithm: Any) -> None:
    results = []
    for compiles in (False, True):
        model = algorithm("MlpPolicy", "CartPole-v1", n_steps=32, seed=0, device="cpu")
        if compiles:
            model.policy = th.compile(model.policy, backend="eager")
        model.learn(64)
        results.append([*model.policy.parameters()])
    assert all(map(th.equal, *results))


def test_the_joint_optimizer_follows_its_schedule() -> None:
    model = tiny(learning_rate="lin_0.01_0.002", joint_optimizer=True).learn(16)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.002)


def test_the_optimizer_of_policy_kwargs_is_used_for_both() -> None:
    kwargs = dict(optimizer_class=th.optim.SGD, optimizer_kwargs=dict(momentum=0.5))
    for settings in ({}, dict(use_rms_prop=True)):
        policy = tiny(policy_kwargs=kwargs, **settings).policy
        for optimizer in (policy.optimizer, policy.critic_optimizer):
            assert type(optimizer) is th.optim.SGD
            assert optimizer.param_groups[0]["momentum"] == 0.5


def test_rmsprop_is_a2cs_on_request() -> None:
    policy = tiny(use_rms_prop=True, rms_prop_eps=1e-4).policy
    for optimizer in (policy.optimizer, policy.critic_optimizer):
        assert type(optimizer) is th.optim.RMSprop
        assert (optimizer.param_groups[0]["alpha"], optimizer.param_groups[0]["eps"]) == (0.99, 1e-4)


@pytest.mark.parametrize("joint_optimizer", [False, True])
def test_the_policy_of_a_new_model_can_be_copied(joint_optimizer: bool) -> None:
    """As SB3's can: no graph of an earlier forward pass hangs on it."""
    model = tiny(joint_optimizer=joint_optimizer)
    assert same(deepcopy(model.policy).state_dict(), model.policy.state_dict())


def test_policy_kwargs_of_the_caller_are_not_written_to() -> None:
    kwargs = dict(net_arch=[4])
    model = VPG("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, use_rms_prop=True, device="cpu")
    assert kwargs == dict(net_arch=[4])
    model.env.close()


# -- advantages and targets ------------------------------------------------------------------------------------------

LINEAR = dict(net_arch=dict(pi=[8], vf=[]))


def test_another_gae_lambda_on_the_model_counts_from_the_next_update() -> None:
    """Unlike in SB3, whose buffer keeps the one that it was built with."""
    model = tiny(gae_lambda=1.0, gamma=0.9)
    model.learn(16)
    assert model.logger.name_to_value["train/gae_lambda"] == 1.0
    model.gae_lambda = 0.0
    buffer = one_rollout(model)
    assert buffer.gae_lambda == 0.0
    residuals = buffer.rewards + 0.9 * buffer.next_values - buffer.values
    np.testing.assert_allclose(buffer.advantages, residuals, rtol=1e-5)


def test_gae_lambda_follows_its_schedule() -> None:
    model = tiny(gae_lambda="lin_1.0_0.5")
    seen, train = [], model.train

    def watched() -> None:
        train()
        seen.append(model.logger.name_to_value["train/gae_lambda"])

    model.train = watched
    model.learn(64)
    assert seen == pytest.approx([1.0, 0.875, 0.75, 0.625])


def test_the_critics_targets_are_monte_carlo_returns_for_lambda_one() -> None:
    for settings in (dict(critic_gae_lambda=1.0), dict(critic_gae_lambda=1.0, estimator="td_residual")):
        model = tiny(
            lambda: ScriptedEnv([3, 2]), n_steps=7, gamma=0.5, gae_lambda=0.3, policy_kwargs=LINEAR, **settings
        )
        set_linear_critic(model, [0.0, 0.0], bias=8.0)
        returns = one_rollout(model).returns[:, 0]
        # The last episode is cut after two of three steps: its rest is the critic's 8
        np.testing.assert_allclose(returns, [1.75, 1.5, 1.0, 1.5, 1.0, 1.5 + 0.25 * 8, 1.0 + 0.5 * 8])


def test_the_critics_targets_are_one_step_targets_for_lambda_zero() -> None:
    model = tiny(lambda: ScriptedEnv([3]), n_steps=4, gamma=0.5, critic_gae_lambda=0.0, policy_kwargs=LINEAR)
    set_linear_critic(model, [0.0, 0.0], bias=8.0)
    np.testing.assert_allclose(one_rollout(model).returns[:, 0], [5.0, 5.0, 1.0, 5.0])


def test_the_critic_follows_gae_lambda_where_it_has_none_of_its_own() -> None:
    for estimator in ("gae", "reward_to_go", "q"):
        model = tiny(lambda: ScriptedEnv([3]), n_steps=4, gae_lambda=0.0, gamma=0.5, estimator=estimator)
        buffer = one_rollout(model)
        np.testing.assert_allclose(buffer.returns, buffer.rewards + 0.5 * buffer.next_values, rtol=1e-5)


def test_an_estimator_of_the_users_is_used() -> None:
    def twice_the_reward(trajectories: Any, *, gamma: float, gae_lambda: float) -> Any:
        assert (gamma, gae_lambda) == (0.9, 0.8)
        return 2 * trajectories.rewards

    model = tiny(estimator=twice_the_reward, gamma=0.9, gae_lambda=0.8)
    buffer = one_rollout(model)
    np.testing.assert_array_equal(buffer.advantages, 2 * buffer.rewards)
    model.train()
    assert model._n_updates == 1


def test_the_q_critic_is_used_for_the_advantage() -> None:
    for estimator in ("q", "q_minus_v"):
        model = tiny(estimator=estimator)
        with th.no_grad():
            model.policy.q_net.weight.zero_()
            model.policy.q_net.bias[:] = th.tensor([10.0, 20.0, 30.0])
        buffer = one_rollout(model)
        q_values = 10.0 * (1 + buffer.actions[..., 0])
        np.testing.assert_allclose(
            buffer.advantages, q_values - (buffer.values if estimator == "q_minus_v" else 0), rtol=1e-5
        )


# -- the log ---------------------------------------------------------------------------------------------------------

ALWAYS = {"train/n_updates", "train/learning_rate", "train/policy_loss", "train/entropy_loss", "train/gae_lambda"}
CRITIC = {"train/value_loss", "train/explained_variance"}


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({}, CRITIC | {"train/vf_learning_rate", "train/grad_norm", "train/critic_grad_norm"}),
        (dict(joint_optimizer=True), CRITIC | {"train/grad_norm"}),
        (dict(estimator="reward_to_go", baseline="mean", whole_episodes=True), {"train/grad_norm"}),
        (dict(policy_loss="clipped"), CRITIC | {"train/approx_kl"}),
        (dict(policy_loss="importance", n_epochs=2), CRITIC | {"train/approx_kl"}),
        (dict(target_kl=0.1), CRITIC | {"train/approx_kl"}),
        (dict(env=lambda: RandomEnv(ACTION_SPACES[0])), CRITIC | {"train/std"}),
    ],
    ids=lambda value: ", ".join(sorted(map(str, value))) or "defaults",
)
def test_every_update_logs_its_keys(settings: dict[str, Any], keys: set[str]) -> None:
    logged = tiny(**settings).learn(32).logger.name_to_value
    assert ALWAYS | keys <= set(logged)
    assert all(np.isfinite(value) for key, value in logged.items() if key != "train/explained_variance")
    assert logged["train/n_updates"] >= 1


def test_what_there_is_not_is_not_logged() -> None:
    model = tiny(algorithm=REINFORCE).learn(32)
    assert not CRITIC & set(model.logger.name_to_value)
    assert "train/std" not in model.logger.name_to_value
    assert "train/vf_learning_rate" not in tiny(joint_optimizer=True).learn(16).logger.name_to_value


def test_the_losses_that_are_logged_are_those_of_the_update() -> None:
    model = sgd()
    buffer = one_rollout(model)
    log_prob, entropy = log_probs(model.policy, buffer)
    errors = (flat(buffer, buffer.values) - flat(buffer, buffer.returns)) ** 2
    expected = {
        "train/policy_loss": -(log_prob * flat(buffer, buffer.advantages)).mean().item(),
        "train/entropy_loss": -entropy.mean().item(),
        "train/value_loss": errors.mean().item(),
        "train/explained_variance": 1 - np.var(buffer.returns - buffer.values) / np.var(buffer.returns),
    }
    model.train()
    for key, value in expected.items():
        assert model.logger.name_to_value[key] == pytest.approx(value, rel=1e-4), key


@pytest.mark.parametrize(("algorithm", "prefix"), [(VPG, "VPG"), (REINFORCE, "REINFORCE")])
def test_tensorboard_runs_have_the_algorithms_name_and_a_number(tmp_path: Path, algorithm: Any, prefix: str) -> None:
    pytest.importorskip("tensorboard")
    model = tiny(algorithm=algorithm, tensorboard_log=str(tmp_path))
    model.learn(16)
    model.learn(16, tb_log_name="mine")
    model.learn(16)
    model.learn(16, reset_num_timesteps=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{prefix}_1", f"{prefix}_2", "mine_1"])


def test_the_log_is_written_every_log_interval_updates(tmp_path: Path) -> None:
    from stable_baselines3.common.logger import configure

    model = tiny()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(16 * 6, log_interval=2)
    model.logger.close()
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    assert len(lines) == 1 + 3
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "train/policy_loss"} <= set(lines[0].split(","))


# -- policies that override something --------------------------------------------------------------------------------


class Sevens(ActorCriticPolicy):
    def predict_values(self, obs: Any) -> th.Tensor:
        return super().predict_values(obs) * 0 + 7.0


class ConstantSevens(ActorCriticPolicy):
    def predict_values(self, obs: Any) -> th.Tensor:
        return th.full((len(obs), 1), 7.0)


class Ones(ActorCriticPolicy):
    """Always takes action 1."""

    def forward(self, obs: th.Tensor, deterministic: bool = False) -> Any:
        _, values, _ = super().forward(obs, deterministic)
        actions = th.ones(len(obs), dtype=th.int64)
        return actions, values * 0 + 3.0, th.full((len(obs),), -0.25)


class ForgetfulLogProbs(ActorCriticPolicy):
    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> Any:
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values, 0 * log_prob, entropy


class Masked(ActorCriticPolicy):
    """Action 2 has probability zero, for predict() and wherever a distribution is asked for."""

    def get_distribution(self, obs: Any) -> Any:
        distribution = super().get_distribution(obs)
        mask = th.tensor([0.0, 0.0, -1e8])
        distribution.distribution = th.distributions.Categorical(logits=distribution.distribution.logits + mask)
        return distribution


class Tilted(ActorCriticPolicy):
    """The features of every observation are ten; with :func:`tilt` that makes action 1 certain."""

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        return super().extract_features(obs, features_extractor) * 0 + 10.0


def tilt(model: Any) -> None:
    """Logits (0, +10 * sum of features, 0): certain for features of ten, near even for small ones."""
    with th.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.zero_()
        model.policy.action_net.weight[1] = 10.0


@pytest.mark.parametrize("joint_optimizer", [False, True])
@pytest.mark.parametrize("per_step_values", [False, True])
def test_a_policys_own_predict_values_shows_up_in_the_buffer(joint_optimizer: bool, per_step_values: bool) -> None:
    model = tiny(
        lambda: ScriptedEnv([5, 3], truncated=True),
        Sevens, joint_optimizer=joint_optimizer, per_step_values=per_step_values,
    )  # fmt: skip
    buffer = one_rollout(model)
    # With SB3's own collection a step's value is forward's, as in A2C; what is bootstrapped is predict_values'
    ends = buffer.dones.copy()
    ends[-1] = True
    np.testing.assert_array_equal(buffer.next_values[ends], 7.0)
    if not per_step_values:
        np.testing.assert_array_equal(buffer.values, 7.0)
    model.train()


def test_a_critic_without_weights_is_the_users_business() -> None:
    """A constant instead of a critic: nothing to train, but nothing wrong either."""
    model = tiny(policy=ConstantSevens)
    np.testing.assert_array_equal(one_rollout(model).values, 7.0)
    model.train()


@pytest.mark.parametrize("joint_optimizer", [False, True])
def test_a_policys_own_forward_takes_the_actions(joint_optimizer: bool) -> None:
    model = tiny(policy=Ones, joint_optimizer=joint_optimizer, n_envs=2)
    buffer = one_rollout(model)
    np.testing.assert_array_equal(buffer.actions, 1)
    np.testing.assert_array_equal(buffer.values, 3.0)
    np.testing.assert_array_equal(buffer.log_probs, -0.25)
    model.train()


def test_forward_replaced_on_the_policy_itself_takes_the_actions() -> None:
    model = tiny()
    forward = model.policy.forward
    model.policy.forward = lambda obs, deterministic=False: (
        th.full((len(obs),), 2, dtype=th.int64),
        *forward(obs, deterministic)[1:],
    )
    np.testing.assert_array_equal(one_rollout(model).actions, 2)


@pytest.mark.parametrize("joint_optimizer", [False, True])
def test_a_policys_own_evaluate_actions_gives_the_log_probabilities(joint_optimizer: bool) -> None:
    """Here they do not depend on the weights, so that the actor must not move."""
    model = tiny(policy=ForgetfulLogProbs, joint_optimizer=joint_optimizer)
    before = weights(model)
    model.learn(32)
    after = weights(model)
    for key in ("action_net.weight", "mlp_extractor.policy_net.0.weight"):
        assert th.equal(before[key], after[key])
    assert not th.equal(before["value_net.weight"], after["value_net.weight"])


def test_a_policys_own_get_distribution_draws_the_actions_and_is_trained() -> None:
    model = tiny(policy=Masked, n_steps=64)
    assert set(np.unique(one_rollout(model).actions)) == {0, 1}
    model.train()
    assert np.isfinite(model.logger.name_to_value["train/policy_loss"])


@pytest.mark.parametrize("per_step_values", [False, True])
def test_a_policys_own_extract_features_is_used_for_actions_and_for_their_log_probabilities(
    per_step_values: bool,
) -> None:
    model = tiny(policy=Tilted, per_step_values=per_step_values, n_steps=64, policy_kwargs=dict(net_arch=[]))
    tilt(model)
    np.testing.assert_array_equal(one_rollout(model).actions, 1)
    model.train()
    # Certain actions have log-probability zero and entropy zero
    assert model.logger.name_to_value["train/policy_loss"] == pytest.approx(0.0, abs=1e-4)
    assert model.logger.name_to_value["train/entropy_loss"] == pytest.approx(0.0, abs=1e-4)


def test_a_network_of_the_users_is_used() -> None:
    asked = []

    class Wave(nn.Module):
        def forward(self, x: th.Tensor) -> th.Tensor:
            asked.append(x)
            return th.sin(x)

    model = tiny(policy_kwargs=dict(activation_fn=Wave), n_envs=2)
    before = weights(model)
    asked.clear()
    model.learn(64)
    assert asked
    assert not same(before, weights(model))


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(policy_loss="clipped"),
        dict(policy_loss="importance"),
        dict(target_kl=1.0),
        dict(policy_loss="clipped", gae_lambda="hoof"),
    ],
)
def test_the_old_policy_is_the_one_that_acted_without_dropout_and_is_asked_once(
    kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training mode it would be another random policy, and no ratio would begin at one."""
    model = tiny(**kwargs)
    modes, computed = [], batch_log_probs

    def watched(policy: Any, samples: Any) -> th.Tensor:
        modes.append(policy.training)
        return computed(policy, samples)

    monkeypatch.setattr(sb3_pg.vpg, "batch_log_probs", watched)
    model.learn(32)
    assert modes == [False, False]
    assert model.policy.training


class ChangesRewards(BaseCallback):
    """An intrinsic reward, as one writes it for SB3: rewards are changed, and advantages computed anew.

    :param change: of the rewards
    """

    def __init__(self, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.change = change

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self.before = {name: getattr(buffer, name).copy() for name in ("advantages", "returns")}
        buffer.rewards = self.change(buffer.rewards)
        buffer.compute_returns_and_advantage(th.zeros(buffer.n_envs), np.zeros(buffer.n_envs))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gae_lambda": "explained_variance"},
        {"estimator": "n_step:3", "critic_gae_lambda": 0.5},
        {"estimator": "q"},
        {"whole_episodes": True, "estimator": "reward_to_go"},
        {"whole_episodes": True, "estimator": "total_return", "baseline": "leave_one_out"},
    ],
)
def test_a_callback_that_changes_rewards_gets_the_advantages_of_the_models_own_estimator(settings: Any) -> None:
    def with_limits(scale: float) -> Any:
        return lambda: ScriptedEnv([3, 5], truncated=True, reward=scale)

    kept, doubled = ChangesRewards(lambda rewards: rewards), ChangesRewards(lambda rewards: 2 * rewards)
    once = one_rollout(tiny(with_limits(1.0), **settings), kept)
    assert once.size() == len(once.rewards)
    for name, before in kept.before.items():
        np.testing.assert_array_equal(getattr(once, name), before)
    twice, expected = (
        one_rollout(tiny(with_limits(1.0), **settings), doubled),
        one_rollout(tiny(with_limits(2.0), **settings)),
    )
    if settings.get("gae_lambda") is None:  # a rule would have looked at other rewards
        for name in kept.before:
            np.testing.assert_allclose(getattr(twice, name), getattr(expected, name), rtol=1e-6)
    with pytest.raises(ValueError, match="on_rollout_end"):
        twice.compute_returns_and_advantage(th.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match="on_rollout_end"):
        deepcopy(twice).compute_returns_and_advantage(th.zeros(1), np.zeros(1))


class RunningScale(BaseFeaturesExtractor):
    """Keeps a statistic of what it has seen, while acting too."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, observation_space.shape[0])
        self.linear = nn.Linear(observation_space.shape[0], observation_space.shape[0])
        self.scale: Any = th.ones(1)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        self.scale = 0.99 * self.scale + 0.01 * observations.abs().mean(0)
        return self.linear(observations) / self.scale


def test_a_features_extractor_may_keep_a_statistic_while_acting() -> None:
    model = tiny(policy_kwargs=dict(features_extractor_class=RunningScale))
    before = weights(model)
    model.learn(48)
    assert not same(before, weights(model))


def test_recurrent_policies_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"policy=RecurrentActorCriticPolicy is recurrent.*RecurrentPPO"):
        tiny(policy=RecurrentActorCriticPolicy)
