r"""The losses, in torch. Each takes tensors of shape ``(batch,)`` and gives a scalar to be minimised."""

from __future__ import annotations

import torch as th
from torch.nn.functional import mse_loss


def vanilla_loss(log_probs: th.Tensor, advantages: th.Tensor) -> th.Tensor:
    r"""Policy gradient loss.

    .. math:: L = -\frac{1}{N} \sum_t \log\pi_\theta(a_t | s_t)\, A_t

    Its gradient is the estimate of :math:`-\nabla J`. Source: Williams 1992; Sutton and Barto 2018, eq. 13.8.
    """
    return -(advantages * log_probs).mean()


def importance_loss(log_probs: th.Tensor, advantages: th.Tensor, old_log_probs: th.Tensor) -> th.Tensor:
    r"""Policy gradient loss for samples of an earlier policy, each weighted by its probability ratio.

    .. math:: L = -\frac{1}{N} \sum_t \rho_t A_t, \qquad \rho_t = \pi_\theta(a_t|s_t) / \pi_{old}(a_t|s_t)

    At :math:`\theta = \theta_{old}` its gradient is that of :func:`vanilla_loss`. Source: Kakade and Langford 2002;
    Schulman et al. 2015, eq. 14 (TRPO's objective without its constraint), arXiv:1502.05477.
    """
    return -(advantages * th.exp(log_probs - old_log_probs)).mean()


def clipped_loss(log_probs: th.Tensor, advantages: th.Tensor, old_log_probs: th.Tensor, clip_range: float) -> th.Tensor:
    r"""PPO's clipped surrogate.

    .. math:: L = -\frac{1}{N} \sum_t \min(\rho_t A_t,\ \mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon)\, A_t)

    Source: Schulman et al. 2017, eq. 7, arXiv:1707.06347.
    """
    ratio = th.exp(log_probs - old_log_probs)
    clipped = th.clamp(ratio, 1 - clip_range, 1 + clip_range)
    return -th.min(advantages * ratio, advantages * clipped).mean()


def value_loss(values: th.Tensor, returns: th.Tensor) -> th.Tensor:
    r"""Mean squared error of the critic.

    .. math:: L = \frac{1}{N} \sum_t (V_\phi(s_t) - G_t)^2

    Source: Schulman et al. 2016, section 5, arXiv:1506.02438.
    """
    return mse_loss(returns, values)


def entropy_loss(entropy: th.Tensor | None, log_probs: th.Tensor) -> th.Tensor:
    r"""Negative mean entropy of the policy, in nats.

    .. math:: L = -\frac{1}{N} \sum_t H(\pi_\theta(\cdot | s_t))

    Where the distribution has no closed form, :math:`\frac{1}{N}\sum_t \log\pi_\theta(a_t|s_t)`, as SB3 has it.
    Source: Williams and Peng 1991; Mnih et al. 2016, section 4, arXiv:1602.01783.
    """
    return -th.mean(-log_probs) if entropy is None else -th.mean(entropy)


def approximate_kl(log_probs: th.Tensor, old_log_probs: th.Tensor) -> th.Tensor:
    r"""Estimate of KL(old || new) from samples of the old policy: never negative, low variance.

    .. math:: \frac{1}{N}\sum_t (\rho_t - 1) - \log \rho_t

    Source: Schulman 2020, "Approximating KL divergence", estimator k3.
    """
    log_ratio = log_probs - old_log_probs
    return th.mean(th.expm1(log_ratio) - log_ratio)
