from __future__ import annotations

import math
import warnings

import numpy as np
import optuna
import pytest

from sb3_pg.tune.pruning import Bars, bars_of, clearly_worse

optuna.logging.set_verbosity(optuna.logging.WARNING)

N_EVALUATIONS = 17


def curves_of(seed: int, n_curves: int) -> list[list[float]]:
    """Random walks upwards, with ties."""
    rng = np.random.default_rng(seed)
    return [list(np.cumsum(rng.integers(-1, 4, N_EVALUATIONS)).astype(float)) for _ in range(n_curves)]


def optunas_way(pruner: optuna.pruners.BasePruner, curves: list[list[float]]) -> list[int]:
    """How long each curve gets when Optuna runs the trials one after the other."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    lengths = []
    for curve in curves:
        trial = study.ask()
        for step, value in enumerate(curve, 1):
            trial.report(value, step)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, curve[-1])
        lengths.append(step)
    return lengths


def our_way(pruner: str, curves: list[list[float]], n_startup_trials: int) -> list[int]:
    whole: list[list[float]] = []
    stopped: list[list[float]] = []
    lengths = []
    for curve in curves:
        bars = bars_of(pruner, whole, stopped, N_EVALUATIONS, n_startup_trials)
        steps = range(1, N_EVALUATIONS + 1)
        missed = next((step for step in steps if bars.missed(curve[:step]) is not None), None)
        (stopped if missed else whole).append(curve[:missed])
        lengths.append(missed or N_EVALUATIONS)
    return lengths


@pytest.mark.parametrize("seed", range(5))
def test_the_median_pruner_is_rl_zoos(seed: int) -> None:
    curves = curves_of(seed, 30)
    zoos = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=N_EVALUATIONS // 3)
    expected = optunas_way(zoos, curves)
    assert our_way("median", curves, 4) == expected
    assert 5 < sum(length < N_EVALUATIONS for length in expected) < 28
    assert min(expected) >= N_EVALUATIONS // 3


@pytest.mark.parametrize("seed", range(5))
def test_the_halving_pruner_is_rl_zoos(seed: int) -> None:
    curves = curves_of(seed, 30)
    zoos = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4, min_early_stopping_rate=0)
    expected = optunas_way(zoos, curves)
    assert our_way("halving", curves, 4) == expected
    assert set(expected) <= {1, 4, 16, N_EVALUATIONS}
    assert len(set(expected)) >= 3


def test_nothing_is_asked_without_a_pruner_or_without_other_curves() -> None:
    curves = curves_of(0, 10)
    assert set(bars_of("none", curves, curves, N_EVALUATIONS, 0).values) == {None}
    for pruner in ("median", "halving"):
        assert set(bars_of(pruner, [], [], N_EVALUATIONS, 0).values) == {None}
    assert Bars().missed([1.0]) is None


def test_a_missed_bar_is_named() -> None:
    assert Bars((None, 5.0, 7.0)).missed([1.0]) is None
    assert Bars((None, 5.0, 7.0)).missed([1.0, 4.0]) == 5.0
    assert Bars((None, 5.0, 7.0)).missed([8.0, 4.0]) is None
    assert Bars((None, 5.0, 7.0), best_so_far=False).missed([8.0, 4.0]) == 5.0


@pytest.mark.parametrize(("n_seeds", "smallest"), [(2, 0.25), (3, 0.125), (4, 0.0625), (5, 0.03125)])
def test_seeds_that_are_all_worse_decide_once_they_can(n_seeds: int, smallest: float) -> None:
    best = [10.0, 12.0, 11.0, 15.0, 10.5]
    worse = [score - 1 - index for index, score in enumerate(best)][:n_seeds]
    assert clearly_worse(worse, best, p_threshold=math.nextafter(smallest, 1))
    assert not clearly_worse(worse, best, p_threshold=smallest)


def test_one_seed_decides_nothing_and_a_threshold_of_zero_never_stops() -> None:
    assert not clearly_worse([0.0], [10.0, 10.0], p_threshold=0.9)
    assert not clearly_worse([0.0] * 5, [10.0] * 5, p_threshold=0.0)


def test_an_equal_or_better_trial_goes_on() -> None:
    best = [500.0, 500.0, 500.0, 500.0]
    assert not clearly_worse(best[:3], best, p_threshold=0.3)
    assert not clearly_worse([501.0, 502.0, 503.0], best, p_threshold=0.3)


def test_a_trial_whose_mean_is_not_below_the_best_ones_is_never_stopped() -> None:
    # Worse on three of four seeds, and much better on one
    best = [10.0, 10.0, 10.0, 10.0]
    assert not clearly_worse([9.0, 9.0, 9.0, 40.0], best, p_threshold=1.0)


def test_comparing_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clearly_worse([1.0, 2.0], [1.0, 2.0, 3.0], p_threshold=0.5)
