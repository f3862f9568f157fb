"""What training says when it fails, and what it puts back: weights, optimizers, VecNormalize's statistics."""

from __future__ import annotations

import math
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecNormalize,
)
from torch._utils import _flatten_dense_tensors  # DDP's: one call for all, and no loop in Python

from sb3_pg.policies import weights_of

# How long a worker that broke its pipe may take to be gone
_SECONDS_TO_DIE = 2.0


class TrainingError(ValueError):
    """Numbers that must not reach the weights; training adds what was saved last to the message."""


class WrongShapeError(TrainingError):
    """An environment or an estimator gave another shape than it promises: a program's mistake, and no divergence."""


def is_divergence(error: Exception) -> bool:
    """Whether training ended because its numbers left all bounds, which another seed or setting may not do.

    SB3's own algorithms end with torch's refusal of a distribution whose parameters are NaN, or to draw from it.
    """
    if isinstance(error, TrainingError):
        return not isinstance(error, WrongShapeError)
    text = str(error)
    refused = isinstance(error, ValueError) and "to satisfy the constraint" in text and "nan" in text
    not_drawn = isinstance(error, RuntimeError) and text.startswith(
        ("probability tensor contains", "normal expects all")
    )
    return refused or not_drawn


def last_saved(model: BaseAlgorithm) -> str:
    """The end of an error's message: what the user can go on from."""
    path = getattr(model, "_last_save", None)
    return f"last saved: {path}" if path else "nothing was saved yet"


@contextmanager
def collecting(model: BaseAlgorithm, env: VecEnv | None, where: Callable[[], str]) -> Iterator[None]:
    """Explain what fails while environments are stepped or reset.

    A :class:`TrainingError` puts VecNormalize's statistics back to those from before. Other errors keep their type and
    get a note; only the broken pipe to a worker that died becomes another, since it says nothing. After any of them the
    environments are reset when training goes on, as some may have taken a step that others have not.

    :param model: the algorithm that trains
    :param env: its environment
    :param where: what is going on, for the message
    :raises RuntimeError: when a worker of SubprocVecEnv died
    """
    before = [(rms, (rms.mean, rms.var, rms.count)) for each in statistics_of(env) for rms in each.values()]
    try:
        yield
    except TrainingError as error:
        for rms, numbers in before:
            rms.mean, rms.var, rms.count = numbers
        model._last_obs = None
        _end_with(error, last_saved(model))
        raise
    except Exception as error:
        dead = _end_of_workers(env) if isinstance(error, (EOFError, ConnectionError)) else ""
        culprit = _culprit(error, model, env)
        model._last_obs = None
        if dead:
            raise RuntimeError(f"{dead}, at {where()}; {last_saved(model)}") from error
        _add_note(error, f"{culprit}at {where()}; {last_saved(model)}")
        raise


@contextmanager
def updating(model: BaseAlgorithm, policy: ActorCriticPolicy, where: str) -> Iterator[None]:
    """Make an update happen whole or not at all.

    Whatever ends it, an interrupt too, the weights and the optimizers are those from before. That holds for an
    optimizer's step that makes weights infinite as well.

    :param model: the algorithm that trains
    :param policy: whose weights are updated
    :param where: which update it is, for the message
    :raises TrainingError: when a weight is no finite number at the end
    """
    snapshot = _Snapshot(policy)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by the checks, and named by them
            yield
        found = not_finite_weight(policy)
        if found:
            raise TrainingError(
                f"an optimizer's step made the weight {found[0]} {found[1]} at {where}, from a finite gradient; the "
                "weights are those before this update. A smaller learning_rate, or a larger eps, may help"
            )
    except BaseException as error:
        snapshot.restore()
        if isinstance(error, TrainingError):
            _end_with(error, last_saved(model))
        elif isinstance(error, Exception):
            _add_note(error, f"at {where}; the weights are those before this update; {last_saved(model)}")
        raise


def not_finite_weight(policy: ActorCriticPolicy) -> tuple[str, float] | None:
    """Name and value of a weight that is NaN or infinite, if there is one."""
    weights = [weight for optimizer in _optimizers(policy) for weight in weights_of(optimizer)]
    with th.no_grad():
        # One number tells for all of them, unless it overflowed
        together = len({weight.device for weight in weights}) == 1
        if together and math.isfinite(_flatten(weights).sum().item()):
            return None
        for name, weight in policy.named_parameters():
            wrong = weight[~th.isfinite(weight)]
            if len(wrong):
                return name, wrong[0].item()
    return None


def _flatten(tensors: Sequence[th.Tensor]) -> th.Tensor:
    flat: th.Tensor = _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
    return flat


def _optimizers(policy: ActorCriticPolicy) -> list[th.optim.Optimizer]:
    both = (policy.optimizer, getattr(policy, "critic_optimizer", None))
    return [optimizer for optimizer in both if optimizer is not None]


@contextmanager
def put_back(policy: ActorCriticPolicy) -> Iterator[None]:
    """Put what an optimizer's step changes back to what it was, whatever happens inside; gradients are gone then."""
    snapshot = _Snapshot(policy)
    try:
        yield
    finally:
        snapshot.restore()


class _Snapshot:
    """Weights, buffers, optimizer states and learning rates as they are now."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self._optimizers = _optimizers(policy)
        self._states = [{weight: {**state} for weight, state in o.state.items()} for o in self._optimizers]
        self._rates = [[group["lr"] for group in o.param_groups] for o in self._optimizers]
        tensors = [weight.detach() for optimizer in self._optimizers for weight in weights_of(optimizer)]
        tensors += policy.buffers()
        states = [state for states in self._states for state in states.values()]
        tensors += [tensor for state in states for tensor in state.values() if th.is_tensor(tensor)]
        alike: dict[tuple[th.device, th.dtype], list[th.Tensor]] = {}
        for tensor in tensors:
            alike.setdefault((tensor.device, tensor.dtype), []).append(tensor)
        # One array for all of a kind: an update of a small network would notice forty copies. One tensor alone is not
        # copied by flattening it
        kinds = list(alike.values())
        self._copies = [(these, _flatten(these).clone() if len(these) == 1 else _flatten(these)) for these in kinds]

    def restore(self) -> None:
        """Put weights and optimizers back."""
        with th.no_grad():
            for tensors, flat in self._copies:
                copies = th.split(flat, [tensor.numel() for tensor in tensors])
                for tensor, copy in zip(tensors, copies, strict=True):
                    tensor.copy_(copy.reshape(tensor.shape))
        for optimizer, states, rates in zip(self._optimizers, self._states, self._rates, strict=True):
            optimizer.state.clear()
            optimizer.state.update(states)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            optimizer.zero_grad()


def statistics_of(env: VecEnv | None) -> list[dict[str, RunningMeanStd]]:
    """Running statistics of every VecNormalize, which writes into none of their arrays: they need no copy."""
    found = []
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            observations: Any = getattr(env, "obs_rms", {})
            parts = observations if isinstance(observations, dict) else {"": observations}
            found.append({"return": env.ret_rms, **{f"observation {key}": rms for key, rms in parts.items()}})
        env = env.venv
    return found


def _end_with(error: TrainingError, ending: str) -> None:
    error.args = (f"{error}; {ending}",)


def _add_note(error: Exception, note: str) -> None:
    note = f"sb3_pg: {note}"
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:  # Python 3.10, whose tracebacks have no notes
        error.__notes__ = [*getattr(error, "__notes__", []), note]
        print(note, file=sys.stderr)


def _base(env: VecEnv | None) -> VecEnv | None:
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env


def _end_of_workers(env: VecEnv | None) -> str:
    """Which workers of a SubprocVecEnv have ended and how; empty if none has. The others are ended, too."""
    base = _base(env)
    if not isinstance(base, SubprocVecEnv):
        return ""
    wait([process.sentinel for process in base.processes], _SECONDS_TO_DIE)
    ends = [
        f"the worker process of environment {index} {_describe_exit(process.exitcode)}"
        for index, process in enumerate(base.processes)
        if process.exitcode is not None
    ]
    if ends:
        # What the others answer would be taken for the answer to another question; close() would wait for the dead
        for process in base.processes:
            process.terminate()
        base.closed = True
    return ", ".join(ends)


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} (its own error is printed above)"
    try:
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"was ended by signal {-code}"


def _culprit(error: Exception, model: BaseAlgorithm, env: VecEnv | None) -> str:
    """Which environment an error comes from, as the beginning of a note; empty if that cannot be told."""
    base = _base(env)
    index, rewards = None, None
    space, observations = model.observation_space, _split(model._last_obs)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        local = frame.f_locals
        if isinstance(base, DummyVecEnv) and local.get("self") is base:
            index = local.get("env_idx", local.get("index", index))
        elif isinstance(base, SubprocVecEnv):  # it puts its workers' answers together in these
            rewards = local.get("rews", local.get("rewards", rewards))
            if "obs_list" in local:
                space, observations = base.observation_space, list(local["obs_list"])
    if index is not None:
        return f"from environment {index} "
    for number, observation in enumerate(observations):
        if not fits(space, observation):
            return f"environment {number} gave an observation that is not in {space}, "
    for number, reward in enumerate(() if rewards is None else rewards):
        if not _is_number(reward):
            return f"environment {number} gave the reward {reward!r}, "
    return ""


def _split(observations: Any) -> list[Any]:
    """Observations of each environment."""
    if observations is None:
        return []
    if isinstance(observations, dict):
        size = len(next(iter(observations.values())))
        return [{key: part[index] for key, part in observations.items()} for index in range(size)]
    return list(observations)


def fits(space: spaces.Space[Any], observation: Any) -> bool:
    """Whether keys, shape and, where there are categories, the value are those of the space."""
    if isinstance(space, spaces.Dict):
        return isinstance(observation, dict) and all(
            key in observation and fits(part, observation[key]) for key, part in space.items()
        )
    categories = isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary))
    try:
        right_shape = np.shape(observation) == space.shape
        return bool(right_shape and (not categories or space.contains(np.asarray(observation, dtype=np.int64))))
    except (TypeError, ValueError):  # ragged, or no numbers
        return False


def _is_number(reward: Any) -> bool:
    try:
        float(reward)
        return bool(np.shape(reward) == ())
    except (TypeError, ValueError):
        return False
