"""When a trial is stopped early: inside its first seed by the learning curve, after that by its seeds.

Both rules are Optuna's, but what they compare with is chosen by the caller, so that it does not depend on which worker
was faster.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState, create_trial

CURVE_PRUNERS = ("median", "halving", "none")
HALVING_FACTOR = 4  # RL Zoo's


@dataclass(frozen=True)
class Bars:
    """
    What a learning curve has to reach at each evaluation.

    :param values: one for each evaluation, None where nothing is asked
    :param best_so_far: compare the best evaluation so far, not the last one
    """

    values: tuple[float | None, ...] = ()
    best_so_far: bool = True

    def missed(self, curve: Sequence[float]) -> float | None:
        """Return the bar that a curve misses with its last evaluation, or None."""
        bar = self.values[len(curve) - 1] if 0 < len(curve) <= len(self.values) else None
        if bar is None:
            return None
        value = max(curve) if self.best_so_far else curve[-1]
        return bar if value < bar else None


def bars_of(
    pruner: str,
    whole: Sequence[Sequence[float]],
    stopped: Sequence[Sequence[float]],
    n_evaluations: int,
    n_startup_trials: int,
) -> Bars:
    """
    What Optuna's pruner, with RL Zoo's settings, asks of the next curve.

    - ``"median"`` (MedianPruner): after a third of the evaluations, the best one so far must not be below the median of
      what the whole curves had at the same evaluation. Nothing is asked before there are ``n_startup_trials`` of them.
    - ``"halving"`` (SuccessiveHalvingPruner): evaluations 1, 4, 16, ... must be among the best quarter of all curves
      that got that far, stopped ones too.

    :param pruner: one of :data:`CURVE_PRUNERS`
    :param whole: curves of trainings that were not stopped
    :param stopped: curves of those that were, up to and with the evaluation that decided it
    :param n_evaluations: evaluations of a whole curve
    :param n_startup_trials: for ``"median"``
    """
    bars: list[float | None] = [None] * n_evaluations
    if pruner == "median":
        if len(whole) >= max(n_startup_trials, 1):
            first = max(n_evaluations // 3, 1)
            bars[first - 1 :] = [float(bar) for bar in np.median(whole, axis=0)[first - 1 :]]
    elif pruner == "halving":
        rung = 1
        while rung <= n_evaluations:
            others = sorted(curve[rung - 1] for curve in (*whole, *stopped) if len(curve) >= rung)
            promoted = max((len(others) + 1) // HALVING_FACTOR, 1)
            if len(others) >= promoted:
                bars[rung - 1] = others[-promoted]
            rung *= HALVING_FACTOR
    return Bars(tuple(bars), best_so_far=pruner == "median")


def default_p_threshold(n_seeds: int) -> float:
    """
    Three seeds decide where there are more; where there are not, two do, or nothing would ever be pruned.

    Of five seeds, two do about as well as three (the table in docs/tuning.md has both thresholds).

    :param n_seeds: seeds of a trial
    """
    return 0.15 if n_seeds > 3 else 0.3


def clearly_worse(scores: Sequence[float], best: Sequence[float], p_threshold: float) -> bool:
    """
    Whether a trial is worse than the best one, judged by the seeds that it has so far (Optuna's WilcoxonPruner).

    One-sided signed-rank test of the differences, seed by seed. All of n seeds worse gives p = 1/2^n, the smallest that
    n seeds can give: two seeds decide for a threshold above 0.25, three above 0.125, four above 0.0625.

    :param scores: of the first seeds of the trial
    :param best: of the same and the following seeds of the best trial
    :param p_threshold: stop below this probability that an equally good trial looks so bad; 0 never stops
    """
    if not p_threshold:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=p_threshold)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.add_trial(create_trial(value=float(np.mean(best)), intermediate_values=dict(enumerate(best))))
    trial = create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(scores)))
    return pruner.prune(study, trial)
