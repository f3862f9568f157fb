"""Values, visits and gradients against closed forms, finite differences and the sum over all episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sb3_pg.exact.mdp import FiniteMDP, Policy, logistic_policy, score_sum, softmax_policy, solve
from sb3_pg.exact.problems import random_chain, two_state, two_state_policy
from sb3_pg.exact.sampling import all_episodes

LIMITS = pytest.mark.parametrize("time_limit", [None, 1, 5])
RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(6, 3))
FEATURES = RNG.normal(size=(6, 2))

POLICIES: dict[str, tuple[Any, Callable[[Any], Policy]]] = {
    "table": (LOGITS, softmax_policy),
    "features": (RNG.normal(size=(2, 3)), lambda theta: softmax_policy(theta, FEATURES)),
}


def chain(**changes: Any) -> FiniteMDP:
    return dataclasses.replace(random_chain(seed=2), **changes)


def derivative(function: Callable[[Any], Any], at: Any, step: float = 1e-5) -> Any:
    """Central differences, one row for each parameter."""
    rows = []
    for index in np.ndindex(*np.shape(at)):
        change = np.zeros(np.shape(at))
        change[index] = step
        rows.append((function(at + change) - function(at - change)) / (2 * step))
    return np.array(rows)


@LIMITS
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("kind", POLICIES)
def test_the_gradient_is_the_derivative_of_the_expected_return(kind: str, gamma: float, time_limit: int | None) -> None:
    theta, policy_of = POLICIES[kind]
    mdp = chain(gamma=gamma, time_limit=time_limit)
    expected = derivative(lambda at: solve(mdp, policy_of(at)).expected_return, theta)
    np.testing.assert_allclose(solve(mdp, policy_of(theta)).gradient, expected, atol=1e-8)
    assert np.abs(expected).max() > 0.1


@LIMITS
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_without_the_discount_of_states_it_is_the_derivative_only_where_nothing_is_discounted(
    gamma: float, time_limit: int | None
) -> None:
    solution = solve(chain(gamma=gamma, time_limit=time_limit), softmax_policy(LOGITS))
    same = np.allclose(solution.semi_gradient, solution.gradient)
    assert same == (gamma == 1.0 or time_limit == 1)


def test_scores_are_the_derivatives_of_the_log_probabilities() -> None:
    for theta, policy_of in [*POLICIES.values(), (np.array([0.3, -1.0]), lambda at: logistic_policy(at, [0, 1, 1]))]:
        found = derivative(lambda at, policy_of=policy_of: np.log(policy_of(at).probabilities), theta)
        np.testing.assert_allclose(policy_of(theta).scores, np.moveaxis(found, 0, -1), atol=1e-8)


@LIMITS
def test_values_obey_bellmans_equation_and_advantages_have_mean_zero(time_limit: int | None) -> None:
    mdp, policy = chain(time_limit=time_limit), softmax_policy(LOGITS)
    values, q_values = solve(mdp, policy)[:2]
    following = values if time_limit is None else np.concatenate([values[1:], np.zeros((1, 6))])
    backup = np.einsum("sat,sat->sa", mdp.transitions, mdp.rewards) + 0.9 * np.einsum(
        "sat,...t->...sa", mdp.transitions, following
    )
    np.testing.assert_allclose(q_values, backup, atol=1e-12)
    advantages = solve(mdp, policy).advantages
    np.testing.assert_allclose((policy.probabilities * advantages).sum(axis=-1), 0.0, atol=1e-12)


def test_the_limit_of_dynamic_programming_is_the_linear_solution() -> None:
    policy = softmax_policy(LOGITS)
    endless, long = solve(chain(), policy), solve(chain(time_limit=300), policy)
    np.testing.assert_allclose(long.values[0], endless.values, atol=1e-12)
    np.testing.assert_allclose(long.visits.sum(axis=0), endless.visits, atol=1e-12)
    np.testing.assert_allclose(long.discounted_visits.sum(axis=0), endless.discounted_visits, atol=1e-12)
    np.testing.assert_allclose(long.gradient, endless.gradient, atol=1e-12)
    np.testing.assert_allclose(long.semi_gradient, endless.semi_gradient, atol=1e-12)


def test_a_clock_in_the_state_changes_nothing_but_the_way_it_is_solved() -> None:
    mdp, policy = chain(time_limit=4), softmax_policy(LOGITS)
    limited, clocked = solve(mdp, policy), solve(mdp.with_clock(), policy.at_every_clock(4))
    assert clocked.expected_return == pytest.approx(limited.expected_return, abs=1e-12)
    np.testing.assert_allclose(clocked.values.reshape(5, 6)[:4], limited.values, atol=1e-12)
    np.testing.assert_allclose(clocked.visits.reshape(5, 6)[:4], limited.visits, atol=1e-12)
    np.testing.assert_allclose(clocked.gradient, limited.gradient, atol=1e-12)
    np.testing.assert_allclose(clocked.semi_gradient, limited.semi_gradient, atol=1e-12)


def test_the_sum_over_all_episodes_gives_the_same() -> None:
    mdp, policy = random_chain(3, 2, time_limit=3), softmax_policy(LOGITS[:3, :2])
    episodes, probabilities = all_episodes(mdp, policy)
    solution = solve(mdp, policy)
    discounts = mdp.gamma**episodes.times * episodes.valid
    assert probabilities @ (discounts * episodes.rewards).sum(axis=0) == pytest.approx(solution.expected_return)
    assert probabilities @ episodes.valid.sum(axis=0) == pytest.approx(solution.mean_length)
    for state in range(3):
        there = (episodes.states == state) & episodes.valid
        np.testing.assert_allclose(there @ probabilities, solution.visits[:, state])
        np.testing.assert_allclose((there * discounts) @ probabilities, solution.discounted_visits[:, state])


def test_a_score_sum_is_the_triple_sum() -> None:
    policy, weights, psi = softmax_policy(LOGITS), RNG.random((4, 6)), RNG.random((4, 6, 3))
    expected = np.einsum("ks,ksa,sa,sap->p", weights, psi, policy.probabilities, policy.scores)
    np.testing.assert_allclose(score_sum(policy, weights, psi), expected)


def test_what_transitions_say_of_terminal_states_is_not_read() -> None:
    mdp = two_state()
    transitions = mdp.transitions.copy()
    transitions[1, :, 0] = 1.0
    rewards = np.ones_like(mdp.rewards) * (np.arange(2) == 1)[:, None, None] + mdp.rewards
    other = dataclasses.replace(mdp, transitions=transitions, rewards=rewards)
    policy = two_state_policy(0.3)
    assert solve(other, policy).expected_return == solve(mdp, policy).expected_return


def test_an_mdp_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        two_state().transitions[0, 0, 0] = 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        two_state().gamma = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(transitions=np.ones((2, 2))), r"transitions has shape \(2, 2\); expected \(2, n_actions, 2\)"),
        (dict(transitions=np.ones((2, 2, 2))), r"transitions holds the row \[1\. 1\.\]"),
        (dict(transitions=np.array([[[1.5, -0.5]] * 2] * 2)), r"transitions holds the row \[ 1\.5 -0\.5\]"),
        (dict(rewards=np.ones((2, 2))), r"rewards has shape \(2, 2\)"),
        (dict(start=np.array([0.5, 0.6])), "start holds the row"),
        (dict(start=np.array([0.0, 1.0])), "a terminal state cannot be the first"),
        (dict(start=np.array([1.0])), r"start has shape \(1,\); expected \(2,\)"),
        (dict(start=np.array([np.nan, 1.0])), "start has nan in it"),
        (dict(transitions=np.full((2, 2, 2), np.nan)), "transitions has nan in it"),
        (dict(rewards=np.full((2, 2, 2), np.inf)), "rewards has inf in it"),
        (dict(gamma=1.5), r"gamma=1\.5 must be a number in \[0, 1\]"),
        (dict(time_limit=0), "time_limit=0 must be None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_no_mdp_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(two_state(), **changes)


def test_a_policy_under_which_no_episode_ends_is_refused() -> None:
    always_stay = Policy(np.array([[1.0, 0.0]] * 2), np.zeros((2, 2, 1)))
    with pytest.raises(ValueError, match="two_state never ends from state 0 under this policy"):
        solve(two_state(), always_stay)
    assert solve(dataclasses.replace(two_state(), time_limit=7), always_stay).expected_return == 7.0


def test_a_policy_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probabilities has shape \(6, 3\); two_state needs \(2, 2\)"):
        solve(two_state(), softmax_policy(LOGITS))


def test_a_clock_needs_a_limit() -> None:
    with pytest.raises(ValueError, match="time_limit=None"):
        two_state().with_clock()


@pytest.mark.parametrize("theta", [-1.0, 0.0, 1.0, float("nan")])
def test_probabilities_that_are_none_are_refused(theta: float) -> None:
    with pytest.raises(ValueError, match="add up to 1 in each state"):
        two_state_policy(theta)
