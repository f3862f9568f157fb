"""How an action is drawn at every step: the one place that decides which way is right for a policy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, count
from typing import Any, Protocol, cast

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from sb3_pg.policies import STOCK_DISTRIBUTIONS, NumpyTanh, overrides, why_not_plain
from sb3_pg.rollout.observations import Observations

Array = NDArray[Any]

# What SB3's own collection goes through, and get_distribution does not.
_FORWARD_METHODS = ("forward", "extract_features")

# The methods that stand between an observation and an action in SB3's policy. A subclass that overrides one of them
# is asked for every action through torch.
_ACTING_METHODS = ("get_distribution", "_get_action_dist_from_latent")

# Each with an input whose output is exactly 1 in float32.
_ACTIVATIONS: dict[type[nn.Module], tuple[Callable[[Array, Array], Any], float]] = {
    nn.Tanh: (np.tanh, 20.0),
    NumpyTanh: (np.tanh, 20.0),
    nn.ReLU: (lambda x, out: np.maximum(x, 0.0, out=out), 1.0),
}

# Steps that noise is drawn for at a time when the length of the rollout is not known.
_NOISE_ROWS = 512


class Actor(Protocol):
    """Draws actions from a policy, for one rollout during which its weights do not change."""

    def __call__(self, observations: Observations) -> Array:
        """Actions for one observation of every environment, shape ``(n_envs, *action_shape)``."""
        ...


class DistributionActor:
    """The policy's own distribution, without the critic and without log-probabilities.

    Right for every policy that does not override ``forward`` or ``extract_features``. Draws from torch's generator what
    SB3 would draw.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy

    def __call__(self, observations: Observations) -> Array:
        """See :class:`Actor`."""
        with th.no_grad():
            tensor: Any = obs_as_tensor(observations, self.policy.device)
            actions = self.policy.get_distribution(tensor).get_actions()
        return actions.cpu().numpy().reshape(-1, *self.policy.action_space.shape)  # type: ignore[misc]


def _actor_latent(policy: ActorCriticPolicy, observations: Observations) -> th.Tensor:
    """What the actor's last layer is given, as SB3's ``get_distribution`` computes it.

    Within ``no_grad`` and not ``inference_mode``: features extractors may keep statistics that training goes on with.
    """
    tensor: Any = obs_as_tensor(observations, policy.device)
    features = BasePolicy.extract_features(policy, tensor, policy.pi_features_extractor)
    return policy.mlp_extractor.forward_actor(features)


class TorchActor:
    """The policy's network in torch, whatever it is made of, with noise drawn once for many steps.

    Building and validating a ``Distribution`` at every step takes SB3 longer than the network does. Right for every
    policy with a stock distribution that leaves SB3's way from the observation to it as it is.
    """

    def __init__(self, policy: ActorCriticPolicy, n_envs: int, n_rows: int | None) -> None:
        assert not why_not_stock(policy)
        self.policy = policy
        self._sample = _sampler(policy, n_envs, n_rows)

    def __call__(self, observations: Observations) -> Array:
        """See :class:`Actor`."""
        with th.no_grad():
            output = self.policy.action_net(_actor_latent(self.policy, observations))
        return self._sample(output.cpu().numpy())


class NoiseActor:
    """gSDE in torch: the mean plus the exploration noise, without the distribution whose density nobody asks for.

    Its numbers are SB3's, since the noise matrices are what was drawn. Right for policies that leave SB3's way from the
    observation to the distribution as it is.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self.distribution = cast(StateDependentNoiseDistribution, policy.action_dist)

    def __call__(self, observations: Observations) -> Array:
        """See :class:`Actor`."""
        with th.no_grad():
            latent = _actor_latent(self.policy, observations)
            actions = self.policy.action_net(latent) + self.distribution.get_noise(latent)
            if self.distribution.bijector is not None:
                actions = self.distribution.bijector.forward(actions)
        drawn: Array = actions.cpu().numpy()
        return drawn.reshape(-1, *self.policy.action_space.shape)  # type: ignore[misc]


class ForwardActor:
    """SB3's own collection: ``policy.forward`` at every step, with values and log-probabilities."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy

    def __call__(self, observations: Observations) -> Array:
        """See :class:`Actor`."""
        self.obs_tensor: Any = obs_as_tensor(observations, self.policy.device)
        with th.no_grad():
            actions, self.values, self.log_probs = self.policy(self.obs_tensor)
        drawn: Array = actions.cpu().numpy()
        return drawn


class NumpyActor:
    """Stock multilayer perceptrons in NumPy, with noise drawn once for many steps.

    At the sizes of a rollout step a NumPy call costs a tenth of a torch one.
    """

    def __init__(self, policy: ActorCriticPolicy, n_envs: int, n_rows: int | None) -> None:
        assert not why_not_numpy(policy)
        modules = [*policy.mlp_extractor.policy_net, policy.action_net]
        activations = [_ACTIVATIONS[type(module)] for module in modules[1::2]]
        ones = [one for _, one in activations] + [None]
        weights = [_with_bias(layer, one) for layer, one in zip(modules[0::2], ones, strict=True)]
        self._hidden = [
            (weight, activate, np.empty((n_envs, weight.shape[1]), dtype=np.float32))
            for weight, (activate, _) in zip(weights[:-1], activations, strict=True)
        ]
        self._last_weight = weights[-1]
        self._input = np.ones((n_envs, weights[0].shape[0]), dtype=np.float32)
        self._inputs = self._input[:, :-1]
        self._shape = self._inputs.shape
        self._sample = _sampler(policy, n_envs, n_rows)

    def __call__(self, observations: Observations) -> Array:
        """See :class:`Actor`."""
        self._inputs[...] = observations.reshape(self._shape)  # type: ignore[union-attr]
        x = self._input
        for weight, activate, out in self._hidden:
            x.dot(weight, out)  # a third faster than np.dot at these sizes
            activate(out, out)
            x = out
        return self._sample(x.dot(self._last_weight))


def _sampler(policy: ActorCriticPolicy, n_envs: int, n_rows: int | None) -> Callable[[Array], Array]:
    """Actions of a step from what ``action_net`` puts out, with noise drawn once for many steps.

    The distribution is the policy's: mean plus noise for a Gaussian, the Gumbel-max trick (Gumbel 1954) for categories,
    logistic noise for bits. The random numbers come from torch's generator, but are not those that SB3 would draw.

    :return: takes means or logits, shape ``(n_envs, n_outputs)``, gives actions, shape ``(n_envs, *action_shape)``
    """
    size = (n_rows or _NOISE_ROWS, n_envs, cast(nn.Linear, policy.action_net).out_features)
    draw_noise, decide = _sampling(policy)
    noise = chain.from_iterable(draw_noise(size) for _ in count())
    return lambda output: decide(output, next(noise))


def _with_bias(layer: nn.Linear, one: float | None) -> Array:
    """Weights and bias as one matrix, for inputs whose last column is 1.

    :param one: what the activation turns into 1, so that the output has such a column again; None for the last layer
    """
    weight, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
    n_inputs, n_outputs = weight.shape
    whole = np.zeros((n_inputs + 1, n_outputs + (one is not None)), dtype=np.float32)
    whole[:-1, :n_outputs], whole[-1, :n_outputs] = weight, bias
    if one is not None:
        whole[-1, -1] = one
    return whole


def _identity(x: Array) -> Array:
    return x


def _gumbel(shape: tuple[int, ...]) -> Array:
    drawn: Array = th.empty(shape).exponential_().log_().neg_().numpy()
    return drawn


def _sampling(
    policy: ActorCriticPolicy,
) -> tuple[Callable[[tuple[int, ...]], Array], Callable[[Array, Array], Array]]:
    """How noise is drawn for many steps, and how the network's output and a step's noise make actions."""
    distribution = policy.action_dist
    if isinstance(distribution, DiagGaussianDistribution):
        std = policy.log_std.detach().exp().cpu()
        shape = (-1, *policy.action_space.shape)  # type: ignore[misc]
        return lambda size: (th.randn(size) * std).numpy(), lambda mean, noise: (mean + noise).reshape(shape)
    if isinstance(distribution, CategoricalDistribution):
        return _gumbel, lambda logits, noise: (logits + noise).argmax(1)
    if isinstance(distribution, MultiCategoricalDistribution):
        ends = np.cumsum(distribution.action_dims)[:-1]
        return _gumbel, lambda logits, noise: np.stack(
            [part.argmax(axis=1) for part in np.split(logits + noise, ends, axis=1)], axis=1
        )
    return lambda size: _gumbel(size) - _gumbel(size), lambda logits, noise: (logits + noise > 0).astype(np.float32)


def why_not_stock(policy: ActorCriticPolicy) -> str:
    """What keeps noise from being drawn apart from the policy's own distribution; empty if nothing does."""
    if policy.use_sde or policy.squash_output:
        return "gSDE"
    if type(policy.action_dist) not in STOCK_DISTRIBUTIONS:
        return f"distribution {type(policy.action_dist).__name__}"
    if overrides(policy, *_ACTING_METHODS):
        return f"{type(policy).__name__} overrides how its distribution is made"
    return "" if isinstance(policy.action_net, nn.Linear) else f"action_net {type(policy.action_net).__name__}"


def why_not_numpy(policy: ActorCriticPolicy) -> str:
    """What keeps the NumPy actor from being exactly this policy; empty if nothing does."""
    layers = [*getattr(policy.mlp_extractor, "policy_net", ()), policy.action_net]
    return why_not_stock(policy) or why_not_plain(policy, _FORWARD_METHODS, policy.pi_features_extractor, layers)


def has_plain_noise(policy: ActorCriticPolicy) -> bool:
    """Whether the policy is gSDE as SB3 has it."""
    return type(policy.action_dist) is StateDependentNoiseDistribution and not overrides(policy, *_ACTING_METHODS)


def why_forward(policy: ActorCriticPolicy, per_step_values: bool) -> str:
    """Why nothing but calling the policy itself, as SB3 does, is right; empty if there are other ways."""
    if per_step_values:
        return "per_step_values=True"
    if overrides(policy, *_FORWARD_METHODS):
        return f"{type(policy).__name__} overrides it or extract_features"
    return "hooks on the policy" if policy._forward_hooks or policy._forward_pre_hooks else ""


def describe_actor(policy: ActorCriticPolicy, per_step_values: bool) -> str:
    """One line on how actions are drawn, and why not in a faster way."""
    if reason := why_forward(policy, per_step_values):
        return f"policy.forward at every step ({reason})"
    if has_plain_noise(policy):
        return "torch, the mean plus gSDE's noise"
    if reason := why_not_stock(policy):
        return f"torch, by policy.get_distribution ({reason})"
    reason = why_not_numpy(policy)
    return f"torch ({reason})" if reason else "NumPy"


def choose_actor(policy: ActorCriticPolicy, per_step_values: bool, n_envs: int, n_rows: int | None) -> Actor:
    """The fastest way of drawing actions that gives this policy exactly what it says.

    :param per_step_values: the user asks for SB3's own way
    :param n_envs: environments that step together
    :param n_rows: steps in the rollout; None if not known
    """
    if why_forward(policy, per_step_values):
        return ForwardActor(policy)
    if has_plain_noise(policy):
        return NoiseActor(policy)
    if why_not_stock(policy):
        return DistributionActor(policy)
    return TorchActor(policy, n_envs, n_rows) if why_not_numpy(policy) else NumpyActor(policy, n_envs, n_rows)


def to_environment(policy: ActorCriticPolicy) -> Callable[[Array], Array]:
    """How actions are clipped or rescaled to the bounds of a continuous space; others pass as they are."""
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return _identity
    if policy.squash_output:
        return policy.unscale_action
    low, high = space.low, space.high
    return lambda actions: np.minimum(np.maximum(actions, low), high)
