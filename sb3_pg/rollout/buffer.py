"""Raw trajectories: what happened, and nothing computed from it until the rollout is over."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples

from sb3_pg.advantage.estimators import Array, Trajectories, times_in_episode
from sb3_pg.faults import TrainingError
from sb3_pg.rollout.observations import Observations, piece_slices, take_rows

Samples = RolloutBufferSamples | DictRolloutBufferSamples


class TerminalObservation(NamedTuple):
    """The last observation of an episode that a time limit ended."""

    step: int
    env_index: int
    observation: Observations


class TrajectoryBuffer(RolloutBuffer):
    """Rollout buffer with raw rewards, and with the two ends of an episode kept apart.

    SB3's buffer adds gamma * V(terminal observation) to ``rewards`` at a time limit, so that returns for another
    gamma, lambda or critic cannot be computed from it any more. This one keeps ``rewards`` as they came, ``dones``
    and the terminal observations of time limits beside them. Arrays have the shape ``(n_steps, n_envs)``, and
    ``observations`` ``(n_steps, n_envs, ...)``, in float32 where the environment gives float64. A whole-episode batch
    has as many rows as its longest environment needed: the buffer grows.

    Takes the arguments of SB3's ``RolloutBuffer`` and has its attributes (``rewards``, ``values``, ``advantages``,
    ``returns``, ``episode_starts`` ...), so that callbacks written for A2C read it unchanged.
    """

    observations: Any
    dones: NDArray[np.bool_]
    next_values: Array
    has_step_values: bool
    """Whether values and log-probabilities were computed step by step, as SB3 does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._storage: dict[str, Any] = {}
        self.times_at_start = np.zeros(0, dtype=np.int64)
        self._times_are_counted = True
        self.recompute: Callable[[], None] | None = None
        self.compute_log_probs: Callable[[Samples], th.Tensor] | None = None
        """Gives ``log_probs`` when they are asked for, as long as the policy is the one that collected."""
        super().__init__(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """A copy cannot recompute: the model has this buffer."""
        return {**vars(self), "recompute": None, "compute_log_probs": None}

    def reset(self, episode_starts: NDArray[np.bool_] | None = None) -> None:
        """Begin a rollout; the memory of the last one is written over.

        :param episode_starts: which environments begin an episode with the first row, shape ``(n_envs,)``; all of
            them when not given
        """
        if not self._storage:
            self.times_at_start = np.zeros(self.n_envs, dtype=np.int64)
            self._allocate(self.buffer_size)
        elif not self._times_are_counted:  # the last rollout was interrupted
            self.count_times()
        self._times_are_counted = False
        self._expose(len(self._storage["rewards"]))
        self._starts[0] = True if episode_starts is None else episode_starts
        self.times_at_start[self._starts[0]] = 0
        self.pos = 0
        self.full = False
        self.has_step_values = False
        self.compute_log_probs = None
        self.valid: NDArray[np.bool_] | None = None
        self.terminal_observations: list[TerminalObservation] = []

    def _allocate(self, rows: int) -> None:
        """Make room for ``rows`` steps; what is stored already stays."""
        old, shape = self._storage, (rows, self.n_envs)
        action_dtype = _stored_dtype(self.action_space)
        arrays = {
            "actions": np.zeros((*shape, self.action_dim), dtype=action_dtype),
            "rewards": np.zeros(shape, dtype=np.float32),
            "starts": np.zeros((rows + 1, self.n_envs), dtype=np.bool_),
            "values": np.zeros(shape, dtype=np.float32),
            "log_probs": np.zeros(shape, dtype=np.float32),
        }
        for name, array in arrays.items():
            if old:
                array[: len(old[name])] = old[name]
        space_or_spaces, shape_or_shapes = self.observation_space, cast(Any, self.obs_shape)
        if not isinstance(space_or_spaces, spaces.Dict):
            space_or_spaces, shape_or_shapes = spaces.Dict({"": space_or_spaces}), {"": shape_or_shapes}
        observations = {}
        for key, space in space_or_spaces.items():
            part_shape = shape_or_shapes[key]
            # One row more than steps: the observation after the last step is needed for its value
            observations[key] = np.zeros((rows + 1, self.n_envs, *part_shape), dtype=_stored_dtype(space))
            if old:
                observations[key][: len(old["observations"][key])] = old["observations"][key]
        self._storage = {**arrays, "observations": observations}

    def _expose(self, rows: int) -> None:
        """Show the first ``rows`` rows of the storage under SB3's names."""
        storage = self._storage
        self.actions, self.rewards, self.values, self._log_probs = (
            storage[name][:rows] for name in ("actions", "rewards", "values", "log_probs")
        )
        self._starts = storage["starts"][: rows + 1]
        self.dones = self._starts[1:]
        self.observations = self.observations_with_last(rows)
        self._parts = [(key, part, part.shape[1:]) for key, part in storage["observations"].items()]
        self._action_shape = self.actions.shape[1:]
        self._room = rows

    @property
    def episode_starts(self) -> Array:  # type: ignore[override]
        """1 where a step is the first of its episode, else 0, as numbers, shape ``(n_steps, n_envs)``; a copy."""
        starts: Array = self._starts[:-1].astype(np.float32)
        return starts

    @property
    def log_probs(self) -> Array:  # type: ignore[override]
        """Log-probabilities of the actions under the policy that collected, shape ``(n_steps, n_envs)``.

        Without ``per_step_values`` they are computed when they are first asked for, in one batch: in a callback's
        ``on_rollout_end``, or before the first gradient step. Zero afterwards, if nobody has asked.
        """
        if self.compute_log_probs is not None:
            compute, self.compute_log_probs = self.compute_log_probs, None
            self._log_probs[self.valid_steps] = compute(self.samples()).cpu().numpy()
        found: Array = self._log_probs
        return found

    def observations_with_last(self, rows: int) -> Observations:
        """The first ``rows`` rows of observations; ``n_steps + 1`` includes those after the last step."""
        parts = self._storage["observations"]
        if "" in parts:
            return cast(Observations, parts[""][:rows])
        return {key: part[:rows] for key, part in parts.items()}

    def append(
        self,
        observations: Observations,
        actions: NDArray[Any],
        rewards: NDArray[np.floating[Any]],
        dones: NDArray[np.bool_],
    ) -> None:
        """Store one step of every environment.

        :param observations: what the actions were taken on, shape ``(n_envs, ...)``
        :param actions: as drawn from the policy, not clipped, shape ``(n_envs, ...)``
        :param rewards: shape ``(n_envs,)``
        :param dones: shape ``(n_envs,)``
        """
        step = self.pos
        if step == self._room:
            self._allocate(2 * step)
            self._expose(2 * step)
        self._put_observations(step, observations)
        self.actions[step] = actions.reshape(self._action_shape)
        self.rewards[step] = rewards
        self._starts[step + 1] = dones
        self.pos = step + 1

    def add(self, *_: Any, **__: Any) -> None:
        """Refuse a step in the form of SB3's buffer, which does not say whether the episode ends with it.

        :raises ValueError: always
        """
        raise ValueError("add() of TrajectoryBuffer is not called; accepted is append(), which takes dones")

    def check_dtype(self, observations: Observations) -> None:
        """Refuse fractions that would be cut off: VecNormalize gives them, and images are stored as integers.

        :raises ValueError: naming the part
        """
        for key, part, _ in self._parts:
            given = observations[key] if isinstance(observations, dict) else observations
            if part.dtype.kind in "iu" and given.dtype.kind == "f":
                raise ValueError(
                    f"{f'observation {key!r} is' if key else 'observations are'} {given.dtype}, and the observation "
                    f"space says {part.dtype}; accepted are such images as they are: VecNormalize with norm_obs=False, "
                    "or with norm_obs_keys that leave them out"
                )

    def _put_observations(self, row: int, observations: Observations) -> None:
        for key, part, shape in self._parts:
            given = observations[key] if isinstance(observations, dict) else observations
            part[row] = given.reshape(shape)

    def close(self, last_observations: Observations, valid: NDArray[np.bool_] | None) -> None:
        """End the rollout: keep the rows that were written, and remember what the next rollout begins with.

        :param last_observations: observations after the last step
        :param valid: steps that belong to the batch, shape ``(n_steps, n_envs)``; None where all do
        """
        self._put_observations(self.pos, last_observations)
        self.last_observations = last_observations
        self._expose(self.pos)
        self.valid = valid
        self.count_times()
        self.full = True

    def count_times(self) -> None:
        """Count the steps of each episode, up to the last step written, also for the next rollout to go on from."""
        self._times_are_counted = True
        dones = self._starts[1 : self.pos + 1]
        if self.pos:
            self.times = times_in_episode(dones, self.times_at_start)
            self.times_at_start = np.where(dones[-1], 0, self.times[-1] + 1)

    def discard_truncated(self) -> None:
        """Take every step of an episode that a time limit ended out of the batch.

        :raises ValueError: when that leaves no step
        """
        valid = self.valid_steps
        for step, env_index, _ in self.terminal_observations:
            first = max(step - int(self.times[step, env_index]), 0)
            valid[first : step + 1, env_index] = False
        if not valid.any():
            raise ValueError(
                f"truncation='discard' left none of the {valid.size} steps of this rollout: a time limit ended every "
                "episode in it; accepted are truncation='bootstrap' and 'terminal', or a longer rollout"
            )
        self.valid = valid

    def size(self) -> int:
        """Number of rows, of one step of every environment each."""
        return self.pos

    def compute_returns_and_advantage(
        self,
        last_values: th.Tensor | None = None,  # noqa: ARG002
        dones: NDArray[np.bool_] | None = None,  # noqa: ARG002
    ) -> None:
        """Compute advantages and the critic's targets anew, for a callback that has changed ``rewards``.

        They are those of the model's estimator, baseline and lambda, which are not chosen again. Values are the ones
        in the buffer: the arguments are SB3's, and not needed.

        :raises ValueError: outside of a callback's ``on_rollout_end``
        """
        if self.recompute is None:
            raise ValueError(
                "compute_returns_and_advantage() of TrajectoryBuffer needs the model that collected, which is there in "
                "a callback's on_rollout_end() alone"
            )
        self.recompute()

    def trajectories(self, q_values: Array | None = None) -> Trajectories:
        """What the estimators work on."""
        return Trajectories(
            rewards=self.rewards,
            dones=self.dones,
            values=self.values,
            next_values=self.next_values,
            times=self.times,
            valid=self.valid,  # type: ignore[arg-type]
            q_values=q_values,
        )

    @property
    def valid_steps(self) -> NDArray[np.bool_]:
        """Which steps belong to the batch, shape ``(n_steps, n_envs)``."""
        return np.ones(self.rewards.shape, dtype=bool) if self.valid is None else self.valid

    @property
    def n_valid(self) -> int:
        """Number of steps in the batch."""
        return self.rewards.size if self.valid is None else int(self.valid.sum())

    def samples(self, advantages: Array | None = None) -> Samples:
        """The batch as flat tensors, in order of time, without a copy where all steps are valid.

        ``old_log_prob`` is there where it was computed: see :meth:`with_log_probs`.

        :param advantages: what to weigh the policy gradient with instead of ``self.advantages``
        """
        weights = self.advantages if advantages is None else advantages
        return samples_in_order(self, weights, self.valid, self._log_probs)

    def with_log_probs(self, samples: Samples) -> Samples:
        """The same batch with :attr:`log_probs` in it."""
        return samples._replace(old_log_prob=self.to_flat_tensor(self.log_probs))

    def to_flat_tensor(self, array: NDArray[Any]) -> th.Tensor:
        """Steps of the batch along one axis, shape ``(batch, ...)``, on the model's device."""
        return _flat_tensor(self, array, self.valid)

    def get(self, batch_size: int | None = None) -> Iterator[Samples]:  # type: ignore[override]
        """Minibatches in random order, as SB3's buffer gives them.

        :param batch_size: steps in a minibatch; None for the whole batch in one
        """
        yield from minibatches(self.with_log_probs(self.samples()), batch_size, self.permutation())

    def permutation(self) -> NDArray[np.int64]:
        """A random order of the batch, from NumPy's global generator.

        SB3 numbers the steps environment by environment, and this buffer by time: the permutation is translated, so
        that the same seed gives the same minibatches as in SB3.
        """
        # The global generator is the one that SB3 seeds and draws from
        drawn: NDArray[np.int64] = np.random.permutation(self.n_valid)  # noqa: NPY002
        if self.valid is not None:
            return drawn
        n_steps, n_envs = self.rewards.shape
        translated: NDArray[np.int64] = (drawn % n_steps) * n_envs + drawn // n_steps
        return translated

    def describe_step(self) -> str:
        """Where in the rollout we are, for a message; empty between two rollouts."""
        return "" if self.full else f"step {self.pos} of the rollout, "

    def describe_largest_reward(self) -> str:
        """Which reward of the rollout is largest: what overflows is mostly its doing."""
        step, env_index = np.unravel_index(np.abs(self.rewards).argmax(), self.rewards.shape)
        reward = self.rewards[step, env_index]
        return f"the largest reward is {reward:.3g}, of environment {env_index} at step {step} of the rollout"

    def check_estimates(self, name: str) -> None:
        """Refuse NaN and infinity in what was computed from the rollout.

        :param name: attribute: ``values``, ``next_values``, ``advantages`` or ``returns``
        :raises TrainingError: naming the environment's index and the step
        """
        array = getattr(self, name)
        for step, env_index in not_finite(array):
            raise TrainingError(
                f"{name} of environment {env_index} hold {array[step, env_index]} at step {step} of the rollout; "
                f"finite numbers are expected ({self.describe_largest_reward()}). The policy was not updated with it"
            )

    def check_finite(self, num_timesteps: int) -> None:
        """Refuse NaN and infinity in what was collected.

        :param num_timesteps: the model's count of environment steps, for the message
        :raises ValueError: naming the environment's index and the step
        """
        last, when = int(self.full), f"ended at timestep {num_timesteps}"
        named = named_parts("observation", self.observations_with_last(self.pos + last))
        named |= {"action": self.actions[: self.pos], "reward": self.rewards[: self.pos]}
        for name, array in named.items():
            for step, env_index, *rest in not_finite(array):
                refuse(name, array[(step, env_index, *rest)], step, env_index, when)
        for step, env_index, observation in self.terminal_observations:
            for name, array in named_parts("terminal observation", observation).items():
                for where in not_finite(np.asarray(array)):
                    refuse(name, np.asarray(array)[tuple(where)], step, env_index, when)


def refuse(name: str, value: Any, step: int, env_index: int, when: str) -> None:
    """Raise the error for a number from an environment that is none."""
    raise TrainingError(
        f"{name} of environment {env_index} is {value} at step {step} of the rollout ({when}); finite numbers are "
        "expected. The policy was not updated with it"
    )


def named_parts(name: str, observations: Observations) -> dict[str, NDArray[Any]]:
    """The arrays of observations, each with a name for messages: those of a Dict space by their keys, too."""
    if isinstance(observations, dict):
        return {f"{name} {key!r}": part for key, part in observations.items()}
    return {name: observations}


def not_finite(array: NDArray[Any]) -> NDArray[np.int64]:
    """Indices of NaN and infinities, shape ``(how_many, array.ndim)``."""
    # One number tells for all of them, unless it overflowed; five times as fast as a sum that warns of nothing
    if array.dtype.kind != "f" or math.isfinite(np.vdot(array, array)):
        return np.empty((0, array.ndim), dtype=np.int64)
    return np.argwhere(~np.isfinite(array))


def samples_in_order(
    buffer: RolloutBuffer, weights: Array, valid: NDArray[np.bool_] | None = None, log_probs: Array | None = None
) -> Samples:
    """What a buffer, ours or SB3's, holds as flat tensors, in order of time; views, where all steps are valid.

    :param buffer: not yet flattened by SB3's ``get()``
    :param weights: what to weigh the policy gradient with
    :param valid: which steps belong to the batch; None where all do
    :param log_probs: instead of the buffer's
    """
    actions = buffer.actions
    if isinstance(buffer.action_space, spaces.Discrete):
        actions = actions.reshape(buffer.rewards.shape).astype(np.int64, copy=False)
    else:
        actions = actions.astype(np.float32, copy=False)
    arrays = (actions, buffer.values, buffer.log_probs if log_probs is None else log_probs, weights, buffer.returns)
    flat = [_flat_tensor(buffer, array, valid) for array in arrays]
    stored: Any = buffer.observations
    if isinstance(stored, dict):
        parts = {key: _flat_tensor(buffer, part, valid) for key, part in stored.items()}
        return DictRolloutBufferSamples(parts, *flat)
    return RolloutBufferSamples(_flat_tensor(buffer, stored, valid), *flat)


def _flat_tensor(buffer: RolloutBuffer, array: NDArray[Any], valid: NDArray[np.bool_] | None) -> th.Tensor:
    flat = array.reshape(-1, *array.shape[2:]) if valid is None else array[valid]
    return th.as_tensor(flat, device=buffer.device)


def minibatches(samples: Samples, batch_size: int | None, order: NDArray[np.int64] | None) -> Iterator[Samples]:
    """Cut a batch into minibatches.

    :param samples: the whole batch
    :param batch_size: steps in a minibatch (the last may be smaller); None for all
    :param order: permutation of the steps; None to keep their order, which for a single batch saves the copies
    """
    size = len(samples.advantages)
    if order is None and (batch_size is None or batch_size >= size):
        yield samples
        return
    indices = th.as_tensor(np.arange(size) if order is None else order, device=samples.advantages.device)
    for part in th.split(indices, int(batch_size or size)):
        yield _take(samples, part)


def pieces(samples: Samples) -> Iterator[Samples]:
    """Cut a minibatch into the consecutive pieces of :func:`piece_slices`; no copies."""
    slices = piece_slices(samples.observations)
    yield from [samples] if len(slices) <= 1 else (_take(samples, rows) for rows in slices)


def _take(samples: Samples, rows: th.Tensor | slice) -> Samples:
    return type(samples)(take_rows(samples.observations, rows), *(part[rows] for part in samples[1:]))


def _stored_dtype(space: spaces.Space[Any]) -> Any:
    """Half the memory for float64, as the networks work in float32; and room for integers that are normalised."""
    if not isinstance(space, spaces.Box) or is_image_space(space) or space.dtype == np.float16:
        return space.dtype
    return np.float32
