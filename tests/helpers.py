"""Environments and small models that several test modules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg import VPG

FLAT = spaces.Box(-1, 1, (3,), np.float64)
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
DICT = spaces.Dict({"flat": FLAT, "image": IMAGE, "kind": spaces.Discrete(4)})

ACTION_SPACES = [
    spaces.Box(-1, 1, (2,)),
    spaces.Discrete(3),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
]


class RandomEnv(gym.Env[Any, Any]):
    """Random observations and rewards for any spaces, with both kinds of ending."""

    def __init__(self, action_space: spaces.Space[Any], observation_space: spaces.Space[Any] = FLAT) -> None:
        self.action_space = action_space
        self.observation_space = deepcopy(observation_space)
        self.steps = 0

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = float(np.sum(action)) + self.np_random.normal()
        terminated = bool(self.np_random.random() < 0.1)
        return self.observation_space.sample(), reward, terminated, self.steps >= 7 and not terminated, {}


class WatchedEnv(RandomEnv):
    """Keeps the actions that reach it."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        super().__init__(action_space)
        self.actions: list[Any] = []

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        return super().step(action)


class ScriptedEnv(gym.Env[Any, Any]):
    """Nothing is left to chance: the observation is (steps into the episode, number of the episode).

    :param lengths: of the first, second, ... episode; begins again when they are used up
    :param truncated: end by a time limit instead of termination
    :param reward: of every step
    :param faults: step since the environment was built (from 1) -> what to give instead, ``"observation"`` or
        ``"reward"`` and the value
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(
        self,
        lengths: Sequence[int] = (5,),
        *,
        truncated: bool = False,
        reward: float = 1.0,
        action_space: spaces.Space[Any] | None = None,
        faults: dict[int, tuple[str, float]] | None = None,
    ) -> None:
        self.action_space = action_space or spaces.Discrete(2)
        self.lengths, self.truncated, self.reward, self.faults = lengths, truncated, reward, faults or {}
        self.steps, self.episode, self.all_steps = 0, -1, 0

    def _observation(self) -> Any:
        return np.array([self.steps, self.episode], dtype=np.float32)

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.episode += 1
        return self._observation(), {}

    def step(self, _action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.all_steps += 1
        done = self.steps == self.lengths[self.episode % len(self.lengths)]
        observation, reward = self._observation(), self.reward
        kind, wrong = self.faults.get(self.all_steps, ("", 0.0))
        if kind == "observation":
            observation[1] = wrong
        elif kind == "reward":
            reward = wrong
        info = {"is_success": self.episode % 2 == 0} if done else {}
        return observation, reward, done and not self.truncated, done and self.truncated, info


def overriding(method: str) -> type[ActorCriticPolicy]:
    """SB3's policy with a version of its own of one method, which does the same: no short cut may pass it by."""

    def same_as_before(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(ActorCriticPolicy, method)(self, *args, **kwargs)

    return type("Overriding", (ActorCriticPolicy,), {method: same_as_before})


AskedThroughTorch = overriding("get_distribution")
"""Its actions are not drawn by NumPy, but from torch's random numbers, as SB3 does."""

CriticInTorch = overriding("predict_values")
"""Its critic is not replaced by NumPy."""


class Counting:
    """A rule for lambda with a memory, as a user may write it: 0.5, 0.25, 0.125 ..."""

    def __init__(self) -> None:
        self.n_batches = 0
        self.seen: list[tuple[float, float]] = []

    def choose(self, batch: Any) -> float:
        self.n_batches += 1
        self.seen.append((batch.gamma, batch.progress_remaining))
        batch.record("gradient/lambda_score", float(self.n_batches))
        return 0.5**self.n_batches


class PerStep:
    """Another lambda for every step, (step + environment) / (steps + environments); keeps the last batch."""

    def choose(self, batch: Any) -> Any:
        self.batch = batch.trajectories
        shape = self.batch.rewards.shape
        return np.indices(shape).sum(axis=0) / sum(shape)


class Saying:
    """Chooses whatever it was told to."""

    def __init__(self, value: Any, **attributes: Any) -> None:
        self.value = value
        vars(self).update(attributes)

    def choose(self, _: Any) -> Any:
        return self.value


def tiny(
    env: Callable[[], gym.Env[Any, Any]] | VecEnv | None = None,
    policy: Any = "MlpPolicy",
    algorithm: Any = VPG,
    n_envs: int = 1,
    **kwargs: Any,
) -> Any:
    """A model that trains in milliseconds: one layer of eight units, sixteen steps.

    :param env: vectorised environment, or a function that makes one to be vectorised ``n_envs`` times
    """
    env = env or (lambda: RandomEnv(ACTION_SPACES[1]))
    venv = env if isinstance(env, VecEnv) else make_vec_env(env, n_envs=n_envs, seed=kwargs.get("seed", 0))
    settings: dict[str, Any] = dict(n_steps=16, seed=0, device="cpu")
    if issubclass(algorithm, VPG):
        settings["n_critic_updates"] = 2
    kwargs["policy_kwargs"] = {"net_arch": [8], **kwargs.get("policy_kwargs", {})}
    return algorithm(policy, venv, **{**settings, **kwargs})


def one_rollout(model: Any, callback: BaseCallback | None = None) -> Any:
    """Collect the next batch without training, and return the buffer."""
    _, callbacks = model._setup_learn(10**6, callback, reset_num_timesteps=model._last_obs is None)
    assert model.collect_rollouts(model.env, callbacks, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


def weights(model: Any) -> dict[str, th.Tensor]:
    """A copy of the policy's weights."""
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    """Whether two structures of dicts, lists, tensors and plain values are equal, number for number."""
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, th.Tensor):
        return th.equal(one, other)
    return bool(one == other)


def set_linear_critic(model: Any, weight: Sequence[float], bias: float = 0.0) -> None:
    """Make V(s) = weight . s + bias; for a model with ``net_arch=dict(pi=[...], vf=[])``."""
    with th.no_grad():
        model.policy.value_net.weight[:] = th.tensor([weight])
        model.policy.value_net.bias.fill_(bias)


class SaveAtEveryRollout(BaseCallback):
    """A checkpoint at the beginning of every rollout."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _on_rollout_start(self) -> None:
        self.model.save(self.path)

    def _on_step(self) -> bool:
        return True


class Runaway(th.optim.SGD):
    """Its steps are right, until one is not."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        self.steps += 1
        if self.steps == 3:
            with th.no_grad():
                self.param_groups[0]["params"][-1].fill_(np.inf)
