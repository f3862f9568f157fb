"""Logs what every batch says about its own gradient, while any actor-critic of SB3 or of this library trains."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import explained_variance

from sb3_pg.advantage.estimators import Array, standardize
from sb3_pg.gradient.per_episode import Blocks, block_gradients, split_episodes
from sb3_pg.gradient.statistics import GradientStatistics, gradient_statistics
from sb3_pg.rollout.buffer import TrajectoryBuffer, samples_in_order
from sb3_pg.rollout.tunable_buffer import TunableBuffer, ends_of_rows, times_of_rows
from sb3_pg.threads import one_thread_if_small

# With fewer segments of episodes than this the rollout is cut into smaller blocks, about twice as many.
_FEWEST_BLOCKS = 8
# The noise scale is a ratio of two noisy numbers, each averaged over about ten measurements before the division
# (McCandlish et al. 2018, appendix A.1, do the same).
_MEMORY = 0.9


class Batch(NamedTuple):
    """One batch as the statistics need it."""

    observations: PyTorchObs
    """Shape ``(batch, ...)``."""
    actions: th.Tensor
    weights: Array
    """What multiplies log pi in the policy's loss, shape ``(batch,)``."""
    returns: Array
    """Targets of the critic, shape ``(batch,)``."""
    values: Array
    """The critic's values, shape ``(batch,)``; zero without a critic."""
    dones: NDArray[np.bool_]
    """True where the episode ended after the step, shape ``(n_steps, n_envs)``."""
    valid: NDArray[np.bool_]
    """Steps that belong to the batch, shape ``(n_steps, n_envs)``; the others have no row in the flat arrays."""
    times: NDArray[np.int64]
    """Steps since the episode began, shape ``(batch,)``."""


def is_readable(model: BaseAlgorithm) -> bool:
    """Whether a model has rollouts and a policy gradient that can be read: not with a recurrent policy."""
    policy = model.policy
    fits = isinstance(model, OnPolicyAlgorithm) and isinstance(policy, ActorCriticPolicy)
    return fits and not hasattr(policy, "lstm_actor")


def read_batch(model: OnPolicyAlgorithm, times: NDArray[np.int64] | None = None) -> Batch:
    """The batch in the model's rollout buffer, after collection and before training; a copy of nothing is kept.

    :param model: the algorithm
    :param times: steps since the episode began, shape ``(n_steps, n_envs)``, for SB3's own buffers, which count none;
        as if the rollout began an episode in every environment when not given
    :raises ValueError: when the buffer has been flattened for training already
    """
    buffer = model.rollout_buffer
    if isinstance(buffer, TrajectoryBuffer):
        samples: Any = buffer.samples()
        valid = buffer.valid_steps
        observations, actions, dones, times = samples.observations, samples.actions, buffer.dones, buffer.times
    else:
        observations, actions, dones, times = _from_host(buffer, times)
        valid = np.ones(dones.shape, dtype=bool)
    weights, returns, values = (array[valid] for array in (_weights(model, valid), buffer.returns, buffer.values))
    return Batch(observations, actions, weights, returns, values, dones, valid, times[valid])


def _from_host(
    buffer: RolloutBuffer, times: NDArray[np.int64] | None
) -> tuple[PyTorchObs, th.Tensor, NDArray[np.bool_], NDArray[np.int64]]:
    """What SB3's own buffers hold, in the order of time."""
    if getattr(buffer, "generator_ready", False):
        raise ValueError("rollout_buffer has been flattened by get(); expected is one between collection and training")
    if times is None:
        unknown = np.zeros(1, dtype=np.int64)
        times = buffer.times if isinstance(buffer, TunableBuffer) else times_of_rows(buffer, unknown)
    samples = samples_in_order(buffer, buffer.advantages)
    return samples.observations, samples.actions, ends_of_rows(buffer), times


def _weights(model: OnPolicyAlgorithm, valid: NDArray[np.bool_]) -> Array:
    """What multiplies log pi at each step, up to a factor for the hosts' algorithms: no statistic depends on it."""
    own = getattr(model, "policy_weights", None)
    if own is not None:
        return cast(Array, own())
    advantages = model.rollout_buffer.advantages
    return standardize(advantages, valid, scale=True) if getattr(model, "normalize_advantage", False) else advantages


def divide(batch: Batch) -> tuple[Blocks, NDArray[np.int64]]:
    """Blocks of a batch: segments of episodes, or smaller ones where there are too few of them.

    :return: see :func:`~sb3_pg.gradient.per_episode.split_episodes`, but one number for each step of the batch
    """
    blocks, counts = split_episodes(batch.dones, batch.valid)
    if len(counts) < _FEWEST_BLOCKS:
        longest = max(1, math.ceil(len(batch.weights) / (2 * _FEWEST_BLOCKS)))
        blocks, counts = split_episodes(batch.dones, batch.valid, longest=longest)
    return blocks[batch.valid], counts


def batch_statistics(model: OnPolicyAlgorithm, batch: Batch, *, all_layers: bool = False) -> GradientStatistics | None:
    """Statistics of the policy gradient of one batch; None if it is too small to be divided.

    :param model: whose policy collected the batch; it is only read
    :param batch: of :func:`read_batch`
    :param all_layers: see :class:`GradientStatisticsCallback`
    """
    blocks, counts = divide(batch)
    if len(counts) < 2:
        return None
    with one_thread_if_small(model.policy):
        gradients = block_gradients(
            model.policy,
            batch.observations,
            batch.actions,
            batch.weights[None],
            blocks,
            len(counts),
            every_layer=all_layers,
        )[0]
    return gradient_statistics(gradients, len(batch.weights), counts)


class GradientStatisticsCallback(BaseCallback):
    """Logs signal and noise of the policy gradient, ``gradient/...`` (docs/metrics.md), and changes nothing else.

    Reads the rollout buffer at the end of a rollout. Works with VPG and REINFORCE, and with SB3's and sb3-contrib's
    A2C, PPO and TRPO. In RL Zoo's files::

        callback:
          - sb3_pg.gradient.callbacks.GradientStatisticsCallback:
              every: 10

    What it costs is measured by ``python zoo_scripts/gradient_cost.py``; docs/gradients.md has the table.

    :param every: log at every so many rollouts. The default is also SB3's ``log_interval``, so every row has it
    :param all_layers: of the gradient of all of the actor's weights; False for those of the last layer alone, which
        is cheaper and tells nearly the same (the noise scale of a part is that of the whole if the weights are alike).
        Slow for policies that are not multilayer perceptrons
    :param verbose: 0 silent, 1 info, 2 debug
    :raises ValueError: for ``every`` below 1, or an algorithm without a rollout buffer or an SB3 actor-critic policy
    """

    def __init__(self, every: int = 10, all_layers: bool = False, verbose: int = 0) -> None:
        super().__init__(verbose)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every={every!r} must be a whole number of at least 1")
        if not isinstance(all_layers, bool):
            raise ValueError(f"all_layers={all_layers!r} must be True or False")
        self.every = every
        self.all_layers = all_layers
        self._n_rollouts = 0
        self._averages = np.zeros(2)
        self._weight = 0.0
        # Of SB3's own buffers, which count no steps: how old the episodes are that a rollout goes on with
        self._first_times = np.zeros(0, dtype=np.int64)

    def _init_callback(self) -> None:
        if not is_readable(self.model):
            names = f"{type(self.model).__name__} with {type(self.model.policy).__name__}"
            raise ValueError(
                f"GradientStatisticsCallback cannot read {names}; "
                "accepted are on-policy algorithms with SB3's ActorCriticPolicy, such as VPG, REINFORCE, A2C, PPO, TRPO"
            )
        if len(self._first_times) != self.model.n_envs:
            self._first_times = np.zeros(self.model.n_envs, dtype=np.int64)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._n_rollouts += 1
        model, times = cast(OnPolicyAlgorithm, self.model), None
        if not isinstance(model.rollout_buffer, TrajectoryBuffer | TunableBuffer):
            times = times_of_rows(model.rollout_buffer, self._first_times)
            self._first_times = times[-1] + 1
        if self._n_rollouts % self.every:
            return
        batch = read_batch(model, times)
        statistics = batch_statistics(model, batch, all_layers=self.all_layers)
        if statistics is not None:
            self._log(statistics)
        if batch.values.any():
            self._log_explained_variance(batch)

    def _log(self, statistics: GradientStatistics) -> None:
        self._averages = _MEMORY * self._averages + (1 - _MEMORY) * np.array([statistics.signal, statistics.variance])
        self._weight = _MEMORY * self._weight + (1 - _MEMORY)
        signal, variance = self._averages / self._weight
        for name in ("signal", "variance", "snr", "cosine_squared", "half_cosine", "n_blocks"):
            self.logger.record(f"gradient/{name}", getattr(statistics, name))
        if signal > 0:
            self.logger.record("gradient/noise_scale", variance / signal * statistics.n_steps)

    def _log_explained_variance(self, batch: Batch) -> None:
        late = batch.times > np.median(batch.times)
        for name, chosen in (("early", ~late), ("late", late)):
            if chosen.any():
                explained = explained_variance(batch.values[chosen], batch.returns[chosen])
                self.logger.record(f"gradient/explained_variance_{name}", explained)
