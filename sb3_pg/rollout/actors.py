"""How an action is drawn at every step: the one place that decides which way is right for a policy."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from sb3_pg.policies import overrides
from sb3_pg.rollout.buffer import Observations


class Actor(Protocol):
    """Draws actions from a policy."""

    gives_values: bool
    """Whether ``values`` and ``log_probs`` are there after each call."""

    def __call__(self, observations: Observations) -> NDArray[Any]:
        """Actions for one observation of every environment, shape ``(n_envs, *action_shape)``."""
        ...


class TorchActor:
    """The policy's own distribution, without the critic and without log-probabilities.

    Right for every policy that does not override ``forward``. Draws from torch's generator what SB3 would draw.
    """

    gives_values = False

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy

    def __call__(self, observations: Observations) -> NDArray[Any]:
        """See :class:`Actor`."""
        with th.no_grad():
            tensor: Any = obs_as_tensor(observations, self.policy.device)
            actions = self.policy.get_distribution(tensor).get_actions()
        return actions.cpu().numpy().reshape(-1, *self.policy.action_space.shape)  # type: ignore[misc]


class ForwardActor:
    """SB3's own collection: ``policy.forward`` at every step, with values and log-probabilities."""

    gives_values = True

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self.values: NDArray[Any] = np.empty(0)
        self.log_probs: NDArray[Any] = np.empty(0)

    def __call__(self, observations: Observations) -> NDArray[Any]:
        """See :class:`Actor`."""
        with th.no_grad():
            actions, values, log_probs = self.policy(obs_as_tensor(observations, self.policy.device))
        self.values = values.cpu().numpy().flatten()
        self.log_probs = log_probs.cpu().numpy()
        drawn: NDArray[Any] = actions.cpu().numpy()
        return drawn


def choose_actor(policy: ActorCriticPolicy, per_step_values: bool) -> Actor:
    """The fastest way of drawing actions that gives this policy exactly what it says.

    :param per_step_values: the user asks for SB3's own way
    """
    if per_step_values or overrides(policy, "forward"):
        return ForwardActor(policy)
    return TorchActor(policy)


def to_environment(policy: ActorCriticPolicy, actions: NDArray[Any]) -> NDArray[Any]:
    """Clip or rescale continuous actions to the bounds of the space; others pass as they are."""
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return actions
    if policy.squash_output:
        return policy.unscale_action(actions)
    clipped: NDArray[Any] = np.clip(actions, space.low, space.high)
    return clipped
