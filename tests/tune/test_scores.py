from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import trim_mean

from sb3_pg.tune.scores import bootstrap_interval, interquartile_mean, say_interval, score_of


def test_the_score_is_the_mean_of_the_last_evaluations_or_of_all() -> None:
    curve = [0.0, 10.0, 20.0, 60.0]
    assert score_of(curve, "last", 2) == 40
    assert score_of(curve, "last", 1) == 60
    assert score_of(curve, "auc", 2) == 22.5
    assert score_of([5.0], "last", 3) == 5


@pytest.mark.parametrize("n_values", range(1, 13))
def test_the_interquartile_mean_is_that_of_rliable(n_values: int) -> None:
    values = list(np.random.default_rng(n_values).normal(size=n_values))
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25))


def test_one_lucky_seed_of_five_does_not_lift_the_interquartile_mean() -> None:
    assert interquartile_mean([1.0, 2.0, 3.0, 4.0, 1000.0]) == 3


def test_the_interval_contains_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        low, high = bootstrap_interval(list(rng.normal(5.0, 2.0, size=20)), n_resamples=400)
        hits += low <= 5.0 <= high
    assert 0.87 <= hits / 300 <= 0.99


def test_one_value_has_no_interval() -> None:
    assert say_interval(bootstrap_interval([3.0])) == say_interval(bootstrap_interval([])) == "none"
    assert say_interval(bootstrap_interval([3.0]), "[{}, {}]", "") == ""
    assert say_interval((2.0, 4.5)) == "2 to 4.5"


def test_the_interval_is_always_the_same() -> None:
    assert bootstrap_interval([1.0, 2.0, 4.0, 8.0]) == bootstrap_interval([1.0, 2.0, 4.0, 8.0])
    low, high = bootstrap_interval([1.0, 2.0, 4.0, 8.0])
    assert 1 <= low < interquartile_mean([1.0, 2.0, 4.0, 8.0]) < high <= 8
