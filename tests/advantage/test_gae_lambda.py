"""The rules for lambda: closed forms, brute force, and small problems whose true gradient is known."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import lambda_problems
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lambda_problems import DESIGN, GRID, cell, cosines, products

from sb3_pg.advantage.estimators import Trajectories, discounted_sums, gae, lambda_returns, times_in_episode
from sb3_pg.advantage.gae_lambda import (
    LAMBDAS,
    RULES,
    ExplainedVariance,
    GradientAgreement,
    GradientProducts,
    Hoof,
    LambdaBatch,
    LambdaRule,
    LengthAdaptive,
    Scheduled,
    check_lambda,
    episode_lengths,
    mean_kl,
    rule_from_text,
    segment_returns,
    weighted_importance_sampling,
)
from sb3_pg.exact.problems import delayed_reward, delayed_reward_policy
from sb3_pg.exact.sampling import sample, score_sums
from sb3_pg.lambda_rules import products_of

Array = Any

quick = settings(deadline=None, max_examples=30, derandomize=True)


def nothing(*_: Any) -> Any:
    raise AssertionError("this rule has no business with the policy")


def batch_of(trajectories: Trajectories, **kwargs: Any) -> LambdaBatch:
    log: dict[str, float] = {}
    given: dict[str, Any] = dict(gamma=0.9, progress_remaining=1.0, gradient_products=nothing, log_probs=nothing)
    given |= dict(log_probs_after=nothing, record=log.__setitem__)
    return LambdaBatch(trajectories, **{**given, **kwargs})


def random_trajectories(shape: tuple[int, int] = (30, 3), seed: int = 0, dtype: Any = np.float64) -> Trajectories:
    rng = np.random.default_rng(seed)
    rewards, values, following = rng.normal(size=(3, *shape)).astype(dtype)
    dones = rng.random(shape) < 0.2
    return Trajectories(rewards, dones, values=values, next_values=np.where(dones, 0, following).astype(dtype))


# -- GAE for lambda in arrays ----------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000), st.floats(0, 1))
@quick
def test_discounts_in_an_array_give_the_recursion_step_by_step(n_steps: int, n_envs: int, seed: int, p: float) -> None:
    rng = np.random.default_rng(seed)
    terms, dones = rng.normal(size=(n_steps, n_envs)), rng.random((n_steps, n_envs)) < p
    discounts = rng.random((n_steps, n_envs))
    sums, row = np.empty_like(terms), np.zeros(n_envs)
    for step in reversed(range(n_steps)):
        row = terms[step] + np.where(dones[step], 0, discounts[step] * row)
        sums[step] = row
    np.testing.assert_allclose(discounted_sums(terms, discounts, dones), sums, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (33, 1), (64, 2), (100, 12)])
def test_an_array_of_one_number_is_that_number(shape: tuple[int, int]) -> None:
    data = random_trajectories(shape)
    for gae_lambda in (0.0, 0.3, 0.97, 1.0):
        expected = gae(data, gamma=0.9, gae_lambda=gae_lambda)
        everywhere = gae(data, gamma=0.9, gae_lambda=np.full(shape, gae_lambda))
        np.testing.assert_allclose(everywhere, expected, rtol=0, atol=1e-12)
        target = lambda_returns(data, gamma=0.9, gae_lambda=np.full(shape, gae_lambda))
        np.testing.assert_allclose(target, expected + data.values, rtol=0, atol=1e-12)


def test_many_lambdas_at_once_give_each_of_them() -> None:
    data, lambdas = random_trajectories(), np.array([0.0, 0.5, 0.97, 1.0])
    together = gae(data, gamma=0.9, gae_lambda=lambdas[:, None, None])
    assert together.shape == (4, *data.rewards.shape)
    for one, gae_lambda in zip(together, lambdas, strict=True):
        np.testing.assert_allclose(one, gae(data, gamma=0.9, gae_lambda=gae_lambda), rtol=0, atol=1e-12)


def test_lambdas_in_an_array_keep_the_dtype_of_the_rewards() -> None:
    data = random_trajectories(dtype=np.float32)
    assert gae(data, gamma=0.99, gae_lambda=np.full(data.rewards.shape, 0.9)).dtype == np.float32


# -- rules that look at numbers --------------------------------------------------------------------------------------


def test_a_schedule_is_told_the_progress() -> None:
    assert (
        Scheduled(lambda progress: progress / 2).choose(batch_of(random_trajectories(), progress_remaining=0.5)) == 0.25
    )


def test_lengths_of_episodes_by_hand_also_of_those_that_the_rollout_cuts() -> None:
    dones = np.array([[False, False], [True, False], [False, True], [False, False]])
    times = times_in_episode(dones, np.array([0, 5]))  # the second environment was five steps into its episode
    data = Trajectories(np.zeros((4, 2)), dones, times=times)
    assert episode_lengths(data).tolist() == [[2, 8], [2, 8], [2, 8], [2, 1]]


def test_lambda_by_length_is_the_closed_form_and_at_least_zero() -> None:
    dones = np.zeros((60, 2), bool)
    dones[[39, 59], 0] = dones[[9, 59], 1] = True
    chosen = LengthAdaptive(0.05).choose(batch_of(Trajectories(np.zeros((60, 2)), dones)))
    assert chosen[:40, 0] == pytest.approx(np.full(40, 1 - 1 / (0.05 * 40)))
    assert chosen[40:, 0] == pytest.approx(np.zeros(20))  # 1 - 1 / (0.05 * 20)
    assert chosen[:10, 1] == pytest.approx(np.zeros(10))  # would be -1
    assert chosen[10:, 1] == pytest.approx(np.full(50, 1 - 1 / (0.05 * 50)))


def explained(share: float, rng: np.random.Generator) -> Trajectories:
    """One-step episodes whose returns a critic explains to this share."""
    values, noise = rng.normal(size=(2, 4000, 1))
    values, noise = values * np.sqrt(share), noise * np.sqrt(1 - share)
    return Trajectories(values + noise, np.ones((4000, 1), bool), values=values)


def test_lambda_by_explained_variance_goes_from_one_bound_to_the_other() -> None:
    rng = np.random.default_rng(0)
    for share, expected in ((0.0, 1.0), (0.5, 0.9), (1.0, 0.8)):
        rule = ExplainedVariance()
        chosen = [rule.choose(batch_of(explained(share, rng))) for _ in range(5)]
        assert chosen == pytest.approx([expected] * 5, abs=0.01)


def test_what_is_explained_is_the_discounted_return() -> None:
    rewards, dones = np.random.default_rng(0).normal(size=(60, 3)), np.zeros((60, 3), bool)
    dones[9::10] = True
    data = Trajectories(rewards, dones, values=discounted_sums(rewards, 0.7, dones))
    assert ExplainedVariance().choose(batch_of(data, gamma=0.7)) == pytest.approx(0.8)
    assert ExplainedVariance().choose(batch_of(data, gamma=0.2)) > 0.82


def test_lambda_by_explained_variance_follows_a_mean_with_a_memory() -> None:
    rng, rule = np.random.default_rng(0), ExplainedVariance(0.0, 1.0, memory=0.5)
    shares = [1.0, 0.0, 0.0]
    chosen = [rule.choose(batch_of(explained(share, rng))) for share in shares]
    assert chosen == pytest.approx([0.0, 1 - 0.5 / 1.5, 1 - 0.25 / 1.75], abs=0.02)


def test_returns_that_differ_by_rounding_say_nothing_of_the_critic() -> None:
    rng, rule = np.random.default_rng(0), ExplainedVariance()
    before = [rule.choose(batch_of(explained(0.9, rng))) for _ in range(5)][-1]
    values = rng.uniform(0.1, 0.4, size=(4000, 1)).astype(np.float32)
    equal = Trajectories(np.ones((4000, 1), np.float32), np.ones((4000, 1), bool), values=values)
    assert np.var((equal.rewards - values).astype(np.float64) + values) > 0
    assert rule.choose(batch_of(equal)) == before


def test_a_critic_worse_than_a_constant_gives_the_upper_bound_and_so_do_returns_without_spread() -> None:
    rng = np.random.default_rng(0)
    worse = replace(explained(0.5, rng), values=rng.normal(size=(4000, 1)) * 5)
    constant = Trajectories(np.ones((4, 1)), np.ones((4, 1), bool), values=np.zeros((4, 1)))
    assert ExplainedVariance(0.5, 0.9).choose(batch_of(worse)) == 0.9
    assert ExplainedVariance(0.5, 0.9).choose(batch_of(constant)) == 0.9


def test_steps_outside_the_batch_explain_nothing() -> None:
    rng = np.random.default_rng(0)
    data = explained(1.0, rng)
    data.valid[::2] = False
    data.rewards[::2] = 1e6
    assert ExplainedVariance().choose(batch_of(data)) == pytest.approx(0.8)


# -- auto: the statistics --------------------------------------------------------------------------------------------


def test_the_products_are_the_means_over_all_pairs_of_blocks() -> None:
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(4, 7, 5)) + rng.normal(size=(4, 1, 5))
    n, total = 7, gradients.sum(axis=1)
    found = products_of(gradients, np.ones(n, dtype=np.int64))
    for choice in range(4):
        pairs = [gradients[choice, i] @ gradients[-1, j] for i in range(n) for j in range(n) if i != j]
        assert found.cross[choice] == pytest.approx(np.mean(pairs), abs=1e-10)
        assert found.square[choice] == pytest.approx(total[choice] @ total[choice] / n**2, abs=1e-10)


def test_the_products_are_those_of_the_jackknife() -> None:
    rng = np.random.default_rng(1)
    gradients, n = rng.normal(size=(3, 6, 4)), 6
    means = gradients.mean(axis=1)
    left_out = (gradients.sum(axis=1, keepdims=True) - gradients) / (n - 1)
    naive = means @ means[-1]
    jackknife = n * naive - (n - 1) * np.einsum("kbp,bp->kb", left_out, left_out[-1]).mean(axis=1)
    found = products_of(gradients, np.ones(n, dtype=np.int64))
    np.testing.assert_allclose(found.cross, jackknife, rtol=0, atol=1e-10)


@pytest.mark.parametrize("memory", [0.999999, 0.95])
def test_scores_and_their_errors_are_those_of_many_repetitions(memory: float) -> None:
    """The delta method against the scatter of 300 independent selectors, each with 80 updates."""
    rng, means, scales = np.random.default_rng(2), np.array([0.5, 0.8, 1.0]), np.array([0.8, 1.6, 4.0])
    n = (1 - memory**80) ** 2 / (1 - memory) ** 2 * (1 - memory**2) / (1 - memory**160)  # effective updates
    found = []
    for _ in range(300):
        rule = GradientAgreement(0.5, (0.0,), memory=memory, batches=1)
        noise = rng.gamma(2.0, 0.5, (81, 3))  # U and q go together, as they do in batches of few long episodes
        squares = scales * noise
        squares[:, -1] = scales[-1]  # q(1) is the unit that all share: its scatter is not in the errors
        for u, q in zip(means * noise + rng.normal(0, 0.3, (81, 3)), squares, strict=True):
            rule.remember(GradientProducts(u, 0 * q, q))
        score, covariance = rule.scores()
        found.append((score, np.sqrt(np.diagonal(covariance)) / (1 + 3 / n)))
    scores, errors = (np.array(each)[..., :2] for each in zip(*found, strict=True))
    np.testing.assert_allclose(scores.mean(axis=0), (means / np.sqrt(scales * 4.0))[:2], rtol=0.03)
    np.testing.assert_allclose(errors.mean(axis=0), scores.std(axis=0), rtol=0.12)


Blocks = Callable[[np.random.Generator], Array]


def run(rule: LambdaRule, blocks: Blocks, n_updates: int, seed: int) -> list[float]:
    """Lambda after each update; ``blocks`` gives gradients of shape ``(n_lambdas, n_blocks, n_parameters)``."""
    return lambda_problems.run(rule, lambda rng: products(blocks(rng)), n_updates, seed)


FINE = tuple(np.round(np.arange(0, 1.001, 0.05), 2))


@pytest.mark.parametrize(
    ("n", "alpha", "beta", "sd_a", "sd_b", "batches"),
    [(16, 1, 1, 1, 4, 1), (8, 1, 1, 2, 4, 1), (64, 1, 1, 1, 4, 1), (16, 1, 0.5, 1, 4, 1), (16, 1, 0, 1, 2, 1),
     (8, 1, 1, 2, 8, 4), (16, 1, 0.5, 1, 4, 4), (8, 1, 1, 1, 8, 19)],
)  # fmt: skip
def test_on_blocks_that_are_linear_in_lambda_the_best_is_the_closed_form(
    n: int, alpha: float, beta: float, sd_a: float, sd_b: float, batches: float
) -> None:
    r"""Block i gives :math:`a_i + \lambda b_i`, with means alpha e_1 and beta e_2 and total variances v_a and v_b.

    .. math:: \lambda^* = \frac{1 + v_a / (M N \alpha^2)}{1 + v_b / (M N \beta^2)}
    """

    def blocks(rng: np.random.Generator) -> Array:
        a, b = rng.normal(size=(2, n, 4)) * np.array([sd_a, sd_b])[:, None, None] / 2
        a[:, 0] += alpha
        b[:, 1] += beta
        return a + np.array(FINE)[:, None, None] * b

    size = batches * n
    best = (1 + sd_a**2 / (size * alpha**2)) / (1 + sd_b**2 / (size * beta**2)) if beta else 0.0
    rule = GradientAgreement(1.0, FINE, memory=0.999, batches=batches)
    chosen = run(rule, blocks, 400, seed=0)[-1]
    scores, _ = rule.scores()
    assert FINE[int(scores.argmax())] == pytest.approx(best, abs=0.1)
    grid = np.array(FINE)
    noise = (sd_a**2 + grid**2 * sd_b**2) / size
    exact = (alpha**2 + grid * beta**2) / np.sqrt(alpha**2 + grid**2 * beta**2 + noise)
    assert grid[exact.argmax()] == pytest.approx(best, abs=0.026)
    assert exact[FINE.index(round(chosen, 2))] >= 0.98 * exact.max()


def test_the_choice_depends_neither_on_the_scale_of_rewards_nor_on_the_order_of_blocks() -> None:
    def blocks(rng: np.random.Generator) -> Array:
        a, b = rng.normal(size=(2, 16, 3))
        return a + 0.5 + np.array(sorted({*LAMBDAS, 0.97}))[:, None, None] * (b * 3 + [0.0, 0.5, 0.0])

    plain = run(GradientAgreement(), blocks, 60, seed=1)
    assert len(set(plain)) > 1
    assert run(GradientAgreement(), lambda rng: blocks(rng) * 1e3, 60, seed=1) == plain
    assert run(GradientAgreement(), lambda rng: blocks(rng)[:, ::-1], 60, seed=1) == plain


@pytest.mark.parametrize("default", [0.97, 0.8, 1.0])
def test_where_every_lambda_gives_the_same_gradient_it_stays_on_the_default(default: float) -> None:
    """Horizon 1. The gradient is easily measured, and there is nothing to choose."""
    size = len({*LAMBDAS, default})
    same = run(
        GradientAgreement(default), lambda rng: np.repeat(rng.normal(1, 1, (1, 16, 3)), size, axis=0), 60, seed=0
    )
    assert set(same) == {default}
    rounded = run(
        GradientAgreement(default),
        lambda rng: (1 + 1e-7 * rng.normal(size=(size, 1, 1))) * rng.normal(1, 1, (1, 16, 3)).astype(np.float32),
        60,
        seed=0,
    )
    assert set(rounded) == {default}


def delayed_products(rule: GradientAgreement, n: int = 32) -> Blocks:
    """One decision and its reward a step later, V = 0: every episode's gradient is lambda times that of lambda = 1."""
    mdp, policy = delayed_reward(), delayed_reward_policy(0.3)

    def blocks(rng: np.random.Generator) -> Array:
        rollout = sample(mdp, policy, n, rng, n_episodes=1)
        data = Trajectories(rollout.rewards, rollout.dones, times=rollout.times, valid=rollout.valid)
        psi = gae(data, gamma=1.0, gae_lambda=rule.lambdas[:, None, None])
        return np.stack([score_sums(policy, rollout, each) for each in psi])

    return blocks


def test_in_the_two_step_chain_without_a_critic_every_lambda_above_zero_is_as_good_as_the_default() -> None:
    rule = GradientAgreement()
    assert set(run(rule, delayed_products(rule), 80, seed=0)) == {0.97}
    scores, _ = rule.scores()
    assert scores[1:] == pytest.approx(np.full(len(scores) - 1, scores[-1]))


def test_a_lambda_without_any_gradient_scores_zero_and_is_left() -> None:
    rule = GradientAgreement(0.0)
    chosen = run(rule, delayed_products(rule), 80, seed=0)
    assert chosen[:10] == [0.0] * 10
    assert chosen[-1] > 0
    scores, covariance = rule.scores()
    assert scores[0] == 0
    assert np.isfinite(covariance).all()


def test_batches_of_less_than_two_episodes_and_gradients_of_zero_change_nothing() -> None:
    rule = GradientAgreement()
    step = Trajectories(np.zeros((1, 1)), np.ones((1, 1), bool))
    for _ in range(20):
        assert rule.choose(batch_of(step, gradient_products=lambda _: None)) == 0.97
    assert set(run(rule, lambda _: np.zeros((len(rule.lambdas), 4, 2)), 20, seed=0)) == {0.97}
    assert rule.n_updates == 0


def test_nothing_is_chosen_before_the_warm_up_is_over() -> None:
    def blocks(rng: np.random.Generator) -> Array:
        good, bad = rng.normal(1, 0.1, (16, 3)), rng.normal(1, 10, (16, 3))
        return np.stack([good if each == 0.3 else bad for each in rule.lambdas])

    for warm_up in (10, 25):
        rule = GradientAgreement(warm_up=warm_up)
        chosen = run(rule, blocks, 60, seed=0)
        assert set(chosen[:warm_up]) == {0.97}  # the first update only gives the unit
        assert rule.n_updates == 59


def test_what_was_learned_while_there_was_a_signal_is_kept_when_it_is_gone() -> None:
    def signal(rng: np.random.Generator) -> Array:
        common = rng.normal(0.5, 0.5, (16, 3))
        return np.stack([common + rng.normal(0, 4 * each**4, (16, 3)) for each in rule.lambdas])

    def noise(rng: np.random.Generator) -> Array:
        return rng.normal(0, 1, (len(rule.lambdas), 16, 3))

    rule = GradientAgreement(1.0)
    low = run(rule, signal, 80, seed=0)[-1]
    assert low < 0.9
    assert np.mean(np.array(run(rule, noise, 100, seed=1)) < 0.9) == 1.0


def test_scores_independent_of_the_rewards_leave_it_on_the_default() -> None:
    """Zero signal: 24 runs of 100 updates."""
    lambdas = np.array(sorted({*LAMBDAS, 0.97}))

    def blocks(rng: np.random.Generator) -> Array:
        dones = np.zeros((12, 16), bool)
        dones[-1] = True
        psi = gae(Trajectories(rng.normal(size=(12, 16)), dones), gamma=0.99, gae_lambda=lambdas[:, None, None])
        return np.einsum("kte,tep->kep", psi, rng.normal(size=(12, 16, 6)))

    shares = [np.mean(np.array(run(GradientAgreement(), blocks, 100, seed)) == 0.97) for seed in range(24)]
    assert np.mean(shares) >= 0.95


# -- auto: problems whose gradient is known exactly ------------------------------------------------------------------


CRITICS = ("exact", "noisy", "half", "zero")
UNSEEN = ("chain 20", "short or long", "garnet 10")


def test_the_gradient_of_lambda_one_is_the_exact_one() -> None:
    """The oracle itself: without it the cosines below mean nothing."""
    for problem in (*DESIGN, *UNSEEN):
        for critic in ("exact", "zero"):
            found = cell(problem, critic)
            mean, error = found.gradients[:, -1].mean(axis=0), found.gradients[:, -1].std(axis=0) / np.sqrt(5000)
            assert np.abs((mean - found.truth) / np.maximum(error, 1e-9)).max() < 4.5, problem


@cache
def chosen_after(
    problem: str, critic: str, n: int, default: float, seed: int, batches: float = 4, n_updates: int = 41
) -> float:
    rule = GradientAgreement(default, tuple(GRID), batches=batches)
    return run(rule, lambda rng: cell(problem, critic).blocks(n, rng), n_updates, seed)[-1]


def shares_of_the_best(
    problems: Sequence[str], sizes: Sequence[int], default: float, n_seeds: int, batches: int
) -> Array:
    """True cosine of the choice over that of the best lambda of the grid, and the same for the default.

    The cosine is that of the mean gradient of several batches, which is the gradient of one that is as large as all.
    """
    ratios = []
    for problem, critic, n in product(problems, CRITICS, sizes):
        exact = cosines(problem, critic, batches * n)
        for seed in range(n_seeds):
            both = [chosen_after(problem, critic, n, default, seed, batches), default]
            ratios.append(exact[np.searchsorted(GRID, both)] / exact.max())
    return np.array(ratios)


@pytest.mark.parametrize(("default", "batches"), [(0.97, 1), (0.8, 1), (1.0, 1), (0.97, 4)])
def test_where_the_exact_gradient_is_known_the_choice_agrees_with_it(default: float, batches: int) -> None:
    """24 cells, 2 seeds each, after 40 updates; staying at 0.97 gives 0.85 on average and 0.73 at worst."""
    chosen, _ = shares_of_the_best(list(DESIGN), (16, 64), default, 2, batches).T
    assert np.mean(chosen) >= 0.97
    assert chosen.min() >= 0.85


@pytest.mark.parametrize("batches", [1, 4])
@pytest.mark.parametrize("default", [0.97, 1.0])
def test_it_does_on_problems_that_it_was_not_made_with(default: float, batches: int) -> None:
    chosen, stayed = shares_of_the_best(UNSEEN, (16,), default, 3, batches).T
    assert np.mean(chosen) >= 0.97
    assert chosen.min() >= 0.85
    assert np.mean(chosen - stayed) > (0.07 if batches == 1 else 0.02), "there is something to be won"
    assert (chosen - stayed).min() > -0.03, "and nothing to be lost"


def test_where_hardly_anything_can_be_measured_a_good_default_is_kept() -> None:
    """Batches of 4 episodes in two corridors, from the best lambda. The highest score alone would keep 0.77 of it."""
    shares = []
    for problem, critic in product(("corridor", "long corridor"), ("noisy", "half", "zero", "too high")):
        exact = cosines(problem, critic, 4)
        best = float(GRID[exact.argmax()])
        chosen = [chosen_after(problem, critic, 4, best, seed) for seed in range(4)]
        shares.append(exact[np.searchsorted(GRID, chosen)] / exact.max())
    assert np.mean(shares) >= 0.97
    assert np.min(shares) >= 0.8


@pytest.mark.parametrize(("batches", "n_updates"), [(1, 41), (4, 101)])
def test_with_an_exact_critic_lambda_goes_down_and_with_a_useless_one_it_stays_high(
    batches: int, n_updates: int
) -> None:
    by_critic = {
        critic: [
            chosen_after(problem, critic, n, 0.97, seed, batches, n_updates)
            for problem, n, seed in product(DESIGN, (16, 64), range(2))
        ]
        for critic in ("exact", "zero")
    }
    assert np.median(by_critic["exact"]) <= 0.3
    assert max(by_critic["exact"]) <= 0.5
    assert np.median(by_critic["zero"]) >= 0.8
    assert min(by_critic["zero"]) >= 0.7
    assert min(chosen_after("line", "zero", 64, 0.97, seed) for seed in range(3)) >= 0.9


# -- HOOF ------------------------------------------------------------------------------------------------------------


def test_weighted_importance_sampling_by_hand() -> None:
    log_ratios = np.log([2.0, 1.5, 0.5, 1.0])
    score, effective = weighted_importance_sampling(log_ratios, np.array([0, 0, 1, 2]), np.array([1.0, 5.0, -2.0]))
    weights = np.array([3.0, 0.5, 1.0])
    assert score == pytest.approx((3 * 1 + 0.5 * 5 - 2) / 4.5)
    assert effective == pytest.approx(4.5**2 / (weights @ weights))


def test_equal_policies_have_every_episode_and_a_single_one_leaves_one() -> None:
    episodes, returns = np.arange(5), np.arange(5.0)
    assert weighted_importance_sampling(np.zeros(5), episodes, returns) == pytest.approx((2.0, 5.0))
    assert weighted_importance_sampling(np.array([0, 900.0, 0, 0, 0]), episodes, returns) == pytest.approx((1.0, 1.0))


def test_importance_sampling_finds_the_value_of_another_policy() -> None:
    """A two-step bandit, 20,000 episodes of a fair coin, scored for one of 0.7: J is 1.4."""
    rng = np.random.default_rng(0)
    heads = rng.integers(0, 2, (20_000, 2))
    log_ratios = np.log(np.where(heads, 0.7, 0.3) / 0.5)
    score, effective = weighted_importance_sampling(
        log_ratios.ravel(), np.repeat(np.arange(20_000), 2), heads.sum(axis=1).astype(float)
    )
    assert score == pytest.approx(1.4, abs=0.02)
    assert effective / 20_000 == pytest.approx(1 / (2 * (0.7**2 + 0.3**2)) ** 2, rel=0.03)


def test_the_kl_divergence_is_zero_only_for_the_same_policy() -> None:
    assert mean_kl(np.zeros(3)) == 0
    assert mean_kl(np.log([2.0, 0.5])) == pytest.approx(((2 - 1 - np.log(2)) + (0.5 - 1 + np.log(2))) / 2)
    assert mean_kl(np.array([1e4])) == np.inf


def test_returns_of_episodes_are_those_of_their_first_steps_less_the_critics_value() -> None:
    dones = np.array([[False, False], [True, False], [False, True], [False, True]])
    valid = np.array([[True, True], [True, True], [True, True], [True, False]])
    rewards = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 4.0], [4.0, 100.0]])
    values = np.array([[0.5, 0.25], [9.0, 9.0], [1.0, 9.0], [9.0, 9.0]])
    following = np.array([[9.0, 9.0], [0.0, 9.0], [9.0, 0.0], [8.0, 0.0]])
    data = Trajectories(rewards, dones, values=values, next_values=following, valid=valid)
    numbers, returns = segment_returns(data, 0.5)
    assert numbers.tolist() == [0, 2, 0, 2, 1, 2, 1]  # in order of time: the second environment has the third episode
    assert returns == pytest.approx([1 + 0.5 * 2 - 0.5, 3 + 0.5 * (4 + 0.5 * 8) - 1, 1 + 0.5 * (2 + 0.5 * 4) - 0.25])


def one_step_bandit(n: int = 64) -> tuple[Trajectories, Array]:
    """Half of the pulls were of an arm that pays 1."""
    pays = np.arange(n) % 2
    return Trajectories(pays[:, None].astype(float), np.ones((n, 1), bool)), pays


def candidate_log_probs(pays: Array, probability: Callable[[float, float], float]) -> dict[str, Any]:
    def after(gae_lambda: float, factor: float) -> Array:
        p = probability(gae_lambda, factor)
        return np.log(np.where(pays, p, 1 - p))

    return dict(log_probs=lambda: np.full(len(pays), np.log(0.5)), log_probs_after=after)


def test_hoof_takes_the_best_candidate_within_the_divergence() -> None:
    data, pays = one_step_bandit()
    log: dict[str, float] = {}
    asked = candidate_log_probs(pays, lambda each, _: 0.5 + 0.09 * each) | dict(record=log.__setitem__)
    assert Hoof(0.5, (0.0, 0.9, 1.0)).choose(batch_of(data, **asked)) == 1.0
    weights = np.where(pays, 0.59, 0.41) / 0.5
    assert log["gradient/hoof_ess"] == pytest.approx(weights.sum() ** 2 / (weights @ weights))
    kl_of_a_half = mean_kl(np.log(np.where(pays, 0.545, 0.455) / 0.5))
    assert Hoof(0.5, (0.0, 0.9, 1.0), max_kl=kl_of_a_half * 1.01).choose(batch_of(data, **asked)) == 0.5


def test_hoof_chooses_the_learning_rate_too_if_it_is_told_to() -> None:
    data, pays = one_step_bandit()
    asked = candidate_log_probs(pays, lambda each, factor: 0.5 + 0.02 * factor * (1 - abs(each - 0.9)))
    rule = Hoof(0.97, learning_rates=(0.5, 2.0))
    assert rule.choose(batch_of(data, **asked)) == 0.9
    assert rule.learning_rate_factor == 2.0
    assert len(rule.candidates) == 3 * len({*LAMBDAS, 0.97})


def test_hoof_falls_back_where_the_default_cannot_be_judged() -> None:
    data, pays = one_step_bandit()
    log: dict[str, float] = {}
    far = candidate_log_probs(pays, lambda each, _: 0.999 if each == 0.97 else 0.6) | dict(record=log.__setitem__)
    rule = Hoof(0.97, learning_rates=(1.0, 2.0), max_kl=100.0, min_ess=0.9)
    assert rule.choose(batch_of(data, **far)) == 0.97
    assert rule.learning_rate_factor == 1.0
    assert log["gradient/hoof_ess"] == pytest.approx(32, abs=0.5)


def test_hoof_keeps_the_default_where_all_candidates_are_alike() -> None:
    data, pays = one_step_bandit()
    assert Hoof(0.95).choose(batch_of(data, **candidate_log_probs(pays, lambda *_: 0.55))) == 0.95


# -- names, bounds, memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "attributes"),
    [
        ("length:0.05", LengthAdaptive, dict(alpha=0.05)),
        ("explained_variance", ExplainedVariance, dict(low=0.8, high=1.0)),
        ("explained_variance:0.5_0.9", ExplainedVariance, dict(low=0.5, high=0.9)),
        ("auto", GradientAgreement, dict(default=0.97)),
        ("auto:0.8", GradientAgreement, dict(default=0.8, batches=4.0)),
        ("auto:0.8_1", GradientAgreement, dict(default=0.8, batches=1.0)),
        ("hoof", Hoof, dict(default=0.97)),
        ("hoof:1", Hoof, dict(default=1.0)),
    ],
)
def test_a_string_names_a_rule(text: str, kind: type, attributes: dict[str, float]) -> None:
    rule = rule_from_text(text)
    assert type(rule) is kind
    assert {name: getattr(rule, name) for name in attributes} == attributes


@pytest.mark.parametrize("text", ["", "lin_0.9", "autos", "0.9", "Auto"])
def test_a_string_that_names_none_gives_none(text: str) -> None:
    assert rule_from_text(text) is None


@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize("rest", [":", ":x", ":0.1_0.2_0.3", ":0.5_"])
def test_wrong_numbers_after_a_rule_are_refused_with_its_form(name: str, rest: str) -> None:
    with pytest.raises(ValueError, match="accepted are") as error:
        rule_from_text(name + rest)
    assert RULES[name].form in str(error.value)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: LengthAdaptive(0.0), "alpha=0.0"),
        (lambda: LengthAdaptive(float("nan")), "alpha=nan"),
        (lambda: ExplainedVariance(0.9, 0.8), "low=0.9, high=0.8"),
        (lambda: ExplainedVariance(-0.1), "low=-0.1"),
        (lambda: ExplainedVariance(memory=1.0), "memory=1.0"),
        (lambda: GradientAgreement(1.2), "default=1.2"),
        (lambda: GradientAgreement(lambdas=(0.5, -1)), "lambdas="),
        (lambda: GradientAgreement(float("nan")), "default=nan"),
        (lambda: GradientAgreement(memory=1.0), "memory=1.0"),
        (lambda: GradientAgreement(memory=0.0), "memory=0.0"),
        (lambda: GradientAgreement(gate=-1.0), "gate=-1.0"),
        (lambda: GradientAgreement(warm_up=5), "warm_up=5"),
        (lambda: GradientAgreement(batches=0.5), "batches=0.5"),
        (lambda: Hoof(default=-0.5), "default=-0.5"),
        (lambda: Hoof(learning_rates=(1.0, 0.0)), "learning_rates="),
        (lambda: Hoof(max_kl=0.0), "max_kl=0.0"),
        (lambda: Hoof(min_ess=1.5), "min_ess=1.5"),
        (lambda: LengthAdaptive("0.05"), "alpha='0.05'"),  # type: ignore[arg-type]
        (lambda: ExplainedVariance(low="0.8"), "low='0.8'"),  # type: ignore[arg-type]
        (lambda: ExplainedVariance(memory=None), "memory=None"),  # type: ignore[arg-type]
        (lambda: GradientAgreement("0.9"), "default='0.9'"),  # type: ignore[arg-type]
        (lambda: GradientAgreement(lambdas=0.9), "lambdas=0.9"),  # type: ignore[arg-type]
        (lambda: GradientAgreement(memory=None), "memory=None"),  # type: ignore[arg-type]
        (lambda: GradientAgreement(caution=True), "caution=True"),
        (lambda: GradientAgreement(warm_up=10.5), "warm_up=10.5"),  # type: ignore[arg-type]
        (lambda: GradientAgreement(batches="4"), "batches='4'"),  # type: ignore[arg-type]
        (lambda: Hoof(learning_rates=2.0), "learning_rates=2.0"),  # type: ignore[arg-type]
        (lambda: Hoof(max_kl=None), "max_kl=None"),  # type: ignore[arg-type]
        (lambda: Hoof(min_ess=[0.5]), "min_ess=[0.5]"),  # type: ignore[arg-type]
    ],
)
def test_a_rule_out_of_bounds_is_refused_by_parameter_and_value(build: Callable[[], Any], word: str) -> None:
    with pytest.raises(ValueError, match=r"expected|must be") as error:
        build()
    assert word in str(error.value)


def test_hoof_tries_what_it_was_given_and_agreement_its_reference_too() -> None:
    assert Hoof(0.95, (0.9,), learning_rates=(2.0,)).candidates == [(0.95, 1.0), (0.9, 1.0), (0.9, 2.0), (0.95, 2.0)]
    assert GradientAgreement(0.95, (0.9,)).lambdas.tolist() == [0.9, 0.95, 1.0]


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.array(0.5)])
def test_a_number_that_a_rule_chose_is_given_back_as_a_float(value: Any) -> None:
    checked = check_lambda(value, "gae_lambda", (4, 2))
    assert type(checked) is float
    assert checked == value


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (1.5, "1.5"),
        (-0.1, "-0.1"),
        (float("nan"), "nan"),
        ("high", "'high'"),
        (None, "None"),
        (np.full((4, 2), 2.0), "2.0"),
        (np.full(2, 0.5), "(2,)"),
        (np.full((2, 4), 0.5), "(2, 4)"),
    ],
)
def test_what_is_no_lambda_is_refused_with_what_is_expected(value: Any, word: str) -> None:
    with pytest.raises(ValueError, match=r"gae_lambda.*expected is a number in \[0, 1\].*\(4, 2\)") as error:
        check_lambda(value, "gae_lambda", (4, 2))
    assert word in str(error.value)


def test_a_selector_goes_on_from_a_pickle_as_it_would_have() -> None:
    rule = GradientAgreement()
    run(rule, lambda rng: cell("garnet 0", "exact").blocks(16, rng), 25, seed=3)
    copy = pickle.loads(pickle.dumps(rule))
    go_on = [run(each, lambda rng: cell("garnet 0", "exact").blocks(16, rng), 20, seed=4) for each in (rule, copy)]
    assert go_on[0] == go_on[1]
    np.testing.assert_array_equal(rule.scores()[0], copy.scores()[0])
