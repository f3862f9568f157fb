"""Numbers for several seeds: measures, estimates, bands."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study.small_study import PLAN, result, results_of, study

from sb3_pg.study.results import N_SHARES
from sb3_pg.study.statistics import (
    band,
    estimate,
    measured,
    normalized,
    performance_profiles,
    probabilities_of_improvement,
    scores,
)
from sb3_pg.tune.scores import bootstrap_interval, interquartile_mean


def test_measures() -> None:
    one = result(level=100.0, successes=[0.0] * 45 + [1.0] * 5)
    assert measured(one, "final") == pytest.approx(96.0)
    assert measured(one, "area") == pytest.approx(51.0)
    assert measured(one, "best") == 100
    assert measured(one, "evaluation") == 100
    assert measured(one, "success") == 1
    assert measured(one, "wobble") == pytest.approx(np.std(np.arange(52, 101, 2)))
    assert measured(one, "until:500") == pytest.approx(np.mean([48, 50]))
    assert measured(one, "until:1000") == measured(one, "final")
    assert measured(one, "until:20") == measured(one, "until:39") == 2
    assert np.isnan([measured(one, f"until:{steps}") for steps in (-5, 0, 19, 1020)]).all()
    silent = replace(one, returns=[5.0, 7.0, *[None] * 48])
    assert (measured(silent, "until:40"), measured(silent, "until:500")) == (7, 7)
    stopped = replace(one, failure="NaN", n_episodes=[2] * 45 + [0] * 5)
    assert measured(stopped, "until:900") == measured(one, "until:900")
    assert math.isnan(measured(stopped, "until:920"))
    assert measured(one, "steps_to:50") == 500
    assert measured(one, "steps_to:101") == math.inf
    assert (measured(one, "above:96"), measured(one, "above:97")) == (1, 0)
    assert measured(result(logged={"train/gae_lambda": [0.9] * N_SHARES}), "logged:train/gae_lambda") == pytest.approx(
        0.9
    )
    assert math.isnan(measured(one, "logged:train/gae_lambda"))
    later = result(logged={"train/gae_lambda": [None, 0.5, None, 0.3, None, *[0.9] * 45]})
    assert measured(later, "early:train/gae_lambda") == pytest.approx(0.4)
    assert math.isnan(measured(one, "early:train/gae_lambda"))
    failed = result(failure="NaN")
    assert measured(failed, "steps_to:1") == math.inf
    assert measured(failed, "above:1") == 0


def test_a_training_that_diverged_counts_as_the_worst_of_its_environment(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    results.found["CartPole-v1", "auto"][2] = result(2, 1e9, failure="NaN in the weights")
    worst = scores(plan, results, "CartPole-v1", "0.5", "final").min()
    assert scores(plan, results, "CartPole-v1", "auto", "final")[1] == worst
    assert estimate(scores(plan, results, "CartPole-v1", "auto", "final")).n_seeds == 3


def test_what_was_logged_has_no_worst_and_so_those_that_diverged_are_left_out(tmp_path: Path) -> None:
    plan = study(tmp_path)
    results = results_of(plan)
    logged: dict[str, list[float | None]] = {"train/grad_norm": [1e6] * N_SHARES}
    results.found["CartPole-v1", "auto"] = {
        seed: result(seed, logged=logged, failure="NaN in the weights" if seed < 3 else "") for seed in (1, 2, 3)
    }
    for measure in ("logged:train/grad_norm", "early:train/grad_norm"):
        assert scores(plan, results, "CartPole-v1", "auto", measure).tolist() == [1e6]


def test_what_is_no_curve_is_not_drawn_as_one() -> None:
    trained = result(1)
    assert np.isnan(trained.curve("evaluation")).all()
    assert np.isnan(trained.curve("seconds")).all()
    assert np.isfinite(trained.curve("returns")).all()


def test_the_band_is_the_interquartile_mean_of_each_share_with_its_bootstrap() -> None:
    rng = np.random.default_rng(1)
    each = [result(seed, returns=list(100 + 10 * rng.normal(size=N_SHARES))) for seed in range(8)]
    found = band(each, n_resamples=4000)
    columns = np.array([one.returns for one in each], dtype=float).T
    assert found.middle == pytest.approx([interquartile_mean(column) for column in columns])
    low, high = np.array([bootstrap_interval(column) for column in columns]).T
    assert found.low == pytest.approx(low, abs=1.0)
    assert found.high == pytest.approx(high, abs=1.0)
    half = [*each[0].returns[:25], *[None] * 25]
    stopped = result(9, returns=half, n_episodes=[2] * 25 + [0] * 25, failure="NaN in the weights")
    assert band([stopped, each[1]]).each[0, 25:].tolist() == [min(map(float, [*half[:25], *each[1].returns]))] * 25  # type: ignore[arg-type]
    begun_late = band([each[0], result(returns=[None, *each[1].returns[1:]])])
    assert np.isnan(begun_late.middle[0])
    assert np.isfinite(begun_late.middle[1:]).all()
    # The trimmed mean of eight would leave the one without a number out
    begun_late = band([*each[1:], result(returns=[None, *each[1].returns[1:]])])
    assert np.isnan([begun_late.middle[0], begun_late.low[0], begun_late.high[0]]).all()
    assert np.isfinite(begun_late.middle[1:]).all()


def test_what_may_be_infinite_has_a_median_and_shares_have_a_mean() -> None:
    assert estimate(np.array([1.0, 2.0, np.inf]), "steps_to:5").value == 2
    assert estimate(np.array([1.0, np.inf, np.inf]), "steps_to:5").value == np.inf
    assert estimate(np.array([10.0, 20, 30, 1000]), "steps_to:5").value == 30
    assert estimate(np.array([0.0, 0, 0, 0, 1]), "above:5").value == pytest.approx(0.2)
    assert math.isnan(estimate(np.array([])).value)


def test_seeds_that_agree_do_not_make_a_share_certain() -> None:
    # Jeffreys' interval of 0 of 3 ends at the 97.5th percentile of Beta(1/2, 7/2), which is 0.536
    none, all_of_them = estimate(np.zeros(3), "above:5"), estimate(np.ones(3), "above:5")
    assert none == (0, 0, pytest.approx(0.536, abs=0.03), 3)
    assert all_of_them == (1, pytest.approx(0.464, abs=0.03), 1, 3)
    some = estimate(np.array([0.0, 0, 1, 1, 1, 1, 1, 1, 1, 1]), "above:5")
    assert (some.low, some.high) == pytest.approx((0.497, 0.955), abs=0.02)


def test_rliable_says_which_is_better(tmp_path: Path) -> None:
    plan = study(tmp_path, PLAN)
    found = normalized(plan, results_of(plan), ["CartPole-v1"], ["0.5", "1", "auto"])
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(found, (3, 1))
    assert min(values.min() for values in found.values()) == 0
    assert interquartile_mean(found["auto"][:, 0]) == pytest.approx(1)
    share, low, high = performance_profiles(found, np.array([0.5]))["auto"]
    assert (share, low, high) == (1, 1, 1)
    better = probabilities_of_improvement(found, "auto")
    assert better["0.5"].value == 1
    assert set(better) == {"0.5", "1"}
