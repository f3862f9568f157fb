"""Numbers that stand for a learning curve, and for several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OBJECTIVES = ("last", "auc")


def score_of(curve: Sequence[float], objective: str, last_k: int) -> float:
    """
    Score one training by its evaluations, which are evenly spaced over the steps.

    :param curve: mean return of each evaluation, at least one
    :param objective: ``"last"``, the mean of the last ``last_k`` evaluations: how good the policy is in the end, with
        less noise than one evaluation has. ``"auc"``, the mean of all: the area under the learning curve divided by
        its length, which also counts how fast it got there
    :param last_k: for ``"last"``
    :return: the score, in the unit of the returns
    """
    return float(np.mean(curve if objective == "auc" else curve[-last_k:]))


def interquartile_mean(values: Sequence[float]) -> float:
    """
    Mean of the middle half (IQM; Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice", section 4.3).

    A quarter of the values, rounded down, is left out at either end: nothing of 3 values, one at each end of 4 to 7.

    :param values: at least one
    """
    return float(mean_of_middle_half(np.asarray(values, dtype=float)))


def bootstrap_interval(values: Sequence[float], n_resamples: int = 4000) -> tuple[float, float]:
    """
    95 % percentile bootstrap interval of the interquartile mean over seeds (Agarwal et al. 2021, section 4.1).

    With few seeds it is too narrow rather than too wide: it knows only the values that it was given.

    :param values: of one seed each
    :param n_resamples: number of samples with replacement
    :return: lower and upper end; NaN for fewer than two values, which say nothing of other seeds
    """
    if len(values) < 2:
        return math.nan, math.nan
    array = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(0).choice(array, size=(n_resamples, len(array)))  # the same values, the same interval
    low, high = np.quantile(mean_of_middle_half(drawn), [0.025, 0.975])
    return float(low), float(high)


def say_interval(interval: tuple[float, float], form: str = "{:.6g} to {:.6g}", none: str = "none") -> str:
    """
    Write an interval.

    :param interval: lower and upper end
    :param form: with places for both
    :param none: what to say where there is no interval
    """
    return none if math.isnan(interval[0]) else form.format(*interval)


def mean_of_middle_half(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """:func:`interquartile_mean` along the last axis."""
    n_values = values.shape[-1]
    cut = n_values // 4
    return np.asarray(np.sort(values, axis=-1)[..., cut : n_values - cut].mean(axis=-1))
