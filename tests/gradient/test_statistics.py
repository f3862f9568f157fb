"""Every estimate equals brute force on the same numbers, and in expectation what is known exactly."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from sb3_pg.advantage.estimators import Trajectories, gae
from sb3_pg.exact.expectation import expected_gradient
from sb3_pg.exact.mdp import softmax_policy, solve
from sb3_pg.exact.problems import (
    delayed_reward,
    delayed_reward_policy,
    random_chain,
    two_state,
    two_state_policy,
    two_state_variance,
)
from sb3_pg.exact.sampling import Rollout, all_episodes, sample, score_sums
from sb3_pg.gradient.statistics import (
    Moments,
    cosine,
    explained_variance_by_time,
    gradient_statistics,
    jackknife,
    moments,
)

LAMBDAS = (0.0, 0.5, 0.9, 1.0)


def some_gradients(n_psi: int = 3, n_blocks: int = 7, n_parameters: int = 5, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(1.0, 2.0, (n_psi, n_blocks, n_parameters))


# -- against brute force ---------------------------------------------------------------------------------------------


def test_products_are_means_over_all_pairs_of_blocks() -> None:
    c = some_gradients()
    found = moments(c, reference=1)
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    for psi in range(3):
        own = np.mean([c[psi, i] @ c[psi, j] for i, j in pairs])
        cross = np.mean([c[psi, i] @ c[1, j] for i, j in pairs])
        noise = np.trace(np.cov(c[psi].T))
        assert found.own[psi] == pytest.approx(own, rel=1e-10)
        assert found.cross[psi] == pytest.approx(cross, rel=1e-10)
        assert found.noise[psi] == pytest.approx(noise, rel=1e-10)
    assert found.reference == pytest.approx(found.own[1], rel=1e-12)


def test_products_are_the_jackknife_of_the_square() -> None:
    c = some_gradients()
    found = moments(c)
    for psi in range(3):
        biased = np.sum(c[psi].mean(axis=0) ** 2)
        left_out = [np.sum(np.delete(c[psi], j, axis=0).mean(axis=0) ** 2) for j in range(7)]
        assert found.own[psi] == pytest.approx(7 * biased - 6 * np.mean(left_out), rel=1e-10)


def test_the_formulas_of_whole_batches() -> None:
    """U, q and Var as they are written for lambda's rules: N/(N-1) (m.m' - sum c.c'), and N/(N-1) (sum|c|^2 - q/N)."""
    c, n = some_gradients(), 7
    m, found = c.sum(axis=1), moments(c)
    u = n / (n - 1) * (m @ m[-1] - np.einsum("lbp,bp->l", c, c[-1]))
    q = np.sum(m**2, axis=1)
    var = n / (n - 1) * (np.sum(c**2, axis=(1, 2)) - q / n)
    np.testing.assert_allclose(found.cross * n**2, u, rtol=1e-10)
    np.testing.assert_allclose(found.noise * n, var, rtol=1e-10)
    np.testing.assert_allclose((found.own + found.variance(n)) * n**2, q, rtol=1e-10)


def test_leaving_a_block_out_is_computing_without_it() -> None:
    c, counts = some_gradients(), np.array([1, 2, 1, 3, 1, 1, 2])
    left_out = moments(c, counts, reference=0, leave_one_out=True)
    for j in range(7):
        without = moments(np.delete(c, j, axis=1), np.delete(counts, j), reference=0)
        for found, expected in zip(left_out, without, strict=True):
            np.testing.assert_allclose(found[:, j], expected, rtol=1e-9, atol=1e-12)


def test_two_sizes_of_batch_give_the_same_noise_scale() -> None:
    """McCandlish et al. 2018, appendix A.1, eq. A.1 to A.3, with single blocks as the small batches."""
    c, n = some_gradients(1, 8)[0], 8
    small, big = np.mean(np.sum(c**2, axis=1)), np.sum(c.mean(axis=0) ** 2)
    square = (n * big - small) / (n - 1)
    noise = (small - big) / (1 - 1 / n)
    assert moments(c[None]).noise_scale()[0] == pytest.approx(noise / square, rel=1e-10)
    found = gradient_statistics(c, n_steps=80)
    assert found.noise_scale == pytest.approx(10 * noise / square, rel=1e-10)
    assert found.variance == pytest.approx(noise / n / 10**2, rel=1e-10)
    assert found.signal == pytest.approx(square / 10**2, rel=1e-10)
    assert found.snr == pytest.approx(found.signal / found.variance, rel=1e-10)
    assert found.cosine_squared == pytest.approx(found.snr / (1 + found.snr), rel=1e-10)
    np.testing.assert_allclose(found.mean, c.sum(axis=0) / 80)
    assert found.half_cosine == pytest.approx(cosine(c[[0, 2, 4, 6]].mean(axis=0), c[[1, 3, 5, 7]].mean(axis=0)))


def test_nothing_depends_on_the_order_of_blocks_or_the_scale_of_rewards() -> None:
    c, counts = some_gradients(), np.array([1, 2, 1, 3, 1, 1, 2])
    order = np.array([3, 1, 0, 6, 5, 2, 4])
    one, other = moments(c, counts), moments(1e-3 * c[:, order], counts[order])
    for name in ("signal_to_noise", "cosine", "cosine_squared"):
        np.testing.assert_allclose(getattr(one, name)(4), getattr(other, name)(4), rtol=1e-9)
    np.testing.assert_allclose(one.noise_scale(), other.noise_scale(), rtol=1e-9)
    np.testing.assert_allclose(1e-6 * one.mean_squared_error(4), other.mean_squared_error(4), rtol=1e-9)


@pytest.mark.parametrize(("n_blocks", "leave_one_out"), [(1, False), (2, True)])
def test_too_few_blocks_are_refused(n_blocks: int, leave_one_out: bool) -> None:
    with pytest.raises(ValueError, match=f"gradients has {n_blocks} blocks; at least {n_blocks + 1}"):
        moments(np.ones((1, n_blocks, 2)), leave_one_out=leave_one_out)


def test_no_signal_is_said_and_not_divided_by() -> None:
    nothing = Moments(*(np.array([x]) for x in (-0.1, 0.2, -0.1, 1.0)))
    assert nothing.noise_scale()[0] == np.inf
    assert np.isnan(nothing.cosine(4)[0])
    zeros = moments(np.zeros((1, 3, 2)))
    assert np.isnan(zeros.signal_to_noise(3)[0])
    assert np.isnan(zeros.cosine_squared(3)[0])
    assert np.isnan(gradient_statistics(np.zeros((3, 2)), 6).half_cosine)


# -- against closed forms --------------------------------------------------------------------------------------------


def quadratic(lambdas: Any, alpha: float, beta: float, sd_a: float, sd_b: float) -> Moments:
    """Exact moments of g(l) = a + l b with E a along the first axis and E b along the second."""
    ones = np.ones_like(lambdas)
    noise = sd_a**2 + lambdas**2 * sd_b**2
    own, cross = alpha**2 + lambdas**2 * beta**2, alpha**2 + lambdas * beta**2
    return Moments(own, cross, (alpha**2 + beta**2) * ones, noise * ones)


@pytest.mark.parametrize(
    ("case", "best"),
    [((16, 1, 1, 1, 4), 0.53), ((8, 1, 1, 2, 4), 0.50), ((64, 1, 1, 1, 4), 0.81), ((16, 1, 0.5, 1, 4), 0.21),
     ((16, 1, 0, 1, 2), 0.0)],
)  # fmt: skip
def test_the_best_lambda_of_a_line_is_the_closed_form(case: Any, best: float) -> None:
    n, alpha, beta, sd_a, sd_b = case
    lambdas = np.linspace(0, 1, 101)
    exact = quadratic(lambdas, *case[1:])
    noise_b = sd_b**2 / (n * beta**2) if beta else np.inf
    closed = np.clip((1 + sd_a**2 / (n * alpha**2)) / (1 + noise_b), 0, 1)
    assert closed == pytest.approx(best, abs=0.006)
    assert lambdas[np.argmax(exact.cosine(n))] == pytest.approx(closed, abs=0.006)
    assert lambdas[np.argmin(exact.mean_squared_error(n))] == pytest.approx(1 / (1 + noise_b), abs=0.006)


def test_with_a_blind_critic_and_a_late_reward_all_lambdas_point_the_same_way() -> None:
    mdp, policy = delayed_reward(), delayed_reward_policy(0.3)
    episodes, _ = all_episodes(mdp, policy)
    rollout = sample(mdp, policy, 400, np.random.default_rng(0), n_episodes=1)
    assert episodes.rewards.shape[0] == 2
    c = np.stack([score_sums(policy, rollout, psi_of(rollout, np.zeros(4), lam, 1.0)) for lam in LAMBDAS])
    found = moments(c)
    cosines = found.cosine(8)
    assert np.isnan(cosines[0])  # lambda 0 has no gradient at all
    np.testing.assert_allclose(cosines[1:], cosines[-1], rtol=1e-9)
    lambdas = np.linspace(0.02, 1, 50)
    scaled = moments(lambdas[:, None, None] * c[-1])
    exact = found.own[-1] / (found.own[-1] + found.noise[-1] / 8)
    assert lambdas[np.argmin(scaled.mean_squared_error(8))] == pytest.approx(exact, abs=0.02)


def test_the_noise_scale_of_the_two_state_problem() -> None:
    theta, n_batches, n_episodes = 0.5, 3000, 25
    mdp, policy = two_state(), two_state_policy(theta)
    rollout = sample(mdp, policy, n_batches * n_episodes, np.random.default_rng(0), n_episodes=1)
    returns = np.where(rollout.valid, rollout.rewards, 0).sum(axis=0, keepdims=True)
    c = score_sums(policy, rollout, np.broadcast_to(returns, rollout.rewards.shape)).reshape(n_batches, n_episodes, 1)
    found = [moments(batch[None]) for batch in c]
    variance, gradient = two_state_variance(theta), 1 / (1 - theta) ** 2
    assert abs(z_score([each.own[0] for each in found], gradient**2)) < 4
    assert abs(z_score([each.noise[0] for each in found], variance)) < 4
    whole = moments(c.reshape(1, -1, 1))
    assert whole.noise_scale()[0] == pytest.approx(variance / gradient**2, rel=0.05)


# -- against exact expectations, over many batches -------------------------------------------------------------------


def psi_of(rollout: Rollout, values: Any, gae_lambda: float, gamma: float) -> Any:
    """GAE of whole episodes with a table of values; after the time limit V(s') stands in."""
    next_values = np.where(rollout.terminated, 0.0, values[rollout.next_states])
    trajectories = Trajectories(rollout.rewards, rollout.dones, values[rollout.states], next_values)
    return gae(trajectories, gamma=gamma, gae_lambda=gae_lambda)


class Known(NamedTuple):
    """One episode's gradient, exactly: all episodes with their probabilities."""

    mdp: Any
    policy: Any
    values: Any
    means: Any
    """Shape ``(n_lambdas, n_parameters)``."""
    noise: Any
    """Trace of the covariance, shape ``(n_lambdas,)``."""


@cache
def known() -> Known:
    mdp = random_chain(n_states=3, n_actions=2, seed=9, time_limit=4)
    policy = softmax_policy(np.random.default_rng(1).normal(size=(3, 2)))
    values = solve(random_chain(n_states=3, n_actions=2, seed=9), policy).values + np.array([1.5, -1.0, 0.0])
    episodes, p = all_episodes(mdp, policy)
    c = np.stack([score_sums(policy, episodes, psi_of(episodes, values, lam, mdp.gamma)) for lam in LAMBDAS])
    means = np.einsum("b,lbp->lp", p, c)
    return Known(mdp, policy, values, means, np.einsum("b,lbp->l", p, c**2) - np.sum(means**2, axis=1))


@cache
def measured(n_batches: int = 2000, n_episodes: int = 12) -> Any:
    """Gradients of blocks in many batches, shape ``(n_batches, n_lambdas, n_episodes, n_parameters)``."""
    k = known()
    rollout = sample(k.mdp, k.policy, n_batches * n_episodes, np.random.default_rng(3), n_episodes=1)
    c = np.stack([score_sums(k.policy, rollout, psi_of(rollout, k.values, lam, k.mdp.gamma)) for lam in LAMBDAS])
    return c.reshape(len(LAMBDAS), n_batches, n_episodes, -1).swapaxes(0, 1)


@cache
def moments_of_batches() -> list[Moments]:
    return [moments(c) for c in measured()]


def z_score(samples: Any, exact: float) -> float:
    return float((np.mean(samples) - exact) / (np.std(samples, ddof=1) / np.sqrt(len(samples))))


def worst_z(samples: Any, exact: Any) -> float:
    """The largest |z| of the columns."""
    return max(abs(z_score(column, value)) for column, value in zip(np.transpose(samples), exact, strict=True))


def test_the_counted_episodes_are_the_closed_recursion() -> None:
    k = known()
    for mean, lam in zip(k.means, LAMBDAS, strict=True):
        np.testing.assert_allclose(
            mean, expected_gradient(k.mdp, k.policy, "gae", gae_lambda=lam, values=k.values), rtol=1e-10
        )
    lengths = np.linalg.norm(k.means - k.means[-1], axis=1) / np.linalg.norm(k.means[-1])
    assert lengths[0] > 0.15  # there is a bias to be found


def test_signal_bias_and_noise_are_unbiased() -> None:
    k, found = known(), moments_of_batches()
    assert worst_z([each.own for each in found], np.sum(k.means**2, axis=1)) < 4
    assert worst_z([each.cross for each in found], k.means @ k.means[-1]) < 4
    assert worst_z([each.noise for each in found], k.noise) < 4
    bias = np.sum((k.means - k.means[-1]) ** 2, axis=1)
    assert worst_z([each.bias_squared[:-1] for each in found], bias[:-1]) < 4
    # the square of the mean gradient, uncorrected, would be far off
    squares = [np.sum(c.mean(axis=1) ** 2, axis=1) for c in measured()]
    assert worst_z(squares, np.sum(k.means**2, axis=1)) > 10


def test_blocks_of_several_episodes_are_unbiased_too() -> None:
    k, counts = known(), np.array([1, 2, 4, 5])
    found = []
    for c in measured():
        merged = np.stack([part.sum(axis=1) for part in np.split(c, np.cumsum(counts)[:-1], axis=1)], axis=1)
        found.append(moments(merged, counts))
    assert worst_z([each.own for each in found], np.sum(k.means**2, axis=1)) < 4
    assert worst_z([each.noise for each in found], k.noise) < 4
    wrong = [moments(each) for each in [np.stack([c[:, :1].sum(axis=1), c[:, 1:].sum(axis=1)], axis=1)
             for c in measured()]]  # fmt: skip
    assert worst_z([each.noise / 6 for each in wrong], k.noise) > 10


def test_the_mean_squared_error_is_that_of_the_batches() -> None:
    k, n_episodes = known(), measured().shape[2]
    distances = np.sum((measured().mean(axis=2) - k.means[-1]) ** 2, axis=2)
    exact = Moments(np.sum(k.means**2, axis=1), k.means @ k.means[-1], np.sum(k.means[-1] ** 2), k.noise)
    assert worst_z(distances, exact.mean_squared_error(n_episodes)) < 4
    assert worst_z([each.mean_squared_error(n_episodes) for each in moments_of_batches()],
                   exact.mean_squared_error(n_episodes)) < 4  # fmt: skip


def test_the_cosine_of_many_episodes_is_the_exact_one_within_its_standard_error() -> None:
    k = known()
    c = measured()[:40].swapaxes(0, 1).reshape(len(LAMBDAS), -1, k.means.shape[1])
    exact = Moments(np.sum(k.means**2, axis=1), k.means @ k.means[-1], np.sum(k.means[-1] ** 2), k.noise)
    for units in (4, 100):
        found = jackknife(lambda m, units=units: m.cosine(units), moments(c), moments(c, leave_one_out=True))
        assert np.all(found.standard_error < 0.15)
        assert np.all(np.abs(found.value - exact.cosine(units)) < 3.5 * found.standard_error)


def test_jackknife_standard_errors_are_the_spread_over_batches() -> None:
    n_episodes = 120
    c = measured().reshape(-1, 10, len(LAMBDAS), 12, measured().shape[-1]).swapaxes(1, 2)
    groups = c.reshape(200, len(LAMBDAS), n_episodes, -1)

    def scale(m: Moments) -> Any:
        return m.cosine(12)

    found = [jackknife(scale, moments(each), moments(each, leave_one_out=True)) for each in groups]
    spread = np.std([each.value for each in found], axis=0, ddof=1)
    promised = np.sqrt(np.mean([each.standard_error**2 for each in found], axis=0))
    np.testing.assert_allclose(promised, spread, rtol=0.2)


# -- explained variance ----------------------------------------------------------------------------------------------


def test_explained_variance_is_told_apart_by_the_time_in_the_episode() -> None:
    rng = np.random.default_rng(0)
    times = np.repeat(np.arange(20), 50)
    returns = rng.normal(size=1000) + times
    baseline = np.where(times < 10, returns, 0.0)  # knows all early, and nothing late
    profile = explained_variance_by_time(returns, baseline, times, n_bins=4)
    assert profile.n_steps.tolist() == [250] * 4
    np.testing.assert_allclose(profile.times, [2, 7, 12, 17])
    np.testing.assert_allclose(profile.explained_variance, [1, 1, 0, 0], atol=1e-9)


def test_all_steps_at_the_same_time_are_one_bin() -> None:
    profile = explained_variance_by_time(np.arange(6.0), np.zeros(6), np.zeros(6, dtype=np.int64))
    assert profile.n_steps.tolist() == [6]
    uneven = explained_variance_by_time(np.arange(6.0), np.zeros(6), np.array([0, 0, 0, 0, 0, 9]), n_bins=3)
    assert uneven.n_steps.sum() == 6
