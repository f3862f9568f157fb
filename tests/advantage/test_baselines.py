"""The baselines against hand numbers and slow definitions, and what each may and may not depend on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_pg.advantage.baselines import BASELINES, get_baseline, leave_one_out, mean, no_baseline, time_mean
from sb3_pg.advantage.estimators import Trajectories, reward_to_go

Array = Any

quick = settings(deadline=None, max_examples=40, derandomize=True)


def whole_episodes(lengths: list[list[int]], rng: np.random.Generator, dtype: Any = np.float64) -> Trajectories:
    """Episodes of the given lengths, one list per environment, with steps that do not count up to the longest."""
    n_steps, n_envs = max(map(sum, lengths)), len(lengths)
    dones, valid = np.zeros((n_steps, n_envs), bool), np.zeros((n_steps, n_envs), bool)
    for env, of_env in enumerate(lengths):
        dones[np.cumsum(of_env) - 1, env] = True
        valid[: sum(of_env), env] = True
    return Trajectories(rng.normal(size=(n_steps, n_envs)).astype(dtype), dones, valid=valid)


@st.composite
def experience(draw: st.DrawFn) -> Trajectories:
    lengths = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=4)
    return whole_episodes(draw(lengths), np.random.default_rng(draw(st.integers(0, 1000))))


def episodes(trajectories: Trajectories) -> Iterator[list[tuple[int, int]]]:
    """The (row, column) of each step of each episode in the batch."""
    n_steps, n_envs = trajectories.rewards.shape
    for env in range(n_envs):
        steps: list[tuple[int, int]] = []
        for step in range(n_steps):
            if trajectories.valid[step, env]:
                steps.append((step, env))
                if trajectories.dones[step, env]:
                    yield steps
                    steps = []
        assert not steps


def slow_time_mean(returns: Array, trajectories: Trajectories, *, without_own: bool) -> Array:
    """For each step, loop over all (other) episodes that last as long, and average their returns at that time."""
    all_episodes = list(episodes(trajectories))
    baseline = np.full(returns.shape, np.nan)
    for own in all_episodes:
        for time, place in enumerate(own):
            others = [
                returns[episode[time]]
                for episode in all_episodes
                if len(episode) > time and not (without_own and episode is own)
            ]
            baseline[place] = sum(others) / len(others) if others else 0.0
    return baseline


@pytest.fixture
def by_hand() -> tuple[Array, Trajectories]:
    """Returns of three episodes: 8, 4, 2 and then 6 in environment 0; 2, 3 in environment 1, then two steps unused."""
    returns = np.array([[8.0, 2.0], [4.0, 3.0], [2.0, 1000.0], [6.0, 1000.0]])
    dones = np.array([[False, False], [False, True], [True, False], [True, False]])
    valid = np.array([[True, True], [True, True], [True, False], [True, False]])
    return returns, Trajectories(np.zeros((4, 2)), dones, valid=valid)


def test_no_baseline_is_zero(by_hand: Any) -> None:
    assert np.array_equal(np.broadcast_to(no_baseline(*by_hand), (4, 2)), np.zeros((4, 2)))


def test_the_value_baseline_takes_nothing_more_off_since_the_estimators_have_subtracted_v(by_hand: Any) -> None:
    assert np.array_equal(np.broadcast_to(BASELINES["value"](*by_hand), (4, 2)), np.zeros((4, 2)))


def test_the_mean_by_hand(by_hand: Any) -> None:
    expected = (8 + 4 + 2 + 6 + 2 + 3) / 6
    assert np.broadcast_to(mean(*by_hand), (4, 2)) == pytest.approx(np.full((4, 2), expected))


def test_the_mean_at_each_time_by_hand(by_hand: Any) -> None:
    at_0, at_1, at_2 = (8 + 6 + 2) / 3, (4 + 3) / 2, 2 / 1
    baseline = time_mean(*by_hand)
    assert baseline[:, 0].tolist() == pytest.approx([at_0, at_1, at_2, at_0])
    assert baseline[:2, 1].tolist() == pytest.approx([at_0, at_1])


def test_leave_one_out_by_hand(by_hand: Any) -> None:
    baseline = leave_one_out(*by_hand)
    # No other episode has a third step
    assert baseline[:, 0].tolist() == pytest.approx([(6 + 2) / 2, 3, 0, (8 + 2) / 2])
    assert baseline[:2, 1].tolist() == pytest.approx([(8 + 6) / 2, 4])


@given(experience())
@quick
def test_every_baseline_is_its_slow_definition(data: Trajectories) -> None:
    returns = reward_to_go(data, gamma=0.9)
    valid = data.valid
    steps = [place for episode in episodes(data) for place in episode]
    expected_mean = sum(returns[place] for place in steps) / len(steps)
    np.testing.assert_allclose(mean(returns, data), np.full((1, 1), expected_mean), atol=1e-12)
    for fast, slow in (
        (time_mean(returns, data), slow_time_mean(returns, data, without_own=False)),
        (leave_one_out(returns, data), slow_time_mean(returns, data, without_own=True)),
    ):
        np.testing.assert_allclose(fast[valid], slow[valid], rtol=0, atol=1e-12)


@given(experience(), st.integers(0, 11))
@quick
def test_leave_one_out_does_not_depend_on_the_episodes_own_returns(data: Trajectories, which: int) -> None:
    returns = reward_to_go(data, gamma=0.9)
    all_episodes = list(episodes(data))
    rows, columns = zip(*all_episodes[which % len(all_episodes)], strict=True)
    own = (list(rows), list(columns))
    changed = returns.copy()
    changed[own] += np.arange(1, len(rows) + 1) * 10.0
    before, after = leave_one_out(returns, data), leave_one_out(changed, data)
    np.testing.assert_allclose(after[own], before[own], rtol=0, atol=1e-10)


@given(experience(), st.integers(0, 11))
@quick
def test_leave_one_out_depends_on_the_returns_of_every_other_episode(data: Trajectories, which: int) -> None:
    """Of n episodes that last as long, one more return of 1 adds 1 / (n - 1) to the others' baseline."""
    returns = reward_to_go(data, gamma=0.9)
    all_episodes = list(episodes(data))
    own = all_episodes[which % len(all_episodes)]
    changed = returns.copy()
    changed[own[0]] += 1.0
    difference = leave_one_out(changed, data) - leave_one_out(returns, data)
    for episode in all_episodes:
        expected = 0.0 if episode is own else 1 / (len(all_episodes) - 1)
        assert difference[episode[0]] == pytest.approx(expected, abs=1e-10)


def test_leave_one_out_of_a_single_episode_is_zero() -> None:
    data = whole_episodes([[5]], np.random.default_rng(0))
    assert np.array_equal(leave_one_out(reward_to_go(data, gamma=0.9), data), np.zeros((5, 1)))


def test_leave_one_out_of_two_equal_episodes_leaves_no_advantage() -> None:
    data = whole_episodes([[5], [5]], np.random.default_rng(0))
    data = replace(data, rewards=np.repeat(data.rewards[:, :1], 2, axis=1))
    returns = reward_to_go(data, gamma=0.9)
    np.testing.assert_allclose(returns - leave_one_out(returns, data), 0, atol=1e-12)


def test_in_expectation_leave_one_out_leaves_the_gradient_and_the_batch_mean_shrinks_it_by_one_over_n() -> None:
    """A two-armed bandit, all batches of three pulls weighted by their probability: exact, without sampling."""
    probability, rewards, n = np.array([0.7, 0.3]), np.array([1.0, -2.0]), 3
    score = np.array([1 - probability[0], -probability[0]])  # of the first logit
    gradient = float((probability * score * rewards).sum())
    expected = {"none": gradient, "leave_one_out": gradient, "mean": gradient * (1 - 1 / n)}
    dones = np.ones((1, n), bool)
    for name, right in expected.items():
        total = 0.0
        for pulls in np.ndindex(2, 2, 2):
            arms = np.array([pulls])
            data = Trajectories(rewards[arms], dones)
            psi = data.rewards - get_baseline(name)(data.rewards, data)
            total += float(probability[arms].prod() * (psi * score[arms]).mean())
        assert total == pytest.approx(right, abs=1e-12), name


@pytest.mark.parametrize("name", list(BASELINES))
@given(data=experience())
@quick
def test_steps_outside_the_batch_have_no_influence(name: str, data: Trajectories) -> None:
    returns = reward_to_go(data, gamma=0.9)
    baseline = np.broadcast_to(get_baseline(name)(returns, data), returns.shape)
    changed = np.where(data.valid, returns, 1e9)
    times = np.where(data.valid, data.times, 12345)
    again = np.broadcast_to(get_baseline(name)(changed, replace(data, times=times)), returns.shape)
    assert np.array_equal(again[data.valid], baseline[data.valid])
    assert np.isfinite(again).all()


@pytest.mark.parametrize("name", list(BASELINES))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_baseline_fits_its_returns_in_shape_and_dtype_and_leaves_them_alone(name: str, dtype: Any) -> None:
    data = whole_episodes([[2, 3], [4], [1, 1, 1]], np.random.default_rng(0), dtype)
    returns = reward_to_go(data, gamma=0.9)
    untouched = returns.copy()
    baseline = get_baseline(name)(returns, data)
    assert baseline.dtype == dtype
    assert (returns - baseline).shape == returns.shape
    assert np.array_equal(returns, untouched)


@pytest.mark.parametrize("name", ["mean", "time_mean", "leave_one_out"])
def test_the_order_of_the_environments_does_not_matter(name: str) -> None:
    rng = np.random.default_rng(0)
    data = whole_episodes([[3, 2], [5], [1, 4]], rng)
    returns, order = reward_to_go(data, gamma=0.9), [2, 0, 1]
    baseline = np.broadcast_to(get_baseline(name)(returns, data), returns.shape)
    swapped = Trajectories(data.rewards[:, order], data.dones[:, order], valid=data.valid[:, order])
    again = np.broadcast_to(get_baseline(name)(returns[:, order], swapped), returns.shape)
    np.testing.assert_allclose(again, baseline[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["", "None", "MEAN", "loo", None, 3])
def test_an_unknown_name_is_refused_with_what_is_accepted(name: Any) -> None:
    with pytest.raises(ValueError, match="is unknown; accepted are") as error:
        get_baseline(name)
    assert str(error.value).startswith(f"baseline={name!r} ")
    assert str(error.value).endswith("none, mean, time_mean, leave_one_out, value")
