"""SB3's rollout buffers, with a lambda that is chosen when the batch is complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_pg.advantage.estimators import Array, Trajectories, gae, times_in_episode
from sb3_pg.rollout.buffer import Samples, samples_in_order
from sb3_pg.rollout.collector import time_limits

Choice = tuple[float | Array, float | Array]
"""Lambda of the advantages, and of the critic's target."""


def ends_of_rows(buffer: RolloutBuffer) -> NDArray[np.bool_]:
    """Which rows of one of SB3's buffers an episode ended with; of the last one it is not known, and False.

    :param buffer: before or after training
    :return: shape ``(n_steps, n_envs)``
    """
    dones = np.zeros((buffer.pos, buffer.n_envs), dtype=bool)
    dones[:-1] = buffer.episode_starts[1 : buffer.pos]
    return dones


def times_of_rows(buffer: RolloutBuffer, first_times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Steps since the episode began, of the rows that one of SB3's buffers has.

    :param buffer: before or after training
    :param first_times: of the first row, where it does not begin an episode, shape ``(n_envs,)`` or ``(1,)``
    :return: shape ``(n_steps, n_envs)``
    """
    if not buffer.pos:
        return np.zeros((0, buffer.n_envs), dtype=np.int64)
    return times_in_episode(ends_of_rows(buffer), np.where(buffer.episode_starts[0], 0, first_times))


class TunableBuffer(RolloutBuffer):
    """What :class:`TunableRolloutBuffer` and :class:`TunableDictRolloutBuffer` have in common.

    With a number for lambda, advantages and returns come from SB3's own code. ``rewards`` are SB3's: gamma *
    V(terminal observation) is added to them at a time limit. What they were before is kept beside them.
    """

    choose_lambdas: Callable[[Trajectories], Choice] | None = None
    """Is asked when the batch is complete; None for ``gae_lambda``, a number."""
    step_scope: dict[str, Any]
    """The variables of SB3's loop over the environments, as callbacks see them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._first_times: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        super().__init__(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to one rollout: the variables of SB3's loop hold the model and its callbacks."""
        return {name: value for name, value in vars(self).items() if name not in ("step_scope", "choose_lambdas")}

    def reset(self) -> None:
        """Begin a rollout."""
        self._first_times = self.times_at_start
        super().reset()
        self._raw_rewards: list[tuple[int, int, float]] = []

    @property
    def times(self) -> NDArray[np.int64]:
        """Steps since the episode began, for every row that was added, shape ``(n_steps, n_envs)``; a copy."""
        return times_of_rows(self, self._first_times)

    @property
    def times_at_start(self) -> NDArray[np.int64]:
        """Where the next row's episodes are, if it begins none: under the name that training_state saves."""
        return self.times[-1] + 1 if self.pos else self._first_times

    @times_at_start.setter
    def times_at_start(self, times: NDArray[np.int64]) -> None:
        self._first_times = times

    def note_time_limits(self, dones: NDArray[np.bool_], infos: list[dict[str, Any]]) -> None:
        """Keep the rewards that SB3 is about to add the value of a terminal observation to.

        :param dones: of the step that is added next, shape ``(n_envs,)``
        :param infos: of the same
        """
        if np.any(dones):
            for step, env_index, _ in time_limits(self.pos, dones, infos):
                self._raw_rewards.append((step, env_index, float(self.step_scope["rewards"][env_index])))

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: NDArray[Any]) -> None:
        """Estimate advantages and the critic's targets.

        :param last_values: V of the observations after the last step
        :param dones: whether the last step ended an episode, shape ``(n_envs,)``
        """
        if self.choose_lambdas is None:
            super().compute_returns_and_advantage(last_values, dones)
            return
        trajectories = self.trajectories(last_values, dones)
        gae_lambda, critic_lambda = self.choose_lambdas(trajectories)
        self._estimate(critic_lambda, trajectories, last_values, dones)
        returns = self.returns
        if not np.array_equal(gae_lambda, critic_lambda):
            self._estimate(gae_lambda, trajectories, last_values, dones)
        self.returns, self.gae_lambda = returns, gae_lambda  # type: ignore[assignment]

    def _estimate(
        self, gae_lambda: float | Array, trajectories: Trajectories, last_values: th.Tensor, dones: NDArray[Any]
    ) -> None:
        if isinstance(gae_lambda, float):
            self.gae_lambda = gae_lambda
            super().compute_returns_and_advantage(last_values, dones)
        else:
            self.advantages = gae(trajectories, gamma=self.gamma, gae_lambda=gae_lambda)
            self.returns = self.advantages + self.values

    def trajectories(self, last_values: th.Tensor, dones: NDArray[Any]) -> Trajectories:
        """What the rules work on: rewards as they came, and what SB3 added to them apart.

        :param last_values: see :meth:`compute_returns_and_advantage`
        :param dones: see :meth:`compute_returns_and_advantage`
        """
        last = last_values.cpu().numpy().reshape(1, self.n_envs)
        all_dones = np.concatenate([self.episode_starts[1:], dones.reshape(1, self.n_envs)]).astype(bool)
        next_values = np.concatenate([self.values[1:], last])
        next_values[all_dones] = 0.0
        rewards = self.rewards.copy()
        for step, env_index, reward in self._raw_rewards:
            added = float(rewards[step, env_index]) - reward
            next_values[step, env_index] = added / self.gamma if self.gamma else 0.0
            rewards[step, env_index] = reward
        return Trajectories(rewards, all_dones, self.values, next_values, self.times)

    def samples(self, advantages: Array | None = None) -> Samples:
        """The batch as flat tensors, in order of time; not after :meth:`get`.

        :param advantages: what to weigh the policy gradient with instead of ``self.advantages``
        """
        return samples_in_order(self, self.advantages if advantages is None else advantages)


class TunableRolloutBuffer(TunableBuffer):
    """SB3's ``RolloutBuffer``, with a lambda that is chosen when the batch is complete."""


class TunableDictRolloutBuffer(TunableBuffer, DictRolloutBuffer):
    """SB3's ``DictRolloutBuffer``, with a lambda that is chosen when the batch is complete."""
