"""The critic in NumPy is the policy's critic: the same values, the same gradient, the same training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import tiny
from stable_baselines3.common.policies import ActorCriticPolicy as SB3Policy
from torch import nn

from sb3_pg import VPG, numpy_critic
from sb3_pg.numpy_critic import NumpyCritic, clip_norm, why_not_numpy_critic
from sb3_pg.policies import ActorCriticPolicy


def make_policy(cls: Any = ActorCriticPolicy, n_inputs: int = 5, **kwargs: Any) -> Any:
    th.manual_seed(0)
    return cls(spaces.Box(-1, 1, (n_inputs,)), spaces.Discrete(3), lambda _: 1e-3, **kwargs)


def data(n: int = 300, n_inputs: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, n_inputs)).astype(np.float32), rng.normal(size=n).astype(np.float32) * 10


ARCHITECTURES = [
    {},
    {"activation_fn": nn.ReLU, "net_arch": {"pi": [8], "vf": [16, 32, 8]}},
    {"net_arch": {"pi": [8], "vf": []}},
]


@pytest.mark.parametrize("kwargs", ARCHITECTURES)
def test_values_are_the_policys(kwargs: dict[str, Any]) -> None:
    policy = make_policy(**kwargs)
    observations, _ = data()
    expected = policy.predict_values(th.as_tensor(observations)).detach().numpy().flatten()
    assert np.allclose(NumpyCritic(policy).predict(observations), expected, atol=1e-5)


@pytest.mark.parametrize("max_bytes", [2**23, 2**12], ids=["in one piece", "in many pieces"])
@pytest.mark.parametrize("kwargs", ARCHITECTURES)
def test_the_gradient_is_autograds(kwargs: dict[str, Any], max_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_critic, "_LAYER_BYTES", max_bytes)
    policy = make_policy(**kwargs)
    observations, returns = data()
    loss = nn.functional.mse_loss(policy.predict_values(th.as_tensor(observations)).flatten(), th.as_tensor(returns))
    critic = NumpyCritic(policy)
    expected = th.autograd.grad(loss, critic.parameters)
    flat = critic.allocate_gradient()
    for _ in range(2):  # the second time into arrays that were used before
        assert critic.gradient(observations, returns) == pytest.approx(loss.item(), rel=1e-5)
        for parameter, gradient in zip(critic.parameters, expected, strict=True):
            scale = float(gradient.abs().max())
            assert th.allclose(parameter.grad, gradient, atol=1e-5 * scale)
    norm = float(th.cat([gradient.flatten() for gradient in expected]).norm())
    assert clip_norm(flat, norm / 2) == pytest.approx(norm, rel=1e-5)
    assert float(np.linalg.norm(flat)) == pytest.approx(norm / 2, rel=1e-4)


def test_an_optimizers_step_is_seen_at_once() -> None:
    policy = make_policy()
    observations, returns = data()
    critic = NumpyCritic(policy)
    critic.allocate_gradient()
    losses = []
    optimizer = th.optim.Adam(critic.parameters, lr=1e-2, fused=True)
    for _ in range(50):
        losses.append(critic.gradient(observations, returns))
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_training_ends_where_autograd_would_have_brought_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One update with several minibatch passes; many more would let rounding grow."""
    models = []
    for reason in ("", "a test"):
        monkeypatch.setattr("sb3_pg.vpg.why_not_numpy_critic", lambda _, reason=reason: reason)
        model = VPG("MlpPolicy", "CartPole-v1", n_steps=128, n_critic_updates=3, critic_batch_size=50, seed=0)
        models.append(model.learn(128))
    ours, theirs = (model.policy.state_dict() for model in models)
    moved = False
    start = VPG("MlpPolicy", "CartPole-v1", seed=0).policy.state_dict()
    for key in ours:
        assert th.allclose(ours[key], theirs[key], atol=2e-5), key
        moved |= "value" in key and not th.allclose(ours[key], start[key], atol=1e-3)
    assert moved


class OwnValues(SB3Policy):
    def predict_values(self, obs: Any) -> Any:
        return super().predict_values(obs) + 1


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (make_policy(), ""),
        (make_policy(SB3Policy), ""),
        (make_policy(OwnValues), "OwnValues overrides"),
        (make_policy(activation_fn=nn.ELU), "neither Linear"),
    ],
)
def test_only_stock_critics_are_taken(policy: Any, reason: str) -> None:
    found = why_not_numpy_critic(policy)
    assert reason in found
    assert bool(reason) == bool(found)


def test_hooks_and_integer_observations_are_not_taken() -> None:
    policy = make_policy()
    policy.value_net.register_forward_hook(lambda *_: None)
    assert "hooks" in why_not_numpy_critic(policy)
    whole_numbers = ActorCriticPolicy(spaces.Box(0, 9, (3,), np.int64), spaces.Discrete(2), lambda _: 1e-3)
    assert "Box of numbers" in why_not_numpy_critic(whole_numbers)


@pytest.mark.parametrize("hook", ["on a weight", "after a weight's gradient", "on a module"])
def test_hooks_on_the_gradient_are_run(hook: str) -> None:
    model = tiny()
    head = model.policy.value_net
    before = head.weight.detach().clone()
    calls: list[Any] = []
    if hook == "on a weight":
        head.weight.register_hook(lambda gradient: calls.append(gradient) or 0 * gradient)
    elif hook == "after a weight's gradient":
        head.weight.register_post_accumulate_grad_hook(lambda weight: calls.append(weight.grad.zero_()))
    else:
        head.register_full_backward_hook(lambda *_: calls.append(None))
    assert why_not_numpy_critic(model.policy) == "hooks on the gradient"
    model.learn(32)
    assert calls
    assert th.equal(head.weight, before) == (hook != "on a module")


@pytest.mark.parametrize("per_step_values", [False, True])
@pytest.mark.parametrize("frozen", ["actor", "critic"])
def test_one_of_actor_and_critic_learns_where_the_other_is_frozen(frozen: str, per_step_values: bool) -> None:
    model = tiny(per_step_values=per_step_values)
    parts = {"actor": model.policy.optimizer, "critic": model.policy.critic_optimizer}
    weights = {name: part.param_groups[0]["params"] for name, part in parts.items()}
    before = {name: [weight.detach().clone() for weight in part] for name, part in weights.items()}
    for weight in weights[frozen]:
        weight.requires_grad_(False)
    model.learn(64)
    for name, part in weights.items():
        assert all(map(th.equal, before[name], part)) == (name == frozen)


@pytest.mark.parametrize("per_step_values", [False, True])
def test_weights_that_are_frozen_stay_as_they_are(per_step_values: bool) -> None:
    model = tiny(per_step_values=per_step_values)
    frozen = [*model.policy.mlp_extractor.value_net.parameters()]
    for weight in frozen:
        weight.requires_grad_(False)
    assert why_not_numpy_critic(model.policy) == "a frozen weight"
    before, others = [weight.clone() for weight in frozen], model.policy.value_net.weight.clone()
    model.learn(64)
    assert all(map(th.equal, before, frozen))
    assert not th.equal(others, model.policy.value_net.weight)
