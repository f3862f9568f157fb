"""Drawn experience has the MDP's probabilities and a rollout's bookkeeping; measurements are what they say."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from sb3_pg.exact.mdp import FiniteMDP, softmax_policy, solve
from sb3_pg.exact.problems import random_chain, short_or_long, two_state, two_state_policy, two_state_variance
from sb3_pg.exact.sampling import Measurement, Rollout, Sampler, all_episodes, ends, sample, score_sums

POLICY = softmax_policy(np.random.default_rng(3).normal(size=(6, 3)))
RULES: dict[str, dict[str, Any]] = {
    "steps": dict(n_steps=9),
    "episodes": dict(n_episodes=3),
    "whole": dict(n_steps=9, whole_episodes=True),
}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def worst_z(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Of counts in rows of a multinomial distribution."""
    totals = counts.sum(axis=-1, keepdims=True)
    errors = np.sqrt(totals * probabilities * (1.0 - probabilities))
    assert (counts[probabilities == 0.0] == 0).all()
    possible = (errors > 0) & (totals > 100)
    return float(np.abs((counts - totals * probabilities)[possible] / errors[possible]).max())


def test_starts_actions_and_next_states_come_as_often_as_their_probabilities_say() -> None:
    mdp = random_chain(seed=2)
    rollout = sample(mdp, POLICY, 40_000, rng(), n_steps=10)
    first = rollout.times == 0
    assert worst_z(np.bincount(rollout.states[first], minlength=6), mdp.start) < 4.0
    pairs = np.zeros((6, 3, 6))
    np.add.at(pairs, (rollout.states, rollout.actions, rollout.next_states), 1)
    assert worst_z(pairs.sum(axis=2)[:5], POLICY.probabilities[:5]) < 4.0
    assert worst_z(pairs[:5], mdp.transitions[:5]) < 4.0


def test_a_wrong_probability_would_be_found() -> None:
    mdp = random_chain(seed=2)
    rollout = sample(mdp, POLICY, 40_000, rng(), n_steps=10)
    other = np.array(mdp.start)
    other[:2] += [0.02, -0.02]
    assert worst_z(np.bincount(rollout.states[rollout.times == 0], minlength=6), other) > 4.0


def test_outcomes_without_probability_never_happen() -> None:
    transitions = np.zeros((4, 1, 4))
    transitions[:, 0] = [0.0, 0.5, 0.5, 0.0]
    mdp = FiniteMDP(transitions, transitions, [0.0, 0.0, 1.0, 0.0], [False] * 4, 0.9, time_limit=5)  # type: ignore[arg-type]
    zero = np.zeros(100_000, dtype=np.int64)
    drawn, _ = Sampler(mdp, softmax_policy(np.zeros((4, 1)))).step(zero, zero, rng())
    assert set(drawn) == {1, 2}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("time_limit", [None, 4])
def test_the_books_of_a_rollout_are_in_order(rule: str, time_limit: int | None) -> None:
    mdp = random_chain(seed=2, time_limit=time_limit)
    rollout = sample(mdp, POLICY, 200, rng(), **RULES[rule])
    steps = rollout.valid
    follows = steps[1:]
    goes_on = follows & ~rollout.dones[:-1]
    assert (rollout.states[1:][goes_on] == rollout.next_states[:-1][goes_on]).all()
    assert (rollout.times[1:] == np.where(rollout.dones[:-1], 0, rollout.times[:-1] + 1))[follows].all()
    assert (rollout.times[0] == 0).all()
    assert (rollout.rewards == mdp.rewards[rollout.states, rollout.actions, rollout.next_states])[steps].all()
    assert (rollout.terminated == mdp.terminal[rollout.next_states])[steps].all()
    assert not (rollout.terminated & rollout.truncated).any()
    at_limit = (rollout.times == 3) & ~rollout.terminated if time_limit else np.zeros_like(steps)
    assert (rollout.truncated == at_limit)[steps].all()
    assert (steps[:-1] >= follows).all()  # the steps of a share come first
    assert rollout.truncated.any() == bool(time_limit)


def test_each_rule_ends_the_share_of_each_environment_where_it_says() -> None:
    mdp = random_chain(seed=2)
    assert sample(mdp, POLICY, 200, rng(), n_steps=9).states.shape == (9, 200)
    assert sample(mdp, POLICY, 200, rng(), n_steps=9).valid.all()
    episodes = sample(mdp, POLICY, 200, rng(), n_episodes=3)
    assert ((episodes.dones & episodes.valid).sum(axis=0) == 3).all()
    whole = sample(mdp, POLICY, 200, rng(), n_steps=9, whole_episodes=True)
    for column in range(200):
        last = np.flatnonzero(whole.valid[:, column])[-1]
        assert whole.dones[last, column]
        assert last + 1 - whole.times[last, column] <= 9 <= last + 1


def test_a_limit_that_is_a_part_of_the_task_terminates() -> None:
    mdp = dataclasses.replace(random_chain(seed=2, time_limit=2), limit_is_terminal=True)
    terminated, truncated = ends(mdp, np.array([0, 0, 5]), np.array([0, 1, 0]))
    assert terminated.tolist() == [False, True, True]
    assert not truncated.any()


@pytest.mark.parametrize("rule", [{}, dict(n_steps=3, n_episodes=3)], ids=["none", "both"])
def test_one_rule_is_needed(rule: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="exactly one of them"):
        sample(two_state(), two_state_policy(0.5), 1, rng(), **rule)


# -- all episodes ----------------------------------------------------------------------------------------------------


def test_all_episodes_of_the_two_state_problem_with_a_limit() -> None:
    mdp = dataclasses.replace(two_state(), time_limit=3)
    episodes, probabilities = all_episodes(mdp, two_state_policy(0.4))
    found = {
        (int(valid.sum()), float(rewards.sum()), bool(truncated.any())): p
        for valid, rewards, truncated, p in zip(
            episodes.valid.T, episodes.rewards.T, episodes.truncated.T, probabilities, strict=True
        )
    }
    expected = {(1, 0.0, False): 0.6, (2, 1.0, False): 0.24, (3, 2.0, False): 0.096, (3, 3.0, True): 0.064}
    assert found.keys() == expected.keys()
    for key, p in expected.items():
        assert found[key] == pytest.approx(p)


def test_what_fills_the_columns_is_not_valid_and_keeps_to_itself() -> None:
    episodes, _ = all_episodes(random_chain(3, 2, time_limit=3), softmax_policy(np.zeros((3, 2))))
    filling = ~episodes.valid
    assert filling.any()
    assert episodes.dones[filling].all()
    assert (episodes.rewards[filling] == 0).all()


def test_too_many_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"more than most=50 episodes; a smaller time_limit"):
        all_episodes(two_state(), two_state_policy(0.5), most=50)


# -- gradients and measurements --------------------------------------------------------------------------------------


def test_score_sums_are_sums_of_weights_times_scores_of_valid_steps() -> None:
    mdp = random_chain(seed=2)
    rollout = sample(mdp, POLICY, 6, rng(), n_episodes=2)
    weights = rng().normal(size=rollout.states.shape)
    groups = np.array([0, 1, 0, 2, 2, 1])
    expected = np.zeros((3, 18))
    for row, column in zip(*np.nonzero(rollout.valid), strict=True):
        scores = POLICY.scores[rollout.states[row, column], rollout.actions[row, column]]
        expected[groups[column]] += weights[row, column] * scores
    np.testing.assert_allclose(score_sums(POLICY, rollout, weights, groups), expected, atol=1e-12)
    alone = score_sums(POLICY, rollout, weights)
    np.testing.assert_allclose(alone[[0, 1, 3]] + alone[[2, 5, 4]], expected, atol=1e-12)


def reinforce(rollout: Rollout) -> np.ndarray:
    """The total return, at every step of single episodes."""
    return np.broadcast_to(rollout.rewards.sum(axis=0), rollout.rewards.shape)


def test_a_measurement_tells_mean_error_z_and_length() -> None:
    measurement = Measurement(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_allclose(measurement.mean, [2.0, 5.0])
    np.testing.assert_allclose(measurement.standard_errors, [1.0, 0.0])
    np.testing.assert_allclose(measurement.z(np.array([4.0, 5.0])), [-2.0, 0.0])
    assert measurement.z(np.array([4.0, 5.1]))[1] == np.inf
    length, error = measurement.length(np.array([2.0, 0.0]))
    assert (length, error) == (1.0, 0.5)
    assert measurement.worst_z(np.array([4.0, 5.0])) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="exact is zero"):
        measurement.length(np.zeros(2))


def test_the_length_finds_what_no_single_component_tells() -> None:
    samples = np.random.default_rng(0).normal(1.0, 1.0, (400, 100)) * 1.03
    measurement = Measurement(samples)
    exact = np.ones(100)
    assert np.abs(measurement.z(exact)).max() < 4.0
    assert measurement.worst_z(exact) > 4.0


@pytest.mark.parametrize("mdp", [random_chain(seed=9, time_limit=5), short_or_long(4)], ids=lambda mdp: mdp.name)
def test_the_measured_gradient_of_reinforce_is_the_exact_one(mdp: FiniteMDP) -> None:
    mdp = dataclasses.replace(mdp, gamma=1.0)
    policy = softmax_policy(np.random.default_rng(3).normal(0, 0.3, (mdp.n_states, mdp.n_actions)))
    rollout = sample(mdp, policy, 100_000, rng(), n_episodes=1)
    samples = score_sums(policy, rollout, reinforce(rollout), np.arange(100_000) // 500) / 500
    exact = solve(mdp, policy).gradient
    assert Measurement(samples).worst_z(exact) < 4.0
    assert Measurement(1.05 * samples).worst_z(exact) > 4.0


def test_the_measured_variance_of_reinforce_is_the_closed_form() -> None:
    for theta in (0.2, 0.5):
        policy = two_state_policy(theta)
        rollout = sample(two_state(), policy, 200_000, rng(), n_episodes=1)
        each = score_sums(policy, rollout, reinforce(rollout))[:, 0]
        squares = (each - 1.0 / (1.0 - theta) ** 2) ** 2
        assert abs(squares.mean() - two_state_variance(theta)) < 4.0 * squares.std() / np.sqrt(len(squares))
