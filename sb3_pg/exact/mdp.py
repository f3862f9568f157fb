r"""Finite Markov decision processes, tabular policies, and everything about them that can be computed exactly.

Two weights of the visited states go through all of this package. With :math:`p_t(s)` the probability of being in s
after t steps of an episode that goes on,

.. math:: d_\gamma(s) = \sum_t \gamma^t p_t(s), \qquad d_1(s) = \sum_t p_t(s)

the policy gradient theorem (Sutton et al. 2000, theorem 1, start-state formulation; Sutton and Barto 2018, sec. 13.2,
and p. 328 for discounting) says

.. math:: \nabla J = \sum_s d_\gamma(s) \sum_a \pi(a|s)\, Q(s, a)\, \nabla \log \pi(a|s)

and nearly every implementation uses :math:`d_1` in its place, which is the gradient of nothing (Nota and Thomas 2020,
arXiv:1906.07073). Both are computed here. All numbers are float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """A Markov decision process with finitely many states and actions whose episodes end.

    :param transitions: P(s' | s, a), shape ``(n_states, n_actions, n_states)``
    :param rewards: r(s, a, s'), same shape
    :param start: distribution of the first state, shape ``(n_states,)``; no terminal state
    :param terminal: True where the episode is over, shape ``(n_states,)``; what ``transitions`` and ``rewards`` say for
        these states is not read
    :param gamma: discount factor, in [0, 1]
    :param time_limit: number of steps after which an episode ends wherever it is; None for no limit
    :param limit_is_terminal: whether the end by the limit is a part of the task ("terminated") or not ("truncated")
    :param name: for messages
    :raises ValueError: naming what does not fit
    """

    transitions: Array
    rewards: Array
    start: Array
    terminal: NDArray[np.bool_]
    gamma: float
    time_limit: int | None = None
    limit_is_terminal: bool = False
    name: str = "FiniteMDP"

    def __post_init__(self) -> None:
        """Check shapes and distributions, and make terminal states lead nowhere."""
        terminal = np.asarray(self.terminal, dtype=bool)
        n_states = len(terminal)
        transitions = np.array(self.transitions, dtype=np.float64)
        if transitions.ndim != 3 or transitions.shape[::2] != (n_states, n_states) or not transitions.size:
            raise ValueError(f"transitions has shape {transitions.shape}; expected ({n_states}, n_actions, {n_states})")
        rewards = np.array(self.rewards, dtype=np.float64)
        if rewards.shape != transitions.shape:
            raise ValueError(f"rewards has shape {rewards.shape}; expected that of transitions, {transitions.shape}")
        start = np.array(self.start, dtype=np.float64)
        if start.shape != (n_states,):
            raise ValueError(f"start has shape {start.shape}; expected ({n_states},), one number for each state")
        numbers = {"transitions": transitions[~terminal], "rewards": rewards[~terminal], "start": start}
        for name, array in numbers.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} has {array[~np.isfinite(array)][0]} in it; finite numbers are expected")
        _check_distribution("transitions", transitions[~terminal])
        _check_distribution("start", start[None])
        if start[terminal].any():
            raise ValueError(f"start is {start}; a terminal state cannot be the first one of an episode")
        if not 0.0 <= self.gamma <= 1.0:
            raise ValueError(f"gamma={self.gamma!r} must be a number in [0, 1]")
        if self.time_limit is not None and not (isinstance(self.time_limit, Integral) and self.time_limit >= 1):
            raise ValueError(f"time_limit={self.time_limit!r} must be None, or a whole number of at least 1")
        transitions[terminal] = rewards[terminal] = 0.0
        for name, array in dict(transitions=transitions, rewards=rewards, start=start, terminal=terminal).items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def n_states(self) -> int:
        """Number of states, terminal ones included."""
        return len(self.terminal)

    @property
    def n_actions(self) -> int:
        """Number of actions, the same in every state."""
        return int(self.transitions.shape[1])

    @property
    def mean_rewards(self) -> Array:
        """r(s, a) = sum over s' of P(s'|s,a) r(s,a,s'), shape ``(n_states, n_actions)``."""
        expected: Array = np.einsum("sat,sat->sa", self.transitions, self.rewards)
        return expected

    @property
    def clocks(self) -> int:
        """How many different numbers of steps an episode can be at: the time limit, or 1 where time plays no part."""
        return self.time_limit or 1

    def with_clock(self) -> FiniteMDP:
        """The same task with the time in the state: number ``k * n_states + s`` is state s after k steps.

        The time limit becomes a part of the transitions, so that what depends on the time left is a function of the
        state (Pardo et al. 2018, arXiv:1712.00378, sec. 3). Ends by the limit are terminations in it.

        :raises ValueError: when there is no time limit
        """
        if self.time_limit is None:
            raise ValueError(f"time_limit=None in {self.name}; a clock needs the number of steps to count to")
        layers, size, n_actions = self.time_limit + 1, self.n_states, self.n_actions
        transitions = np.zeros((layers, size, n_actions, layers, size))
        rewards = np.zeros_like(transitions)
        for clock in range(self.time_limit):
            transitions[clock, :, :, clock + 1], rewards[clock, :, :, clock + 1] = self.transitions, self.rewards
        terminal = np.tile(self.terminal, (layers, 1))
        terminal[-1] = True
        start = np.zeros((layers, size))
        start[0] = self.start
        shape = (layers * size, n_actions, layers * size)
        return FiniteMDP(
            transitions.reshape(shape),
            rewards.reshape(shape),
            start.ravel(),
            terminal.ravel(),
            self.gamma,
            name=f"{self.name} with a clock",
        )


class Policy(NamedTuple):
    """A policy by its numbers: probabilities, and their derivatives as the score function."""

    probabilities: Array
    """pi(a | s), shape ``(n_states, n_actions)``."""
    scores: Array
    """Gradient of log pi(a | s), shape ``(n_states, n_actions, n_parameters)``."""

    @property
    def n_parameters(self) -> int:
        """Length of a gradient."""
        return int(self.scores.shape[-1])

    def at_every_clock(self, time_limit: int) -> Policy:
        """The same policy for :meth:`FiniteMDP.with_clock`: what it does and its parameters do not depend on time."""
        layers = time_limit + 1
        return Policy(np.tile(self.probabilities, (layers, 1)), np.tile(self.scores, (layers, 1, 1)))


def softmax_policy(logits: ArrayLike, features: ArrayLike | None = None) -> Policy:
    r"""Softmax of a table, or of a linear function of features.

    .. math:: \pi(a|s) \propto \exp \sum_f x_f(s)\, \theta_{fa}, \qquad
              \frac{\partial \log \pi(a|s)}{\partial \theta_{fb}} = x_f(s)\,(1[a = b] - \pi(b|s))

    (Sutton and Barto 2018, eq. 13.2 and 13.3.) Parameters are numbered ``f * n_actions + a``.

    :param logits: theta, shape ``(n_features, n_actions)``; without features, one row for each state
    :param features: x, shape ``(n_states, n_features)``; the identity when not given, which is a table
    """
    theta = np.asarray(logits, dtype=np.float64)
    x = np.eye(len(theta)) if features is None else np.asarray(features, dtype=np.float64)
    preferences = x @ theta
    exponentials = np.exp(preferences - preferences.max(axis=1, keepdims=True))
    probabilities: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    n_states, n_actions = probabilities.shape
    indicator = np.eye(n_actions) - probabilities[:, None, :]
    scores = x[:, None, :, None] * indicator[:, :, None, :]
    return Policy(probabilities, scores.reshape(n_states, n_actions, -1))


def logistic_policy(thetas: ArrayLike, parameter_of: ArrayLike) -> Policy:
    r"""Two actions, the first with the logistic function of a parameter; states may share one.

    .. math:: \pi(0|s) = \sigma(\theta_{k(s)}) = \frac{1}{1 + e^{-\theta_{k(s)}}}

    :param thetas: shape ``(n_parameters,)``
    :param parameter_of: k, the number of each state's parameter, shape ``(n_states,)``
    """
    theta, which = np.asarray(thetas, dtype=np.float64), np.asarray(parameter_of, dtype=np.int64)
    first = 1.0 / (1.0 + np.exp(-theta[which]))
    scores = np.zeros((len(which), 2, len(theta)))
    rows = np.arange(len(which))
    scores[rows, 0, which], scores[rows, 1, which] = 1.0 - first, -first
    return Policy(np.stack([first, 1.0 - first], axis=1), scores)


def one_parameter_policy(probabilities: ArrayLike, derivatives: ArrayLike) -> Policy:
    r"""A policy with one parameter, from its probabilities and their derivatives.

    .. math:: \frac{d \log \pi(a|s)}{d\theta} = \frac{1}{\pi(a|s)} \frac{d \pi(a|s)}{d\theta}

    :param probabilities: pi(a | s), shape ``(n_states, n_actions)``, all above zero
    :param derivatives: of pi(a | s) with respect to the parameter, same shape
    :raises ValueError: for probabilities that are none
    """
    pi = np.asarray(probabilities, dtype=np.float64)
    if not (pi > 0).all() or not np.allclose(pi.sum(axis=-1), 1):
        raise ValueError(f"probabilities must be above zero, and add up to 1 in each state, not {pi.tolist()}")
    return Policy(pi, (np.asarray(derivatives, dtype=np.float64) / pi)[:, :, None])


class Solution(NamedTuple):
    """What is known of a policy in an MDP. Arrays begin with an axis of ``time_limit`` steps where there is a limit."""

    values: Array
    """V(s), shape ``(n_states,)`` or ``(time_limit, n_states)``: the return from there to the episode's end."""
    q_values: Array
    """Q(s, a), one axis more."""
    expected_return: float
    """J, the expected discounted return of an episode."""
    visits: Array
    """d_1, the expected number of visits in an episode, shape of ``values``."""
    discounted_visits: Array
    """d_gamma, shape of ``values``."""
    gradient: Array
    """The gradient of J, shape ``(n_parameters,)``."""
    semi_gradient: Array
    """The same with d_1 in place of d_gamma: what is estimated without the factor gamma^t."""

    @property
    def advantages(self) -> Array:
        """A(s, a) = Q(s, a) - V(s), shape of ``q_values``."""
        return self.q_values - self.values[..., None]

    @property
    def mean_length(self) -> float:
        """Expected number of steps of an episode."""
        return float(self.visits.sum())


def solve(mdp: FiniteMDP, policy: Policy) -> Solution:
    r"""Everything about a policy: by linear equations without a time limit, by dynamic programming with one.

    Without a limit, with :math:`P_\pi` between states that are not terminal,

    .. math:: V = (I - \gamma P_\pi)^{-1} r_\pi, \qquad d_c = (I - c\, P_\pi^T)^{-1} \mu \quad (c = 1, \gamma)

    with a limit H, :math:`V_H = 0`,

    .. math:: Q_t(s,a) = r(s,a) + \gamma \sum_{s'} P(s'|s,a)\, V_{t+1}(s'), \quad
              V_t = \sum_a \pi Q_t, \quad p_{t+1} = P_\pi^T p_t

    The return of an episode ends with the episode, by the limit too: for the task without it, take
    ``dataclasses.replace(mdp, time_limit=None)``.

    :raises ValueError: when episodes do not end under this policy
    """
    size = (mdp.n_states, mdp.n_actions)
    if policy.probabilities.shape != size:
        raise ValueError(f"probabilities has shape {policy.probabilities.shape}; {mdp.name} needs {size}")
    values, q_values, visits, discounted = (_solve_linear if mdp.time_limit is None else _solve_backwards)(mdp, policy)
    return Solution(
        values,
        q_values,
        float(mdp.start @ (values if mdp.time_limit is None else values[0])),
        visits,
        discounted,
        score_sum(policy, discounted, q_values),
        score_sum(policy, visits, q_values),
    )


def score_sum(policy: Policy, weights: Array, psi: Array) -> Array:
    r"""The policy gradient form, for any weights of the states and any :math:`\Psi`.

    .. math:: \sum_s w(s) \sum_a \pi(a|s)\, \Psi(s,a)\, \nabla \log \pi(a|s)

    :param weights: w, shape ``(n_states,)`` or ``(time_limit, n_states)``
    :param psi: shape ``(..., n_states, n_actions)``
    :return: shape ``(n_parameters,)``
    """
    each = (weights[..., None] * psi).reshape(-1, *policy.probabilities.shape).sum(axis=0)
    gradient: Array = np.tensordot(each * policy.probabilities, policy.scores, axes=2)
    return gradient


def _solve_linear(mdp: FiniteMDP, policy: Policy) -> tuple[Array, Array, Array, Array]:
    pi = policy.probabilities
    between = np.einsum("sa,sat->st", pi, mdp.transitions)
    between[:, mdp.terminal] = 0.0
    _check_that_it_ends(mdp, between)
    identity = np.eye(mdp.n_states)
    values = np.linalg.solve(identity - mdp.gamma * between, (pi * mdp.mean_rewards).sum(axis=1))
    q_values = mdp.mean_rewards + mdp.gamma * mdp.transitions @ values
    visits = np.linalg.solve(identity - between.T, mdp.start)
    discounted = np.linalg.solve(identity - mdp.gamma * between.T, mdp.start)
    return values, q_values, visits, discounted


def _check_that_it_ends(mdp: FiniteMDP, between: Array) -> None:
    """Refuse a policy under which an episode may go on for ever: from somewhere it gets to, no end can be reached."""
    steps = (between > 0) | np.eye(mdp.n_states, dtype=bool)
    for _ in range(int(np.ceil(np.log2(max(2, mdp.n_states))))):
        steps = (steps.astype(np.float64) @ steps.astype(np.float64)) > 0
    ends = between.sum(axis=1) < 1.0 - 1e-12
    visited = (mdp.start > 0) @ steps
    endless = visited & ~mdp.terminal & ~(steps @ ends)
    if endless.any():
        raise ValueError(
            f"{mdp.name} never ends from state {int(np.flatnonzero(endless)[0])} under this policy; give it a "
            "time_limit, or a terminal state that can be reached"
        )


def _solve_backwards(mdp: FiniteMDP, policy: Policy) -> tuple[Array, Array, Array, Array]:
    assert mdp.time_limit is not None
    pi, shape = policy.probabilities, (mdp.time_limit, mdp.n_states)
    values, q_values, visits = np.empty(shape), np.empty((*shape, mdp.n_actions)), np.empty(shape)
    following = np.zeros(mdp.n_states)
    for clock in range(mdp.time_limit - 1, -1, -1):
        q_values[clock] = mdp.mean_rewards + mdp.gamma * mdp.transitions @ following
        following = values[clock] = (pi * q_values[clock]).sum(axis=1)
    between = np.einsum("sa,sat->st", pi, mdp.transitions)
    there = mdp.start
    for clock in range(mdp.time_limit):
        visits[clock] = there
        there = np.where(mdp.terminal, 0.0, there @ between)
    discounts = mdp.gamma ** np.arange(mdp.time_limit)
    return values, q_values, visits, visits * discounts[:, None]


def _check_distribution(name: str, rows: Array) -> None:
    if rows.size and (rows.min() < 0 or not np.allclose(rows.sum(axis=-1), 1.0, rtol=0, atol=1e-12)):
        wrong: Any = rows.reshape(-1, rows.shape[-1])
        bad = wrong[(wrong.min(axis=1) < 0) | (abs(wrong.sum(axis=1) - 1.0) > 1e-12)][0]
        raise ValueError(f"{name} holds the row {bad}; expected are probabilities that sum to 1")
