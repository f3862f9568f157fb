"""Each named problem against what its docstring derives."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sb3_pg.exact.expectation import expected_gradient
from sb3_pg.exact.mdp import logistic_policy, softmax_policy, solve
from sb3_pg.exact.problems import (
    PROBLEMS,
    delayed_reward,
    delayed_reward_policy,
    nota_thomas,
    pessimal,
    random_chain,
    short_or_long,
    two_state,
    two_state_policy,
    two_state_variance,
)
from sb3_pg.exact.sampling import Rollout, all_episodes, score_sums

THETAS = pytest.mark.parametrize("theta", [0.1, 0.5, 0.9])


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + np.exp(-x))


def slope(x: float) -> float:
    return sigmoid(x) * (1.0 - sigmoid(x))


@THETAS
def test_the_two_state_problem_has_the_gradient_of_the_homework(theta: float) -> None:
    solution = solve(two_state(), two_state_policy(theta))
    assert solution.expected_return == pytest.approx(theta / (1.0 - theta), rel=1e-12)
    np.testing.assert_allclose(solution.gradient, [1.0 / (1.0 - theta) ** 2], rtol=1e-12)
    np.testing.assert_allclose(solution.semi_gradient, solution.gradient, rtol=1e-12)


@THETAS
def test_the_variance_of_reinforce_in_the_two_state_problem_is_the_sum_over_all_episodes(theta: float) -> None:
    policy = two_state_policy(theta)
    episodes, probabilities = all_episodes(dataclasses.replace(two_state(), time_limit=600), policy)
    total = np.broadcast_to(episodes.rewards.sum(axis=0), episodes.rewards.shape)
    each = score_sums(policy, episodes, total)[:, 0]
    mean = probabilities @ each
    assert mean == pytest.approx(1.0 / (1.0 - theta) ** 2, rel=1e-9)
    assert probabilities @ (each - mean) ** 2 == pytest.approx(two_state_variance(theta), rel=1e-9)


def test_a_random_chain_is_the_same_for_the_same_seed_only() -> None:
    one, same, other = random_chain(seed=1), random_chain(seed=1), random_chain(seed=2)
    np.testing.assert_array_equal(one.transitions, same.transitions)
    np.testing.assert_array_equal(one.rewards, same.rewards)
    assert not np.allclose(one.transitions, other.transitions)
    assert random_chain(4, 2).transitions.shape == (4, 2, 4)


THETA = np.array([0.4, -0.7])


def jacobian(name: str, gamma: float) -> np.ndarray:
    """Derivatives of a gradient by the two parameters, by central differences."""
    rows = []
    for change in 1e-5 * np.eye(2):
        above, below = (
            getattr(solve(nota_thomas(gamma), logistic_policy(THETA + d, [0, 1, 0])), name) for d in (change, -change)
        )
        rows.append((above - below) / 2e-5)
    return np.array(rows).T


def test_in_the_problem_of_nota_and_thomas_the_update_without_the_discount_is_no_gradient() -> None:
    gamma = 0.5
    solution = solve(nota_thomas(gamma), logistic_policy(THETA, [0, 1, 0]))
    first, second = THETA
    gradient = gamma * np.array([slope(first) * sigmoid(second), sigmoid(first) * slope(second)])
    np.testing.assert_allclose(solution.expected_return, gamma * sigmoid(first) * sigmoid(second))
    np.testing.assert_allclose(solution.gradient, gradient)
    np.testing.assert_allclose(solution.semi_gradient, gradient / [1.0, gamma])
    curl = jacobian("semi_gradient", gamma)
    assert curl[0, 1] == pytest.approx(gamma * slope(first) * slope(second), rel=1e-6)
    assert curl[1, 0] == pytest.approx(slope(first) * slope(second), rel=1e-6)
    symmetric = jacobian("gradient", gamma)
    assert symmetric[0, 1] == pytest.approx(symmetric[1, 0], rel=1e-6)


@pytest.mark.parametrize("gamma", [0.9, 0.5, 0.1])
def test_no_discount_below_one_makes_it_symmetric(gamma: float) -> None:
    curl = jacobian("semi_gradient", gamma)
    assert curl[0, 1] / curl[1, 0] == pytest.approx(gamma, rel=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize("theta", [-3.0, 0.0, 2.0])
def test_the_pessimal_problem_has_the_returns_that_its_docstring_derives(theta: float, gamma: float) -> None:
    p, policy = sigmoid(theta), logistic_policy([theta], [0] * 5)
    solution = solve(dataclasses.replace(pessimal(), gamma=gamma), policy)
    expected = 1.5 + 0.5 * p if gamma == 1.0 else 0.75 + 0.375 * p
    assert solution.expected_return == pytest.approx(expected)
    if gamma == 0.5:
        np.testing.assert_allclose(solution.gradient, [0.375 * slope(theta)])
        np.testing.assert_allclose(solution.semi_gradient, [-0.25 * slope(theta)])


def test_following_the_update_without_the_discount_finds_the_worst_policy() -> None:
    found = {}
    for name in ("gradient", "semi_gradient"):
        theta = np.zeros(1)
        for _ in range(300):
            theta = theta + 10 * getattr(solve(pessimal(), logistic_policy(theta, [0] * 5)), name)
        found[name] = solve(pessimal(), logistic_policy(theta, [0] * 5)).expected_return
    assert found["gradient"] > 1.12  # of at most 1.125
    assert found["semi_gradient"] < 0.755  # of at least 0.75


@pytest.mark.parametrize("gae_lambda", [0.0, 0.3, 1.0])
def test_with_v_zero_a_delayed_reward_scales_every_sample_of_the_gradient_by_lambda(gae_lambda: float) -> None:
    mdp, policy = delayed_reward(), delayed_reward_policy(0.7)
    solution = solve(mdp, policy)
    np.testing.assert_allclose(solution.gradient, [1.0])
    np.testing.assert_allclose(expected_gradient(mdp, policy, gae_lambda=gae_lambda), [gae_lambda])
    episodes, _ = all_episodes(mdp, policy)
    advantages = np.stack([episodes.rewards[0] + gae_lambda * episodes.rewards[1], episodes.rewards[1]])
    plain = np.stack([episodes.rewards.sum(axis=0), episodes.rewards[1]])
    np.testing.assert_allclose(
        score_sums(policy, episodes, advantages), gae_lambda * score_sums(policy, episodes, plain)
    )


def test_an_episode_is_short_or_long() -> None:
    mdp = short_or_long(7)
    episodes, probabilities = all_episodes(mdp, softmax_policy(np.zeros((8, 2))))
    lengths = episodes.valid.sum(axis=0)
    assert set(lengths) == {1, 7}
    assert probabilities[lengths == 1].sum() == pytest.approx(0.5)
    assert returns(episodes)[lengths == 1] == [1.0]
    assert returns(episodes).min() == pytest.approx(-1.0)
    assert returns(episodes)[lengths == 7].max() == pytest.approx(-0.4)
    with pytest.raises(ValueError, match="length=1 must be"):
        short_or_long(1)


def returns(episodes: Rollout) -> np.ndarray:
    return episodes.rewards.sum(axis=0)


def test_every_problem_has_the_name_it_is_found_by() -> None:
    for name, make in PROBLEMS.items():
        assert make().name.split("(")[0] == name
