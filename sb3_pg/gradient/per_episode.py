r"""Policy gradients of parts of a batch, for many choices of :math:`\Psi` at once.

The gradient of :math:`\sum_{t \in b} \Psi_t \log \pi(a_t|s_t)` with respect to the weights of a linear layer is

.. math:: \sum_{t \in b} \Psi_t\, \delta_t \otimes h_t, \qquad
          \delta_t = \frac{\partial \log \pi(a_t|s_t)}{\partial z_t}, \quad z_t = W h_t + b

One backward pass gives :math:`h_t` and :math:`\delta_t` of every step, and matrix products then give the gradients of
all parts of the batch for all :math:`\Psi` (Goodfellow 2015, arXiv:1510.01799, for one :math:`\Psi`). Policies that are
not made of linear layers alone take the slower way of :func:`gradients_by_autograd`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    DiagGaussianDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_pg.advantage.estimators import Array, segments
from sb3_pg.policies import STOCK_DISTRIBUTIONS, evaluate_log_probs, overrides
from sb3_pg.rollout.observations import piece_slices, take_rows

Blocks = NDArray[np.int64]

# Statistics of a few dozen parts are as good as those of hundreds, and cost less
MAX_BLOCKS = 32

# What stands between an observation and the log-probability of an action in SB3's policy
_METHODS = ("evaluate_actions", "extract_features", "get_distribution", "_get_action_dist_from_latent")


class Factors(NamedTuple):
    r"""What the gradients of one layer, or of one vector of parameters, are made of; a row for each step.

    :ivar delta: gradient of :math:`\log \pi(a_t|s_t)` with respect to the layer's output, or to the vector, shape
        ``(batch, n_outputs)``
    :ivar inputs: the layer's inputs h, shape ``(batch, n_inputs)``; None for a vector of parameters, whose gradient is
        :math:`\sum_t \Psi_t \delta_t`
    """

    delta: Array
    inputs: Array | None = None

    def gradients(self, psi: Array, parts: list[slice]) -> Array:
        """Gradients of consecutive parts of the batch.

        :param psi: shape ``(n_psi, batch)``
        :param parts: rows of each part
        :return: shape ``(n_psi, len(parts), n_parameters)``
        """
        n_outputs = self.delta.shape[1]
        size = n_outputs * (1 if self.inputs is None else self.inputs.shape[1])
        found: Array = np.empty((len(psi), len(parts), size), dtype=self.delta.dtype)
        for number, rows in enumerate(parts):
            delta, weights = self.delta[rows], psi[:, rows]
            if self.inputs is None:
                found[:, number] = weights @ delta
                continue
            weighted = weights[:, None, :] * delta.T
            product = weighted.reshape(len(psi) * n_outputs, -1) @ self.inputs[rows]
            found[:, number] = product.reshape(len(psi), size)
        return found


def output_layer(policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor) -> tuple[Array, Array]:
    r"""What the gradients of the policy's last layer, ``policy.action_net``, are made of.

    The gradient of action_net's weights for the steps of a block b and advantages A is
    :math:`\sum_{t \in b} A_t\, \delta_t \otimes h_t`, of its biases :math:`\sum_{t \in b} A_t\, \delta_t`. The policy
    is evaluated in evaluation mode, as it acted; nothing of it is changed, and no random number is drawn.

    :param policy: with a Gaussian, categorical, multi-categorical or Bernoulli distribution
    :param observations: as in ``buffer.samples()``: tensors of shape ``(batch, ...)`` on the policy's device
    :param actions: as in ``buffer.samples()``
    :return: ``(h, delta)``, float32 (float64 for a policy in float64): the inputs of action_net, shape
        ``(batch, n_features)``, and the gradients of :math:`\log \pi(a_t|s_t)` with respect to its outputs, shape
        ``(batch, n_outputs)``
    :raises ValueError: where they cannot be had, saying why: see :func:`why_no_output_layer`
    """
    reason = why_no_output_layer(policy)
    if reason:
        raise ValueError(f"the gradient of the last layer cannot be had: {reason}; accepted are {_ACCEPTED}")
    return _inputs_and_scores(policy, observations, actions)


class _UsedOtherwiseError(ValueError):
    """The last layer is not what stands between features and distribution."""


def _inputs_and_scores(policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor) -> tuple[Array, Array]:
    stock = not (why_no_output_layer(policy) or overrides(policy, *_METHODS))
    of_piece = _output_in_closed_form if stock else _output_by_autograd
    with _as_it_acts(policy):
        parts = [of_piece(policy, *_rows(observations, actions, rows)) for rows in piece_slices(observations)]
    inputs, deltas = zip(*parts, strict=True)
    return (inputs[0], deltas[0]) if len(parts) == 1 else (np.concatenate(inputs), np.concatenate(deltas))


_ACCEPTED = "policies with a linear action_net and SB3's distributions for Box, Discrete, MultiDiscrete and MultiBinary"


def why_no_output_layer(policy: ActorCriticPolicy) -> str:
    """What keeps :func:`output_layer` from this policy; empty if nothing does."""
    if getattr(policy, "use_sde", False) or getattr(policy, "squash_output", False):
        return "use_sde=True: with gSDE the last layer is not the only one that acts on the features"
    distribution = getattr(policy, "action_dist", None)
    if type(distribution) not in STOCK_DISTRIBUTIONS:
        return f"its distribution is {type(distribution).__name__}"
    layer = getattr(policy, "action_net", None)
    return "" if isinstance(layer, nn.Linear) else f"its action_net is {type(layer).__name__}"


def _output_in_closed_form(policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor) -> tuple[Any, Any]:
    with th.no_grad():
        features = BasePolicy.extract_features(policy, observations, policy.pi_features_extractor)
        inputs = policy.mlp_extractor.forward_actor(features)
        output = policy.action_net(inputs)
    return inputs.cpu().numpy(), score(policy, output, actions).cpu().numpy()


def score(policy: ActorCriticPolicy, output: th.Tensor, actions: th.Tensor) -> th.Tensor:
    r"""Gradient of :math:`\log \pi(a_t|s_t)` with respect to the network's output, for SB3's distributions.

    .. math:: \text{Gaussian: } \frac{a - \mu}{\sigma^2}, \qquad \text{categorical: } 1[a = k] - \pi_k, \qquad
              \text{Bernoulli: } a - \sigma(z)

    :param output: means or logits, shape ``(batch, n_outputs)``
    :param actions: shape ``(batch,)`` or ``(batch, action_dim)``
    :return: shape ``(batch, n_outputs)``
    """
    distribution = policy.action_dist
    with th.no_grad():
        if isinstance(distribution, DiagGaussianDistribution):
            return (actions.reshape(output.shape) - output) * th.exp(-2 * policy.log_std)
        if isinstance(distribution, BernoulliDistribution):
            return actions.reshape(output.shape) - th.sigmoid(output)
        dims = getattr(distribution, "action_dims", [output.shape[1]])
        columns = actions.long().reshape(len(output), len(dims))
        # Along the other dimension of the transpose: a fifth of the time for few actions
        delta = th.cat([-th.softmax(part.t(), dim=0).t() for part in th.split(output, list(dims), dim=1)], dim=1)
        firsts = th.as_tensor(np.cumsum([0, *dims[:-1]]), device=output.device)
        return delta.scatter_add(1, columns + firsts, th.ones_like(columns, dtype=output.dtype))


def _output_by_autograd(policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor) -> tuple[Any, Any]:
    """For policies with methods of their own: what they do before and after action_net is theirs."""
    seen: list[tuple[th.Tensor, th.Tensor]] = []

    def begin_graph_here(_: nn.Module, inputs: tuple[th.Tensor, ...], output: th.Tensor) -> th.Tensor:
        """Let gradients end at this layer's output, and keep that with the layer's input."""
        leaf = output.detach().requires_grad_()
        seen.append((inputs[0].detach(), leaf))
        th.set_grad_enabled(True)  # the no_grad() below ends it
        return leaf

    handle = policy.action_net.register_forward_hook(begin_graph_here)
    try:
        with th.no_grad():
            log_probs = evaluate_log_probs(policy, observations, actions)[0].sum()
    finally:
        handle.remove()
    if len(seen) != 1 or len(seen[0][0]) != len(actions):
        raise _UsedOtherwiseError(
            f"the gradient of the last layer cannot be had: {type(policy).__name__} uses action_net {len(seen)} times "
            f"for a batch of {len(actions)}; accepted are {_ACCEPTED}, where it is used once, on the whole batch"
        )
    inputs, leaf = seen[0]
    (delta,) = th.autograd.grad(log_probs, leaf)
    return inputs.cpu().numpy(), delta.cpu().numpy()


def why_not_layers(policy: ActorCriticPolicy) -> str:
    """What keeps :func:`all_layers` from this policy; empty if nothing does."""
    reason = why_no_output_layer(policy)
    if reason:
        return reason
    if overrides(policy, *_METHODS):
        return f"{type(policy).__name__} overrides how log-probabilities are made"
    if type(policy.mlp_extractor) is not MlpExtractor:
        return f"network {type(policy.mlp_extractor).__name__}"
    if any(True for _ in policy.pi_features_extractor.parameters()):
        return f"features extractor {type(policy.pi_features_extractor).__name__} has weights"
    layers = [*policy.mlp_extractor.policy_net, policy.action_net]
    others = [m for m in layers if type(m) is not nn.Linear and any(True for _ in m.parameters())]
    if others:
        return f"a layer {type(others[0]).__name__}"
    return "hooks on the policy" if any(m._forward_hooks or m._forward_pre_hooks for m in layers) else ""


def all_layers(policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor) -> list[Factors]:
    """What the gradients of all of an actor's weights are made of, for multilayer perceptrons.

    In the order of the parameters: ``log_std`` if there is one, then weight and bias of each layer of the policy
    network, then those of action_net; without those that are frozen. Arguments as in :func:`output_layer`.

    :raises ValueError: for any other policy, saying why: see :func:`why_not_layers`
    """
    reason = why_not_layers(policy)
    if reason:
        raise ValueError(
            f"the gradients of all layers cannot be had this way: {reason}; accepted are multilayer perceptrons; "
            "gradients_by_autograd() takes any policy"
        )
    with _as_it_acts(policy):
        parts = [_layers_of_piece(policy, *_rows(observations, actions, rows)) for rows in piece_slices(observations)]
    return join_factors(parts)


def join_factors(parts: Sequence[list[Factors]]) -> list[Factors]:
    """Factors of consecutive pieces of a batch as those of the whole; weight and bias of a layer go on sharing theirs.

    :param parts: factors of each piece, at least one
    """
    if len(parts) == 1:
        return parts[0]
    together: dict[int, Array] = {}

    def join(arrays: list[Array]) -> Array:
        """One array of the pieces' arrays, made once for all that share them."""
        key = id(arrays[0])
        if key not in together:
            together[key] = np.concatenate(arrays)
        return together[key]

    return [
        Factors(
            join([part.delta for part in same]),
            None if same[0].inputs is None else join([cast(Array, part.inputs) for part in same]),
        )
        for same in zip(*parts, strict=True)
    ]


def _layers_of_piece(policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor) -> list[Factors]:
    modules = [*policy.mlp_extractor.policy_net, policy.action_net]
    inputs: list[th.Tensor] = []
    outputs: list[th.Tensor] = []
    with th.no_grad():
        x = BasePolicy.extract_features(policy, observations, policy.pi_features_extractor)
    with th.enable_grad():
        for module in modules:
            if isinstance(module, nn.Linear):
                inputs.append(x.detach())
                x = module(x).requires_grad_()  # a frozen layer too has an output to be told from
                outputs.append(x)
            else:  # what works in place would overwrite the output that the gradient is taken for
                x = module(x.clone() if getattr(module, "inplace", False) else x)
    last = score(policy, x, actions)
    hidden = th.autograd.grad(x, outputs[:-1], grad_outputs=last) if len(outputs) > 1 else ()
    factors = []
    if isinstance(policy.action_dist, DiagGaussianDistribution) and policy.log_std.requires_grad:
        with th.no_grad():
            log_std = last * (actions.reshape(x.shape) - x) - 1.0
        factors.append(Factors(log_std.cpu().numpy()))
    layers = [module for module in modules if isinstance(module, nn.Linear)]
    for layer, into, delta in zip(layers, inputs, [*hidden, last], strict=True):
        pairs = zip(_of_linear(layer, into.cpu().numpy(), delta.cpu().numpy()), layer.parameters(), strict=True)
        factors += [factor for factor, parameter in pairs if parameter.requires_grad]
    return factors


def _of_linear(layer: nn.Linear, inputs: Array, delta: Array) -> list[Factors]:
    """Of a linear layer's weight, and of its bias if it has one; they share delta."""
    return [Factors(delta, inputs)] if layer.bias is None else [Factors(delta, inputs), Factors(delta)]


def gradients_from_factors(factors: list[Factors], psi: Array, blocks: Blocks, n_blocks: int) -> Array:
    r"""Gradients of the blocks of a batch, :math:`c_b = \sum_{t \in b} \Psi_t \nabla \log \pi(a_t|s_t)`.

    :param factors: of :func:`all_layers`, or ``[Factors(delta, h), Factors(delta)]`` of :func:`output_layer`
    :param psi: several choices of what multiplies the scores, shape ``(n_psi, batch)``
    :param blocks: number of each step's block, shape ``(batch,)``; negative for steps in none
    :param n_blocks: how many blocks there are
    :return: shape ``(n_psi, n_blocks, n_parameters)``
    """
    order = np.argsort(blocks, kind="stable")
    edges = np.searchsorted(blocks[order], np.arange(n_blocks + 1))
    parts = [slice(first, last) for first, last in pairwise(edges.tolist())]
    sorted_psi = psi[:, order].astype(factors[0].delta.dtype, copy=False)
    taken: dict[int, Array] = {}

    def in_order(array: Array) -> Array:
        return taken.setdefault(id(array), array[order])  # weight and bias share their delta

    found = []
    for each in factors:
        inputs = None if each.inputs is None else in_order(each.inputs)
        found.append(Factors(in_order(each.delta), inputs).gradients(sorted_psi, parts))
    return np.concatenate(found, axis=2)


def gradients_by_autograd(
    policy: ActorCriticPolicy,
    observations: PyTorchObs,
    actions: th.Tensor,
    psi: Array,
    blocks: Blocks,
    n_blocks: int,
    parameters: list[nn.Parameter] | None = None,
) -> Array:
    """The same as :func:`gradients_from_factors`, for any policy.

    A forward pass for each block, and a backward one for each of its psi.

    :param parameters: whose gradients; all that the log-probabilities depend on when not given, in the policy's order
    :return: shape ``(n_psi, n_blocks, n_parameters)``
    """
    with _as_it_acts(policy), th.enable_grad():
        if parameters is None:
            parameters = _actor_parameters(policy, *_rows(observations, actions, slice(0, 1)))
        size = sum(parameter.numel() for parameter in parameters)
        found: Array = np.zeros((len(psi), n_blocks, size), dtype=_dtype(parameters))
        for number in range(n_blocks):
            members = np.flatnonzero(blocks == number)
            for rows in piece_slices(observations, len(members)):
                chosen = members[rows]
                piece = _rows(observations, actions, th.as_tensor(chosen, device=actions.device))
                found[:, number] += _backward(policy, *piece, psi[:, chosen], parameters)
    return found


def _backward(
    policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor, psi: Array, parameters: list[nn.Parameter]
) -> Array:
    log_probs = evaluate_log_probs(policy, observations, actions)[0]
    rows = []
    for weights in psi:
        vector = th.as_tensor(weights, dtype=log_probs.dtype, device=log_probs.device)
        gradients = th.autograd.grad(log_probs, parameters, grad_outputs=vector, retain_graph=True)
        rows.append(th.cat([gradient.flatten() for gradient in gradients]).cpu().numpy())
    return np.stack(rows)


def _actor_parameters(policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor) -> list[nn.Parameter]:
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    log_prob = evaluate_log_probs(policy, observations, actions)[0].sum()
    gradients = th.autograd.grad(log_prob, parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _dtype(parameters: list[nn.Parameter]) -> Any:
    return np.float64 if any(parameter.dtype == th.float64 for parameter in parameters) else np.float32


def block_gradients(
    policy: ActorCriticPolicy,
    observations: PyTorchObs,
    actions: th.Tensor,
    psi: Array,
    blocks: Blocks,
    n_blocks: int,
    *,
    every_layer: bool = False,
) -> Array:
    """Gradients of the blocks of a batch, in the fastest way that is right for this policy.

    :param observations: see :func:`output_layer`
    :param actions: see :func:`output_layer`
    :param psi: see :func:`gradients_from_factors`
    :param blocks: see :func:`gradients_from_factors`
    :param n_blocks: see :func:`gradients_from_factors`
    :param every_layer: of all weights of the actor; False for those of the last layer, ``policy.action_net``
    :return: shape ``(n_psi, n_blocks, n_parameters)``
    :raises ValueError: for the last layer of a policy that has no ``action_net``
    """
    factors = score_factors(policy, observations, actions, every_layer=every_layer)
    if factors is not None:
        return gradients_from_factors(factors, psi, blocks, n_blocks)
    last_layer = getattr(policy, "action_net", None)
    if last_layer is None and not every_layer:
        raise ValueError(f"{type(policy).__name__} has no action_net, its last layer; every_layer=True is accepted")
    parameters = None if every_layer else [p for p in cast(nn.Module, last_layer).parameters() if p.requires_grad]
    return gradients_by_autograd(policy, observations, actions, psi, blocks, n_blocks, parameters)


def score_factors(
    policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor, *, every_layer: bool
) -> list[Factors] | None:
    """What the gradients are made of, in as few arrays as possible; None for policies that have no such form.

    The last layer's is there for gSDE and for a user's distributions too.

    :param every_layer: see :func:`block_gradients`
    """
    if every_layer:
        return None if why_not_layers(policy) else all_layers(policy, observations, actions)
    last_layer = getattr(policy, "action_net", None)
    if not isinstance(last_layer, nn.Linear):
        return None
    try:
        inputs, delta = _inputs_and_scores(policy, observations, actions)
    except _UsedOtherwiseError:
        return None
    return _of_linear(last_layer, inputs, delta)


def split_episodes(
    dones: NDArray[np.bool_],
    valid: NDArray[np.bool_] | None = None,
    *,
    max_blocks: int = MAX_BLOCKS,
    longest: int | None = None,
) -> tuple[Blocks, NDArray[np.int64]]:
    """Divide a rollout into blocks that have as little to do with each other as possible: segments of episodes.

    A segment ends with its episode, or with the rollout. Beyond ``max_blocks`` segments number i goes into block
    ``i % max_blocks``, so that the blocks stay alike.

    :param dones: True where the episode ended after the step, shape ``(n_steps, n_envs)``
    :param valid: False for steps that are in no block, same shape; all are in one when not given
    :param max_blocks: at least 1
    :param longest: cut segments to this many steps, for rollouts with fewer episodes than statistics need; the pieces
        of an episode are not independent, so that variances come out too small if what happens in it hangs together
    :return: number of each step's block, -1 where not valid, shape ``(n_steps, n_envs)``, and the number of segments in
        each block, shape ``(n_blocks,)``
    :raises ValueError: for ``max_blocks`` or ``longest`` below 1
    """
    if max_blocks < 1 or (longest is not None and longest < 1):
        raise ValueError(f"max_blocks={max_blocks!r}, longest={longest!r}: whole numbers of at least 1 are expected")
    valid = np.ones(dones.shape, dtype=bool) if valid is None else valid
    begins, numbers = segments(dones, valid, longest)
    blocks = np.where(valid, numbers % max_blocks, -1)
    return blocks, np.bincount(np.arange(begins.sum()) % max_blocks).astype(np.int64)


def _rows(observations: PyTorchObs, actions: th.Tensor, rows: slice | th.Tensor) -> tuple[PyTorchObs, th.Tensor]:
    return take_rows(observations, rows), actions[rows]


@contextmanager
def _as_it_acts(policy: ActorCriticPolicy) -> Iterator[None]:
    """Evaluation mode, and afterwards the mode and the distribution that the policy had before."""
    was_training = policy.training  # after a rollout it is not, and going through all modules costs a millisecond
    kept: dict[str, Any] = dict(vars(policy.action_dist))
    if was_training:
        policy.set_training_mode(False)
    try:
        yield
    finally:
        if was_training:
            policy.set_training_mode(True)
        vars(policy.action_dist).clear()
        vars(policy.action_dist).update(kept)
