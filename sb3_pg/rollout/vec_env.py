"""What SB3's vectorised environments lack: one without copies, and one for environments that are vectorised already."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import (
    AsyncVectorEnv,
    AutoresetMode,
    SyncVectorEnv,
    VectorEnv,
    VectorObservationWrapper,
    VectorWrapper,
)
from gymnasium.wrappers.vector import NormalizeObservation
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from sb3_pg.rollout.observations import own

Array = NDArray[Any]


class LeanVecEnv(DummyVecEnv):
    """``DummyVecEnv`` that writes every step into fresh arrays instead of copying its own deeply.

    Same semantics: observations, rewards and infos belong to the caller. Infos are copied one level deep, so an
    environment that goes on changing an object *inside* its info dict must put a new one there at each step.

    From a Zoo file: ``vec_env_wrapper: sb3_pg.rollout.vec_env.LeanVecEnv``.

    :param envs: functions that make the environments, or a ``DummyVecEnv`` whose environments it takes over
    :raises ValueError: for another kind of VecEnv, whose environments live elsewhere
    """

    def __init__(self, envs: list[Callable[[], gym.Env[Any, Any]]] | VecEnv) -> None:
        if isinstance(envs, VecEnv):
            if not isinstance(envs, DummyVecEnv):
                raise ValueError(
                    f"LeanVecEnv takes a DummyVecEnv or functions that make environments, not {type(envs)}"
                )
            made: Sequence[gym.Env[Any, Any]] = envs.envs
            super().__init__([lambda env=env: env for env in made])  # type: ignore[misc]
            self._seeds, self._options = envs._seeds, envs._options
        else:
            super().__init__(envs)
        self._plain = self.keys == [None]
        self._rows = {key: (part.shape, part.dtype) for key, part in self.buf_obs.items()}

    def step_wait(self) -> VecEnvStepReturn:
        """Step every environment with the action given to ``step_async``; reset those that are done."""
        rewards = np.empty(self.num_envs, dtype=np.float32)
        dones = np.zeros(self.num_envs, dtype=bool)
        observations, infos = [], []
        for index, env in enumerate(self.envs):
            observation, rewards[index], terminated, truncated, info = env.step(self.actions[index])
            info = {**info, "TimeLimit.truncated": truncated and not terminated}
            if terminated or truncated:
                dones[index] = True
                info["terminal_observation"] = own(observation)
                observation, self.reset_infos[index] = env.reset()
            observations.append(observation)
            infos.append(info)
        return self._gather(observations), rewards, dones, infos

    def _gather(self, observations: list[Any]) -> VecEnvObs:
        if self._plain:
            shape, dtype = self._rows[None]  # type: ignore[index]
            whole = np.empty(shape, dtype=dtype)
            for index, observation in enumerate(observations):
                whole[index] = observation
            return whole
        parts: dict[Any, Array] = {}
        for key, (shape, dtype) in self._rows.items():
            parts[key] = np.empty(shape, dtype=dtype)
            for index, observation in enumerate(observations):
                parts[key][index] = observation[key]
        return dict_to_obs(self.observation_space, parts)


class VectorEnvAdapter(VecEnv):
    """A Gymnasium ``VectorEnv``, or an envpool environment, as an SB3 ``VecEnv``.

    SB3 wants the first observation of the next episode in the very step that ends one, and the last observation of
    the old one in ``info["terminal_observation"]``. Environments with same-step autoreset give both. The others are
    reset in part at that step, so that no bogus transition from one episode to the next is recorded: by
    ``reset_mask`` (Sync and Async), by environment ids (envpool), or in their state (CartPole).

    Episode returns and lengths are reported as SB3's Monitor does, in ``info["episode"]``. What the environment itself
    puts into its infos is there at the ends of episodes alone, but for nested dicts; other steps' infos are empty.

    :param env: with Box, Discrete, MultiDiscrete or MultiBinary spaces, and array observations
    :raises ValueError: for an environment that can neither be reset in part nor resets in the same step
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        # By what sets it apart: envpool's class is made on the fly, and some versions derive from VectorEnv
        self.is_envpool = hasattr(env, "recv") and hasattr(env, "config")
        if not (self.is_envpool or isinstance(env, VectorEnv)):
            raise ValueError(
                f"VectorEnvAdapter takes a gymnasium.vector.VectorEnv or an envpool environment, not {env!r}"
            )
        observation_space = env.observation_space if self.is_envpool else env.single_observation_space
        action_space = env.action_space if self.is_envpool else env.single_action_space
        if not isinstance(observation_space, gym.spaces.Box):
            raise ValueError(f"VectorEnvAdapter takes array observations (Box), not {observation_space}")
        n_envs = env.config["num_envs"] if self.is_envpool else env.num_envs
        self._partial_reset = _partial_reset_of(env, self.is_envpool)
        self.render_mode = getattr(env, "render_mode", None)
        self._seed: int | None = None
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, dtype=np.int64)
        self._began = time.time()
        self._empty: list[dict[str, Any]] = [{} for _ in range(n_envs)]
        super().__init__(n_envs, observation_space, action_space)

    def reset(self) -> VecEnvObs:
        """Reset all environments, with the seed given last to :meth:`seed`."""
        self._returns[:] = 0.0
        self._lengths[:] = 0
        observations, _ = self.env.reset() if self.is_envpool else self.env.reset(seed=self._seed)
        self._seed = None
        return np.array(observations)

    def step_async(self, actions: Array) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments at once; those that are done come back reset."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        rewards = np.asarray(rewards, dtype=np.float32)
        self._returns += rewards
        self._lengths += 1
        dones = np.logical_or(terminated, truncated)
        if not dones.any():
            # Fresh dicts, as a caller may write into them
            return np.array(observations), rewards, dones, [{} for _ in self._empty]
        ended = np.flatnonzero(dones)
        if self._partial_reset is None:
            last = infos["final_obs"]
        else:
            last = np.array(observations)
            observations = np.array(observations)
            observations[ended] = self._partial_reset(dones)
        described: list[dict[str, Any]] = [{} for _ in self._empty]
        of_the_ends = infos.get("final_info", infos)
        elapsed = round(time.time() - self._began, 6)
        for index in ended:
            described[index] = {
                **_info_of(of_the_ends, int(index), self.num_envs),
                "terminal_observation": np.array(last[index]),
                "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
                "episode": {"r": float(self._returns[index]), "l": int(self._lengths[index]), "t": elapsed},
            }
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        return np.array(observations), rewards, dones, described

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the environments at their next reset; envpool takes its seed when it is made.

        :raises ValueError: for an envpool environment, unless the seed is None
        """
        if self.is_envpool and seed is not None and seed != self.env.config.get("seed"):
            raise ValueError(f"seed={seed}: an envpool environment takes its seed in envpool.make(..., seed={seed})")
        self._seed = seed
        return [None if seed is None else seed + index for index in range(self.num_envs)]

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return one attribute of the vector environment, once for each index."""
        return [getattr(self.env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the vector environment, which all of its environments share.

        :raises ValueError: when only some of the environments are meant
        """
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError(
                f"indices={indices!r}: the environments share their attributes; only indices=None is accepted"
            )
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of the vector environment, once, and give its result for each index."""
        return [getattr(self.env, method_name)(*args, **kwargs)] * len(list(self._get_indices(indices)))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether the wrapper is there: only ``Monitor`` is, in that episodes are reported as it does."""
        return [wrapper_class is Monitor] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[Array | None]:
        """Return what the environments render, where they do."""
        images = self.env.render()
        return [None] * self.num_envs if images is None else list(images)


def _partial_reset_of(env: Any, is_envpool: bool) -> Callable[[NDArray[np.bool_]], Array] | None:
    """How to reset some of the environments; gives their new observations. None where they reset themselves in time."""
    if is_envpool:
        return lambda dones: env.reset(np.flatnonzero(dones))[0]
    if env.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP:
        return None
    wrappers = list(_wrappers_of(env))
    if any(isinstance(wrapper, NormalizeObservation) for wrapper in wrappers):
        raise ValueError(
            f"{env} cannot reset in part with NormalizeObservation; put SB3's VecNormalize around the adapter"
        )
    changed = any(isinstance(wrapper, VectorObservationWrapper) for wrapper in wrappers)
    if isinstance(env.unwrapped, CartPoleVectorEnv) and not changed:
        return lambda dones: _reset_cartpoles(env.unwrapped, dones)
    if isinstance(env.unwrapped, (SyncVectorEnv, AsyncVectorEnv)):
        return lambda dones: env.reset(options={"reset_mask": dones})[0][dones]
    raise ValueError(
        f"{env} resets in the step after an episode's end, where SB3 expects a real step, and cannot reset in part; "
        "accepted are SyncVectorEnv, AsyncVectorEnv, CartPole's vector environment with its own observations, envpool, "
        "and any with autoreset_mode=SAME_STEP"
    )


def _info_of(infos: dict[str, Any], index: int, n_envs: int) -> dict[str, Any]:
    """What the infos of all environments say of one: arrays, with a mask under their name after ``_``."""
    found = {}
    for key, values in infos.items():
        is_one_each = isinstance(values, np.ndarray) and len(values) == n_envs
        mask = infos.get(f"_{key}")
        if is_one_each and not key.startswith("_") and key != "final_obs" and (mask is None or mask[index]):
            found[key] = np.array(values[index]) if values.ndim > 1 else values[index]
    return found


def _wrappers_of(env: Any) -> Iterator[Any]:
    while isinstance(env, VectorWrapper):
        yield env
        env = env.env


def _reset_cartpoles(env: CartPoleVectorEnv, dones: NDArray[np.bool_]) -> Array:
    """Draw initial states as the environment itself would one step later."""
    assert env.state is not None
    env.state[:, dones] = env.np_random.uniform(low=env.low, high=env.high, size=(4, int(dones.sum())))
    env.steps[dones] = 0
    env.prev_done[dones] = False
    observations: Array = env.state[:, dones].T.astype(np.float32)
    return observations
