"""The critic of a stock policy in NumPy: values of a rollout, and the gradient of their squared error.

At the sizes of these networks torch spends most of an update on building graphs and on fetching memory for every
intermediate result. Here the chain rule is written out for a multilayer perceptron, on the policy's own weights, with
every array used again. The optimizer is still torch's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_pg.policies import why_not_plain

Array = NDArray[Any]

# What stands between an observation and its value, in the rollout or in the critic's loss
_METHODS = ("predict_values", "extract_features", "evaluate_actions")

# Memory for the output of one layer; larger batches are worked off in pieces.
_LAYER_BYTES = 2**23


def why_not_numpy_critic(policy: ActorCriticPolicy) -> str:
    """What keeps :class:`NumpyCritic` from being exactly this policy's critic; empty if nothing does."""
    reason = why_not_plain(policy, _METHODS, policy.vf_features_extractor, _modules(policy))
    if not reason and policy.observation_space.dtype not in (np.float32, np.float64):
        return f"observations of {policy.observation_space.dtype}"
    weights = [weight for module in _modules(policy) for weight in module.parameters()]
    hooked = any(module._backward_hooks or module._backward_pre_hooks for module in policy.modules())
    # torch makes the latter when the first such hook is registered
    hooked |= any(w._backward_hooks or getattr(w, "_post_accumulate_grad_hooks", None) for w in weights)
    frozen = not all(weight.requires_grad for weight in weights)
    return reason or "hooks on the gradient" * hooked or "a frozen weight" * frozen


def _modules(policy: ActorCriticPolicy) -> list[nn.Module]:
    return [*getattr(policy.mlp_extractor, "value_net", ()), policy.value_net]


class NumpyCritic:
    r"""V(s) of a stock policy, and the gradient of its mean squared error.

    .. math:: h_0 = s, \quad z_k = W_k h_{k-1} + b_k, \quad h_k = f(z_k), \quad V = z_K

    .. math:: \delta_K = \tfrac{2}{N}(V - G), \quad \delta_{k-1} = (W_k^T \delta_k) \odot f'(z_{k-1}), \quad
              \nabla_{W_k} L = \delta_k h_{k-1}^T, \quad \nabla_{b_k} L = \textstyle\sum \delta_k

    Weights are views of the policy's own: an optimizer's step is seen at once. Make it anew for each update, since a
    loaded model may have other arrays.

    :param policy: for which :func:`why_not_numpy_critic` knows no reason
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        modules = _modules(policy)
        linear: list[Any] = modules[0::2]
        self.is_tanh = [isinstance(module, nn.Tanh) for module in modules[1::2]]
        self.weights: list[Array] = [layer.weight.detach().numpy() for layer in linear]
        self.biases: list[Array] = [layer.bias.detach().numpy() for layer in linear]
        self.parameters = [parameter for layer in linear for parameter in (layer.weight, layer.bias)]
        widest = max(len(bias) for bias in self.biases)
        self._max_rows = max(1, _LAYER_BYTES // (4 * widest))
        self._buffers: dict[int, list[tuple[Array, Array]]] = {}

    def predict(self, observations: Array) -> Array:
        """V of many observations.

        :param observations: float32, shape ``(batch, n_inputs)``
        :return: shape ``(batch,)``
        """
        values = np.empty(len(observations), dtype=np.float32)
        for rows in self._pieces(len(observations)):
            values[rows] = self._forward(observations[rows])[:, 0]
        return values

    def _pieces(self, size: int) -> list[slice]:
        """Consecutive rows, few enough for their arrays to stay small."""
        return [slice(first, first + self._max_rows) for first in range(0, size, self._max_rows)]

    def _forward(self, observations: Array) -> Array:
        x = observations
        buffers = self._arrays(len(observations))
        for weight, bias, (out, _), tanh in zip(self.weights, self.biases, buffers, [*self.is_tanh, None], strict=True):
            np.dot(x, weight.T, out)
            out += bias
            if tanh is not None:
                _ = np.tanh(out, out) if tanh else np.maximum(out, 0.0, out=out)
            x = out
        return x

    def _arrays(self, batch: int) -> list[tuple[Array, Array]]:
        """For each layer, its output and the gradient with respect to it; kept for the next batch of this size."""
        if batch not in self._buffers:
            self._buffers[batch] = [
                (np.empty((batch, len(bias)), np.float32), np.empty((batch, len(bias)), np.float32))
                for bias in self.biases
            ]
        return self._buffers[batch]

    def allocate_gradient(self) -> Array:
        """Give every parameter its gradient in one common array, and return that array."""
        sizes = [parameter.numel() for parameter in self.parameters]
        self._flat = np.zeros(sum(sizes), dtype=np.float32)
        self._gradients = []
        for parameter, size, end in zip(self.parameters, sizes, np.cumsum(sizes), strict=True):
            self._gradients.append(self._flat[end - size : end].reshape(parameter.shape))
            parameter.grad = th.from_numpy(self._gradients[-1])
        return self._flat

    def gradient(self, observations: Array, returns: Array) -> float:
        """Write the gradient of the loss into every ``parameter.grad``; needs :meth:`allocate_gradient` before.

        :param observations: float32, shape ``(batch, n_inputs)``
        :param returns: targets, shape ``(batch,)``
        :return: the loss
        """
        if len(returns) <= self._max_rows:
            return self._backward(observations, returns, len(returns))
        loss, sums = 0.0, np.zeros_like(self._flat)
        for rows in self._pieces(len(returns)):
            loss += self._backward(observations[rows], returns[rows], len(returns))
            sums += self._flat
        self._flat[:] = sums
        return loss

    def _backward(self, observations: Array, returns: Array, size: int) -> float:
        values = self._forward(observations)
        buffers = self._arrays(len(observations))
        delta = buffers[-1][1]
        np.subtract(values, returns[:, None], delta)
        loss = float(np.vdot(delta, delta)) / size
        delta *= 2.0 / size
        for layer in range(len(self.weights) - 1, -1, -1):
            below = buffers[layer - 1][0] if layer else observations
            np.dot(delta.T, below, self._gradients[2 * layer])
            np.sum(delta, axis=0, out=self._gradients[2 * layer + 1])
            if layer:
                gradient = buffers[layer - 1][1]
                np.dot(delta, self.weights[layer], gradient)
                _times_slope(gradient, below, self.is_tanh[layer - 1])
                delta = gradient
        return loss


def _times_slope(gradient: Array, output: Array, tanh: bool) -> None:
    """Multiply by f'(z), told from f(z): 1 - tanh^2, or where ReLU lets through. The output is written over."""
    if tanh:
        np.multiply(output, output, output)
        np.subtract(1.0, output, output)
        np.multiply(gradient, output, gradient)
    else:
        np.multiply(gradient, output > 0, gradient)


def clip_norm(flat_gradient: Array, longest: float) -> float:
    """Scale a gradient down to a length, as torch's ``clip_grad_norm_`` does; returns its length before."""
    norm = math.sqrt(float(np.vdot(flat_gradient, flat_gradient)))
    if norm > longest:
        flat_gradient *= longest / (norm + 1e-6)
    return norm
