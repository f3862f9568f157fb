"""Finite MDPs as Gymnasium environments, one at a time or many side by side, and LineWorld as a finite MDP."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from sb3_pg.envs.line_world import cell_positions, distance_reward, transition
from sb3_pg.exact.mdp import FiniteMDP, Policy
from sb3_pg.exact.problems import PROBLEMS
from sb3_pg.exact.sampling import Sampler, ends

Observation = NDArray[np.float32]

_PRESENT = (38, 84, 164)
_TERMINAL = (90, 96, 105)
_OTHER = (226, 229, 234)


def line_world(grid_size: int = 10, dimensions: int = 1, episode_length: int = 10, gamma: float = 0.99) -> FiniteMDP:
    """LineWorld as a finite MDP: a state for each pair of position and target, number ``position * n_cells + target``.

    Its end after ``episode_length`` steps is a part of the task, as in
    :class:`~sb3_pg.envs.line_world.LineWorld`, whose dynamics are tabulated here.

    :param grid_size: cells along each axis
    :param dimensions: 1 or 2; ``grid_size ** dimensions`` cells make a table of that number to the fourth power
    :param episode_length: steps of an episode
    :param gamma: discount factor
    """
    cells = cell_positions(grid_size, dimensions)
    n_cells, n_actions = len(cells), 2 * dimensions + 1
    moved = transition(cells[:, None], np.arange(n_actions), grid_size)
    next_cell = np.ravel_multi_index(tuple(np.moveaxis(moved, -1, 0)), (grid_size,) * dimensions)
    cell, action, target = np.meshgrid(np.arange(n_cells), np.arange(n_actions), np.arange(n_cells), indexing="ij")
    states, next_states = cell * n_cells + target, next_cell[cell, action] * n_cells + target
    transitions = np.zeros((n_cells**2, n_actions, n_cells**2))
    rewards = np.zeros_like(transitions)
    transitions[states, action, next_states] = 1.0
    rewards[states, action, next_states] = distance_reward(cells[next_cell[cell, action]], cells[target], grid_size)
    start = np.full(n_cells**2, 1.0 / n_cells**2)
    terminal = np.zeros(n_cells**2, dtype=bool)
    return FiniteMDP(transitions, rewards, start, terminal, gamma, episode_length, True, "line_world")


NAMED = {**PROBLEMS, "line_world": line_world}


class FiniteMDPEnv(gym.Env[Observation, np.int64]):
    """A finite MDP as an environment with one-hot observations and discrete actions.

    ``gym.make("FiniteMDP-v0", mdp="two_state")`` makes a named one, see :mod:`sb3_pg.exact.problems`; ``line_world`` is
    one of them too. A linear softmax policy on the observations (``policy_kwargs=dict(net_arch=[])``) is a table, and
    its gradient is known exactly: :func:`sb3_pg.exact.mdp.solve`.

    **Reset.** The first state is drawn from ``mdp.start``; ``reset(options={"state": 2})`` sets it.

    **End.** ``terminated`` in a terminal state, and at the time limit where that is a part of the task; ``truncated``
    at other time limits.

    :param mdp: the problem, or a name in :data:`NAMED`
    :param features: observation of each state, shape ``(n_states, n_features)``; one-hot when not given. States with
        the same features cannot be told apart
    :param time_limit: instead of the problem's; not given, it stays
    :param render_mode: None or "rgb_array"
    :raises ValueError: for an unknown name, or features of another shape
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's declaration)

    def __init__(
        self,
        mdp: FiniteMDP | str = "random_chain",
        features: ArrayLike | None = None,
        time_limit: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r}: accepted are None and {self.metadata['render_modes']}")
        self.render_mode = render_mode
        self.mdp = _find(mdp, time_limit)
        self.features = _features(self.mdp, features)
        self.observation_space = spaces.Box(self.features.min(), self.features.max(), self.features.shape[1:])
        self.action_space = spaces.Discrete(self.mdp.n_actions)
        self._sampler = Sampler(self.mdp, _uniform(self.mdp))
        self._state = self._steps = 0
        self._over = True  # nothing to step before the first reset

    @property
    def state(self) -> int:
        """Number of the state."""
        return self._state

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a first state.

        :param seed: seeds the environment's own generator; None goes on with it
        :param options: "state": number of the first state
        :return: the observation and an empty info
        :raises ValueError: for another option, or a state in which no episode can begin
        """
        super().reset(seed=seed)
        self._state, self._steps, self._over = int(self._sampler.begin(1, self.np_random)[0]), 0, False
        for name, value in (options or {}).items():
            if name != "state":
                raise ValueError(f"options has the key {name!r}: accepted is 'state'")
            self._state = operator.index(value)
            if not 0 <= self._state < self.mdp.n_states or self.mdp.terminal[self._state]:
                raise ValueError(f"options has state={value}: accepted are {np.flatnonzero(~self.mdp.terminal)}")
        return self.features[self._state].copy(), {}

    def step(self, action: int | np.integer[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Draw the next state.

        :param action: number of the action
        :return: observation, reward, terminated, truncated, empty info
        :raises ValueError: for an action outside the action space
        :raises gymnasium.error.ResetNeeded: before the first reset and after the end of an episode
        """
        if self._over:
            raise gym.error.ResetNeeded("FiniteMDPEnv.step() needs a reset() before the first step of each episode")
        number = operator.index(action)
        if not 0 <= number < self.mdp.n_actions:
            raise ValueError(f"action={action}: accepted are the integers from 0 to {self.mdp.n_actions - 1}")
        next_states, rewards = self._sampler.step(np.array([self._state]), np.array([number]), self.np_random)
        terminated, truncated = ends(self.mdp, next_states, np.array([self._steps]))
        self._state, self._steps = int(next_states[0]), self._steps + 1
        self._over = bool(terminated[0] or truncated[0])
        return self.features[self._state].copy(), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> NDArray[np.uint8] | None:
        """Draw a cell for each state: the present one blue, terminal ones dark.

        :return: picture, shape (height, width, 3), or None without a render mode
        """
        if self.render_mode is None:
            gym.logger.warn('FiniteMDPEnv.render() without a render mode: make it with render_mode="rgb_array"')
            return None
        colours = np.where(self.mdp.terminal[:, None], _TERMINAL, _OTHER).astype(np.uint8)
        colours[self._state] = _PRESENT
        cell = max(2, min(56, 560 // self.mdp.n_states))
        return np.repeat(np.repeat(colours[None], cell, axis=0), cell, axis=1)


class FiniteMDPVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """Many environments like :class:`FiniteMDPEnv`, stepped together: a million steps take a few seconds.

    For Stable-Baselines3, put it into :class:`~sb3_pg.rollout.vec_env.VectorEnvAdapter`. An environment that ends its
    episode begins the next one in the same step.

    :param num_envs: how many
    :param mdp: see :class:`FiniteMDPEnv`
    :param features: see :class:`FiniteMDPEnv`
    :param time_limit: see :class:`FiniteMDPEnv`
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        mdp: FiniteMDP | str = "random_chain",
        features: ArrayLike | None = None,
        time_limit: int | None = None,
    ) -> None:
        single = FiniteMDPEnv(mdp, features, time_limit)
        self.num_envs = num_envs
        self.mdp, self.features, self._sampler = single.mdp, single.features, single._sampler
        self.single_observation_space, self.single_action_space = single.observation_space, single.action_space
        self.observation_space = batch_space(single.observation_space, num_envs)
        self.action_space = batch_space(single.action_space, num_envs)
        self._states = self._times = np.zeros(num_envs, dtype=np.int64)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in every environment.

        :param seed: of the generator that all environments share; None goes on with it
        :param options: none are accepted
        :return: observations, shape ``(num_envs, n_features)``, and an empty info
        :raises ValueError: for options, or for several seeds
        """
        if options or not (seed is None or isinstance(seed, (int, np.integer))):
            raise ValueError(f"seed={seed!r}, options={options!r}: one seed, and no options, are accepted")
        super().reset(seed=seed)
        self._states = self._sampler.begin(self.num_envs, self.np_random)
        self._times = np.zeros(self.num_envs, dtype=np.int64)
        return self.features[self._states], {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step every environment.

        :param actions: shape ``(num_envs,)``
        :return: observations, rewards, terminated, truncated, and an info that has the last observations of the
            episodes that ended as ``final_obs``
        """
        next_states, rewards = self._sampler.step(self._states, np.asarray(actions, dtype=np.int64), self.np_random)
        terminated, truncated = ends(self.mdp, next_states, self._times)
        dones = terminated | truncated
        self._times = np.where(dones, 0, self._times + 1)
        self._states = np.where(dones, self._sampler.begin(self.num_envs, self.np_random), next_states)
        info = {"final_obs": self.features[next_states], "_final_obs": dones} if dones.any() else {}
        return self.features[self._states], rewards, terminated, truncated, info


def _find(mdp: FiniteMDP | str, time_limit: int | None) -> FiniteMDP:
    if isinstance(mdp, str):
        if mdp not in NAMED:
            raise ValueError(f"mdp={mdp!r} is unknown; accepted are {', '.join(NAMED)}, or a FiniteMDP")
        mdp = NAMED[mdp]()
    if not isinstance(mdp, FiniteMDP):
        raise ValueError(f"mdp={mdp!r} must be a FiniteMDP, or one of {', '.join(NAMED)}")
    return mdp if time_limit is None else dataclasses.replace(mdp, time_limit=time_limit)


def _features(mdp: FiniteMDP, features: ArrayLike | None) -> Observation:
    table = np.eye(mdp.n_states, dtype=np.float32) if features is None else np.asarray(features, dtype=np.float32)
    if table.ndim != 2 or len(table) != mdp.n_states:
        raise ValueError(f"features has shape {table.shape}; {mdp.name} needs ({mdp.n_states}, n_features)")
    return table


def _uniform(mdp: FiniteMDP) -> Policy:
    """Any policy, since actions come from outside."""
    shape = (mdp.n_states, mdp.n_actions)
    return Policy(np.full(shape, 1.0 / mdp.n_actions), np.zeros((*shape, 0)))
