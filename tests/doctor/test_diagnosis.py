"""The doctor's numbers are those that are known exactly, on a chain of four states."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest

from sb3_pg.advantage.estimators import Trajectories, gae, reward_to_go
from sb3_pg.doctor.diagnosis import Diagnosis, diagnose, examine_critic, first_visits
from sb3_pg.doctor.experience import Experience, Training
from sb3_pg.exact.expectation import expected_gradient
from sb3_pg.exact.mdp import softmax_policy, solve
from sb3_pg.exact.problems import random_chain
from sb3_pg.exact.sampling import Rollout, all_episodes, sample, score_sums
from sb3_pg.gradient.per_episode import Factors
from sb3_pg.gradient.statistics import Moments, cosine

GAMMA = 0.9
_CHAIN = random_chain(n_states=4, n_actions=2, seed=7, gamma=GAMMA)
ENDLESS = dataclasses.replace(_CHAIN, rewards=_CHAIN.rewards + 1.5)
MDP = dataclasses.replace(ENDLESS, time_limit=5)
POLICY = softmax_policy(np.random.default_rng(1).normal(size=(4, 2)))
EXACT = solve(ENDLESS, POLICY).values
WRONG = EXACT + np.array([3.0, -3.0, 2.0, 0.0])


def training(**instead: Any) -> Training:
    settings: dict[str, Any] = dict(
        name="chain", gamma=GAMMA, gae_lambda=0.9, n_envs=4, n_steps=10, whole_episodes=True, centred=False
    )
    return Training(**{**settings, **instead})


def played(values: Any = WRONG, n_steps: int = 60, n_envs: int = 100, seed: int = 0) -> Experience:
    """Whole episodes of the chain, as the doctor would have gathered them with a table for a policy."""
    rollout = sample(MDP, POLICY, n_envs, np.random.default_rng(seed), n_steps=n_steps, whole_episodes=True)
    delta = np.eye(2)[rollout.actions] - POLICY.probabilities[rollout.states]
    return Experience(
        rewards=rollout.rewards,
        dones=rollout.dones,
        values=values[rollout.states],
        next_values=np.where(rollout.terminated, 0.0, values[rollout.next_states]),
        times=rollout.times,
        valid=rollout.valid,
        observations=rollout.states,
        factors=[Factors(delta.reshape(-1, 2), np.eye(4)[rollout.states].reshape(-1, 4))],
        layers="all layers",
    )


def trajectories_of(rollout: Rollout, values: Any) -> Trajectories:
    next_values = np.where(rollout.terminated, 0.0, values[rollout.next_states])
    return Trajectories(rollout.rewards, rollout.dones, values[rollout.states], next_values, rollout.times)


def exact_moments(psis: list[Any], reference: Any) -> Moments:
    """Of one episode's gradient: all episodes with their probabilities."""
    episodes, p = all_episodes(MDP, POLICY)
    c = np.stack([score_sums(POLICY, episodes, psi(episodes)) for psi in [*psis, reference]])
    means = np.einsum("b,lbp->lp", p, c)
    own = np.sum(means**2, axis=1)
    noise = np.einsum("b,lbp->l", p, c**2) - own
    return Moments(own, means @ means[-1], np.full(len(c), own[-1]), noise)


def of_lambda(gae_lambda: float, values: Any = WRONG) -> Any:
    return lambda rollout: gae(trajectories_of(rollout, values), gamma=GAMMA, gae_lambda=gae_lambda)


def of_returns(values: Any) -> Any:
    return lambda rollout: reward_to_go(trajectories_of(rollout, values), gamma=GAMMA)


@cache
def diagnosis() -> Diagnosis:
    return diagnose(played(), training())


def mean_length() -> float:
    return solve(MDP, POLICY).mean_length


def within(found: Any, exact: Any, error: Any, z: float = 4.0) -> bool:
    return bool(np.all(np.abs(np.asarray(found) - exact) < z * np.asarray(error)))


def test_lengths_and_sizes_are_those_of_the_chain() -> None:
    found = diagnosis()
    assert found.mean_length == pytest.approx(mean_length(), rel=0.05)
    assert found.batch_steps == 40
    assert found.batch_units == pytest.approx(40 / found.mean_length)
    assert found.n_episodes > 1500
    assert found.n_groups <= 100


def test_the_cosine_over_lambda_is_the_exact_one() -> None:
    found = diagnosis().curve
    assert found is not None
    exact = exact_moments([of_lambda(float(gae_lambda)) for gae_lambda in found.lambdas], of_returns(WRONG))
    for steps, measured in ((40, found.cosine_of_one), (160, found.cosine)):
        cosines = exact.cosine(steps / mean_length())[:-1]
        assert np.ptp(cosines) > 0.05
        assert measured.standard_error.max() < 0.05
        assert within(measured.value, cosines, measured.standard_error)
    assert found.cosine_of_bias == pytest.approx(exact.cosine(np.inf)[:-1], abs=0.1)
    length = exact.reference[0]
    assert found.variance == pytest.approx(exact.variance(40 / mean_length())[:-1] / length, rel=0.25)
    assert found.bias_squared == pytest.approx(exact.bias_squared[:-1] / length, abs=0.05)
    true_best = cosines.max()
    assert cosines[found.best] > true_best - 0.03
    assert found.good[np.argmax(cosines)]
    assert found.good[found.best]


def test_the_signal_and_the_noise_scale_are_the_exact_ones() -> None:
    found = diagnosis()
    exact = exact_moments([of_lambda(0.9)], of_returns(WRONG))
    assert found.signal_is_clear
    assert within(found.signal.value, exact.own[0], found.signal.standard_error)
    assert found.noise == pytest.approx(exact.noise[0], rel=0.25)
    steps = exact.noise[0] / exact.own[0] * mean_length()
    low, high = found.noise_scale_range
    assert low < steps < high
    assert high < 2 * low
    assert found.snr == pytest.approx(40 / steps, rel=0.3)
    assert within(found.cosine.value, exact.cosine(40 / mean_length())[0], found.cosine.standard_error)


def test_estimators_have_their_exact_variance_and_cosine() -> None:
    rows = {(row.estimator, row.baseline): row for row in diagnosis().estimators}
    nothing = np.zeros(4)
    psis = {
        ("reward_to_go", "none"): of_returns(nothing),
        ("reward_to_go", "value"): of_returns(WRONG),
        ("td_residual", "value"): of_lambda(0.0),
        ("gae, lambda 0.9", "value"): of_lambda(0.9),
    }
    exact = exact_moments(list(psis.values()), of_returns(WRONG))
    units = 40 / mean_length()
    for index, name in enumerate(psis):
        row = rows[name]
        assert row.variance == pytest.approx(exact.variance(units)[index] / exact.reference[0], rel=0.25)
        assert within(row.cosine, exact.cosine(units)[index], row.cosine_error)
        assert within(row.snr, exact.signal_to_noise(units)[index], row.snr_error)
    assert ("total_return", "time_mean") in rows
    assert ("q", "value") not in rows


def test_baselines_lower_the_variance_and_leave_the_gradient() -> None:
    rows = {(row.estimator, row.baseline): row for row in diagnosis().estimators}
    plain = rows["reward_to_go", "none"]
    for baseline in ("mean", "time_mean", "leave_one_out"):
        assert rows["reward_to_go", baseline].variance < plain.variance
        assert rows["total_return", baseline].variance < rows["total_return", "none"].variance
    exact = expected_gradient(MDP, POLICY, "reward_to_go", truncation="terminal")
    reference = expected_gradient(MDP, POLICY, "reward_to_go", values=WRONG)
    # Without a critic a time limit is not bootstrapped: that bias is in the cosine of an endless batch
    assert cosine(exact, reference) > 0.9


def test_gae_is_cut_where_batches_are() -> None:
    cut = training(whole_episodes=False, n_steps=2)
    found = diagnose(played(n_steps=400, n_envs=60), cut).curve
    whole = diagnosis().curve
    assert found is not None
    assert whole is not None
    reference = expected_gradient(MDP, POLICY, "gae", values=WRONG)
    exact = [
        cosine(expected_gradient(MDP, POLICY, "gae", gae_lambda=lam, values=WRONG, n_steps=2, n_batches=200), reference)
        for lam in (0.0, 1.0)
    ]
    assert exact[1] < 0.97  # lambda 1 has a bias too, where the batch ends
    assert found.cosine_of_bias[[0, -1]] == pytest.approx(exact, abs=0.05)
    assert whole.cosine_of_bias[-1] == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("estimator", "gae_lambda"),
    [("gae, lambda 0.9", 0.9), ("reward_to_go", 1.0), ("td_residual", 0.0), ("n_step:5", 1.0)],
)
def test_estimators_with_a_critic_are_cut_where_batches_are_too(estimator: str, gae_lambda: float) -> None:
    cut = diagnose(played(), training(whole_episodes=False, n_steps=2))
    (row,) = (row for row in cut.estimators if (row.estimator, row.baseline) == (estimator, "value"))
    curve = cut.curve
    assert curve is not None
    index = curve.lambdas.tolist().index(gae_lambda)  # five steps do not fit into two: GAE(1)
    assert row.variance == pytest.approx(curve.variance[index])
    assert row.cosine == pytest.approx(curve.cosine_of_one.value[index])
    whole = diagnose(played(), training())
    (row,) = (row for row in whole.estimators if (row.estimator, row.baseline) == ("reward_to_go", "value"))
    assert whole.curve is not None
    assert row.variance == pytest.approx(whole.curve.variance[-1])
    of_an_episode = [
        each.variance[-1] * units for each, units in ((curve, cut.batch_units), (whole.curve, whole.batch_units))
    ]
    assert of_an_episode[0] != pytest.approx(of_an_episode[1], rel=0.05)


def test_an_exact_critic_makes_low_lambdas_good() -> None:
    found = diagnose(played(EXACT), training()).curve
    assert found is not None
    assert found.cosine_of_bias[0] == pytest.approx(1.0, abs=0.03)
    assert found.cosine.value[0] > found.cosine.value[-1]
    assert found.lambdas[found.best] < 0.9


def test_centred_advantages_have_less_variance() -> None:
    shifted = WRONG - 3.0
    plain, centred = (diagnose(played(shifted), training(centred=each)).curve for each in (False, True))
    assert plain is not None
    assert centred is not None
    assert centred.variance[-1] < plain.variance[-1]


def test_the_discount_of_states_weighs_late_steps_less() -> None:
    found = diagnose(played(), training(state_discount=True, gamma=0.5)).signal
    mdp = dataclasses.replace(MDP, gamma=0.5)
    right, wrong = (
        expected_gradient(mdp, POLICY, "gae", gae_lambda=0.9, values=WRONG, state_discount=each)
        for each in (True, False)
    )
    assert within(found.value, right @ right, found.standard_error)
    assert not within(found.value, wrong @ wrong, found.standard_error)


def test_the_discounted_total_return_has_the_discount_of_states_in_it() -> None:
    own, discounted = (
        diagnose(played(n_envs=400), training(gamma=0.5, **settings))
        for settings in (dict(estimator="total_return"), dict(state_discount=True))
    )
    mdp = dataclasses.replace(MDP, gamma=0.5)
    right, wrong = (
        expected_gradient(mdp, POLICY, "gae", gae_lambda=1.0, state_discount=each) for each in (True, False)
    )
    assert within(own.signal.value, right @ right, own.signal.standard_error)
    assert not within(own.signal.value, wrong @ wrong, own.signal.standard_error)
    rows, others = (
        {row.baseline: row for row in each.estimators if row.estimator == "total_return"} for each in (own, discounted)
    )
    assert set(rows) == {*others, "value"}
    assert {name: rows[name] for name in others} == others


def test_without_a_critic_there_is_no_lambda() -> None:
    found = diagnose(
        played(np.zeros(4)), training(uses_critic=False, estimator="reward_to_go", baseline="mean", gae_lambda=1.0)
    )
    assert found.curve is None
    assert found.critic is None
    assert found.critic_gain is None
    row = next(row for row in found.estimators if (row.estimator, row.baseline) == ("reward_to_go", "mean"))
    assert float(found.cosine.value[0]) == row.cosine
    assert {row.baseline for row in found.estimators} == {"none", "mean", "time_mean", "leave_one_out"}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(estimator="n_step:3"), "n_step:3"),
        (dict(estimator="n_step:5"), "n_step:5"),
        (dict(estimator="td_residual"), "td_residual"),
        (dict(estimator="reward_to_go"), "reward_to_go"),
        (dict(estimator="gae"), "gae, lambda 0.9"),
        (dict(estimator="total_return"), "total_return"),
    ],
)
def test_the_models_own_estimator_is_the_one_that_is_judged(settings: dict[str, str], name: str) -> None:
    found = diagnose(played(), training(**settings))
    row = next(row for row in found.estimators if (row.estimator, row.baseline) == (name, "value"))
    assert float(found.cosine.value[0]) == pytest.approx(row.cosine, abs=0.02)
    assert found.snr == pytest.approx(row.snr, rel=0.1)


def test_a_users_own_estimator_is_judged_by_the_returns() -> None:
    found = diagnose(played(), training(estimator="my_own"))
    assert float(found.cosine.value[0]) == pytest.approx(diagnosis().curve.cosine_of_one.value[-1], abs=0.01)  # type: ignore[union-attr]


def test_a_q_critic_has_its_rows() -> None:
    q_values = solve(ENDLESS, POLICY).q_values
    rollout = sample(MDP, POLICY, 100, np.random.default_rng(0), n_steps=60, whole_episodes=True)
    experience = played(EXACT)
    found = diagnose(experience._replace(q_values=q_values[rollout.states, rollout.actions]), training())
    rows = {row.estimator: row for row in found.estimators}
    assert rows["q_minus_v"].variance < rows["q"].variance


def test_too_few_episodes_are_refused() -> None:
    experience = played(n_envs=1)
    cropped = experience._replace(valid=experience.valid & (experience.episodes < 3))
    with pytest.raises(
        ValueError, match="3 whole episodes were played; at least 4 are needed, so a larger --n-batches"
    ):
        diagnose(cropped, training())


# -- the critic ------------------------------------------------------------------------------------------------------


def test_first_visits_are_the_first_of_each_observation_in_an_episode() -> None:
    shown = np.array([[1, 7], [2, 7], [1, 8], [1, 8]])
    dones = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=bool)
    times = np.array([[0, 0], [1, 1], [2, 0], [0, 1]])
    zeros = np.zeros((4, 2))
    valid = np.ones((4, 2), dtype=bool)
    experience = Experience(zeros, dones, zeros, zeros, times, valid, shown, [], "")
    assert experience.episodes.T.tolist() == [[0, 0, 0, 3], [1, 1, 2, 2]]
    assert first_visits(experience).T.tolist() == [[True, True, False, True], [True, False, True, False]]


def test_an_exact_critic_lies_on_the_line() -> None:
    found = examine_critic(played(EXACT), GAMMA)
    calibration = found.calibration
    assert len(calibration.values) == 12
    assert within(calibration.returns, calibration.values, calibration.returns_error, z=4.5)
    assert abs(found.bias) < 0.05
    assert 0 < found.explained_by_returns < 1
    assert (found.returns_profile.explained_variance > -0.05).all()


def test_a_wrong_critic_does_not() -> None:
    right, wrong = examine_critic(played(EXACT), GAMMA), examine_critic(played(EXACT + 2.0), GAMMA)
    spread = np.std(played().rewards)
    assert wrong.bias > right.bias + 0.2 * 2.0 / spread
    assert not within(wrong.calibration.returns, wrong.calibration.values, wrong.calibration.returns_error)
    useless = examine_critic(played(-3 * EXACT), GAMMA)
    assert useless.explained_by_returns < 0 < right.explained_by_returns


def test_td_targets_are_what_follows_after_one_step() -> None:
    experience = played()
    found = examine_critic(experience, GAMMA, n_bins=1)
    chosen = first_visits(experience)
    targets = (experience.rewards + GAMMA * experience.next_values)[chosen]
    assert found.calibration.targets[0] == pytest.approx(targets.mean())
    assert found.explained_by_targets == pytest.approx(
        1 - np.var(targets - experience.values[chosen]) / np.var(targets)
    )


def test_errors_of_calibration_count_episodes_not_steps() -> None:
    experience = played()
    repeated = examine_critic(experience, GAMMA, n_bins=1).calibration.returns_error[0]
    chosen = first_visits(experience)
    returns = (reward_to_go(Trajectories(experience.rewards, experience.dones, experience.values,
                                         experience.next_values, experience.times), gamma=GAMMA)
               + experience.values)[chosen]  # fmt: skip
    as_if_independent = returns.std(ddof=1) / np.sqrt(len(returns))
    assert repeated > 1.05 * as_if_independent
