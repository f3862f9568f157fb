"""What the policy would be after a step of its optimizer, without taking it: the part of HOOF that needs torch."""

from __future__ import annotations

from collections.abc import Callable

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import update_learning_rate

from sb3_pg.faults import put_back
from sb3_pg.policies import evaluate_log_probs
from sb3_pg.rollout.buffer import Samples, pieces


def batch_log_probs(policy: ActorCriticPolicy, samples: Samples) -> th.Tensor:
    """Log-probabilities of the actions under the policy as it is, shape ``(batch,)``."""
    with th.no_grad():
        found = [evaluate_log_probs(policy, part.observations, part.actions)[0] for part in pieces(samples)]
    return th.cat(found)


def log_probs_after(
    policy: ActorCriticPolicy, samples: Samples, learning_rate: float, step: Callable[[], object]
) -> th.Tensor:
    """Log-probabilities of the actions after one step of the actor's optimizer; weights and optimizer stay as they are.

    :param policy: whose ``optimizer`` takes the step
    :param samples: the batch
    :param learning_rate: of that step
    :param step: computes the gradient and takes the optimizer's step
    :return: shape ``(batch,)``
    """
    with put_back(policy):
        update_learning_rate(policy.optimizer, learning_rate)
        step()
        return batch_log_probs(policy, samples)
