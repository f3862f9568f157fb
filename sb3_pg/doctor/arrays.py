"""A rollout of anybody's implementation, as arrays in an ``.npz`` file.

Made with ``numpy.savez("mine.npz", rewards=..., dones=..., ...)``; shapes are ``(n_steps, n_envs)``, or ``(n_steps,)``
for one environment, unless it says otherwise.

================  ====================================================================================================
key               meaning
================  ====================================================================================================
rewards           after each step; needed
dones             True where the episode ended after the step, for whatever reason
terminated        True where it ended by itself; with ``truncated`` in place of ``dones``
truncated         True where a time limit ended it
values            V(s_t) of the critic that the advantages were computed with
last_values       V of the observation after the last step, shape ``(n_envs,)``
next_values       V of the observation that the step led to, before a reset; in place of ``last_values``
terminal_values   V of the last observation of an episode that a time limit ended; read only where ``truncated`` is True
advantages        as the policy's loss gets them
returns           as the critic's loss gets them
gamma             discount factor, one number; needed with ``advantages`` or ``returns``
gae_lambda        lambda, one number; needed with ``advantages``
actions           shape ``(n_steps, n_envs)`` or ``(n_steps, n_envs, action_dim)``
log_probs         of the actions
means, stds       of a Gaussian policy, shape of ``actions``; stds may be of shape ``(action_dim,)``
logits            of a categorical policy, shape ``(n_steps, n_envs, n_actions)``
================  ====================================================================================================
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEYS = (
    *("rewards", "dones", "terminated", "truncated", "values", "last_values", "next_values", "terminal_values"),
    *("advantages", "returns", "gamma", "gae_lambda", "actions", "log_probs", "means", "stds", "logits"),
)
# Fewer steps would fit many formulas by chance.
_FEWEST_STEPS = 16

Array = NDArray[np.float64]


@dataclass
class StrangersRollout:
    """What was in the file; arrays of shape ``(n_steps, n_envs)`` in float64, None where the file has none."""

    rewards: Array
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    ends_are_told_apart: bool
    """Whether the file says which ends are time limits."""
    values: Array | None = None
    next_values: Array | None = None
    """V(s_{t+1}): zero at terminal states, NaN where a time limit ended the episode and V is not known."""
    last_values: Array | None = None
    """V of the observation after the last step, shape ``(n_envs,)``."""
    advantages: Array | None = None
    returns: Array | None = None
    gamma: float | None = None
    gae_lambda: float | None = None
    actions: Array | None = None
    """With an axis for the dimensions of an action."""
    log_probs: Array | None = None
    """As they are in the file."""
    means: Array | None = None
    stds: Array | None = None
    logits: Array | None = None

    @property
    def dones(self) -> NDArray[np.bool_]:
        """True where the episode ended after the step."""
        return self.terminated | self.truncated


def read_rollout(path: Path) -> StrangersRollout:
    """Read and check a file.

    :raises ValueError: for a file that is none, and for missing, unknown or misshapen arrays, naming what is accepted
    """
    if not path.is_file():
        raise ValueError(f"--rollout {path}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise ValueError(
            f"--rollout {path}: expected is a file of numpy.savez without Python objects ({error})"
        ) from error
    return check_rollout(arrays, str(path))


def check_rollout(arrays: dict[str, Any], where: str = "rollout") -> StrangersRollout:
    """Check arrays by their names.

    :param arrays: see the table above
    :param where: of the messages
    :raises ValueError: see :func:`read_rollout`
    """
    unknown = sorted(set(arrays) - set(KEYS))
    if unknown:
        raise ValueError(f"{where} has the key {unknown[0]!r}; accepted are {', '.join(KEYS)}")
    if "rewards" not in arrays or not ("dones" in arrays or "terminated" in arrays):
        present = ", ".join(sorted(arrays)) or "none"
        raise ValueError(f"{where} has the keys {present}; needed are rewards, and dones or terminated and truncated")
    for name, partner in (("terminated", "truncated"), ("truncated", "terminated")):
        if name in arrays and partner not in arrays and "dones" not in arrays:
            raise ValueError(f"{where} has {name} without {partner}; both are needed, or dones")
    for name, needs in (("advantages", ("values", "gamma", "gae_lambda")), ("returns", ("values", "gamma")),
                        ("means", ("stds", "actions", "log_probs")), ("logits", ("actions", "log_probs"))):  # fmt: skip
        missing = [key for key in needs if key not in arrays]
        if name in arrays and missing:
            raise ValueError(f"{where} has {name} without {', '.join(missing)}, which it is checked with")
    given = {name: _numbers(name, array, where) for name, array in arrays.items()}
    shape = _columns(given["rewards"]).shape
    if len(shape) != 2 or shape[0] * shape[1] < _FEWEST_STEPS:
        raise ValueError(
            f"{where}: rewards has shape {given['rewards'].shape}; expected is (n_steps, n_envs) or (n_steps,) with at "
            f"least {_FEWEST_STEPS} steps in all"
        )
    return _assemble(given, shape, where)


def _assemble(given: dict[str, Array], shape: tuple[int, ...], where: str) -> StrangersRollout:
    def get(name: str) -> Array | None:
        return _fit(name, given[name], shape, where) if name in given else None

    ends = {name: get(name) for name in ("dones", "terminated", "truncated")}
    for name, flags in ends.items():
        if flags is not None and not np.isin(flags, (0, 1)).all():
            raise ValueError(f"{where}: {name} holds {flags[~np.isin(flags, (0, 1))][0]}; expected are 0 and 1")
    terminated, truncated = _ends(ends)
    values = get("values")
    rollout = StrangersRollout(
        rewards=_fit("rewards", given["rewards"], shape, where),
        terminated=terminated,
        truncated=truncated,
        ends_are_told_apart="terminated" in given or "truncated" in given,
        values=values,
        advantages=get("advantages"),
        returns=get("returns"),
        gamma=_number("gamma", given, where),
        gae_lambda=_number("gae_lambda", given, where),
        log_probs=given.get("log_probs"),
    )
    if values is not None:
        rollout.next_values = _next_values(given, values, rollout, where)
    _add_actions(rollout, given, shape, where)
    return rollout


def _ends(ends: dict[str, Array | None]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    dones, terminated, truncated = (None if each is None else each.astype(bool) for each in ends.values())
    if terminated is None:
        assert dones is not None
        truncated = np.zeros_like(dones) if truncated is None else truncated
        return dones & ~truncated, truncated
    truncated = dones & ~terminated if truncated is None and dones is not None else truncated
    assert truncated is not None
    return terminated, truncated & ~terminated


def _next_values(given: dict[str, Array], values: Array, rollout: StrangersRollout, where: str) -> Array:
    shape = values.shape
    if "next_values" in given:
        found = _fit("next_values", given["next_values"], shape, where).copy()
    elif "last_values" in given:
        last = given["last_values"].reshape(-1)
        if last.shape != shape[1:]:
            raise ValueError(f"{where}: last_values has shape {given['last_values'].shape}; expected is {shape[1:]}")
        rollout.last_values = last
        found = np.concatenate([values[1:], last[None]])
        found[rollout.truncated] = np.nan
    elif rollout.dones[-1].all():
        found = np.concatenate([values[1:], np.zeros_like(values[:1])])
        found[rollout.truncated] = np.nan
    else:
        raise ValueError(
            f"{where} has values without last_values or next_values, which the cut end is bootstrapped with"
        )
    if "terminal_values" in given:
        at_limits = _fit("terminal_values", given["terminal_values"], shape, where)
        found[rollout.truncated] = at_limits[rollout.truncated]
    found[rollout.terminated] = 0.0
    return found


def _add_actions(rollout: StrangersRollout, given: dict[str, Array], shape: tuple[int, ...], where: str) -> None:
    if (
        "log_probs" in given
        and _columns(given["log_probs"]).shape[:2] != shape
        and given["log_probs"].size % (shape[0] * shape[1])
    ):
        raise ValueError(f"{where}: log_probs has shape {given['log_probs'].shape}; expected is {shape}")
    if "actions" not in given:
        return
    actions = given["actions"].reshape(*shape, -1) if given["actions"].size % (shape[0] * shape[1]) == 0 else None
    if actions is None:
        raise ValueError(f"{where}: actions has shape {given['actions'].shape}; expected is {(*shape, 'action_dim')}")
    rollout.actions = actions
    for name in ("means", "stds"):
        if name in given:
            array = given[name]
            if array.size not in (actions.size, actions.shape[-1]):
                raise ValueError(
                    f"{where}: {name} has shape {array.shape}; expected is that of actions, {actions.shape}"
                )
            target = actions.shape if array.size == actions.size else (actions.shape[-1],)
            setattr(rollout, name, np.broadcast_to(array.reshape(target), actions.shape))
    if "logits" in given:
        logits = given["logits"]
        if logits.size % (shape[0] * shape[1]) or actions.shape[-1] != 1:
            raise ValueError(f"{where}: logits has shape {logits.shape}; expected is {(*shape, 'n_actions')}, with one "
                             "action a step")  # fmt: skip
        rollout.logits = logits.reshape(*shape, -1)


def _numbers(name: str, array: Any, where: str) -> Array:
    found = np.asarray(array)
    if found.dtype.kind not in "fiub":
        raise ValueError(f"{where}: {name} has dtype {found.dtype}; expected are numbers")
    numbers = found.astype(np.float64)
    # What is not read may hold anything
    if name not in ("terminal_values", "next_values") and not np.isfinite(numbers).all():
        raise ValueError(f"{where}: {name} holds {numbers[~np.isfinite(numbers)].flat[0]}; expected are finite numbers")
    return numbers


def _columns(array: Array) -> Array:
    return array[:, None] if array.ndim == 1 else array


def _fit(name: str, array: Array, shape: tuple[int, ...], where: str) -> Array:
    fitted = _columns(array)
    if fitted.shape != shape:
        raise ValueError(f"{where}: {name} has shape {array.shape}; expected is that of rewards, {shape}")
    return fitted


def _number(name: str, given: dict[str, Array], where: str) -> float | None:
    if name not in given:
        return None
    if given[name].size != 1:
        raise ValueError(f"{where}: {name} has shape {given[name].shape}; expected is one number, for all steps")
    if not 0 <= float(given[name].flat[0]) <= 1:
        raise ValueError(f"{where}: {name} is {given[name].flat[0]}; expected is one number in [0, 1]")
    return float(given[name].flat[0])
