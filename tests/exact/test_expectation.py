"""The exact expectation of every estimator against a slow sum over all episodes, and against what theory says."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from sb3_pg.exact.expectation import expected_episodes, expected_gradient
from sb3_pg.exact.mdp import FiniteMDP, Policy, softmax_policy, solve
from sb3_pg.exact.problems import random_chain, short_or_long, two_state, two_state_policy
from sb3_pg.exact.sampling import Rollout, all_episodes

GAMMA = 0.8
SMALL = random_chain(3, 2, seed=4, gamma=GAMMA, time_limit=3)
POLICY = softmax_policy(np.random.default_rng(3).normal(size=(3, 2)))
VALUES = np.array([1.0, -0.5, 7.0])  # the last state is terminal: nobody may look at its value
Q_VALUES = np.array([[1.0, 2.0], [-0.5, 0.3], [9.0, 9.0]])
ESTIMATORS = [
    "total_return", "reward_to_go", "td_residual", "n_step:1", "n_step:2", "n_step:9", "gae", "q", "q_minus_v",
]  # fmt: skip


def slow_psi(episode: list[tuple[int, int, float, int, bool]], t: int, estimator: str, bootstraps: bool) -> float:
    """Psi_t by its definition, term by term; an episode is (state, action, reward, next state, terminated)."""

    def value_after(step: int) -> float:
        last = step == len(episode) - 1
        terminated = episode[step][4]
        return 0.0 if last and (terminated or not bootstraps) else float(VALUES[episode[step][3]])

    state, action = episode[t][:2]
    kind, _, n = estimator.partition(":")
    residuals = [r + GAMMA * value_after(k) - VALUES[s] for k, (s, _, r, _, _) in enumerate(episode)]
    rest = GAMMA ** len(episode) * value_after(len(episode) - 1)
    if kind == "total_return":
        return sum(GAMMA**k * step[2] for k, step in enumerate(episode)) + rest - VALUES[state]
    if kind == "reward_to_go":
        return sum(GAMMA ** (k - t) * episode[k][2] for k in range(t, len(episode))) + rest / GAMMA**t - VALUES[state]
    if kind in ("q", "q_minus_v"):
        return float(Q_VALUES[state, action]) - (VALUES[state] if kind == "q_minus_v" else 0.0)
    if kind == "td_residual":
        return residuals[t]
    decay, horizon = (GAMMA * 0.6, len(episode)) if kind == "gae" else (GAMMA, t + int(n))
    return sum(decay ** (k - t) * residuals[k] for k in range(t, min(horizon, len(episode))))


def slow_gradient(mdp: FiniteMDP, policy: Policy, estimator: str, truncation: str, state_discount: bool) -> Any:
    episodes, probabilities = all_episodes(mdp, policy)
    total = np.zeros(policy.n_parameters)
    for column, probability in enumerate(probabilities):
        steps = as_list(episodes, column)
        if truncation == "discard" and not steps[-1][4]:
            continue
        for t, (state, action, *_) in enumerate(steps):
            weight = slow_psi(steps, t, estimator, truncation == "bootstrap")
            weight *= GAMMA**t if state_discount else 1.0
            total += probability * weight * policy.scores[state, action]
    return total


def as_list(episodes: Rollout, column: int) -> list[tuple[int, int, float, int, bool]]:
    length = int(episodes.valid[:, column].sum())
    arrays = (episodes.states, episodes.actions, episodes.rewards, episodes.next_states, episodes.terminated)
    return [tuple(array[row, column].item() for array in arrays) for row in range(length)]  # type: ignore[misc]


@pytest.mark.parametrize("state_discount", [False, True])
@pytest.mark.parametrize("truncation", ["bootstrap", "terminal", "discard"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_expectation_is_the_sum_over_all_episodes(estimator: str, truncation: str, state_discount: bool) -> None:
    found = expected_gradient(
        SMALL, POLICY, estimator, gae_lambda=0.6, values=VALUES, q_values=Q_VALUES, truncation=truncation,
        state_discount=state_discount,
    )  # fmt: skip
    np.testing.assert_allclose(found, slow_gradient(SMALL, POLICY, estimator, truncation, state_discount), atol=1e-12)
    assert np.abs(found).max() > 0.01


@pytest.mark.parametrize("estimator", ["total_return", "reward_to_go", "gae"])
def test_a_limit_that_is_a_part_of_the_task_is_a_termination(estimator: str) -> None:
    part = dataclasses.replace(SMALL, limit_is_terminal=True)
    for truncation in ("bootstrap", "discard"):
        found = expected_gradient(part, POLICY, estimator, gae_lambda=0.6, values=VALUES, truncation=truncation)
        terminal = expected_gradient(SMALL, POLICY, estimator, gae_lambda=0.6, values=VALUES, truncation="terminal")
        np.testing.assert_allclose(found, terminal, atol=1e-12)


CHAIN = random_chain(seed=2)
CHAIN_POLICY = softmax_policy(np.random.default_rng(3).normal(size=(6, 3)))
SOLUTION = solve(CHAIN, CHAIN_POLICY)
WRONG = SOLUTION.values + np.random.default_rng(4).normal(size=6)


@pytest.mark.parametrize("estimator", ["reward_to_go", "td_residual", "n_step:3", "gae", "q", "q_minus_v"])
def test_with_the_true_values_every_estimator_is_unbiased(estimator: str) -> None:
    for discounted, exact in ((False, SOLUTION.semi_gradient), (True, SOLUTION.gradient)):
        found = expected_gradient(
            CHAIN, CHAIN_POLICY, estimator, gae_lambda=0.4, values=SOLUTION.values, q_values=SOLUTION.q_values,
            state_discount=discounted,
        )  # fmt: skip
        np.testing.assert_allclose(found, exact, atol=1e-12)


@pytest.mark.parametrize("values", [None, WRONG], ids=["none", "wrong"])
def test_monte_carlo_is_unbiased_whatever_the_critic(values: Any) -> None:
    found = expected_gradient(CHAIN, CHAIN_POLICY, "reward_to_go", values=values)
    np.testing.assert_allclose(found, SOLUTION.semi_gradient, atol=1e-12)


def test_the_total_return_has_the_discount_of_states_in_it() -> None:
    for values in (None, WRONG):
        found = expected_gradient(CHAIN, CHAIN_POLICY, "total_return", values=values)
        np.testing.assert_allclose(found, SOLUTION.gradient, atol=1e-12)


def test_the_bias_of_a_wrong_critic_falls_with_lambda_and_with_n() -> None:
    def bias(estimator: str, gae_lambda: float = 1.0) -> float:
        found = expected_gradient(CHAIN, CHAIN_POLICY, estimator, gae_lambda=gae_lambda, values=WRONG)
        return float(np.linalg.norm(found - SOLUTION.semi_gradient))

    by_lambda = [bias("gae", each) for each in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert by_lambda == sorted(by_lambda, reverse=True)
    assert by_lambda[0] > 0.1
    assert by_lambda[-1] == pytest.approx(0.0, abs=1e-12)
    by_n = [bias(f"n_step:{n}") for n in (1, 2, 4, 60)]
    assert by_n == sorted(by_n, reverse=True)
    assert by_n[0] == pytest.approx(by_lambda[0])
    assert by_n[-1] == pytest.approx(0.0, abs=1e-6)


# -- batches of fixed steps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["reward_to_go", "td_residual", "n_step:3", "gae", "q_minus_v"])
def test_long_batches_give_an_episodes_gradient_over_its_mean_length(estimator: str) -> None:
    settings: dict[str, Any] = dict(gae_lambda=0.6, values=WRONG, q_values=SOLUTION.q_values)
    whole = expected_gradient(CHAIN, CHAIN_POLICY, estimator, **settings)
    cut = expected_gradient(CHAIN, CHAIN_POLICY, estimator, **settings, n_steps=400)
    np.testing.assert_allclose(cut * SOLUTION.mean_length, whole, atol=2e-2)


def test_two_batches_are_the_mean_of_the_first_and_of_one_from_where_it_ended() -> None:
    """With the true values, where a batch is cut makes no difference."""
    once = expected_gradient(CHAIN, CHAIN_POLICY, values=SOLUTION.values, n_steps=6)
    twice = expected_gradient(CHAIN, CHAIN_POLICY, values=SOLUTION.values, n_steps=3, n_batches=2)
    np.testing.assert_allclose(once, twice, atol=1e-12)
    cut = expected_gradient(CHAIN, CHAIN_POLICY, values=WRONG, n_steps=3, n_batches=2)
    assert not np.allclose(cut, expected_gradient(CHAIN, CHAIN_POLICY, values=WRONG, n_steps=6), atol=1e-3)


def test_a_batch_of_one_step_is_the_td_residual_at_the_start() -> None:
    found = expected_gradient(CHAIN, CHAIN_POLICY, "reward_to_go", values=WRONG, n_steps=1)
    values = np.where(CHAIN.terminal, 0.0, WRONG)
    residuals = CHAIN.mean_rewards + CHAIN.gamma * CHAIN.transitions @ values - values[:, None]
    expected = np.einsum("s,sa,sa,sap->p", CHAIN.start, CHAIN_POLICY.probabilities, residuals, CHAIN_POLICY.scores)
    np.testing.assert_allclose(found, expected, atol=1e-12)


# -- Wald's identity -------------------------------------------------------------------------------------------------


def test_the_number_of_episodes_begun_in_closed_form() -> None:
    """Each step of the two-state problem ends its episode with probability 1 - theta."""
    for n_steps in (1, 2, 10):
        expected = 1.0 + (n_steps - 1) * 0.7
        assert expected_episodes(two_state(), two_state_policy(0.3), n_steps) == pytest.approx(expected)


def test_the_number_of_episodes_begun_with_two_lengths() -> None:
    mdp, policy = short_or_long(4), softmax_policy(np.zeros((5, 2)))
    # lengths 1 and 4 with one half each: begun in steps 0, 1, 2, 3, 4 with 1, 1/2, 1/4, 1/8, 1/2 + 1/16
    expected = np.cumsum([1.0, 0.5, 0.25, 0.125, 0.5 + 0.0625])
    np.testing.assert_allclose([expected_episodes(mdp, policy, n) for n in range(1, 6)], expected)


# -- baselines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["reward_to_go", "total_return"])
def test_a_batchs_mean_matters_only_where_episodes_are_discarded(estimator: str) -> None:
    for truncation in ("bootstrap", "terminal", "discard"):
        plain = expected_gradient(SMALL, POLICY, estimator, truncation=truncation)
        for baseline in ("mean", "time_mean"):
            found = expected_gradient(SMALL, POLICY, estimator, truncation=truncation, baseline=baseline)
            assert np.allclose(found, plain, atol=1e-12) == (truncation != "discard")


# -- wrong calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(estimator="vtrace"), "estimator='vtrace' is unknown"),
        (dict(truncation="ignore"), "truncation='ignore' is unknown"),
        (dict(estimator="q"), "q_values=None; estimator='q' needs"),
        (dict(estimator="total_return", n_steps=3), "needs whole episodes"),
        (dict(baseline="mean", n_steps=3), "needs whole episodes"),
        (dict(baseline="median"), "baseline='median' is unknown"),
    ],
    ids=str,
)
def test_wrong_calls_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected_gradient(SMALL, POLICY, **settings)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_what_does_not_converge_is_an_error_and_no_endless_loop() -> None:
    policy, values = softmax_policy(np.zeros((6, 3))), np.full(6, float("nan"))
    with pytest.raises(ValueError, match=r"does not converge: values must be finite, and gae_lambda in \[0, 1\]"):
        expected_gradient(random_chain(), policy, "gae", values=values)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(gae_lambda=2.0), r"gae_lambda=2\.0 must be a number in \[0, 1\]"),
        (dict(gae_lambda=2.0, n_steps=3), r"gae_lambda=2\.0"),
        (dict(gae_lambda=-0.1), r"gae_lambda=-0\.1"),
        (dict(n_steps=0), "n_steps=0 must be a whole number of at least 1"),
        (dict(n_steps=3, n_batches=0), "n_batches=0"),
        (dict(n_episodes=-1), "n_episodes=-1"),
        (dict(estimator="n_step:0"), "estimator='n_step:0' is unknown"),
        (dict(estimator="n_step"), "estimator='n_step' is unknown"),
        (dict(estimator="gae:3"), "estimator='gae:3' is unknown"),
        (dict(estimator=print), "estimator=<built-in function print> is unknown"),
    ],
    ids=str,
)
def test_numbers_that_cannot_be_meant_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected_gradient(SMALL, POLICY, **settings)
