"""What training needs besides weights and optimizers to go on bit for bit: random numbers, environments, counts."""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
from collections import deque
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg.faults import statistics_of
from sb3_pg.rollout.env_state import EnvironmentKeeper, Space, State, dumps, with_parts

FORMAT = 1
"""Version of what a file holds; others are not read."""

_COUNTS = ("num_timesteps", "_episode_num", "_current_progress_remaining")
_EPISODES = ("ep_info_buffer", "ep_success_buffer")
_OBSERVATIONS = ("_last_obs", "_last_original_obs", "_last_episode_starts")


def take(model: OnPolicyAlgorithm, keeper: EnvironmentKeeper | None) -> State:
    """The state of training between two steps; valid until the next call with the same keeper.

    :param model: the algorithm that trains
    :param keeper: of its environments; None for a model without
    """
    begun = keeper is not None and model._last_obs is not None
    return {
        "format": FORMAT,
        "seed": model.seed,
        "device": model.device.type,
        "n_envs": model.n_envs,
        "begun": begun,
        "attributes": {name: copy.copy(getattr(model, name)) for name in (*_COUNTS, *_EPISODES, *_OBSERVATIONS)},
        "times_at_start": copy.copy(getattr(model.rollout_buffer, "times_at_start", None)),
        "generators": _generators(model),
        "statistics": [
            {name: (rms.mean, rms.var, rms.count) for name, rms in each.items()} for each in statistics_of(model.env)
        ],
        "environments": keeper.take() if keeper is not None and begun else None,
        "why_not": "" if keeper is None else keeper.why_not,
    }


def pack(state: State, keeper: EnvironmentKeeper | None) -> bytes:
    """What :func:`take` gave last, as bytes for a file."""
    if keeper is not None and state["environments"] is not None:
        state = {**state, "environments": keeper.pack(state["environments"])}
    return pickle.dumps(state, pickle.HIGHEST_PROTOCOL)


def unpack(packed: bytes) -> State:
    """What :func:`pack` was given. It is a pickle: whoever made the bytes can run code here."""
    state: State = pickle.loads(packed)
    return state


# -- environments ----------------------------------------------------------------------------------------------------


def restore_environments(model: OnPolicyAlgorithm, keeper: EnvironmentKeeper, state: State) -> list[str]:
    """Put back the environments, their statistics and the observations that training goes on from.

    :param model: the algorithm that is going to train
    :param keeper: of its environments
    :param state: from a file
    :return: what is not as it was, and what happens instead; empty where training goes on bit for bit
    """
    differences = _put_statistics(model.env, state["statistics"])
    if not state["begun"]:
        return differences
    if state["device"] != model.device.type:
        differences.append(f"{model.device.type} rounds otherwise than {state['device']}, where it was")
    why, environments = [], state["environments"]
    if state["n_envs"] != model.n_envs:
        why.append(f"there were {state['n_envs']} and are {model.n_envs}")
    elif environments is None:
        why.append(state["why_not"])
    model._last_obs = None
    _seed_anew(keeper.env, model.seed, state)
    if not why:
        # An environment may build in reset() what is not kept of it
        model._last_obs = keeper.env.reset()  # type: ignore[assignment]
        model._last_episode_starts = np.ones(model.n_envs, dtype=bool)
        why += keeper.put(environments)
        differences += environments["missing"]
    if why:
        every = "the environment begins a new episode" if model.n_envs == 1 else "all environments begin new episodes"
        return [*differences, f"{every}: {'; '.join(why[:3])}"]
    _put_statistics(model.env, state["statistics"])
    for name in _OBSERVATIONS:
        setattr(model, name, state["attributes"][name])
    if state["times_at_start"] is not None:
        _put_times(model, state["times_at_start"])
    return differences


def restore_times(model: OnPolicyAlgorithm, packed: bytes) -> None:
    """Put back how far the episodes are, and nothing else: for environments that have gone on as they are.

    :param model: whose environments are in the episodes that they were in when it was saved
    :param packed: from a file
    """
    with contextlib.suppress(Exception):  # of a stranger's or a later version's file, which the others tell of
        times = unpack(packed)["times_at_start"]
        if times is not None and len(times) == model.n_envs and model._last_obs is not None:
            _put_times(model, times)


def _put_times(model: OnPolicyAlgorithm, times: Any) -> None:
    model.rollout_buffer.reset()  # builds the arrays; building them later would count from zero
    model.rollout_buffer.times_at_start = times  # type: ignore[attr-defined]


def _seed_anew(env: VecEnv, seed: int | None, state: State) -> None:
    """Other episodes than those that the run began with, and the same ones whenever it is resumed from here."""
    if seed is not None:
        generator = np.random.RandomState()
        generator.set_state(state["generators"]["numpy"])
        with contextlib.suppress(ValueError):  # envpool takes a seed only when it is made
            env.seed(int(generator.randint(2**31 - 1)))


def restore_statistics(model: OnPolicyAlgorithm, state: State) -> list[str]:
    """Put back the statistics of VecNormalize alone.

    :return: why not; empty if they are
    """
    return _put_statistics(model.env, state["statistics"])


def _put_statistics(env: VecEnv | None, saved: list[dict[str, Any]]) -> list[str]:
    ours = statistics_of(env)
    shapes = [{name: np.shape(rms.mean) for name, rms in each.items()} for each in ours]
    if shapes != [{name: np.shape(mean) for name, (mean, _, _) in each.items()} for each in saved]:
        return ["the statistics of VecNormalize are not put back, since it is missing, new, or of another shape"]
    for each, then in zip(ours, saved, strict=True):
        for name, rms in each.items():
            rms.mean, rms.var, rms.count = then[name]
    return []


# -- counts and random numbers ---------------------------------------------------------------------------------------


def restore_counts(model: OnPolicyAlgorithm, state: State) -> None:
    """Put back the counts and the returns of the last episodes."""
    saved = state["attributes"]
    for name in _COUNTS:
        setattr(model, name, saved[name])
    for name in _EPISODES:
        if saved[name] is not None:
            setattr(model, name, deque(saved[name], maxlen=model._stats_window_size))


def _generators(model: OnPolicyAlgorithm) -> State:
    on_gpu = model.device.type == "cuda"
    return {
        "torch": th.get_rng_state().numpy(),
        "cuda": th.cuda.get_rng_state(model.device).numpy() if on_gpu else None,
        # The global generator is the one that SB3 seeds and draws from
        "numpy": np.random.get_state(),  # noqa: NPY002
        "python": random.getstate(),
        "spaces": dumps([space._np_random for space in _spaces_of(model)]),
    }


def restore_generators(model: OnPolicyAlgorithm, state: State) -> None:
    """Put back the random numbers of torch, NumPy, Python and the model's spaces."""
    saved = state["generators"]
    th.set_rng_state(th.from_numpy(saved["torch"].copy()))
    if saved["cuda"] is not None and model.device.type == "cuda":
        th.cuda.set_rng_state(th.from_numpy(saved["cuda"].copy()), model.device)
    np.random.set_state(saved["numpy"])  # noqa: NPY002
    random.setstate(saved["python"])
    for space, generator in zip(_spaces_of(model), pickle.loads(saved["spaces"]), strict=False):
        space._np_random = generator


def _spaces_of(model: OnPolicyAlgorithm) -> list[Space]:
    return [*with_parts(model.action_space), *with_parts(model.observation_space)]
