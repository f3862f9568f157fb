"""The estimators against hand numbers, slow definitions, properties, SB3's buffer and a published course's numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_pg.advantage.estimators import (
    ESTIMATORS,
    Trajectories,
    discounted_sums,
    gae,
    get_estimator,
    lambda_returns,
    n_step,
    q_minus_v,
    q_value,
    reward_to_go,
    standardize,
    td_residual,
    times_in_episode,
    total_return,
)

Array = Any

quick = settings(deadline=None, max_examples=25, derandomize=True)
fractions = st.floats(0, 1, width=32)

NAMES = [*ESTIMATORS, "n_step:1", "n_step:3"]

# Few environments and many steps, many environments, few steps: discounted_sums works differently in the first.
SHAPES = [(40, 2), (40, 12), (12, 3)]


# -- experience to test with -----------------------------------------------------------------------------------------


@st.composite
def experience(draw: st.DrawFn, dones: Any = None) -> Trajectories:
    """Consistent trajectories in float64: V(s_{t+1}) is the next step's V inside an episode."""
    shape = draw(st.tuples(st.integers(1, 10), st.integers(1, 4)))
    numbers = st.floats(-10, 10, width=32)
    ends = draw(hnp.arrays(bool, shape)) if dones is None else np.full(shape, dones)
    return consistent(
        rewards=draw(hnp.arrays(np.float64, shape, elements=numbers)),
        dones=ends,
        truncated=draw(hnp.arrays(bool, shape)),
        values=draw(hnp.arrays(np.float64, (shape[0] + 1, shape[1]), elements=numbers)),
        terminal_values=draw(hnp.arrays(np.float64, shape, elements=numbers)),
    )


def random_experience(
    shape: tuple[int, int], seed: int = 0, dtype: Any = np.float64, done_share: float = 0.2
) -> Trajectories:
    rng = np.random.default_rng(seed)
    return consistent(
        rewards=rng.normal(size=shape).astype(dtype),
        dones=rng.random(shape) < done_share,
        truncated=rng.random(shape) < 0.5,
        values=rng.normal(size=(shape[0] + 1, shape[1])).astype(dtype),
        terminal_values=rng.normal(size=shape).astype(dtype),
        q_values=rng.normal(size=shape).astype(dtype),
    )


def consistent(
    rewards: Array, dones: Array, truncated: Array, values: Array, terminal_values: Array, q_values: Array = None
) -> Trajectories:
    after_the_end = np.where(truncated, terminal_values, 0)
    next_values = np.where(dones, after_the_end, values[1:]).astype(rewards.dtype)
    q_values = terminal_values if q_values is None else q_values
    return Trajectories(rewards, dones, values=values[:-1], next_values=next_values, q_values=q_values)


def estimate(name: Any, trajectories: Trajectories, gamma: float = 0.9, gae_lambda: float = 0.7) -> Array:
    return get_estimator(name).function(trajectories, gamma=gamma, gae_lambda=gae_lambda)


# -- slow definitions, straight from the equations, one step at a time -----------------------------------------------


def first_and_last_row(dones: Array, step: int, env: int) -> tuple[int, int]:
    """Where the episode of this step begins and ends; the rollout cuts it at both sides."""
    first, last = step, step
    while first > 0 and not dones[first - 1, env]:
        first -= 1
    while last < len(dones) - 1 and not dones[last, env]:
        last += 1
    return first, last


def slowly(definition: Callable[..., float]) -> Callable[..., Array]:
    """Apply the definition for a single step to every step."""

    def everywhere(data: Trajectories, **parameters: Any) -> Array:
        result = np.empty(data.rewards.shape)
        for step, env in np.ndindex(*result.shape):
            result[step, env] = definition(data, step, env, **parameters)
        return result

    return everywhere


def n_step_return(data: Trajectories, step: int, env: int, gamma: float, n: int) -> float:
    """r_t + ... + gamma^(n-1) r_{t+n-1} + gamma^n V(s_{t+n}), with fewer rewards where the episode ends earlier."""
    _, last = first_and_last_row(data.dones, step, env)
    n = min(n, last - step + 1)
    rewards = sum(gamma**i * data.rewards[step + i, env] for i in range(n))
    return float(rewards + gamma**n * data.next_values[step + n - 1, env])


@slowly
def slow_td_residual(data: Trajectories, step: int, env: int, gamma: float) -> float:
    return float(data.rewards[step, env] + gamma * data.next_values[step, env] - data.values[step, env])


@slowly
def slow_n_step(data: Trajectories, step: int, env: int, gamma: float, n: int) -> float:
    return n_step_return(data, step, env, gamma, n) - float(data.values[step, env])


@slowly
def slow_lambda_return(data: Trajectories, step: int, env: int, gamma: float, gae_lambda: float) -> float:
    """Sutton and Barto 2018, eq. 12.3: n-step returns weighted (1 - lambda) lambda^(n-1), the last with the rest."""
    _, last = first_and_last_row(data.dones, step, env)
    longest = last - step + 1
    mixed = sum(
        (1 - gae_lambda) * gae_lambda ** (n - 1) * n_step_return(data, step, env, gamma, n) for n in range(1, longest)
    )
    return mixed + gae_lambda ** (longest - 1) * n_step_return(data, step, env, gamma, longest)


@slowly
def slow_gae(data: Trajectories, step: int, env: int, gamma: float, gae_lambda: float) -> float:
    """Schulman et al. 2016, eq. 16: the sum of (gamma lambda)^l delta_{t+l} to the end of the episode."""
    _, last = first_and_last_row(data.dones, step, env)
    residuals = slow_td_residual(data, gamma=gamma)[step : last + 1, env]
    return float(sum((gamma * gae_lambda) ** i * residual for i, residual in enumerate(residuals)))


@slowly
def slow_reward_to_go(data: Trajectories, step: int, env: int, gamma: float) -> float:
    return n_step_return(data, step, env, gamma, n=len(data.rewards)) - float(data.values[step, env])


@slowly
def slow_total_return(data: Trajectories, step: int, env: int, gamma: float) -> float:
    first, _ = first_and_last_row(data.dones, step, env)
    return n_step_return(data, first, env, gamma, n=len(data.rewards)) - float(data.values[step, env])


@given(experience(), fractions, fractions, st.integers(1, 12))
@quick
def test_every_estimator_is_its_slow_definition(data: Trajectories, gamma: float, gae_lambda: float, n: int) -> None:
    pairs = [
        (td_residual(data, gamma=gamma), slow_td_residual(data, gamma=gamma)),
        (n_step(data, gamma=gamma, n=n), slow_n_step(data, gamma=gamma, n=n)),
        (gae(data, gamma=gamma, gae_lambda=gae_lambda), slow_gae(data, gamma=gamma, gae_lambda=gae_lambda)),
        (reward_to_go(data, gamma=gamma), slow_reward_to_go(data, gamma=gamma)),
        (total_return(data, gamma=gamma), slow_total_return(data, gamma=gamma)),
    ]
    for fast, slow in pairs:
        np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-9)


@given(experience(), fractions, fractions)
@quick
def test_the_lambda_return_is_the_mixture_of_n_step_returns(
    data: Trajectories, gamma: float, gae_lambda: float
) -> None:
    fast = lambda_returns(data, gamma=gamma, gae_lambda=gae_lambda)
    np.testing.assert_allclose(fast, slow_lambda_return(data, gamma=gamma, gae_lambda=gae_lambda), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_slow_definitions_hold_for_long_rollouts_and_many_environments(shape: tuple[int, int]) -> None:
    data = random_experience(shape, done_share=0.05)
    np.testing.assert_allclose(
        gae(data, gamma=0.99, gae_lambda=0.95), slow_gae(data, gamma=0.99, gae_lambda=0.95), rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(reward_to_go(data, gamma=0.99), slow_reward_to_go(data, gamma=0.99), rtol=0, atol=1e-9)
    np.testing.assert_allclose(total_return(data, gamma=0.99), slow_total_return(data, gamma=0.99), rtol=0, atol=1e-9)


@given(experience(dones=True), fractions)
@quick
def test_the_total_return_is_the_discounted_sum_of_an_episodes_rewards(data: Trajectories, gamma: float) -> None:
    """One whole episode per environment, ended by termination, and no critic."""
    dones = np.zeros_like(data.dones)
    dones[-1] = True
    discounts = gamma ** np.arange(len(dones))[:, None]
    expected = np.broadcast_to((discounts * data.rewards).sum(axis=0), dones.shape)
    result = total_return(Trajectories(data.rewards, dones), gamma=gamma)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-9)


# -- hand numbers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def by_hand() -> Trajectories:
    """Four steps of two environments; gamma = 0.5 in the tests below, so that all numbers are exact.

    Environment 0 is truncated after its second step, where V(terminal observation) is 4, and cut by the rollout's
    end, where V is 2. Environment 1 terminates with its third step, and is cut where V is 6.
    """
    return Trajectories(
        rewards=np.array([[1.0, 2.0], [3.0, 0.0], [2.0, 4.0], [6.0, 1.0]]),
        dones=np.array([[False, False], [True, False], [False, True], [False, False]]),
        values=np.array([[2.0, 1.0], [1.0, 2.0], [4.0, 3.0], [0.0, 5.0]]),
        next_values=np.array([[1.0, 2.0], [4.0, 3.0], [0.0, 0.0], [2.0, 6.0]]),
    )


# r + 0.5 V' - V
RESIDUALS = [
    [1 + 0.5 * 1 - 2, 2 + 0.5 * 2 - 1],  # -0.5,  2
    [3 + 0.5 * 4 - 1, 0 + 0.5 * 3 - 2],  #  4,   -0.5
    [2 + 0.5 * 0 - 4, 4 + 0.5 * 0 - 3],  # -2,    1
    [6 + 0.5 * 2 - 0, 1 + 0.5 * 6 - 5],  #  7,   -1
]


def test_td_residuals_by_hand(by_hand: Trajectories) -> None:
    assert td_residual(by_hand, gamma=0.5).tolist() == RESIDUALS


def test_gae_by_hand(by_hand: Trajectories) -> None:
    # gamma lambda = 0.25, and nothing passes from row 2 to row 1 in environment 0, from row 3 to row 2 in 1
    expected = [
        [-0.5 + 0.25 * 4, 2 + 0.25 * (-0.5 + 0.25 * 1)],
        [4.0, -0.5 + 0.25 * 1],
        [-2 + 0.25 * 7, 1.0],
        [7.0, -1.0],
    ]
    assert gae(by_hand, gamma=0.5, gae_lambda=0.5).tolist() == expected


def test_two_step_advantages_by_hand(by_hand: Trajectories) -> None:
    expected = [
        [1 + 0.5 * 3 + 0.25 * 4 - 2, 2 + 0.5 * 0 + 0.25 * 3 - 1],
        [3 + 0.5 * 4 - 1, 0 + 0.5 * 4 + 0.25 * 0 - 2],
        [2 + 0.5 * 6 + 0.25 * 2 - 4, 4 + 0.5 * 0 - 3],
        [6 + 0.5 * 2 - 0, 1 + 0.5 * 6 - 5],
    ]
    assert n_step(by_hand, gamma=0.5, n=2).tolist() == expected


# G: environment 0 bootstraps with 4 at its time limit and with 2 at the cut; environment 1 with 0 at its terminal state
RETURNS = [
    [1 + 0.5 * 5, 2 + 0.5 * 2],  # 3.5, 3
    [3 + 0.5 * 4, 0 + 0.5 * 4],  # 5,   2
    [2 + 0.5 * 7, 4 + 0.5 * 0],  # 5.5, 4
    [6 + 0.5 * 2, 1 + 0.5 * 6],  # 7,   4
]


def test_reward_to_go_by_hand(by_hand: Trajectories) -> None:
    assert reward_to_go(by_hand, gamma=0.5).tolist() == (np.array(RETURNS) - by_hand.values).tolist()


def test_total_return_by_hand(by_hand: Trajectories) -> None:
    of_the_whole_episode = np.array([[3.5, 3], [3.5, 3], [5.5, 3], [5.5, 4]])
    assert total_return(by_hand, gamma=0.5).tolist() == (of_the_whole_episode - by_hand.values).tolist()


def test_lambda_returns_by_hand(by_hand: Trajectories) -> None:
    targets = lambda_returns(by_hand, gamma=0.5, gae_lambda=0.5)
    assert targets[:, 0].tolist() == [0.5 + 2, 4 + 1, -0.25 + 4, 7 + 0]
    assert lambda_returns(by_hand, gamma=0.5, gae_lambda=1.0).tolist() == RETURNS
    assert lambda_returns(by_hand, gamma=0.5, gae_lambda=0.0).tolist() == [
        [1 + 0.5 * 1, 2 + 0.5 * 2],
        [3 + 0.5 * 4, 0 + 0.5 * 3],
        [2 + 0.5 * 0, 4 + 0.5 * 0],
        [6 + 0.5 * 2, 1 + 0.5 * 6],
    ]


def test_q_estimators_by_hand(by_hand: Trajectories) -> None:
    data = replace(by_hand, q_values=np.array([[5.0, 1.0], [2.0, 2.0], [0.0, 0.0], [1.0, 9.0]]))
    assert q_value(data).tolist() == [[5, 1], [2, 2], [0, 0], [1, 9]]
    assert q_minus_v(data).tolist() == [[5 - 2, 1 - 1], [2 - 1, 2 - 2], [0 - 4, 0 - 3], [1 - 0, 9 - 5]]


@pytest.mark.parametrize("estimator", [q_value, q_minus_v])
def test_the_q_estimators_say_that_they_need_a_q_critic(estimator: Any, by_hand: Trajectories) -> None:
    with pytest.raises(ValueError, match="q_values is None"):
        estimator(by_hand, gamma=0.5, gae_lambda=0.5)


# Printed by the MP11 notebook of CS440/ECE448 (Spring 2024), get_returns(rollout_buffer, discount_factor=0.5), for two
# episodes of eleven steps. Its rewards are 0, 1, ..., 10: the last return is 10, the one before it 9 + 0.5 * 10 = 14.
PRINTED = [1.9883, 3.9766, 5.9531, 7.9062, 9.8125, 11.6250, 13.2500, 14.5000, 15.0000, 14.0000, 10.0000]


@pytest.mark.parametrize("n_episodes", [2, 4])
def test_the_returns_printed_by_the_course_come_out_of_its_two_episodes(n_episodes: int) -> None:
    """Two, as in the course, and four, which is long enough for the other way of summing."""
    rewards = np.tile(np.arange(11, dtype=np.float32), n_episodes)[:, None]
    dones = np.tile(np.arange(11) == 10, n_episodes)[:, None]
    data = Trajectories(rewards, dones)
    assert reward_to_go(data, gamma=0.5)[:, 0].tolist() == pytest.approx(PRINTED * n_episodes, abs=6e-5)
    assert total_return(data, gamma=0.5)[:, 0].tolist() == pytest.approx([PRINTED[0]] * 11 * n_episodes, abs=6e-5)


# -- identities between estimators -----------------------------------------------------------------------------------


@given(experience(), fractions)
@quick
def test_gae_with_lambda_one_is_reward_to_go_minus_v(data: Trajectories, gamma: float) -> None:
    np.testing.assert_allclose(
        gae(data, gamma=gamma, gae_lambda=1.0), reward_to_go(data, gamma=gamma), rtol=0, atol=1e-9
    )


@given(experience(), fractions)
@quick
def test_gae_with_lambda_zero_is_the_td_residual(data: Trajectories, gamma: float) -> None:
    assert np.array_equal(gae(data, gamma=gamma, gae_lambda=0.0), td_residual(data, gamma=gamma))


@given(experience(), fractions)
@quick
def test_one_step_is_the_td_residual(data: Trajectories, gamma: float) -> None:
    assert np.array_equal(n_step(data, gamma=gamma, n=1), td_residual(data, gamma=gamma))


@given(experience(), fractions)
@quick
def test_as_many_steps_as_there_are_is_gae_with_lambda_one(data: Trajectories, gamma: float) -> None:
    """Also where episodes end in between: the sum stops there."""
    np.testing.assert_allclose(
        n_step(data, gamma=gamma, n=len(data.rewards)), gae(data, gamma=gamma, gae_lambda=1.0), rtol=0, atol=1e-9
    )


@given(experience(), fractions, fractions)
@quick
def test_the_lambda_return_is_gae_plus_v(data: Trajectories, gamma: float, gae_lambda: float) -> None:
    parameters = dict(gamma=gamma, gae_lambda=gae_lambda)
    np.testing.assert_allclose(
        lambda_returns(data, **parameters) - data.values, gae(data, **parameters), rtol=0, atol=1e-9
    )


@given(experience(), fractions)
@quick
def test_with_the_true_values_of_deterministic_rewards_every_advantage_is_zero(
    data: Trajectories, gamma: float
) -> None:
    """V that satisfies Bellman's equation exactly leaves nothing for any estimator to credit an action with."""
    dones = data.dones.copy()
    dones[-1] = True
    values = slow_reward_to_go(Trajectories(data.rewards, dones), gamma=gamma)
    next_values = np.where(dones, 0, np.vstack([values[1:], values[:1]]))
    truth = Trajectories(data.rewards, dones, values=values, next_values=next_values)
    for name in ("td_residual", "n_step:3", "gae", "reward_to_go"):
        np.testing.assert_allclose(estimate(name, truth, gamma, 0.7), 0, rtol=0, atol=1e-9)


# -- properties of every estimator in the table ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1)])
def test_every_estimator_keeps_shape_and_dtype_and_is_finite(name: str, dtype: Any, shape: tuple[int, int]) -> None:
    result = estimate(name, random_experience(shape, dtype=dtype))
    assert result.shape == shape
    assert result.dtype == dtype
    assert np.isfinite(result).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_estimator_leaves_its_input_alone(name: str, shape: tuple[int, int]) -> None:
    data, untouched = random_experience(shape), random_experience(shape)
    result = estimate(name, data)
    if name != "q":  # which is the Q critic's array itself
        result += 1e6
    for field in fields(Trajectories):
        assert np.array_equal(getattr(data, field.name), getattr(untouched, field.name)), field.name


@pytest.mark.parametrize("name", NAMES)
@given(data=experience(), factor=st.floats(-4, 4, width=16), seed=st.integers(0, 100))
@quick
def test_every_estimator_is_linear_in_rewards_and_values(
    name: str, data: Trajectories, factor: float, seed: int
) -> None:
    other = random_experience(data.rewards.shape, seed)
    other = replace(other, dones=data.dones, times=data.times)
    together = {
        field: getattr(data, field) + factor * getattr(other, field)
        for field in ("rewards", "values", "next_values", "q_values")
    }
    expected = estimate(name, data) + factor * estimate(name, other)
    np.testing.assert_allclose(estimate(name, replace(data, **together)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["total_return", "reward_to_go", "td_residual", "n_step:2", "gae"])
@given(data=experience(), seed=st.integers(0, 100))
@quick
def test_extra_reward_changes_an_estimate_by_its_own_estimate_whatever_the_critic(
    name: str, data: Trajectories, seed: int
) -> None:
    extra = np.random.default_rng(seed).normal(size=data.rewards.shape)
    more = estimate(name, replace(data, rewards=data.rewards + extra))
    without_critic = estimate(name, Trajectories(extra, data.dones))
    np.testing.assert_allclose(more - estimate(name, data), without_critic, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_environments_are_independent_of_one_another(name: str, shape: tuple[int, int]) -> None:
    data = random_experience(shape)
    together = estimate(name, data)
    for env in range(shape[1]):
        alone = replace(data, **{f.name: getattr(data, f.name)[:, [env]] for f in fields(Trajectories)})
        np.testing.assert_allclose(estimate(name, alone)[:, 0], together[:, env], rtol=0, atol=1e-12)


def leaks_across_a_done(estimator: Any, data: Trajectories) -> bool:
    """Whether anything that happens after an episode's end changes an estimate within it, in any environment."""
    before = estimate(estimator, data)
    for step, env in np.argwhere(data.dones):
        changed = {}
        for name in ("rewards", "values", "next_values", "q_values"):
            changed[name] = getattr(data, name).copy()
            changed[name][step + 1 :, env] = 1e6
        dones = data.dones.copy()
        dones[step + 1 :, env] ^= True
        after = estimate(estimator, replace(data, dones=dones, times=times_in_episode(dones), **changed))
        if not np.array_equal(after[: step + 1, env], before[: step + 1, env]):
            return True
    return False


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_crosses_the_end_of_an_episode(name: str, shape: tuple[int, int]) -> None:
    assert not leaks_across_a_done(name, random_experience(shape))


@pytest.mark.parametrize("name", NAMES)
@given(data=experience())
@quick
def test_nothing_crosses_the_end_of_any_episode(name: str, data: Trajectories) -> None:
    assert not leaks_across_a_done(name, data)


def test_a_recursion_that_forgets_dones_is_caught_by_the_test_above() -> None:
    """The published A2C that sums TD errors as result[t] = TD_errors[t] + gamma*lam*result[t+1] over all episodes."""

    def leaky(data: Trajectories, *, gamma: float, gae_lambda: float) -> Array:
        no_ends = np.zeros_like(data.dones)
        return discounted_sums(td_residual(data, gamma=gamma), gamma * gae_lambda, no_ends)

    for shape in SHAPES:
        assert leaks_across_a_done(leaky, random_experience(shape))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_before_an_episode_reaches_it(name: str, shape: tuple[int, int]) -> None:
    data = random_experience(shape)
    before = estimate(name, data)
    for step, env in np.argwhere(data.dones):
        changed = {}
        for field in ("rewards", "values", "next_values", "q_values"):
            changed[field] = getattr(data, field).copy()
            changed[field][: step + 1, env] = 1e6
        after = estimate(name, replace(data, **changed))
        assert np.array_equal(after[step + 1 :, env], before[step + 1 :, env])


@pytest.mark.parametrize("name", NAMES)
def test_steps_outside_the_batch_do_not_change_the_others(name: str) -> None:
    data = random_experience((12, 3))
    valid = np.random.default_rng(1).random((12, 3)) < 0.5
    assert np.array_equal(estimate(name, replace(data, valid=valid)), estimate(name, data))


# -- the two ways of summing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
@pytest.mark.parametrize("n_steps", [31, 32, 33, 300])
def test_discounted_sums_agree_for_few_and_for_many_environments(n_steps: int, dtype: Any, tolerance: float) -> None:
    rng = np.random.default_rng(n_steps)
    terms, dones = rng.normal(size=(n_steps, 2)).astype(dtype), rng.random((n_steps, 2)) < 0.02
    few = discounted_sums(terms, 0.99, dones)
    many = discounted_sums(np.tile(terms, 16), 0.99, np.tile(dones, 16))
    assert few.dtype == many.dtype == dtype
    np.testing.assert_allclose(many, np.tile(few, 16), rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_discounted_sums_with_discount_one_and_no_end_count_the_steps_left(shape: tuple[int, int]) -> None:
    left = np.arange(shape[0], 0, -1)[:, None]
    sums = discounted_sums(np.ones(shape, np.float32), 1.0, np.zeros(shape, bool))
    assert np.array_equal(sums, np.broadcast_to(left, shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_discounted_sums_with_discount_zero_or_with_only_ends_are_the_terms(shape: tuple[int, int]) -> None:
    terms = np.random.default_rng(0).normal(size=shape)
    assert np.array_equal(discounted_sums(terms, 0.0, np.zeros(shape, bool)), terms)
    assert np.array_equal(discounted_sums(terms, 0.9, np.ones(shape, bool)), terms)


# -- SB3 -------------------------------------------------------------------------------------------------------------


def sb3_buffer(shape: tuple[int, int], gamma: float, gae_lambda: float) -> tuple[RolloutBuffer, Trajectories]:
    """SB3's buffer after compute_returns_and_advantage, and the same experience for our estimators.

    As OnPolicyAlgorithm.collect_rollouts does, gamma * V(terminal observation) goes into the reward where a time
    limit ended an episode.
    """
    n_steps, n_envs = shape
    rng = np.random.default_rng(n_steps)
    raw_rewards = rng.normal(size=shape).astype(np.float32)
    dones = rng.random(shape) < 0.15
    truncated = dones & (rng.random(shape) < 0.5)
    assert truncated.any()
    assert (dones & ~truncated).any()
    values = rng.normal(size=(n_steps + 1, n_envs)).astype(np.float32)
    terminal_values = rng.normal(size=shape).astype(np.float32)

    space = spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(n_steps, space, space, device="cpu", gae_lambda=gae_lambda, gamma=gamma, n_envs=n_envs)
    rewards = raw_rewards.copy()
    for step, env in np.argwhere(truncated):
        rewards[step, env] += gamma * th.tensor(terminal_values[step, env])
    buffer.rewards[:], buffer.values[:] = rewards, values[:-1]
    buffer.episode_starts[1:] = dones[:-1]
    buffer.compute_returns_and_advantage(th.tensor(values[-1]), dones[-1])

    return buffer, consistent(raw_rewards, dones, truncated, values, terminal_values)


@pytest.mark.parametrize("shape", [(128, 1), (64, 8), (2048, 1), (64, 16), (20, 4)])
@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_gae_and_targets_are_those_of_sb3s_buffer_with_time_limits(
    shape: tuple[int, int], gamma: float, gae_lambda: float
) -> None:
    buffer, data = sb3_buffer(shape, gamma, gae_lambda)
    tolerance = 1e-6 * max(1, np.abs(buffer.advantages).max())  # float32
    parameters = dict(gamma=gamma, gae_lambda=gae_lambda)
    np.testing.assert_allclose(gae(data, **parameters), buffer.advantages, rtol=0, atol=tolerance)
    np.testing.assert_allclose(lambda_returns(data, **parameters), buffer.returns, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(64, 16), (20, 4), (20, 16)])
@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (0.99, 1.0), (0.9, 0.0)])
def test_row_by_row_gae_is_sb3s_bit_for_bit(shape: tuple[int, int], gamma: float, gae_lambda: float) -> None:
    buffer, data = sb3_buffer(shape, gamma, gae_lambda)
    advantages = gae(data, gamma=gamma, gae_lambda=gae_lambda)
    assert advantages.dtype == buffer.advantages.dtype
    assert np.array_equal(advantages, buffer.advantages)
    assert np.array_equal(lambda_returns(data, gamma=gamma, gae_lambda=gae_lambda), buffer.returns)


# -- trajectories ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (4,), (2, 2, 2)])
def test_trajectories_without_a_step_or_of_another_rank_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"rewards has shape .*expected \(n_steps, n_envs\)"):
        Trajectories(np.zeros(shape), np.zeros(shape, bool))


@pytest.mark.parametrize("name", ["dones", "values", "next_values", "times", "valid", "q_values"])
def test_an_array_of_another_shape_is_refused_by_name(name: str) -> None:
    arrays: dict[str, Any] = {"dones": np.zeros((4, 2), bool), name: np.zeros((2, 4), bool)}
    with pytest.raises(ValueError, match=rf"^{name} has shape \(2, 4\); expected the shape of rewards, \(4, 2\)"):
        Trajectories(np.zeros((4, 2)), **arrays)


def test_what_is_left_out_of_trajectories_is_filled_in() -> None:
    data = Trajectories(np.ones((3, 2), np.float32), np.array([[False, True], [True, False], [False, False]]))
    assert data.values.dtype == data.next_values.dtype == np.float32
    assert not data.values.any()
    assert not data.next_values.any()
    assert data.valid.all()
    assert data.times.tolist() == [[0, 0], [1, 0], [0, 1]]
    assert data.q_values is None


# -- times in the episode --------------------------------------------------------------------------------------------


@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 4))), st.data())
@quick
def test_times_count_the_steps_since_the_last_end(dones: Array, data: st.DataObject) -> None:
    first_times = data.draw(hnp.arrays(np.int64, dones.shape[1], elements=st.integers(0, 1000)))
    expected = np.empty(dones.shape, int)
    for env in range(dones.shape[1]):
        time = first_times[env]
        for step in range(len(dones)):
            expected[step, env] = time
            time = 0 if dones[step, env] else time + 1
    times = times_in_episode(dones, first_times)
    assert np.issubdtype(times.dtype, np.integer)
    assert times.tolist() == expected.tolist()


def test_times_begin_with_zero_when_nothing_is_said() -> None:
    dones = np.array([[False, False], [False, True], [True, False], [False, False]])
    assert times_in_episode(dones).tolist() == [[0, 0], [1, 1], [2, 0], [0, 1]]


def test_an_episode_that_began_in_an_earlier_rollout_goes_on_counting() -> None:
    dones = np.array([[False, False], [True, False], [False, False]])
    assert times_in_episode(dones, np.array([7, 3])).tolist() == [[7, 3], [8, 4], [0, 5]]


# -- standardising ---------------------------------------------------------------------------------------------------


def test_standardised_advantages_by_hand() -> None:
    advantages, valid = np.array([[1.0, 3.0], [5.0, 100.0]]), np.array([[True, True], [True, False]])
    deviation = np.sqrt(((1 - 3) ** 2 + (3 - 3) ** 2 + (5 - 3) ** 2) / (3 - 1))
    expected = [(1 - 3) / deviation, (3 - 3) / deviation, (5 - 3) / deviation]
    assert standardize(advantages, valid, scale=True)[valid].tolist() == pytest.approx(expected)
    assert standardize(advantages, valid, scale=False)[valid].tolist() == [1 - 3, 3 - 3, 5 - 3]


@given(st.integers(0, 10_000), st.floats(0.1, 100), st.floats(-100, 100))
@quick
def test_standardised_advantages_have_mean_zero_and_deviation_one_over_the_batch_only(
    seed: int, spread: float, centre: float
) -> None:
    rng = np.random.default_rng(seed)
    advantages = rng.normal(centre, spread, size=(7, 3))
    valid = rng.random((7, 3)) < 0.6
    valid[:2, 0] = True
    advantages[~valid] = 1e9
    result = standardize(advantages, valid, scale=True)
    assert result.shape == advantages.shape
    assert result[valid].mean() == pytest.approx(0, abs=1e-9)
    assert result[valid].std(ddof=1) == pytest.approx(1, abs=1e-6)
    centred = standardize(advantages, valid, scale=False)
    assert np.array_equal(centred[valid], advantages[valid] - advantages[valid].mean())


def test_standardised_advantages_are_those_of_sb3s_algorithms() -> None:
    advantages = np.random.default_rng(0).normal(5, 3, size=(16, 4)).astype(np.float32)
    tensor = th.from_numpy(advantages)
    theirs = ((tensor - tensor.mean()) / (tensor.std() + 1e-8)).numpy()
    ours = standardize(advantages, np.ones((16, 4), bool), scale=True)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [True, False])
def test_several_choices_are_standardised_each_by_itself(scale: bool) -> None:
    rng = np.random.default_rng(0)
    choices = rng.normal(rng.normal(0, 5, size=(3, 1, 1)), 2, size=(3, 16, 4)).astype(np.float32)
    choices[1] = 0.1  # all equal
    valid = rng.random((16, 4)) < 0.7
    together = standardize(choices, valid, scale=scale)
    assert together.dtype == np.float32
    assert np.array_equal(together, np.stack([standardize(each, valid, scale=scale) for each in choices]))


def test_one_lone_step_is_only_centred() -> None:
    valid = np.array([[False], [True]])
    result = standardize(np.array([[2.0], [5.0]]), valid, scale=True)
    assert result.tolist() == [[2.0 - 5.0], [0.0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [2, 7, 100, 1000])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -100.1])
def test_steps_that_are_all_equal_are_only_centred(value: float, size: int, dtype: Any) -> None:
    """The rounding error of their mean must not be blown up to a deviation of 1."""
    advantages = np.full((size, 1), value, dtype)
    result = standardize(advantages, np.ones((size, 1), bool), scale=True)
    assert np.abs(result).max() <= 1e-3


# -- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_a_name_gives_its_line_of_the_table(name: str) -> None:
    assert get_estimator(name) is ESTIMATORS[name]


def test_n_step_takes_its_number_from_the_name() -> None:
    data = random_experience((12, 3))
    for n in (1, 2, 10):
        entry = get_estimator(f"n_step:{n}")
        assert entry.needs_critic
        assert np.array_equal(entry.function(data, gamma=0.9, gae_lambda=0.1), n_step(data, gamma=0.9, n=n))


def test_only_estimators_that_mean_something_without_a_critic_say_so() -> None:
    assert {name for name, entry in ESTIMATORS.items() if not entry.needs_critic} == {
        "total_return",
        "reward_to_go",
        "gae",
    }
    assert {name for name, entry in ESTIMATORS.items() if entry.needs_q} == {"q", "q_minus_v"}
    assert {name for name, entry in ESTIMATORS.items() if entry.needs_whole_episodes} == {"total_return"}


@pytest.mark.parametrize(
    "name", ["", "GAE", "n_step", "n_step:", "n_step:0", "n_step:-1", "n_step:x", "n_step:1.5", "gae:3", 3, None]
)
def test_an_unknown_name_is_refused_with_what_is_accepted(name: Any) -> None:
    with pytest.raises(ValueError, match="is unknown; accepted are") as error:
        get_estimator(name)
    message = str(error.value)
    assert message.startswith(f"estimator={name!r} ")
    for accepted in [*ESTIMATORS, "n_step:N", "callable"]:
        assert accepted in message


def test_any_callable_is_an_estimator() -> None:
    def rewards_only(data: Trajectories, *, gamma: float, gae_lambda: float) -> Array:  # noqa: ARG001
        return data.rewards

    entry = get_estimator(rewards_only)
    assert entry.function is rewards_only
    assert entry[1:] == (False, False, False, None, True)
    data = random_experience((4, 2))
    assert estimate(rewards_only, data) is data.rewards


@pytest.mark.parametrize("name", [name for name, entry in ESTIMATORS.items() if entry.gae_lambda is not None])
def test_an_estimator_that_is_a_case_of_gae_gives_what_gae_gives(name: str) -> None:
    entry = ESTIMATORS[name]
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(size=(40, 3)) for key in ("rewards", "values", "next_values")}
    dones = rng.random((40, 3)) < 0.2
    arrays["next_values"][:-1] = np.where(dones[:-1], arrays["next_values"][:-1], arrays["values"][1:])
    trajectories = Trajectories(dones=dones, **arrays)
    as_gae = gae(trajectories, gamma=0.9, gae_lambda=entry.gae_lambda)
    assert np.allclose(entry.function(trajectories, gamma=0.9, gae_lambda=0.5), as_gae)


@pytest.mark.parametrize("scale", [False, True])
def test_advantages_that_are_all_equal_become_zero_and_not_what_rounding_leaves(scale: bool) -> None:
    equal = np.full((7, 3), 0.1, dtype=np.float32)
    assert equal.mean() != equal[0, 0]  # by rounding
    assert not standardize(equal, np.ones((7, 3), dtype=bool), scale=scale).any()


@pytest.mark.parametrize("dtype", [int, bool, np.uint8])
def test_whole_numbers_as_rewards_are_not_cut_off(dtype: Any) -> None:
    trajectories = Trajectories(np.ones((4, 1), dtype), np.array([[False], [False], [False], [True]]))
    expected = [[1.875], [1.75], [1.5], [1.0]]
    np.testing.assert_allclose(gae(trajectories, gamma=1.0, gae_lambda=0.5), expected)
    np.testing.assert_allclose(reward_to_go(trajectories, gamma=0.5, gae_lambda=1.0), expected)
