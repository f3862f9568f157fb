r"""What stands for :math:`\Psi_t` in the policy gradient, one function each.

.. math:: \nabla J(\theta) = E\Big[\sum_t \Psi_t\, \nabla_\theta \log \pi_\theta(a_t | s_t)\Big]

(Schulman et al. 2016, eq. 1, arXiv:1506.02438, lists the choices of :math:`\Psi_t`.)

Every estimator takes :class:`Trajectories` and returns an array of shape ``(n_steps, n_envs)``. They subtract
``values``; without a critic ``values`` and ``next_values`` are zero, and what is left is the plain return.
A new estimator is one function and one line in :data:`ESTIMATORS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

# Up to this many environments, a loop over Python floats beats one NumPy call per time step (measured: 2048 x 1
# takes 0.2 ms instead of 4.8 ms); short rollouts gain nothing from it and keep float32 rounding step by step.
_COLUMNS_IN_PYTHON = 8
_ROWS_IN_PYTHON = 32


@dataclass
class Trajectories:
    """Raw experience of ``n_envs`` environments over ``n_steps`` steps, every array of shape ``(n_steps, n_envs)``.

    :param rewards: reward after step t, as the environment (or its reward wrapper) gave it; no bootstrap value inside
    :param dones: True where the episode ended after step t, by termination or by truncation
    :param values: V(s_t) of the critic; zero without a critic
    :param next_values: the value that stands for everything after step t: V(s_{t+1}) inside an episode and at the
        rollout's cut end, V(terminal observation) where a time limit is bootstrapped, zero at a terminal state
    :param times: number of steps since the episode began (0 for its first step); counted from ``dones``, as if
        every environment began an episode at the first row, when not given
    :param valid: False for steps that are not part of the batch (after an environment's last whole episode, or
        discarded); all True when not given
    :param q_values: Q(s_t, a_t) of a Q critic, for the estimators that use one
    :raises ValueError: when an array has another shape than ``rewards``, or there is no step at all
    """

    rewards: Array
    dones: NDArray[np.bool_]
    values: Array = None  # type: ignore[assignment]
    next_values: Array = None  # type: ignore[assignment]
    times: NDArray[np.integer[Any]] = None  # type: ignore[assignment]
    valid: NDArray[np.bool_] = None  # type: ignore[assignment]
    q_values: Array | None = None

    def __post_init__(self) -> None:
        """Fill in what was left out and check that all shapes agree."""
        shape = self.rewards.shape
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"rewards has shape {shape}; expected (n_steps, n_envs) with at least one step and environment"
            )
        if self.rewards.dtype.kind in "biu":  # sums of them are discounted
            self.rewards = self.rewards.astype(np.float32)
        self.values = np.zeros_like(self.rewards) if self.values is None else self.values
        self.next_values = np.zeros_like(self.rewards) if self.next_values is None else self.next_values
        for name in ("dones", "values", "next_values", "times", "valid", "q_values"):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; expected the shape of rewards, {shape}")
        self.valid = np.ones(shape, dtype=bool) if self.valid is None else self.valid
        self.times = times_in_episode(self.dones) if self.times is None else self.times


class Estimator(Protocol):
    """The signature of every estimator, ours or a user's."""

    def __call__(self, trajectories: Trajectories, *, gamma: float, gae_lambda: float | Array) -> Array:
        """Return Psi_t, shape ``(n_steps, n_envs)``; ``gae_lambda`` is an array of that shape where it varies."""
        ...


def times_in_episode(
    dones: NDArray[np.bool_], first_times: NDArray[np.integer[Any]] | None = None
) -> NDArray[np.int64]:
    """Steps since the episode began, for every step.

    :param dones: True where the episode ended after step t, shape ``(n_steps, n_envs)``
    :param first_times: the count at the first row, shape ``(n_envs,)``; zero when not given
    :return: shape ``(n_steps, n_envs)``
    """
    n_steps, n_envs = dones.shape
    rows = np.arange(n_steps)[:, None]
    begins = np.zeros((n_steps, n_envs), dtype=bool)
    begins[1:] = dones[:-1]
    start = np.where(begins, rows, -np.inf)
    start[0] = 0 if first_times is None else -first_times
    return (rows - np.maximum.accumulate(start, axis=0)).astype(np.int64)


def segments(
    dones: NDArray[np.bool_], valid: NDArray[np.bool_], longest: int | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """
    Number what a rollout holds of each episode, one environment after the other.

    :param dones: True where the episode ended after the step, shape ``(n_steps, n_envs)``
    :param valid: False for steps that are in no segment, same shape
    :param longest: cut segments to this many steps
    :return: whether a step is the first of its segment, and the segment's number, which means nothing where not valid;
        same shape
    """
    begins = np.ones(dones.shape, dtype=bool)
    begins[1:] = dones[:-1] | ~valid[:-1]
    if longest is not None:
        begins[::longest] = True
    begins &= valid
    numbers: NDArray[np.int64] = np.cumsum(begins.T).reshape(begins.T.shape).T - 1
    return begins, numbers


def discounted_sums(terms: Array, discount: float | Array, dones: NDArray[np.bool_]) -> Array:
    r"""Discounted sums to the end of the episode; the one backward recursion of this library.

    .. math:: y_t = x_t + c_t\,(1 - d_t)\, y_{t+1}, \qquad y_T = 0

    :param terms: x, shape ``(n_steps, n_envs)``
    :param discount: c, one number; or an array of one for each step, and of several choices at once: whatever
        broadcasts to ``(..., n_steps, n_envs)``
    :param dones: d, True where the episode ended after step t: nothing passes from a later episode to an earlier one
    :return: y, shape ``(n_steps, n_envs)``, or ``(..., n_steps, n_envs)`` for an array of discounts; dtype of ``terms``
    """
    if np.ndim(discount):
        return _sums_by_doubling(terms, np.asarray(discount, dtype=terms.dtype), dones)
    n_steps, n_envs = terms.shape
    sums = np.empty_like(terms)
    if n_envs <= _COLUMNS_IN_PYTHON and n_steps >= _ROWS_IN_PYTHON:
        for column in range(n_envs):
            total, backwards = 0.0, []
            for term, done in zip(terms[::-1, column].tolist(), dones[::-1, column].tolist(), strict=True):
                total = term if done else term + discount * total
                backwards.append(total)
            sums[::-1, column] = backwards
        return sums
    continues = (~dones).astype(terms.dtype)
    row = np.zeros_like(terms[0])
    for step in range(n_steps - 1, -1, -1):
        row = terms[step] + discount * continues[step] * row
        sums[step] = row
    return sums


def _sums_by_doubling(terms: Array, discounts: Array, dones: NDArray[np.bool_]) -> Array:
    r"""The recursion for many discounts, in as many passes over all steps as the longest episode has binary digits.

    After pass k, y holds the sum of the next :math:`2^k` terms, and c the product of as many discounts:

    .. math:: y_t \leftarrow y_t + c_t\, y_{t + 2^k}, \qquad c_t \leftarrow c_t\, c_{t + 2^k}

    (Hillis and Steele 1986, "Data parallel algorithms".) Ten lambdas over 2048 steps take a twentieth of the time of
    ten loops.
    """
    through: Array = discounts * (~dones).astype(terms.dtype)
    through[..., -1, :] = 0
    sums: Array = np.empty(through.shape, dtype=terms.dtype)
    sums[...] = terms
    ahead = 1
    while ahead < len(terms) and through.any():
        sums[..., :-ahead, :] += through[..., :-ahead, :] * sums[..., ahead:, :]
        through[..., :-ahead, :] *= through[..., ahead:, :]
        through[..., -ahead:, :] = 0
        ahead *= 2
    return sums


def td_residual(trajectories: Trajectories, *, gamma: float, **_: Any) -> Array:
    r"""One-step temporal difference.

    .. math:: \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t)

    Unbiased for the advantage only with the true V. Source: Schulman et al. 2016, eq. 10, arXiv:1506.02438.
    """
    return trajectories.rewards + gamma * trajectories.next_values - trajectories.values


def gae(trajectories: Trajectories, *, gamma: float, gae_lambda: float | Array) -> Array:
    r"""Generalized advantage estimation.

    .. math:: A_t = \delta_t + \gamma\lambda_t\,(1 - d_t)\, A_{t+1}

    ``gae_lambda=0`` is the TD residual (least variance, biased unless V is right), ``gae_lambda=1`` the reward-to-go
    minus V (no bias from V, most variance). Source: Schulman et al. 2016, eq. 16 to 18, arXiv:1506.02438.

    :param gae_lambda: a number; one for each step, shape ``(n_steps, n_envs)``; or several choices at once, shape
        ``(..., 1, 1)``, for a result of shape ``(..., n_steps, n_envs)``. A lambda that is a function of the state, as
        in Sutton and Barto 2018, eq. 12.18, is that of the state after the step: ``gae_lambda[t]`` is
        :math:`\lambda(s_{t+1})`
    """
    return discounted_sums(td_residual(trajectories, gamma=gamma), gamma * gae_lambda, trajectories.dones)


def n_step(trajectories: Trajectories, *, gamma: float, n: int, **_: Any) -> Array:
    r"""Advantage from n rewards and the value of the state after them.

    .. math:: A_t^{(n)} = \sum_{i=0}^{n-1} \gamma^i \delta_{t+i}
              = \sum_{i=0}^{n-1} \gamma^i r_{t+i} + \gamma^n V(s_{t+n}) - V(s_t)

    The sum stops earlier where the episode or the rollout ends. Source: Schulman et al. 2016, eq. 14,
    arXiv:1506.02438; Sutton and Barto 2018, eq. 7.1.

    :param n: number of rewards, at least 1
    """
    residuals = td_residual(trajectories, gamma=gamma)
    continues = ~trajectories.dones[:-1]
    advantages = residuals.copy()
    for _step in range(min(n, len(residuals)) - 1):
        longer = residuals.copy()
        longer[:-1] += np.where(continues, gamma * advantages[1:], 0)
        advantages = longer
    return advantages


def reward_to_go(trajectories: Trajectories, *, gamma: float, **_: Any) -> Array:
    r"""Discounted return from step t on, minus V(s_t).

    .. math:: G_t = r_t + \gamma\,(d_t\, V(s_{t+1}) + (1 - d_t)\, G_{t+1})

    V stands in where the episode is cut by a time limit or by the rollout's end. An action is not credited with what
    happened before it (Sutton and Barto 2018, sec. 13.3; Williams 1992, REINFORCE).
    """
    return _returns(trajectories, gamma) - trajectories.values


def total_return(trajectories: Trajectories, *, gamma: float, **_: Any) -> Array:
    r"""Discounted return of the whole episode, the same for each of its steps, minus V(s_t).

    .. math:: R(\tau) = \sum_{t'=0}^{T-1} \gamma^{t'} r_{t'}

    The first form of the policy gradient, of highest variance: it still holds the rewards before the action. Needs
    whole episodes. Source: Schulman et al. 2016, eq. 1, choice 1, arXiv:1506.02438.
    """
    returns = _returns(trajectories, gamma)
    rows = np.arange(len(returns))[:, None]
    first_rows = np.maximum(rows - trajectories.times, 0)
    return np.take_along_axis(returns, first_rows, axis=0) - trajectories.values


def q_value(trajectories: Trajectories, **_: Any) -> Array:
    r"""Value of the action by a Q critic: the Q actor-critic.

    .. math:: \Psi_t = Q(s_t, a_t)

    :raises ValueError: without ``q_values``

    Source: Sutton et al. 2000, theorem 1 (policy gradient theorem); Schulman et al. 2016, eq. 1, choice 4.
    """
    if trajectories.q_values is None:
        raise ValueError("q_values is None; estimators 'q' and 'q_minus_v' need the values of a Q critic")
    return trajectories.q_values


def q_minus_v(trajectories: Trajectories, **_: Any) -> Array:
    r"""Advantage from two critics.

    .. math:: A_t = Q(s_t, a_t) - V(s_t)

    Source: Schulman et al. 2016, eq. 1, choice 5, arXiv:1506.02438.
    """
    return q_value(trajectories) - trajectories.values


def lambda_returns(trajectories: Trajectories, *, gamma: float, gae_lambda: float | Array) -> Array:
    r"""TD(lambda) targets for the critic.

    .. math:: G_t^\lambda = A_t^{GAE(\gamma, \lambda)} + V(s_t)

    ``gae_lambda=1`` is the Monte-Carlo return, ``gae_lambda=0`` the TD(0) target.
    Source: Sutton and Barto 2018, eq. 12.2 (forward view) and its telescoping into TD errors.
    """
    return gae(trajectories, gamma=gamma, gae_lambda=gae_lambda) + trajectories.values


def standardize(advantages: Array, valid: NDArray[np.bool_], *, scale: bool) -> Array:
    """Subtract the mean over the valid steps, and divide by their standard deviation if ``scale``.

    The deviation is the one of a sample (n - 1), as torch computes it for SB3's algorithms; one lone step, or steps
    that are all equal, are only centred.

    :param advantages: shape ``(n_steps, n_envs)``; or several choices, shape ``(..., n_steps, n_envs)``, each by itself
    :param valid: which steps count, shape ``(n_steps, n_envs)``
    :param scale: False to centre only, which leaves the length of the gradient to the rewards
    :return: shape of the advantages
    """
    used = np.ascontiguousarray(advantages[..., valid])  # the same rounding, whatever their number
    lowest = used.min(axis=-1)
    are_equal = lowest == used.max(axis=-1)
    middle = np.where(are_equal, lowest, used.mean(axis=-1))  # the mean of equals would differ by rounding
    centred: Array = advantages - middle[..., None, None]
    if not scale:
        return centred
    deviation = used.std(axis=-1, ddof=min(1, used.shape[-1] - 1)) + 1e-8
    standardized: Array = centred / np.where(are_equal, 1, deviation)[..., None, None]
    return standardized


def _returns(trajectories: Trajectories, gamma: float) -> Array:
    cut = trajectories.dones.copy()
    cut[-1] = True
    return discounted_sums(
        trajectories.rewards + np.where(cut, gamma * trajectories.next_values, 0), gamma, trajectories.dones
    )


class EstimatorEntry(NamedTuple):
    """What the rest of the library has to know of an estimator."""

    function: Estimator
    """The estimator itself."""
    needs_critic: bool = False
    """It means nothing without values."""
    needs_whole_episodes: bool = False
    """It means nothing for an episode whose beginning is not in the rollout."""
    needs_q: bool = False
    """It uses a Q critic, for discrete actions."""
    gae_lambda: float | None = None
    """The lambda for which GAE gives the same, if there is one: a search over lambda finds it there."""
    uses_lambda: bool = True
    """What it gives depends on ``gae_lambda``, so that a rule has something to choose."""

    def input_of(self, trajectories: Trajectories) -> Trajectories:
        """What the estimator is given: a copy for a user's, which may write into its arrays and not into the batch's.

        :param trajectories: of the batch
        """
        function = self.function.func if isinstance(self.function, partial) else self.function
        if getattr(function, "__module__", None) == __name__:
            return trajectories
        arrays = {name: array.copy() for name, array in vars(trajectories).items() if isinstance(array, np.ndarray)}
        return replace(trajectories, **arrays)


ESTIMATORS: dict[str, EstimatorEntry] = {
    "total_return": EstimatorEntry(total_return, needs_whole_episodes=True, uses_lambda=False),
    "reward_to_go": EstimatorEntry(reward_to_go, gae_lambda=1.0, uses_lambda=False),
    "td_residual": EstimatorEntry(td_residual, needs_critic=True, gae_lambda=0.0, uses_lambda=False),
    "gae": EstimatorEntry(gae),
    "q": EstimatorEntry(q_value, needs_critic=True, needs_q=True, uses_lambda=False),
    "q_minus_v": EstimatorEntry(q_minus_v, needs_critic=True, needs_q=True, uses_lambda=False),
}


def get_estimator(name: str | Estimator) -> EstimatorEntry:
    """Look an estimator up by its name.

    :param name: a key of :data:`ESTIMATORS`, ``"n_step:N"`` with N at least 1, or any callable with the signature of
        :class:`Estimator`
    :raises ValueError: when the name is unknown
    """
    if callable(name):
        return EstimatorEntry(name)
    if isinstance(name, str) and name in ESTIMATORS:
        entry = ESTIMATORS[name]
        if not isinstance(entry, EstimatorEntry):
            raise ValueError(
                f"ESTIMATORS[{name!r}]={entry!r} must be an EstimatorEntry, as EstimatorEntry(function) is"
            )
        return entry
    kind, _, count = str(name).partition(":")
    if kind == "n_step" and count.isdecimal() and int(count) >= 1:
        return EstimatorEntry(partial(n_step, n=int(count)), needs_critic=True, uses_lambda=False)
    accepted = ", ".join([*ESTIMATORS, "n_step:N (N >= 1)"])
    raise ValueError(f"estimator={name!r} is unknown; accepted are {accepted}, or a callable")
