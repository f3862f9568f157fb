"""Gradients of parts of a batch equal plain autograd, for every kind of policy."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION_SPACES, DICT, FLAT, IMAGE, RandomEnv, one_rollout, same, tiny
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_pg.exact.mdp import softmax_policy
from sb3_pg.exact.problems import random_chain
from sb3_pg.exact.sampling import sample, score_sums
from sb3_pg.gradient.per_episode import (
    Factors,
    all_layers,
    block_gradients,
    gradients_by_autograd,
    gradients_from_factors,
    output_layer,
    split_episodes,
)
from sb3_pg.policies import ActorCriticPolicy, evaluate_log_probs

POLICY_OF = {"flat": "MlpPolicy", "image": "CnnPolicy", "dict": "MultiInputPolicy"}
OBSERVATIONS = {"flat": FLAT, "image": IMAGE, "dict": DICT}
EVERY_ACTION_SPACE = pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)


class DoubleExtractor(FlattenExtractor):
    """Flat observations in float64 once the policy is; it has no weights."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("example", th.zeros(1), persistent=False)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations).to(self.example.dtype)


class OwnEvaluation(ActorCriticPolicy):
    """Overrides a method, and changes nothing: the library may no longer take a short cut."""

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> Any:
        return super().evaluate_actions(obs, actions)


class Masked(ActorCriticPolicy):
    """Forbids the last of three actions where the first observation is positive, after action_net."""

    def get_distribution(self, obs: Any) -> Any:
        distribution = super().get_distribution(obs)
        forbidden = th.zeros(len(obs), 3)
        forbidden[obs[:, 0] > 0, 2] = -1e9
        return self.action_dist.proba_distribution(distribution.distribution.logits + forbidden)


class NoBiasAtTheEnd(ActorCriticPolicy):
    """Its logits have no constant."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Linear(self.mlp_extractor.latent_dim_pi, self.action_net.out_features, bias=False)


def model_and_batch(
    action_space: spaces.Space[Any], observations: str = "flat", double: bool = False, **kwargs: Any
) -> tuple[Any, Any]:
    """A model with random weights and a rollout of its own."""
    settings: dict[str, Any] = {"net_arch": [8, 8], **kwargs.pop("policy_kwargs", {})}
    if double:
        settings["features_extractor_class"] = DoubleExtractor
    policy = kwargs.pop("policy", POLICY_OF[observations])
    env = kwargs.pop("env", lambda: RandomEnv(action_space, OBSERVATIONS[observations]))
    model = tiny(env, policy=policy, policy_kwargs=settings, n_envs=2, n_steps=12, **kwargs)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter += 0.1 * th.randn(parameter.shape)
    samples = one_rollout(model).samples()
    if double:
        model.policy.double()
        if samples.actions.is_floating_point():
            samples = samples._replace(actions=samples.actions.double())
    return model, samples


def blocks_and_psi(n_steps: int) -> tuple[Any, Any]:
    """Three unequal blocks out of order, some steps in none, and two random psi."""
    rng = np.random.default_rng(3)
    return rng.choice([-1, 0, 1, 1, 2], n_steps), rng.normal(size=(2, n_steps))


def plain_autograd(model: Any, samples: Any, psi: Any, blocks: Any, parameters: list[nn.Parameter]) -> Any:
    """Block by block, psi by psi."""
    found = np.zeros((len(psi), 3, sum(parameter.numel() for parameter in parameters)))
    for k, weights in enumerate(psi):
        for b in range(3):
            log_probs = evaluate_log_probs(model.policy, samples.observations, samples.actions)[0]
            chosen = th.as_tensor(np.where(blocks == b, weights, 0.0), dtype=log_probs.dtype)
            gradients = th.autograd.grad((chosen * log_probs).sum(), parameters)
            found[k, b] = th.cat([gradient.flatten() for gradient in gradients]).numpy()
    return found


def actor_parameters(model: Any, samples: Any) -> list[nn.Parameter]:
    log_prob = evaluate_log_probs(model.policy, samples.observations, samples.actions)[0].sum()
    parameters = list(model.policy.parameters())
    gradients = th.autograd.grad(log_prob, parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def relative_error(found: Any, expected: Any) -> float:
    assert np.abs(expected).max() > 1e-3
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# -- the last layer --------------------------------------------------------------------------------------------------


@EVERY_ACTION_SPACE
@pytest.mark.parametrize("observations", list(OBSERVATIONS))
def test_the_output_layer_gives_the_gradient_of_action_net(action_space: Any, observations: str) -> None:
    model, samples = model_and_batch(action_space, observations)
    inputs, delta = output_layer(model.policy, samples.observations, samples.actions)
    assert (inputs.dtype, delta.dtype) == (np.float32, np.float32)
    layer = model.policy.action_net
    assert inputs.shape == (24, layer.in_features)
    assert delta.shape == (24, layer.out_features)
    psi = np.random.default_rng(0).normal(size=24).astype(np.float32)
    log_probs = evaluate_log_probs(model.policy, samples.observations, samples.actions)[0]
    weight, bias = th.autograd.grad((th.as_tensor(psi) * log_probs).sum(), [layer.weight, layer.bias])
    assert relative_error((psi[:, None] * delta).T @ inputs, weight.numpy()) < 1e-5
    assert relative_error(psi @ delta, bias.numpy()) < 1e-5


@EVERY_ACTION_SPACE
def test_the_closed_form_is_what_autograd_finds(action_space: Any) -> None:
    model, samples = model_and_batch(action_space, double=True)
    closed = output_layer(model.policy, samples.observations, samples.actions)
    model.policy.__class__ = OwnEvaluation
    by_autograd = output_layer(model.policy, samples.observations, samples.actions)
    assert closed[1].dtype == np.float64
    for one, other in zip(closed, by_autograd, strict=True):
        assert relative_error(one, other) < 1e-12


def test_what_a_policy_does_after_action_net_is_in_its_gradient() -> None:
    model, samples = model_and_batch(spaces.Discrete(3), policy=Masked)
    inputs, delta = output_layer(model.policy, samples.observations, samples.actions)
    masked = samples.observations[:, 0].numpy() > 0
    assert masked.any()
    assert np.abs(delta[masked, 2]).max() < 1e-6
    assert np.abs(delta[~masked, 2]).min() > 1e-3
    log_probs = evaluate_log_probs(model.policy, samples.observations, samples.actions)[0]
    (weight,) = th.autograd.grad(log_probs.sum(), model.policy.action_net.weight)
    assert relative_error(delta.T @ inputs, weight.numpy()) < 1e-5


def test_a_large_batch_goes_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = model_and_batch(ACTION_SPACES[0], "dict")
    blocks, psi = blocks_and_psi(24)

    def everything() -> list[Any]:
        last = output_layer(model.policy, samples.observations, samples.actions)
        return [*last, block_gradients(model.policy, samples.observations, samples.actions, psi, blocks, 3,
                                       every_layer=True)]  # fmt: skip

    whole = everything()
    monkeypatch.setattr("sb3_pg.rollout.observations.PIECE_BYTES", 5 * 4 * (36 * 36 + 7))
    for one, other in zip(whole, everything(), strict=True):
        assert relative_error(one, other) < 1e-5


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        (dict(use_sde=True), "use_sde=True"),
        (dict(use_sde=True, policy_kwargs=dict(squash_output=True)), "use_sde=True"),
    ],
)
def test_the_last_layer_is_refused_with_the_reason(kwargs: dict[str, Any], reason: str) -> None:
    model, samples = model_and_batch(ACTION_SPACES[0], **kwargs)
    with pytest.raises(ValueError, match=reason) as raised:
        output_layer(model.policy, samples.observations, samples.actions)
    assert "accepted are policies with a linear action_net" in str(raised.value)


class TwoHeads(ActorCriticPolicy):
    """Uses its last layer twice."""

    def get_distribution(self, obs: Any) -> Any:
        super().get_distribution(obs)
        return super().get_distribution(obs)


def test_a_policy_that_is_made_otherwise_is_refused_with_the_reason() -> None:
    model, samples = model_and_batch(spaces.Discrete(3), policy=TwoHeads)
    with pytest.raises(ValueError, match="TwoHeads uses action_net 2 times for a batch of 24"):
        output_layer(model.policy, samples.observations, samples.actions)
    model.policy.action_net = nn.Sequential(model.policy.action_net)
    with pytest.raises(ValueError, match="its action_net is Sequential"):
        output_layer(model.policy, samples.observations, samples.actions)
    model.policy.action_dist = object()
    with pytest.raises(ValueError, match="its distribution is object"):
        output_layer(model.policy, samples.observations, samples.actions)


# -- all layers ------------------------------------------------------------------------------------------------------


@EVERY_ACTION_SPACE
@pytest.mark.parametrize(("double", "error"), [(False, 1e-5), (True, 1e-10)], ids=["float32", "float64"])
def test_gradients_of_all_layers_are_those_of_autograd(action_space: Any, double: bool, error: float) -> None:
    model, samples = model_and_batch(action_space, double=double)
    blocks, psi = blocks_and_psi(24)
    factors = all_layers(model.policy, samples.observations, samples.actions)
    found = gradients_from_factors(factors, psi, blocks, 3)
    parameters = actor_parameters(model, samples)
    assert any(p is getattr(model.policy, "log_std", None) for p in parameters) == isinstance(action_space, spaces.Box)
    assert found.dtype == (np.float64 if double else np.float32)
    assert relative_error(found, plain_autograd(model, samples, psi, blocks, parameters)) < error


@pytest.mark.parametrize("frozen", ["mlp_extractor.policy_net.0.weight", "action_net.bias", "log_std"])
def test_frozen_weights_are_left_out_of_all_layers(frozen: str) -> None:
    model, samples = model_and_batch(ACTION_SPACES[0])
    parameters = [p for p in actor_parameters(model, samples) if p is not model.policy.get_parameter(frozen)]
    model.policy.get_parameter(frozen).requires_grad_(False)
    blocks, psi = blocks_and_psi(24)
    factors = all_layers(model.policy, samples.observations, samples.actions)
    by_hand = plain_autograd(model, samples, psi, blocks, parameters)
    slowly = gradients_by_autograd(model.policy, samples.observations, samples.actions, psi, blocks, 3)
    assert relative_error(gradients_from_factors(factors, psi, blocks, 3), by_hand) < 1e-5
    assert relative_error(slowly, by_hand) < 1e-5


@pytest.mark.parametrize(
    ("observations", "kwargs"),
    [
        ("flat", dict(policy=OwnEvaluation)),
        ("flat", dict(policy=TwoHeads)),
        ("flat", dict(use_sde=True)),
        ("flat", dict(use_sde=True, policy_kwargs=dict(squash_output=True))),
        ("flat", dict(policy_kwargs=dict(net_arch=[]))),
        ("flat", dict(policy_kwargs=dict(activation_fn=partial(nn.ReLU, inplace=True)))),
        ("flat", dict(policy_kwargs=dict(activation_fn=partial(nn.ELU, inplace=True)))),
        ("flat", dict(policy=NoBiasAtTheEnd)),
        ("dict", {}),
        ("image", {}),
    ],
    ids=[
        "own evaluation",
        "last layer used twice",
        "gSDE",
        "squashed gSDE",
        "no hidden layer",
        "ReLU in place",
        "ELU in place",
        "last layer without bias",
        "dict",
        "image",
    ],
)
@pytest.mark.parametrize("every_layer", [True, False], ids=["all layers", "last layer"])
def test_any_policy_has_its_gradients(observations: str, kwargs: dict[str, Any], every_layer: bool) -> None:
    model, samples = model_and_batch(ACTION_SPACES[0], observations, **kwargs)
    blocks, psi = blocks_and_psi(24)
    found = block_gradients(
        model.policy, samples.observations, samples.actions, psi, blocks, 3, every_layer=every_layer
    )
    last = list(model.policy.action_net.parameters())
    parameters = actor_parameters(model, samples) if every_layer else last
    assert relative_error(found, plain_autograd(model, samples, psi, blocks, parameters)) < 1e-5


def test_the_slow_way_equals_autograd_in_float64() -> None:
    model, samples = model_and_batch(ACTION_SPACES[0], double=True)
    blocks, psi = blocks_and_psi(24)
    found = gradients_by_autograd(model.policy, samples.observations, samples.actions, psi, blocks, 3)
    expected = plain_autograd(model, samples, psi, blocks, actor_parameters(model, samples))
    assert relative_error(found, expected) < 1e-12


@pytest.mark.parametrize("observations", ["flat", "image"])
def test_blocks_without_a_step_have_no_gradient(observations: str) -> None:
    model, samples = model_and_batch(ACTION_SPACES[1], observations)
    psi = np.ones((1, 24))
    for every_layer in (False, True):
        found = block_gradients(model.policy, samples.observations, samples.actions, psi,
                                np.full(24, 2), 4, every_layer=every_layer)  # fmt: skip
        assert found.shape[:2] == (1, 4)
        assert [bool(found[0, b].any()) for b in range(4)] == [False, False, True, False]


def test_images_have_no_short_cut_through_all_layers() -> None:
    model, samples = model_and_batch(ACTION_SPACES[1], "image")
    with pytest.raises(ValueError, match="features extractor NatureCNN has weights; accepted are multilayer"):
        all_layers(model.policy, samples.observations, samples.actions)


@pytest.mark.parametrize("observations", list(OBSERVATIONS))
@pytest.mark.parametrize("training", [False, True])
def test_reading_gradients_changes_nothing(observations: str, training: bool) -> None:
    model, samples = model_and_batch(ACTION_SPACES[0], observations)
    model.policy.set_training_mode(training)
    with th.no_grad():
        distribution = model.policy.get_distribution(samples.observations).distribution
    before = copy.deepcopy(model.policy.state_dict())
    th_state, np_state = th.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    blocks, psi = blocks_and_psi(24)
    for every_layer in (False, True):
        block_gradients(model.policy, samples.observations, samples.actions, psi, blocks, 3, every_layer=every_layer)
    assert same(before, model.policy.state_dict())
    assert all(parameter.grad is None for parameter in model.policy.parameters())
    assert th.equal(th_state, th.get_rng_state())
    assert (np_state == np.random.get_state()[1]).all()  # noqa: NPY002
    assert model.policy.training is training
    assert model.policy.action_dist.distribution is distribution
    assert th.is_grad_enabled()
    copy.deepcopy(model.policy)
    pickle.dumps(model.policy.action_dist)


def test_a_linear_softmax_policy_has_the_gradients_of_the_exact_table() -> None:
    mdp = random_chain(n_states=5, n_actions=3, seed=2)
    logits = np.random.default_rng(0).normal(size=(5, 3))
    table = softmax_policy(logits)
    rollout = sample(mdp, table, 6, np.random.default_rng(1), n_steps=20)
    model = tiny(lambda: RandomEnv(spaces.Discrete(3), spaces.Box(0, 1, (5,), np.float32)), policy_kwargs={
        "net_arch": [], "features_extractor_class": DoubleExtractor})  # fmt: skip
    model.policy.double()
    with th.no_grad():
        model.policy.action_net.weight[:] = th.as_tensor(logits.T)
        model.policy.action_net.bias[:] = 0
    observations = th.as_tensor(np.eye(5, dtype=np.float32)[rollout.states.ravel()])
    psi = np.random.default_rng(2).normal(size=rollout.rewards.shape)
    blocks = np.broadcast_to(np.arange(6), rollout.rewards.shape).ravel()
    found = block_gradients(
        model.policy, observations, th.as_tensor(rollout.actions.ravel()), psi.reshape(1, -1), blocks, 6
    )[0]
    weights = found[:, : 3 * 5].reshape(6, 3, 5).swapaxes(1, 2).reshape(6, -1)
    assert relative_error(weights, score_sums(table, rollout, psi)) < 1e-10


def test_weight_and_bias_of_a_layer_come_from_the_same_rows() -> None:
    delta, inputs = np.array([[1.0], [10.0], [100.0]]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    psi = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0]])
    found = gradients_from_factors([Factors(delta, inputs), Factors(delta)], psi, np.array([1, 0, 1]), 2)
    assert found.tolist() == [[[30, 40, 10], [501, 602, 101]], [[60, 80, 20], [500, 600, 100]]]


# -- blocks ----------------------------------------------------------------------------------------------------------


def test_a_block_is_a_segment_of_an_episode() -> None:
    dones = np.array([[0, 1], [1, 0], [0, 0], [0, 0]], dtype=bool)
    blocks, counts = split_episodes(dones)
    assert blocks.T.tolist() == [[0, 0, 1, 1], [2, 3, 3, 3]]
    assert counts.tolist() == [1, 1, 1, 1]


def test_surplus_segments_are_dealt_out_in_turn() -> None:
    blocks, counts = split_episodes(np.ones((5, 1), dtype=bool), max_blocks=2)
    assert blocks.ravel().tolist() == [0, 1, 0, 1, 0]
    assert counts.tolist() == [3, 2]


def test_steps_outside_the_batch_are_in_no_block() -> None:
    dones = np.array([[0, 1], [1, 1], [1, 0]], dtype=bool)
    valid = np.array([[1, 1], [1, 0], [0, 0]], dtype=bool)
    blocks, counts = split_episodes(dones, valid)
    assert blocks.tolist() == [[0, 1], [0, -1], [-1, -1]]
    assert counts.tolist() == [1, 1]


def test_segments_can_be_cut_to_a_length() -> None:
    dones = np.array([[0], [0], [0], [1], [0]], dtype=bool)
    blocks, counts = split_episodes(dones, longest=3)
    assert blocks.ravel().tolist() == [0, 0, 0, 1, 2]
    assert counts.tolist() == [1, 1, 1]


@pytest.mark.parametrize("wrong", [dict(max_blocks=0), dict(longest=0)])
def test_blocks_need_at_least_one_step(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="whole numbers of at least 1 are expected"):
        split_episodes(np.zeros((2, 1), dtype=bool), **wrong)  # type: ignore[arg-type]
