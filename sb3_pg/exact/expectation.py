r"""What an estimator of the advantage gives in expectation, exactly: also where it is biased.

With :math:`m(s, a) = E[\Psi_t | s_t = s, a_t = a]` the expected gradient is the sum over the visited states of
:math:`\sum_a \pi(a|s)\, m(s,a)\, \nabla \log \pi(a|s)`. For lambda-weighted sums of TD residuals

.. math:: m(s,a) = E[\delta_t | s, a] + \gamma\lambda \sum_{s'} P(s'|s,a) \sum_{a'} \pi(a'|s')\, m(s', a')

(Schulman et al. 2016, eq. 16, in expectation), with nothing after the end of an episode or of the batch; n-step
advantages are n turns of this recursion with lambda = 1. It holds for any V, right or wrong. This is written from the
definitions and shares no code with ``sb3_pg.advantage``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sb3_pg.exact.mdp import Array, FiniteMDP, Policy, score_sum


def expected_gradient(
    mdp: FiniteMDP,
    policy: Policy,
    estimator: str = "gae",
    *,
    gae_lambda: float = 1.0,
    values: Array | None = None,
    q_values: Array | None = None,
    truncation: str = "bootstrap",
    state_discount: bool = False,
    n_steps: int | None = None,
    n_batches: int = 1,
    baseline: str = "none",
    n_episodes: int | None = None,
) -> Array:
    r"""Expectation of :math:`\sum_t \Psi_t \nabla \log \pi(a_t|s_t)`.

    Of whole episodes it is the sum over one episode; of batches of ``n_steps``, the mean over the steps, and over the
    first ``n_batches`` consecutive batches of environments that begin with the first one.

    :param estimator: ``total_return`` (whole episodes only), ``reward_to_go``, ``td_residual``, ``n_step:N``, ``gae``,
        ``q``, ``q_minus_v``
    :param gae_lambda: for ``gae``
    :param values: V that is subtracted and bootstrapped with, shape ``(n_states,)``; zero when not given
    :param q_values: Q(s, a), shape ``(n_states, n_actions)``, for ``q`` and ``q_minus_v``
    :param truncation: at a time limit: ``bootstrap`` with V, ``terminal``, or ``discard`` the episode
    :param state_discount: weigh step t of an episode by gamma^t
    :param n_steps: steps in a batch that is cut; None for whole episodes
    :param n_batches: see above
    :param baseline: ``mean`` or ``time_mean`` to subtract the mean of :math:`\Psi` over all steps, or over those at the
        same time, in a batch of whole episodes. In a batch of infinitely many this matters only where episodes are
        discarded
    :param n_episodes: number of episodes in the batch, for ``time_mean``: a step is in its own mean, with a share of
        :math:`1/n_t`, where :math:`n_t` episodes last so long. With :math:`q_t` the probability that one does,
        :math:`E[1 - 1/n_t] = 1 - (1 - (1 - q_t)^N) / (N q_t)` of its weight is left. None for infinitely many
    :return: shape ``(n_parameters,)``
    :raises ValueError: for an unknown estimator or truncation, one that does not go with the batch, or a number that
        none of this can be
    """
    for name, count in (("n_steps", n_steps), ("n_batches", n_batches), ("n_episodes", n_episodes)):
        if not (count is None or count >= 1):
            raise ValueError(f"{name}={count!r} must be a whole number of at least 1")
    if not 0 <= gae_lambda <= 1:
        raise ValueError(f"gae_lambda={gae_lambda!r} must be a number in [0, 1]")
    look = _LookAhead(mdp, policy, estimator, gae_lambda, values, q_values, truncation)
    if n_steps is None:
        total_return = estimator == "total_return"
        return _whole_episodes(mdp, policy, look, total_return, state_discount, baseline, n_episodes)
    if estimator == "total_return" or baseline != "none":
        raise ValueError(
            f"estimator={estimator!r} with baseline={baseline!r} needs whole episodes: n_steps=None, not {n_steps}"
        )
    return _fixed_steps(mdp, policy, look, state_discount, n_steps, n_batches)


def expected_episodes(mdp: FiniteMDP, policy: Policy, n_steps: int) -> float:
    r"""Expected number of episodes that an environment begins in its first ``n_steps`` steps.

    A batch of whole episodes of at least ``n_steps`` holds these. Their number N is a stopping time, so by Wald's
    identity :math:`E[\sum_{i \leq N} X_i] = E[N]\,E[X]` for whatever is summed over an episode (Wald 1944).
    """
    there, begun = _Occupancy(mdp, policy), 0.0
    for _ in range(n_steps):
        begun += there.begun
        there.advance()
    return begun


class _LookAhead:
    """m(s, a) for every number of steps that are left in the batch.

    :ivar psi: m, shape ``(clocks, n_states, n_actions)``
    :ivar kept: probability that the episode of a step stays in the batch, same shape
    """

    def __init__(
        self,
        mdp: FiniteMDP,
        policy: Policy,
        estimator: str,
        gae_lambda: float,
        values: Array | None,
        q_values: Array | None,
        truncation: str,
    ) -> None:
        if truncation not in ("bootstrap", "terminal", "discard"):
            raise ValueError(f"truncation={truncation!r} is unknown; accepted are 'bootstrap', 'terminal', 'discard'")
        kind, _, count = str(estimator).partition(":")
        lambdas = {"gae": gae_lambda, "td_residual": 0.0, "reward_to_go": 1.0, "total_return": 1.0, "n_step": 1.0}
        self._critic = kind in ("q", "q_minus_v")
        is_counted = count.isdecimal() and int(count) >= 1 if kind == "n_step" else not count
        if not ((kind in lambdas or self._critic) and is_counted):
            raise ValueError(
                f"estimator={estimator!r} is unknown; accepted are {', '.join(lambdas)}:N (N >= 1), q, q_minus_v"
            )
        self._mdp, self._pi = mdp, policy.probabilities
        self.values = np.zeros(mdp.n_states) if values is None else np.where(mdp.terminal, 0.0, values)
        self._decay = mdp.gamma * lambdas.get(kind, 0.0)
        self._levels = int(count) if kind == "n_step" else 1
        self._endless = kind != "n_step"
        self._at_limit = mdp.time_limit is not None
        part_of_task = mdp.limit_is_terminal
        self._bootstraps, self._drops = truncation == "bootstrap" and not part_of_task, truncation == "discard"
        self._drops = self._drops and not part_of_task
        if self._critic:
            if q_values is None:
                raise ValueError(f"q_values=None; estimator={estimator!r} needs Q(s, a) of every state and action")
            self._q = q_values - (self.values[:, None] if kind == "q_minus_v" else 0.0)
        shape = (mdp.clocks, mdp.n_states, mdp.n_actions)
        self._ahead = [np.zeros(shape) for _ in range(self._levels)]
        self.kept = np.ones(shape)

    @property
    def psi(self) -> Array:
        return self._ahead[-1]

    def advance(self) -> None:
        """One more step is left in the batch."""
        mdp = self._mdp
        kept = self._following(self._mean(self.kept), 1.0, 0.0 if self._drops else 1.0)
        next_values = self._following(np.tile(self.values, (mdp.clocks, 1)), 0.0, self.values * self._bootstraps)
        residuals = self._expect(mdp.transitions * mdp.rewards, kept)
        residuals += mdp.gamma * self._expect(mdp.transitions, next_values * kept)
        self.kept = self._expect(mdp.transitions, kept)
        residuals -= self.values[:, None] * self.kept
        if self._critic:
            self._ahead = [self._q * self.kept]
            return
        before = self._ahead if self._endless else [np.zeros_like(residuals), *self._ahead[:-1]]
        self._ahead = [
            residuals + self._decay * self._expect(mdp.transitions, self._following(self._mean(each), 0.0, 0.0))
            for each in before
        ]

    def settle(self) -> None:
        """As many steps are left as the longest episode has."""
        if self._mdp.time_limit is not None:
            for _ in range(self._mdp.time_limit):
                self.advance()
            return
        while True:
            before = self.psi
            self.advance()
            if not np.isfinite(self.psi).all():
                raise ValueError("the expectation does not converge: values must be finite, and gae_lambda in [0, 1]")
            if np.allclose(before, self.psi, rtol=0, atol=1e-14 * (1.0 + np.abs(self.psi).max())):
                return

    def _mean(self, of_actions: Array) -> Array:
        mean: Array = (self._pi * of_actions).sum(axis=-1)
        return mean

    def _expect(self, weights: Array, after: Array) -> Array:
        """Sum over s' of weights(s, a, s') after(k, s'), shape ``(clocks, n_states, n_actions)``."""
        expected: Array = np.moveaxis(weights @ after.T, -1, 0)
        return expected

    def _following(self, there: Array, at_end: float, at_limit: Array | float) -> Array:
        """What a step leads to, by clock and next state: ``there`` one step later, or what stands at the ends."""
        after = there.copy()
        if self._at_limit:
            after[:-1] = there[1:]
            after[-1] = at_limit
        after[:, self._mdp.terminal] = at_end
        return after


class _Occupancy:
    """Where an environment is after so many steps: probability of each clock and state.

    :ivar there: shape ``(clocks, n_states)``
    :ivar discounted: the same, weighted by gamma to the steps since the episode began
    :ivar begun: probability that an episode begins at this step
    """

    def __init__(self, mdp: FiniteMDP, policy: Policy) -> None:
        self._mdp = mdp
        self._between = np.einsum("sa,sat->st", policy.probabilities, mdp.transitions)
        self.there = np.zeros((mdp.clocks, mdp.n_states))
        self.there[0] = mdp.start
        self.discounted = self.there.copy()
        self.begun = 1.0

    def advance(self) -> None:
        """Go one step further in the episode."""
        moved = self.there @ self._between
        ended = moved[:, self._mdp.terminal].sum()
        later = self.discounted @ self._between * self._mdp.gamma
        moved[:, self._mdp.terminal] = later[:, self._mdp.terminal] = 0.0
        if self._mdp.time_limit is not None:
            ended += moved[-1].sum()
            moved, later = (np.concatenate([np.zeros_like(x[:1]), x[:-1]]) for x in (moved, later))
        moved[0] += ended * self._mdp.start
        later[0] += ended * self._mdp.start
        self.there, self.discounted, self.begun = moved, later, float(ended)


def _fixed_steps(
    mdp: FiniteMDP, policy: Policy, look: _LookAhead, state_discount: bool, n_steps: int, n_batches: int
) -> Array:
    ahead = []
    for _ in range(n_steps):
        look.advance()
        ahead.append(look.psi)
    occupancy, total = _Occupancy(mdp, policy), np.zeros(policy.n_parameters)
    for _ in range(n_batches):
        for psi in reversed(ahead):
            total += score_sum(policy, occupancy.discounted if state_discount else occupancy.there, psi)
            occupancy.advance()
    return total / (n_steps * n_batches)


def _whole_episodes(
    mdp: FiniteMDP,
    policy: Policy,
    look: _LookAhead,
    total_return: bool,
    state_discount: bool,
    baseline: str,
    n_episodes: int | None,
) -> Array:
    look.settle()

    def weight(step: int, clock: int, there: Array) -> float:
        """Of a step's Psi: its discount, less its own part in a mean over the episodes."""
        discount = mdp.gamma**step if state_discount else 1.0
        if baseline != "time_mean" or n_episodes is None:
            return discount
        lasting = float((there[:, None] * policy.probabilities * look.kept[clock]).sum())
        return discount * _rest_of_own_weight(n_episodes, lasting)

    visits, discounted, past = _sums_over_an_episode(mdp, policy, weight)
    subtracted: Array | float = 0.0
    if baseline != "none":
        plain = _sums_over_an_episode(mdp, policy, lambda *_: 1.0)
        subtracted = _mean_psi(policy, look, _weighted_psi(look, total_return, *plain), plain[0], baseline)
    psi = _weighted_psi(look, total_return, visits, discounted, past)
    return score_sum(policy, np.ones_like(visits), psi - subtracted * visits[..., None] * look.kept)


def _rest_of_own_weight(n_episodes: int, probability: float) -> float:
    """E[1 - 1/n], for n = 1 + the number of others, each there with this probability."""
    if probability <= 0.0:
        return 0.0
    with np.errstate(divide="ignore"):
        none_there = np.expm1(n_episodes * np.log1p(-min(probability, 1.0)))
    return 1.0 + float(none_there) / (n_episodes * probability)


def _weighted_psi(look: _LookAhead, total_return: bool, visits: Array, discounted: Array, past: Array) -> Array:
    """Sum over t of E[Psi_t; s_t = s | a_t = a], by clock, state and action."""
    if not total_return:
        return visits[..., None] * look.psi
    # R - V(s_t) = rewards before t + gamma^t G_t - V(s_t), and psi is E[G_t - V(s_t)] of the episodes that are kept
    values = look.values[:, None] * look.kept
    return past[..., None] * look.kept + discounted[..., None] * (look.psi + values) - visits[..., None] * values


def _mean_psi(policy: Policy, look: _LookAhead, weighted_psi: Array, visits: Array, baseline: str) -> Array:
    """The baseline, shape ``(clocks, 1, 1)``."""
    if baseline not in ("mean", "time_mean"):
        raise ValueError(f"baseline={baseline!r} is unknown; accepted are 'none', 'mean', 'time_mean'")
    axes = (1, 2) if baseline == "time_mean" else (0, 1, 2)
    sums = (policy.probabilities * weighted_psi).sum(axis=axes, keepdims=True)
    counts = (policy.probabilities * visits[..., None] * look.kept).sum(axis=axes, keepdims=True)
    mean: Array = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    return mean


def _sums_over_an_episode(
    mdp: FiniteMDP, policy: Policy, weight_of: Callable[[int, int, Array], float]
) -> tuple[Array, Array, Array]:
    """Sums over t of p_t(s), of gamma^t p_t(s), and of E[rewards before t; s_t = s], by clock and state.

    :param weight_of: weight of each t in all of them, from t, the clock, and p_t
    """
    flow = policy.probabilities[:, :, None] * mdp.transitions
    between, paid = flow.sum(axis=1), (flow * mdp.rewards).sum(axis=1)
    visits, discounted, past = (np.zeros((mdp.clocks, mdp.n_states)) for _ in range(3))
    there, before, step = mdp.start, np.zeros(mdp.n_states), 0
    while step != mdp.time_limit and there.sum() > 1e-17:
        clock = min(step, mdp.clocks - 1)
        weight = weight_of(step, clock, there)
        visits[clock] += weight * there
        discounted[clock] += weight * mdp.gamma**step * there
        past[clock] += weight * before
        before = np.where(mdp.terminal, 0.0, before @ between + mdp.gamma**step * (there @ paid))
        there = np.where(mdp.terminal, 0.0, there @ between)
        step += 1
    return visits, discounted, past
