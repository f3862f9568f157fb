"""A step of a torch optimizer and the length of its gradient, without what torch looks up anew at every call.

With the small networks of classic control most of both is Python: of Adam's step 109 microseconds for 14 of arithmetic.
What comes out is torch's own, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch.optim import optimizer as torch_optimizer
from torch.optim.adam import adam


def take_step(optimizer: th.optim.Optimizer) -> None:
    """What ``optimizer.step()`` does: by Adam's own function where the optimizer is a plain fused Adam.

    :param optimizer: with the gradients in its weights
    """
    if not _is_plain_adam(optimizer):
        optimizer.step()
        return
    (group,) = optimizer.param_groups
    weights = [weight for weight in group["params"] if weight.grad is not None]
    states = [optimizer.state[weight] for weight in weights]
    if not (states and all(states)):  # the first step makes the states
        optimizer.step()
        return
    averages, squares, steps = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))
    beta1, beta2 = group["betas"]
    with th.no_grad():
        adam(
            weights, [weight.grad for weight in weights], averages, squares, [], steps, fused=True, amsgrad=False,
            beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
            maximize=group["maximize"],
        )  # fmt: skip


def _is_plain_adam(optimizer: th.optim.Optimizer) -> bool:
    """Whether nothing but its numbers says what a step of it is."""
    if type(optimizer) is not th.optim.Adam or len(optimizer.param_groups) != 1:
        return False
    (group,) = optimizer.param_groups
    special = ("amsgrad", "capturable", "differentiable", "decoupled_weight_decay")
    if not group["fused"] or isinstance(group["lr"], th.Tensor) or any(group.get(name) for name in special):
        return False
    # A torch scheduler, a scaler of gradients and hooks take part in optimizer.step alone
    takes_part = (*optimizer._optimizer_step_pre_hooks, *optimizer._optimizer_step_post_hooks)
    takes_part += (*torch_optimizer._global_optimizer_pre_hooks, *torch_optimizer._global_optimizer_post_hooks)
    return not (takes_part or {"step", "grad_scale", "found_inf"} & vars(optimizer).keys())


def clip_gradient(weights: Sequence[th.Tensor], longest: float) -> float:
    """What ``clip_grad_norm_`` does: scale the gradient down to a length.

    :param weights: with their gradients
    :param longest: the length; may be infinite
    :return: the length before
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if len({(gradient.device.type, gradient.dtype) for gradient in gradients}) != 1:
        return float(th.nn.utils.clip_grad_norm_(weights, longest))
    with th.no_grad():
        length = th.linalg.vector_norm(th.stack(th._foreach_norm(gradients, 2.0)))
        factor = longest / (length + 1e-6)
        if factor < 1:
            th._foreach_mul_(gradients, factor)
    return float(length)
