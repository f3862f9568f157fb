"""Fresh experience of a frozen policy: whole episodes, with what their gradients are made of."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sb3_contrib import TRPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from tqdm import tqdm

from sb3_pg.advantage.estimators import Array, times_in_episode
from sb3_pg.gradient.callbacks import is_readable
from sb3_pg.gradient.per_episode import Factors, join_factors, score_factors, why_not_layers
from sb3_pg.rollout.buffer import TrajectoryBuffer
from sb3_pg.rollout.collector import LONGEST_EPISODE, BatchRule, collect, critic_pass, q_pass
from sb3_pg.schedules import as_schedule

# A gradient of more parameters than this is told from the last layer alone: with some thirty choices of Psi and a
# hundred groups of episodes, all layers would take more than two gigabytes.
_MOST_PARAMETERS = 100_000
# What the gradients are made of is kept for every step; joining the pieces takes as much again.
_MOST_BYTES = 2**30
# Rows that are collected at a time: enough for the work per row to be worth more than the work per call.
_ROWS = 128


class Piece(NamedTuple):
    """Consecutive rows of experience; arrays have the shape ``(n_steps, n_envs)``."""

    rewards: Array
    dones: NDArray[np.bool_]
    values: Array
    next_values: Array
    shown: NDArray[np.int64]
    """Hashes of the observations."""
    factors: list[Factors]
    q_values: Array | None


class Training(NamedTuple):
    """How the model trains, as far as it decides its gradient's bias and variance."""

    name: str
    """Algorithm and environment, for titles."""
    gamma: float
    gae_lambda: float
    n_envs: int
    n_steps: int
    """Per environment and batch, where the batch is cut so."""
    whole_episodes: bool = False
    """Batches are of whole episodes: nothing is cut."""
    n_episodes: int | None = None
    """Episodes per environment and batch, instead of steps."""
    uses_critic: bool = True
    bootstraps: bool = True
    """V stands in after a time limit."""
    centred: bool = True
    """The mean of the advantages is subtracted."""
    state_discount: bool = False
    estimator: str = "gae"
    baseline: str = "value"
    minibatch: int | None = None
    """Steps that one gradient step is taken with, where these are fewer than the batch."""

    def batch_steps(self, mean_length: float) -> float:
        """Steps in a batch, about.

        :param mean_length: mean number of steps of an episode
        """
        if self.n_episodes:
            return self.n_envs * self.n_episodes * mean_length
        steps = float(self.n_envs * self.n_steps)
        return max(steps, self.n_envs * mean_length) if self.whole_episodes else steps


def describe_training(model: Any, name: str, n_envs: int, gae_lambda: float | None = None) -> Training:
    """Read a model's settings, of this library's algorithms or of SB3's.

    :param model: the loaded model
    :param name: for titles
    :param n_envs: environments that it was trained with
    :param gae_lambda: to be judged instead of the model's
    """
    estimator = getattr(model, "estimator", "gae")
    n_episodes = getattr(model, "n_episodes", None)
    return Training(
        name=name,
        gamma=float(model.gamma),
        gae_lambda=lambda_in_use(model) if gae_lambda is None else gae_lambda,
        n_envs=n_envs,
        n_steps=int(model.n_steps),
        whole_episodes=bool(getattr(model, "whole_episodes", False) or n_episodes),
        n_episodes=n_episodes,
        uses_critic=getattr(model, "baseline", "value") == "value",
        bootstraps=getattr(model, "truncation", "bootstrap") == "bootstrap",
        centred=getattr(model, "normalize_advantage", False) is not False,
        state_discount=bool(getattr(model, "state_discount", False)),
        estimator=estimator if isinstance(estimator, str) else getattr(estimator, "__name__", "callable"),
        baseline=getattr(model, "baseline", "value"),
        # TRPO's is the critic's alone
        minibatch=None if isinstance(model, TRPO) else getattr(model, "batch_size", None),
    )


def lambda_in_use(model: Any) -> float:
    """The lambda that a model was training with when it was saved; of a rule, what it chose last, as it was logged.

    :raises ValueError: where a rule has not chosen yet
    """
    try:
        return float(as_schedule(model.gae_lambda, "gae_lambda")(model._current_progress_remaining))
    except ValueError as error:
        logged = getattr(getattr(model, "_lambda_rules", None), "log", {})
        if "train/gae_lambda" in logged:
            return float(logged["train/gae_lambda"])
        raise ValueError(
            f"gae_lambda={model.gae_lambda!r} is chosen at every update, and was not yet; --gae-lambda tells which one "
            "to judge"
        ) from error


class Experience(NamedTuple):
    """Whole episodes, side by side; arrays of shape ``(n_steps, n_envs)`` unless said otherwise."""

    rewards: Array
    dones: NDArray[np.bool_]
    values: Array
    """Of the critic; zero without one."""
    next_values: Array
    """What stands for everything after the step, see :class:`~sb3_pg.advantage.estimators.Trajectories`."""
    times: NDArray[np.int64]
    valid: NDArray[np.bool_]
    """False for episodes that were begun too late."""
    observations: NDArray[np.int64]
    """A number for each observation, the same for the same one; no rows without a critic."""
    factors: list[Factors]
    """What the gradients are made of; a row for each step, in order of time, valid or not."""
    layers: str
    """Of which weights these gradients are."""
    q_values: Array | None = None

    @property
    def episodes(self) -> NDArray[np.int64]:
        """Number of the episode that each step belongs to, in order of their beginnings; -1 where not valid."""
        begins = (self.times == 0) & self.valid
        numbers = np.zeros(begins.shape, dtype=np.int64)
        numbers[begins] = np.arange(begins.sum())
        first_rows = np.arange(len(begins))[:, None] - self.times
        found = np.take_along_axis(numbers, np.maximum(first_rows, 0), axis=0)
        return np.where(self.valid, found, -1)


class _Progress(BaseCallback):
    """Moves the bar by the steps that were taken."""

    def __init__(self, bar: Any) -> None:
        super().__init__()
        self._bar = bar

    def _on_step(self) -> bool:
        self._bar.update(self.training_env.num_envs)
        return True


def check_policy(model: Any) -> None:
    """Refuse what has no policy gradient that could be read.

    :raises ValueError: naming algorithm and policy
    """
    if not is_readable(model):
        raise ValueError(
            f"{type(model).__name__} with {type(model.policy).__name__} cannot be examined; accepted are on-policy "
            "algorithms with SB3's ActorCriticPolicy, such as vpg, reinforce, a2c, ppo, trpo"
        )


def choose_layers(policy: ActorCriticPolicy, last_layer: bool) -> bool:
    """Whether the gradients of all layers are told; of the last one where that is asked for, or all are too many."""
    n_parameters = sum(parameter.numel() for parameter in policy.parameters())
    return not (last_layer or why_not_layers(policy) or n_parameters > _MOST_PARAMETERS)


def gather(
    model: OnPolicyAlgorithm, training: Training, n_batches: int, *, last_layer: bool = False, progress: bool = True
) -> Experience:
    """Play whole episodes with the frozen policy.

    Every environment is played until it has given its share of steps, and the episodes that it has begun by then to
    their end: none is preferred for being short. At least two episodes for each batch are begun.

    :param model: with an environment; its weights and its normalisation do not change
    :param training: how large its batches are
    :param n_batches: how many batches' worth of steps, at least
    :param last_layer: gradients of the last layer alone
    :param progress: show a bar, on a terminal
    :raises ValueError: for a policy whose gradients cannot be had, or episodes that do not end
    """
    every_layer = choose_layers(model.policy, last_layer)
    n_envs = model.get_env().num_envs  # type: ignore[union-attr]
    wanted = n_batches * training.n_envs * training.n_steps
    pieces: list[Piece] = []
    n_rows = n_ended = quiet_rows = 0
    last_row: int | None = None
    waiting = np.ones(n_envs, dtype=bool)
    with tqdm(total=wanted, unit="steps", disable=None if progress else True, desc="Playing") as bar:
        for piece in _pieces(model, training, bar, every_layer):
            if not pieces:
                _check_memory(piece, wanted)
            pieces.append(piece)
            dones = piece.dones
            n_rows, n_ended = n_rows + len(dones), n_ended + int(dones.sum())
            quiet_rows = 0 if dones.any() else quiet_rows + len(dones)
            if last_row is not None:
                waiting &= ~dones.any(axis=0)
            elif n_rows * n_envs >= wanted and n_envs + n_ended >= 2 * n_batches:
                last_row = n_rows
            if last_row is not None and not waiting.any():
                break
            if quiet_rows > LONGEST_EPISODE:
                raise ValueError(
                    f"no episode ended within {quiet_rows} steps; the doctor needs whole episodes: an environment that "
                    "terminates, or has a time limit"
                )
    return _join(pieces, last_row or n_rows, "all layers" if every_layer else "the last layer")


def _check_memory(piece: Piece, n_steps: int) -> None:
    arrays = {id(array): array for each in piece.factors for array in each if array is not None}
    needed = sum(array.nbytes for array in arrays.values()) / piece.rewards.size * n_steps
    if needed > _MOST_BYTES:
        raise ValueError(
            f"{n_steps} steps would take {needed / 2**30:.1f} GiB of memory, and twice that for a moment; at most "
            f"{_MOST_BYTES / 2**30:.1f} GiB are accepted: --last-layer, or a smaller --n-batches"
        )


def _pieces(model: OnPolicyAlgorithm, training: Training, bar: Any, every_layer: bool) -> Iterator[Piece]:
    """Consecutive rows of experience, without end."""
    env = model.get_env()
    assert env is not None
    # A multiple of the batch's rows, so that pieces are cut where batches are
    n_rows = training.n_steps * max(1, math.ceil(_ROWS / training.n_steps))
    buffer = TrajectoryBuffer(
        n_rows, model.observation_space, model.action_space, device=model.device, gamma=model.gamma, n_envs=env.num_envs
    )
    model._last_obs = env.reset()  # type: ignore[assignment]
    model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
    model.ep_info_buffer, model.ep_success_buffer = deque(maxlen=100), deque(maxlen=100)
    callback = _Progress(bar)
    callback.init_callback(model)
    while True:
        collect(model, env, callback, buffer, BatchRule(n_rows), per_step_values=False)
        yield _piece(model, training, buffer, every_layer)


def _piece(model: OnPolicyAlgorithm, training: Training, buffer: TrajectoryBuffer, every_layer: bool) -> Piece:
    if training.uses_critic:
        critic_pass(model.policy, buffer, bootstrap=training.bootstraps)
        values, next_values = buffer.values.copy(), buffer.next_values
    else:
        values = next_values = np.zeros_like(buffer.rewards)
    q_values = q_pass(model.policy, buffer) if getattr(model.policy, "q_critic", False) else None
    # Advantages are no part of the factors; the buffer's samples want some
    buffer.advantages = buffer.returns = buffer.rewards
    samples = buffer.samples()
    factors = score_factors(model.policy, samples.observations, samples.actions, every_layer=every_layer)
    if factors is None:
        raise ValueError(
            f"{type(model.policy).__name__} has no linear last layer action_net, used once for a batch; the doctor "
            "tells gradients from it"
        )
    # The first layer's inputs are a view of the buffer, which the next piece is written over
    kept = [each._replace(inputs=None if each.inputs is None else each.inputs.copy()) for each in factors]
    # The critic's page alone asks which observations are the same
    rows = _bytes_of(buffer) if training.uses_critic else ()
    shown = np.array([hash(row) for row in rows], dtype=np.int64).reshape(-1, buffer.n_envs)
    return Piece(buffer.rewards.copy(), buffer.dones.copy(), values, next_values, shown, kept, q_values)


def _bytes_of(buffer: TrajectoryBuffer) -> Iterator[bytes]:
    stored: Any = buffer.observations
    parts = list(stored.values()) if isinstance(stored, dict) else [stored]
    rows, columns = buffer.rewards.shape
    for row in range(rows):
        for column in range(columns):
            yield b"".join(part[row, column].tobytes() for part in parts)


def _join(pieces: list[Piece], last_row: int, layers: str) -> Experience:
    """All rows together; valid are those of the episodes that began before ``last_row`` and have ended."""
    rewards, dones, values, next_values, shown, factors, q_values = zip(*pieces, strict=True)
    all_dones: NDArray[np.bool_] = np.concatenate(dones)
    times = times_in_episode(all_dones)
    rows = np.arange(len(times))[:, None]
    ends_later = np.logical_or.accumulate(all_dones[::-1], axis=0)[::-1]
    return Experience(
        np.concatenate(rewards),
        all_dones,
        np.concatenate(values),
        np.concatenate(next_values),
        times,
        (rows - times < last_row) & ends_later,
        np.concatenate(shown),
        join_factors(factors),
        layers,
        None if q_values[0] is None else np.concatenate(q_values),
    )
