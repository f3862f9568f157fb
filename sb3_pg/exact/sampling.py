"""Experience drawn from a finite MDP in plain NumPy, its policy gradient, and how far that is from the exact one.

Arrays have the shape ``(n_steps, n_envs)`` that the estimators of this library take; a million episodes of a few steps
take seconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sb3_pg.exact.mdp import Array, FiniteMDP, Policy

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Rollout(NamedTuple):
    """What ``n_envs`` environments went through in ``n_steps`` steps; every array has the shape ``(n_steps, n_envs)``.

    ``Trajectories(rewards=r.rewards, dones=r.dones, values=V[r.states], next_values=..., times=r.times,
    valid=r.valid)`` is what the estimators take.
    """

    states: Indices
    actions: Indices
    rewards: Array
    next_states: Indices
    """The state after the step, before the next episode begins."""
    terminated: Flags
    truncated: Flags
    """Where a time limit ended the episode that was not over."""
    times: Indices
    """Steps since the episode began."""
    valid: Flags
    """Steps that belong to the batch."""

    @property
    def dones(self) -> Flags:
        """True where the episode ended after the step."""
        return self.terminated | self.truncated

    def rows(self, first: int, last: int) -> Rollout:
        """The steps from ``first`` up to, but not including, ``last``."""
        arrays: Any = (array[first:last] for array in self)
        return Rollout(*arrays)


class Sampler:
    """Draws first states, actions and next states of many environments at once.

    :param mdp: the problem
    :param policy: who acts
    """

    def __init__(self, mdp: FiniteMDP, policy: Policy) -> None:
        self.mdp = mdp
        self._start = _Rows(mdp.start[None])
        self._actions = _Rows(policy.probabilities)
        self._next = _Rows(mdp.transitions.reshape(-1, mdp.n_states))

    def begin(self, n_envs: int, rng: np.random.Generator) -> Indices:
        """First states of episodes, shape ``(n_envs,)``."""
        return self._start.draw(np.zeros(n_envs, dtype=np.int64), rng)

    def act(self, states: Indices, rng: np.random.Generator) -> Indices:
        """An action in each state."""
        return self._actions.draw(states, rng)

    def step(self, states: Indices, actions: Indices, rng: np.random.Generator) -> tuple[Indices, Array]:
        """Next states and rewards."""
        next_states = self._next.draw(states * self.mdp.n_actions + actions, rng)
        return next_states, self.mdp.rewards[states, actions, next_states]


class _Rows:
    """Draws from several distributions at once, by inversion: one search in all of their sums laid end to end."""

    def __init__(self, probabilities: Array) -> None:
        self._size = probabilities.shape[1]
        sums = np.minimum(np.cumsum(probabilities, axis=1), 1.0)
        sums[:, -1] = 1.0
        # The last outcome that is possible takes what rounding leaves
        last = self._size - 1 - np.argmax(probabilities[:, ::-1] > 0, axis=1)
        sums[np.arange(self._size) >= last[:, None]] = 1.0
        self._sums = (sums + np.arange(len(sums))[:, None]).ravel()

    def draw(self, rows: Indices, rng: np.random.Generator) -> Indices:
        """Draw an outcome from each of these rows' distributions."""
        found = np.searchsorted(self._sums, rows + rng.random(len(rows)), side="right")
        drawn: Indices = np.minimum(found - rows * self._size, self._size - 1)
        return drawn


def sample(
    mdp: FiniteMDP,
    policy: Policy,
    n_envs: int,
    rng: np.random.Generator,
    *,
    n_steps: int | None = None,
    n_episodes: int | None = None,
    whole_episodes: bool = False,
) -> Rollout:
    """Play ``n_envs`` environments side by side, each beginning its next episode when one ends.

    :param n_steps: steps of each environment; with ``whole_episodes``, up to the end of the episode that reaches them
    :param n_episodes: whole episodes of each environment, instead of ``n_steps``
    :param whole_episodes: cut no episode
    :return: as many rows as the environment needs that takes longest; ``valid`` tells each one's share, and the rest is
        filled with steps that are episodes of their own
    :raises ValueError: without a rule for the end of the batch
    """
    if (n_steps is None) == (n_episodes is None):
        raise ValueError(f"n_steps={n_steps!r}, n_episodes={n_episodes!r}: exactly one of them has to be given")
    sampler = Sampler(mdp, policy)
    states, times = sampler.begin(n_envs, rng), np.zeros(n_envs, dtype=np.int64)
    playing, counts = np.arange(n_envs), np.zeros(n_envs, dtype=np.int64)
    rows: list[tuple[NDArray[Any], ...]] = []
    while len(playing):
        actions = sampler.act(states, rng)
        next_states, rewards = sampler.step(states, actions, rng)
        terminated, truncated = ends(mdp, next_states, times)
        rows.append((playing, states, actions, rewards, next_states, terminated, truncated, times))
        dones = terminated | truncated
        counts = counts + dones
        if n_steps is None:
            goes_on = counts < (n_episodes or 0)
        elif whole_episodes:
            goes_on = (len(rows) < n_steps) | ~dones
        else:
            goes_on = np.full(len(playing), len(rows) < n_steps)
        states = np.where(dones, sampler.begin(len(playing), rng), next_states)[goes_on]
        times = np.where(dones, 0, times + 1)[goes_on]
        playing, counts = playing[goes_on], counts[goes_on]
    return _side_by_side(rows, n_envs)


def _side_by_side(rows: list[tuple[NDArray[Any], ...]], n_envs: int) -> Rollout:
    """Put the steps of those that were playing into their columns; the rest is filled as in :func:`all_episodes`."""
    shape = (len(rows), n_envs)
    rollout = Rollout(
        states=np.zeros(shape, dtype=np.int64),
        actions=np.zeros(shape, dtype=np.int64),
        rewards=np.zeros(shape),
        next_states=np.zeros(shape, dtype=np.int64),
        terminated=np.ones(shape, dtype=bool),
        truncated=np.zeros(shape, dtype=bool),
        times=np.zeros(shape, dtype=np.int64),
        valid=np.zeros(shape, dtype=bool),
    )
    for row, (playing, *columns) in enumerate(rows):
        for array, column in zip(rollout, columns, strict=False):
            array[row, playing] = column
        rollout.valid[row, playing] = True
    return rollout


def ends(mdp: FiniteMDP, next_states: Indices, times: Indices) -> tuple[Flags, Flags]:
    """Whether a step ends the episode.

    :param next_states: states after the step
    :param times: steps since the episode began, before the step
    :return: ``(terminated, truncated)``, never both
    """
    terminated: Flags = mdp.terminal[next_states]
    if mdp.time_limit is None:
        return terminated, np.zeros_like(terminated)
    limit: Flags = (times + 1 >= mdp.time_limit) & ~terminated
    return (terminated | limit, np.zeros_like(limit)) if mdp.limit_is_terminal else (terminated, limit)


def all_episodes(mdp: FiniteMDP, policy: Policy, most: int = 100_000) -> tuple[Rollout, Array]:
    """Every episode that can happen, one a column, and its probability: expectations by counting.

    After its end a column is filled with steps that are not valid, each an episode of its own.

    :param most: episodes to stop at
    :raises ValueError: when there are more; give the MDP a ``time_limit``
    """
    first = [(float(p), int(s), ()) for s, p in enumerate(mdp.start) if p > 0]
    waiting: list[tuple[float, int, tuple[Any, ...]]] = first
    complete: list[tuple[float, tuple[Any, ...]]] = []
    while waiting:
        probability, state, steps = waiting.pop()
        for action, next_state in np.argwhere(mdp.transitions[state] > 0).tolist():
            p = probability * policy.probabilities[state, action] * mdp.transitions[state, action, next_state]
            terminated, truncated = ends(mdp, np.array([next_state]), np.array([len(steps)]))
            reward = mdp.rewards[state, action, next_state]
            longer = (*steps, (state, action, reward, next_state, terminated[0], truncated[0], len(steps), True))
            if terminated[0] or truncated[0]:
                complete.append((float(p), longer))
            elif p > 0:
                waiting.append((float(p), next_state, longer))
        if len(complete) + len(waiting) > most:
            raise ValueError(f"{mdp.name} has more than most={most} episodes; a smaller time_limit is expected")
    length = max(len(steps) for _, steps in complete)
    nothing = (0, 0, 0.0, 0, True, False, 0, False)
    columns = [(*steps, *[nothing] * (length - len(steps))) for _, steps in complete]
    kinds = (np.int64, np.int64, np.float64, np.int64, np.bool_, np.bool_, np.int64, np.bool_)
    arrays: Any = (
        np.array([[step[field] for step in column] for column in columns], dtype=kind).T
        for field, kind in enumerate(kinds)
    )
    return Rollout(*arrays), np.array([p for p, _ in complete])


def score_sums(policy: Policy, rollout: Rollout, weights: Array, groups: Indices | None = None) -> Array:
    r"""Sums of :math:`w_t \nabla \log \pi(a_t|s_t)` over the valid steps of groups of environments.

    :param weights: Psi of every step, shape ``(n_steps, n_envs)``
    :param groups: number of each environment's group, shape ``(n_envs,)``; each its own when not given
    :return: shape ``(n_groups, n_parameters)``
    """
    n_envs, size = rollout.states.shape[1], policy.probabilities.size
    groups = np.arange(n_envs) if groups is None else groups
    n_groups = int(groups.max()) + 1
    pairs = rollout.states * policy.probabilities.shape[1] + rollout.actions
    cells = groups * size + pairs
    counted = np.bincount(
        cells.ravel(), weights=np.where(rollout.valid, weights, 0.0).ravel(), minlength=n_groups * size
    )
    sums: Array = counted.reshape(n_groups, size) @ policy.scores.reshape(size, -1)
    return sums


class Measurement(NamedTuple):
    """Independent estimates of one gradient."""

    samples: Array
    """Shape ``(n_samples, n_parameters)``."""

    @property
    def mean(self) -> Array:
        """Mean of the samples."""
        mean: Array = self.samples.mean(axis=0)
        return mean

    @property
    def standard_errors(self) -> Array:
        """Standard error of each component of the mean."""
        errors: Array = self.samples.std(axis=0, ddof=1) / np.sqrt(len(self.samples))
        return errors

    def z(self, exact: Array) -> Array:
        """How many standard errors each component of the mean is away from the exact one.

        Components that did not vary are zero if they are the exact ones up to rounding, and infinite otherwise.
        """
        scale = 1e-9 * (1.0 + np.abs(exact).max())
        difference, errors = self.mean - exact, self.standard_errors
        varied = errors > 1e-3 * scale
        certain = np.where(np.abs(difference) <= scale, 0.0, np.inf)
        z: Array = np.where(varied, difference / np.where(varied, errors, 1.0), certain)
        return z

    def length(self, exact: Array) -> tuple[float, float]:
        r"""Length of the mean along the exact gradient, in units of that gradient, and its standard error.

        .. math:: \langle \hat g, g \rangle / \langle g, g \rangle

        is 1 for an unbiased estimate, and 1.02 for one that is 2 % too long.

        :raises ValueError: when the exact gradient is zero
        """
        square = float(exact @ exact)
        if square == 0.0:
            raise ValueError("exact is zero in every component; a length needs a direction")
        along = self.samples @ exact / square
        return float(along.mean()), float(along.std(ddof=1) / np.sqrt(len(along)))

    def worst_z(self, exact: Array) -> float:
        """The largest |z| of all components and of the length."""
        worst = float(np.abs(self.z(exact)).max())
        if not exact.any():
            return worst
        along = Measurement((self.samples @ exact / (exact @ exact))[:, None])
        return max(worst, float(np.abs(along.z(np.ones(1))).max()))
