"""The named problems: small, each with one thing to show, and what is known of them in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sb3_pg.exact.mdp import Array, FiniteMDP, Policy, one_parameter_policy


def two_state() -> FiniteMDP:
    r"""The problem of CS285's homework 2: stay for a reward of 1, or leave.

    In state 0 the first action pays 1 and stays there, the second pays nothing and ends the episode (state 1). There is
    no discount. With :math:`\pi(\text{stay}) = \theta` (:func:`two_state_policy`) an episode stays k times with
    probability :math:`\theta^k (1 - \theta)`, and its return is k:

    .. math:: J = \theta\,(1 + J) = \frac{\theta}{1 - \theta}, \qquad \frac{dJ}{d\theta} = \frac{1}{(1 - \theta)^2}

    REINFORCE with the total return gives
    :math:`X = k\,\big(\frac{k}{\theta} - \frac{1}{1 - \theta}\big)` for an episode. With
    :math:`E[k] = \frac{\theta}{1-\theta}` and :math:`E[k^2] = \frac{\theta(1+\theta)}{(1-\theta)^2}` its mean is
    :math:`\frac{1+\theta}{(1-\theta)^2} - \frac{\theta}{(1-\theta)^2} = \frac{1}{(1-\theta)^2}`, as it has to be.
    :func:`two_state_variance` has its variance.

    Source: Berkeley CS285 (Deep Reinforcement Learning), homework 2, analysis, problem 1.
    """
    transitions = np.zeros((2, 2, 2))
    transitions[0, 0, 0] = transitions[0, 1, 1] = 1.0
    rewards = np.zeros((2, 2, 2))
    rewards[0, 0, 0] = 1.0
    return FiniteMDP(transitions, rewards, np.array([1.0, 0.0]), np.array([False, True]), gamma=1.0, name="two_state")


def two_state_policy(theta: float) -> Policy:
    """Stay with probability theta, in (0, 1): the one parameter of :func:`two_state`."""
    return one_parameter_policy([[theta, 1.0 - theta]] * 2, [[1.0, -1.0]] * 2)


def two_state_variance(theta: float) -> float:
    r"""Variance of one episode's REINFORCE gradient (total return, no baseline) in :func:`two_state`.

    With the factorial moments of the geometric distribution,
    :math:`E[k(k-1)\cdots(k-m+1)] = m!\,(\theta/(1-\theta))^m`, which give the raw moments :math:`E[k^m]`,

    .. math:: Var[X] = \frac{E[k^4]}{\theta^2} - \frac{2 E[k^3]}{\theta(1-\theta)} + \frac{E[k^2]}{(1-\theta)^2}
              - \frac{1}{(1-\theta)^4}
    """
    odds = theta / (1.0 - theta)
    factorial = [1.0, odds, 2 * odds**2, 6 * odds**3, 24 * odds**4]
    second = factorial[2] + factorial[1]
    third = factorial[3] + 3 * factorial[2] + factorial[1]
    fourth = factorial[4] + 6 * factorial[3] + 7 * factorial[2] + factorial[1]
    square = fourth / theta**2 - 2 * third / (theta * (1 - theta)) + second / (1 - theta) ** 2
    return square - 1.0 / (1.0 - theta) ** 4


def random_chain(
    n_states: int = 6, n_actions: int = 3, seed: int = 0, gamma: float = 0.9, time_limit: int | None = None
) -> FiniteMDP:
    """Random transitions, rewards and ends of episodes, the same for the same seed.

    Every state but the last, which is terminal, leads to every state. Each action ends the episode with a probability
    of its own between 0.05 and 0.5, so lengths depend on the actions. Rewards depend on state, action and next state.
    (In the literature such problems are called garnets: Archibald et al. 1995.)

    :param n_states: with the terminal one, at least 2
    :param n_actions: at least 1
    :param seed: of everything that is random
    :param gamma: discount factor
    :param time_limit: see :class:`FiniteMDP`; a truncation
    """
    rng = np.random.default_rng(seed)
    ends = rng.uniform(0.05, 0.5, (n_states, n_actions, 1))
    onwards = rng.dirichlet(np.ones(n_states - 1), (n_states, n_actions)) * (1.0 - ends)
    effects = rng.normal(0.0, 2.0, (n_states, n_actions, 1))
    rewards = effects + rng.normal(0.0, 0.5, (n_states, n_actions, n_states))
    start = np.append(rng.dirichlet(np.ones(n_states - 1)), 0.0)
    terminal = np.arange(n_states) == n_states - 1
    transitions = np.concatenate([onwards, ends], axis=2)
    return FiniteMDP(transitions, rewards, start, terminal, gamma, time_limit, name=f"random_chain(seed={seed})")


def nota_thomas(gamma: float = 0.5) -> FiniteMDP:
    r"""Two decisions in a row, for which the policy gradient without :math:`\gamma^t` is no gradient.

    In state 0 the first action leads to state 1 and the second ends the episode, both without a reward. In state 1 the
    first action pays 1; the episode ends. With :math:`\pi(0|s) = \sigma(\theta_s)`
    (``logistic_policy(theta, [0, 1, 0])``)

    .. math:: J = \gamma\,\sigma(\theta_0)\,\sigma(\theta_1), \qquad
              \nabla J = \gamma\,(\sigma'(\theta_0)\sigma(\theta_1),\ \sigma(\theta_0)\sigma'(\theta_1))

    Without :math:`\gamma^t` the weight of state 1 is :math:`\sigma(\theta_0)` instead of
    :math:`\gamma\,\sigma(\theta_0)`:

    .. math:: g = (\gamma\,\sigma'(\theta_0)\sigma(\theta_1),\ \sigma(\theta_0)\sigma'(\theta_1)), \qquad
              \frac{\partial g_0}{\partial \theta_1} = \gamma\,\sigma'(\theta_0)\sigma'(\theta_1) \neq
              \sigma'(\theta_0)\sigma'(\theta_1) = \frac{\partial g_1}{\partial \theta_0}

    The derivatives of a gradient are symmetric (Schwarz), so for :math:`\gamma < 1` no function has the gradient g.

    Source: the argument of Nota and Thomas 2020, "Is the policy gradient a gradient?", arXiv:1906.07073, on the
    smallest problem that carries it.
    """
    transitions = np.zeros((3, 2, 3))
    transitions[0, 0, 1] = transitions[0, 1, 2] = 1.0
    transitions[1, :, 2] = 1.0
    rewards = np.zeros((3, 2, 3))
    rewards[1, 0, 2] = 1.0
    return FiniteMDP(transitions, rewards, np.eye(3)[0], np.arange(3) == 2, gamma, name="nota_thomas")


def pessimal() -> FiniteMDP:
    r"""States that look the same, where following the gradient without :math:`\gamma^t` finds the worst policy.

    :math:`\gamma = 0.5`. State 0: the first action pays 1; both lead to state 1. State 1: the second action pays 1.5
    and ends the episode, the first pays 1 after two more steps. All states share one parameter,
    ``logistic_policy([theta], [0] * 5)``: with p the probability of the first action and p' its derivative,

    .. math:: J_1 &= p + p \cdot 1 + (1 - p) \cdot 1.5 = 1.5 + 0.5 p \\
              J_\gamma &= p + \gamma\,(\gamma^2 p + 1.5 (1 - p)) = 0.75 + 0.375 p \\
              g &= p'\,\big(1 + (\gamma^2 - 1.5)\big) = -0.25 p'

    Discounted or not, more of the first action is better, and the update without :math:`\gamma^t` makes it rarer until
    it is gone: it counts the second decision fully while its value is discounted.

    Source: in the manner of Nota and Thomas 2020, sec. 5 (fixed points that are globally pessimal), arXiv:1906.07073.
    """
    transitions = np.zeros((5, 2, 5))
    transitions[0, :, 1] = 1.0
    transitions[1, 0, 2] = transitions[1, 1, 4] = 1.0
    transitions[2, :, 3] = transitions[3, :, 4] = 1.0
    rewards = np.zeros((5, 2, 5))
    rewards[0, 0, 1] = 1.0
    rewards[1, 1, 4] = 1.5
    rewards[3, :, 4] = 1.0
    return FiniteMDP(transitions, rewards, np.eye(5)[0], np.arange(5) == 4, gamma=0.5, name="pessimal")


def delayed_reward() -> FiniteMDP:
    r"""One decision, and its reward a step later: with V = 0 the gradient of GAE is :math:`\lambda` times the true one.

    In state 0 the first action leads to state 1, the second to state 2; from there the episode ends, with a reward of 1
    from state 1. There is no discount. With one parameter for the first decision (:func:`delayed_reward_policy`) and
    V = 0 the advantages are :math:`\lambda r_1` and :math:`r_1`, so every sample of the gradient, and its mean, is
    proportional to lambda: bias and variance trade off in closed form.
    """
    transitions = np.zeros((4, 2, 4))
    transitions[0, 0, 1] = transitions[0, 1, 2] = 1.0
    transitions[1:3, :, 3] = 1.0
    rewards = np.zeros((4, 2, 4))
    rewards[1, :, 3] = 1.0
    return FiniteMDP(transitions, rewards, np.eye(4)[0], np.arange(4) == 3, gamma=1.0, name="delayed_reward")


def delayed_reward_policy(theta: float) -> Policy:
    """The first action with probability theta in state 0, and with 1/2, whatever theta is, after it."""
    probabilities = np.full((4, 2), 0.5)
    probabilities[0] = theta, 1.0 - theta
    derivatives: Array = np.zeros((4, 2))
    derivatives[0] = 1.0, -1.0
    return one_parameter_policy(probabilities, derivatives)


def short_or_long(length: int = 12) -> FiniteMDP:
    r"""The first action ends the episode at once, the second after ``length`` steps: for whole-episode batches.

    In state 0 the first action pays 1 and ends the episode; the second walks through states 1 to ``length - 1`` and
    pays -1 at the end; the actions on the way pay 0.1 (first) or nothing. There is no discount. A batch of whatever
    episodes end first has too many short ones in it.

    :param length: steps of a long episode, at least 2
    :raises ValueError: for a length that is not
    """
    if length < 2:
        raise ValueError(f"length={length!r} must be a whole number of at least 2")
    n_states = length + 1
    transitions = np.zeros((n_states, 2, n_states))
    rewards = np.zeros((n_states, 2, n_states))
    transitions[0, 0, length] = transitions[0, 1, 1] = 1.0
    rewards[0, 0, length] = 1.0
    for state in range(1, length):
        transitions[state, :, state + 1] = 1.0
        rewards[state, 0, state + 1] = 0.1
    rewards[length - 1, :, length] -= 1.0
    terminal = np.arange(n_states) == length
    return FiniteMDP(transitions, rewards, np.eye(n_states)[0], terminal, gamma=1.0, name="short_or_long")


PROBLEMS: dict[str, Callable[..., FiniteMDP]] = {
    "two_state": two_state,
    "random_chain": random_chain,
    "nota_thomas": nota_thomas,
    "pessimal": pessimal,
    "delayed_reward": delayed_reward,
    "short_or_long": short_or_long,
}
