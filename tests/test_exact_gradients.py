"""Every estimator, and VPG as a whole, against gradients that are known exactly.

A measurement passes when no component of its mean, nor its length along the exact gradient, is more than four standard
errors away. Every measurement of arrays is also made 2 % longer and shorter, which has to fail: it would have found
such a bias. What is measured is in zoo_scripts/gradient_checks.py; seeds are fixed.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise
from typing import Any

import gradient_checks as checks
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gradient_checks import LARGEST_Z, Batch, Case, Pipeline
from gymnasium.wrappers import TimeAwareObservation
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE, VPG
from sb3_pg.advantage.baselines import BASELINES
from sb3_pg.advantage.estimators import ESTIMATORS
from sb3_pg.checks import TRUNCATIONS
from sb3_pg.exact.expectation import expected_episodes, expected_gradient
from sb3_pg.exact.mdp import softmax_policy, solve
from sb3_pg.exact.problems import random_chain
from sb3_pg.exact.sampling import Measurement
from sb3_pg.rollout import collector

ALL_CASES = tuple(checks.array_cases())

# The long form measures all of them. Here every estimator, baseline, truncation and batch has its turn; of the total
# return, which takes twice the samples, and of what is the same on another problem, only these.
OF_THE_TOTAL_RETURN = ("baseline none", "baseline leave_one_out", "wrong critic")
OF_THE_REST = ("baseline none", "baseline leave_one_out", "gae λ=0.95, wrong critic")


def is_tested(case: Case) -> bool:
    """Whether a case is measured here, too."""
    total = case.estimator == "total_return"
    if total and not any(words in case.words for words in OF_THE_TOTAL_RETURN):
        return False
    some = any(words in case.words for words in OF_THE_REST)
    if (case.problem, case.batch) == ("chain", checks.SEVERAL):
        return some if case.state_discount or total else True
    if case.batch == checks.AT_LEAST:
        return some and case.problem in ("chain", "two-state")
    return case.batch in (checks.CUT, checks.ONE_EPISODE) and case.problem != "LineWorld"


CASES = [case for case in ALL_CASES if is_tested(case)]


def n_samples(case: Case) -> int:
    """Gradients of a thousand episodes that it takes to find a bias of 2 %."""
    return 90 if case.batch == checks.CUT else 600 if case.estimator == "total_return" else 270


@cache
def measured(problem: str, batch: Batch, samples: int) -> dict[Case, Measurement]:
    """All cases that share experience, at once."""
    same = [case for case in CASES if (case.problem, case.batch, n_samples(case)) == (problem, batch, samples)]
    return checks.measure_arrays(same, samples)


# -- estimators, baselines, truncation, batches ----------------------------------------------------------------------


def test_theory_and_the_exact_expectation_agree_on_what_is_unbiased() -> None:
    assert len(ALL_CASES) > 300
    assert [str(case) for case in ALL_CASES if not checks.keeps_its_promise(case)] == []
    assert 0.3 < np.mean([case.is_unbiased for case in ALL_CASES]) < 0.9


def test_every_name_that_vpg_knows_is_measured() -> None:
    assert {case.estimator.split(":")[0] for case in CASES} == {*ESTIMATORS, "n_step"}
    assert {case.baseline for case in CASES} == set(BASELINES)
    assert {case.truncation for case in CASES} == set(TRUNCATIONS)
    assert {(case.batch.rule.cuts_episodes, bool(case.batch.n_episodes)) for case in CASES} == {
        (True, False), (False, True), (False, False),
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_measured_gradient_is_the_expected_one(case: Case) -> None:
    measurement = measured(case.problem, case.batch, n_samples(case))[case]
    exact = checks.expectation(case)
    assert measurement.worst_z(exact) < LARGEST_Z
    for factor in (0.98, 1.02):
        assert Measurement(factor * measurement.samples).worst_z(exact) > LARGEST_Z, "a bias of 2 % would pass"
    if case.is_unbiased and not case.looks_at_itself:
        assert measurement.worst_z(checks.true_gradient(case)) < LARGEST_Z


def test_biases_have_the_sign_and_size_that_is_computed() -> None:
    """The wrong critic's and the discarded episodes' biases are far from zero where they are measured."""
    biased = [case for case in CASES if not case.is_unbiased]
    found = 0
    for case in biased:
        longer, _ = checks.bias(case)
        if abs(longer) > 0.02:
            found += 1
            measurement = measured(case.problem, case.batch, n_samples(case))[case]
            length, error = measurement.length(checks.true_gradient(case))
            assert abs(length - 1.0 - longer) < LARGEST_Z * error
            assert np.sign(length - 1.0) == np.sign(longer)
    assert found > 30


# -- small batches, counted out --------------------------------------------------------------------------------------


def shares(baseline: str, n_envs: int, n_steps: int | None = None) -> float:
    """The expected gradient of a small batch, in units of the exact one."""
    small = checks.short_two_state()
    exact = solve(small.mdp, small.policy).semi_gradient
    episodes = 1.0 if n_steps is None else expected_episodes(small.mdp, small.policy, n_steps)
    return float(checks.counted(small, baseline, n_envs, n_steps)[0] / (exact[0] * episodes))


@pytest.mark.parametrize("n_envs", [2, 3, 4])
@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_a_quota_of_episodes_is_unbiased_to_the_last_digit(baseline: str, n_envs: int) -> None:
    assert shares(baseline, n_envs) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("n_steps", [2, 4])
def test_by_walds_identity_whole_episodes_of_at_least_n_steps_are_unbiased_to_the_last_digit(n_steps: int) -> None:
    assert shares("none", 2, n_steps) == pytest.approx(1.0, abs=1e-12)


def test_dividing_by_the_number_of_steps_would_be_biased() -> None:
    """Ratio of sums: what whole-episode batches would do without the constant divisor."""
    small = checks.short_two_state()
    rollout, probabilities = checks.all_episodes(small.mdp, small.policy)
    lengths = rollout.valid.sum(axis=0)
    weights = np.cumsum(rollout.rewards[::-1], axis=0)[::-1]
    per_episode = checks.score_sums(small.policy, rollout, weights)[:, 0]
    exact = solve(small.mdp, small.policy)
    by_steps = probabilities @ (per_episode / lengths)
    assert abs(by_steps * exact.mean_length / exact.semi_gradient[0] - 1.0) > 0.05


def test_means_over_the_batch_shrink_the_gradient_less_in_larger_batches() -> None:
    for baseline in ("mean", "time_mean"):
        found = [shares(baseline, n_envs) for n_envs in (2, 3, 4, 5)]
        assert found == sorted(found)
        assert 0.3 < found[0] < 0.7
        assert found[-1] < 0.95


def test_for_episodes_of_one_length_a_mean_at_each_time_takes_exactly_one_nth_away() -> None:
    mdp = dataclasses.replace(random_chain(3, 2, seed=1, time_limit=1), limit_is_terminal=True)
    of = checks.make_problem(mdp, softmax_policy(np.random.default_rng(0).normal(size=(3, 2))))
    exact = solve(of.mdp, of.policy).semi_gradient
    for n_envs in (2, 3):
        for baseline in ("mean", "time_mean"):
            np.testing.assert_allclose(checks.counted(of, baseline, n_envs), exact * (1.0 - 1.0 / n_envs), atol=1e-12)


@pytest.mark.parametrize("n_envs", [2, 3, 4])
def test_what_a_mean_at_each_time_takes_away_is_what_is_computed(n_envs: int) -> None:
    small = checks.short_two_state()
    computed = expected_gradient(
        small.mdp, small.policy, "reward_to_go", truncation="terminal", baseline="time_mean", n_episodes=n_envs
    )
    np.testing.assert_allclose(checks.counted(small, "time_mean", n_envs), computed, atol=1e-12)


def test_leave_one_out_is_not_quite_unbiased_where_the_number_of_episodes_depends_on_their_lengths() -> None:
    """Whole episodes of at least n steps: how long an episode is decides which others there are to compare with."""
    assert shares("leave_one_out", 2, n_steps=2) == pytest.approx(0.9658, abs=1e-3)
    assert abs(shares("leave_one_out", 2, n_steps=4) - 1.0) < 0.01


# -- variances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [checks.VARIANCE_ORDER, checks.LAMBDA_ORDER], ids=["baselines", "lambdas"])
def test_variances_fall_in_the_order_that_theory_predicts(order: tuple[Case, ...]) -> None:
    found = [checks.total_variance(case, 4000) for case in order]
    for (larger, error), (smaller, other) in pairwise(found):
        assert larger - smaller > LARGEST_Z * np.hypot(error, other)


def test_with_a_mean_that_holds_itself_the_variance_is_smaller_by_the_square_of_its_share() -> None:
    """(1 - 1/N)^2 of that of leave-one-out, whose gradient is longer by just that."""
    mean, leave = (
        checks.total_variance(Case("LineWorld", checks.ONE_EPISODE, "reward_to_go", baseline=baseline), 500)[0]
        for baseline in ("time_mean", "leave_one_out")
    )
    assert mean / leave == pytest.approx((7 / 8) ** 2, rel=1e-6)


# -- VPG, from the environment to the gradient -----------------------------------------------------------------------

IN_THE_LONG_FORM = ("importance", "n_step:3", "joint_optimizer", "bootstrap", "discard", "total_return")
PIPELINES = [each for each in checks.pipelines() if not each.name.endswith(IN_THE_LONG_FORM)]


@pytest.mark.parametrize("pipeline", PIPELINES, ids=str)
def test_vpgs_own_gradient_is_the_exact_one(pipeline: Pipeline) -> None:
    measurement, exact = checks.measure_pipeline(pipeline, 40), checks.expectation_of(pipeline)
    assert measurement.worst_z(exact) < LARGEST_Z
    longer = 1.5 if pipeline.features is not None else 1.15
    assert Measurement(longer * measurement.samples).worst_z(exact) > LARGEST_Z


def test_learning_at_a_rate_of_zero_changes_no_weight() -> None:
    model = checks.make_model(PIPELINES[0])
    before = {name: weight.clone() for name, weight in model.policy.state_dict().items()}
    model.learn(2000)
    assert all(th.equal(weight, before[name]) for name, weight in model.policy.state_dict().items())


class FirstFinishedFirstKept(collector._Shares):
    """The naive batch: so many episodes in all, whichever end first; what is not over by then is thrown away."""

    def __init__(self, rule: Any, n_envs: int) -> None:
        super().__init__(rule, n_envs)
        self.quota, self.kept = rule.n_episodes * n_envs, 0
        self.beginnings, self.rows = np.zeros(n_envs, dtype=int), []

    def count(self, n_steps: int, dones: Any) -> None:
        self.rows.append(np.zeros(len(dones), dtype=bool))
        for env_index in np.flatnonzero(dones)[: self.quota - self.kept]:
            for row in self.rows[self.beginnings[env_index] :]:
                row[env_index] = True
            self.kept += 1
        self.beginnings[dones] = n_steps
        self.complete = self.kept >= self.quota

    def valid(self) -> Any:
        return np.stack(self.rows)


@pytest.mark.parametrize("n_episodes", [1, 3])
def test_keeping_the_episodes_that_end_first_fails_what_a_quota_for_each_environment_passes(
    monkeypatch: pytest.MonkeyPatch, n_episodes: int
) -> None:
    pipeline = Pipeline(
        f"{n_episodes} short or long", "short or long", {"n_episodes": n_episodes}, REINFORCE, critic="none", n_envs=16,
        n_batches=1,
    )  # fmt: skip
    exact = checks.expectation_of(pipeline)
    assert checks.measure_pipeline(pipeline, 40).worst_z(exact) < LARGEST_Z
    monkeypatch.setattr(collector, "_Shares", FirstFinishedFirstKept)
    assert checks.measure_pipeline(pipeline, 40).worst_z(exact) > LARGEST_Z


def test_the_total_return_is_not_discounted_twice() -> None:
    """R = sum of gamma^t r_t has the discount of the theorem in it already (docs/correctness.md)."""
    with pytest.raises(ValueError, match=r"state_discount=True.*estimator='total_return'"):
        VPG("MlpPolicy", "LineWorld-v0", estimator="total_return", n_episodes=2, state_discount=True)


# -- a limit that is a part of the task ------------------------------------------------------------------------------


def test_with_the_time_in_the_observation_the_gradient_is_that_of_the_task_with_its_limit() -> None:
    """TimeAwareObservation and truncation="terminal": the policy is a function of state and time."""
    mdp, limit = random_chain(seed=9, gamma=1.0), 5

    def make() -> gym.Env[Any, Any]:
        limited = gym.make("FiniteMDP-v0", mdp=mdp, max_episode_steps=limit, disable_env_checker=True)
        return Monitor(TimeAwareObservation(limited, normalize_time=True))

    model = REINFORCE(
        "MlpPolicy", DummyVecEnv([make] * 16), n_episodes=2, truncation="terminal", learning_rate=0.0, gamma=1.0,
        max_grad_norm=None, normalize_advantage=False, policy_kwargs=dict(net_arch=[]), seed=0, device="cpu",
    )  # fmt: skip
    with th.no_grad():
        model.policy.action_net.weight[:] = th.as_tensor(np.random.default_rng(1).normal(size=(3, 7)))
    clocked = dataclasses.replace(mdp, time_limit=limit).with_clock()
    times = np.repeat(np.arange(limit + 1) / limit, mdp.n_states)
    features = np.concatenate([np.tile(np.eye(mdp.n_states), (limit + 1, 1)), times[:, None]], axis=1)
    logits = model.policy.get_distribution(th.as_tensor(features, dtype=th.float32)).distribution.logits
    exact = solve(clocked, softmax_policy(logits.detach().double().numpy())).gradient
    (logits * th.as_tensor(exact.reshape(logits.shape), dtype=th.float32)).sum().backward()
    expected = checks._flat_gradient(model)
    samples = []
    for _ in range(40):
        _, callback = model._setup_learn(10**9, None, reset_num_timesteps=True)
        samples.append(checks.one_gradient(model, callback))
    measurement = Measurement(np.stack(samples))
    assert measurement.worst_z(expected) < LARGEST_Z
    assert Measurement(1.3 * measurement.samples).worst_z(expected) > LARGEST_Z
    weights_of_time = np.abs(expected[6:21:7])
    assert weights_of_time.max() > 0.05  # the time has a gradient of its own
