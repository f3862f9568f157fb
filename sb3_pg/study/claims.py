"""What is claimed of a curve beside what its trainings came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sb3_pg.study.plan import OF_TWO_CURVES, Claim, Study
from sb3_pg.study.results import N_SHARES, RunResult
from sb3_pg.study.runner import Results
from sb3_pg.study.statistics import (
    N_TO_SETTLE,
    Array,
    Estimate,
    estimate,
    median_seconds,
    middle,
    resampled,
    scores,
    scores_of,
)

ALIKE = 0.2
"""Two numbers are alike (``~``) when they differ by no more than this share of the larger one."""
NOT_TRAINED = "not trained yet"
NO_NUMBER = "its trainings have no such number"
NEITHER = "neither got there"


@dataclass(frozen=True)
class Verdict:
    """
    What a claim came to.

    :param claim: the claim
    :param measure: the claim's, with the seconds after it if it is :data:`~sb3_pg.study.plan.OF_TWO_CURVES`
    :param measured: of its curve
    :param other: of the curve that it is compared with; None for a number, or for nothing
    :param holds: ``"yes"``, ``"no"``, or what keeps it from being either; empty where nothing is compared
    """

    claim: Claim
    measure: str
    measured: Estimate
    other: Estimate | None
    holds: str


def judge(claim: Claim, study: Study, results: Results) -> Verdict:
    """
    Compare what was measured with what is claimed.

    It is "yes" or "no" where the 95 % interval, of the number or of the difference, lies on one side. Where it does
    not, or where there are fewer than :data:`N_TO_SETTLE` seeds to make an interval of, the side of the estimate itself
    is said, and that the seeds do not settle it.

    :param claim: the claim
    :param study: the plan
    :param results: of its trainings
    """
    names = [claim.curve, *([claim.than] if isinstance(claim.than, str) else [])]
    are_there = all(results.of(claim.env, name) for name in names)
    measure = claim.measure
    if not are_there:
        return Verdict(claim, measure, estimate(np.array([])), None, NOT_TRAINED)
    if measure == OF_TWO_CURVES:
        curves = [results.of(claim.env, name) for name in names]
        measure, of_each = _at_equal_time(curves)
        found = list(scores_of(dict(zip(names, zip(curves, of_each, strict=True), strict=True))).values())
    else:
        found = [scores(study, results, claim.env, name, measure) for name in names]
    ours, theirs = found if len(found) == 2 else (found[0], np.array([claim.than]))
    here, other = estimate(ours, measure), estimate(theirs, measure) if len(found) == 2 else None
    if not len(ours) or not len(theirs):
        return Verdict(claim, measure, here, other, NO_NUMBER)
    if not claim.sign:
        return Verdict(claim, measure, here, other, "")
    rng = np.random.default_rng(0)
    drawn = [resampled(ours, measure, rng), resampled(theirs, measure, rng) if other else theirs]
    share = float(np.mean(_holds(claim.sign, *drawn)))
    middles = [middle(values[None], measure) for values in (ours, theirs)]
    if other is not None and np.isinf(middles).all():
        return Verdict(claim, measure, here, other, NEITHER)
    held = bool(_holds(claim.sign, *middles)[0])
    word = "yes" if held else "no"
    n_seeds = len(ours) if other is None else min(len(ours), len(theirs))
    settled = n_seeds >= N_TO_SETTLE and (share >= 0.975 if held else share <= 0.025)
    seeds = "one seed" if n_seeds == 1 else f"{n_seeds} seeds"
    return Verdict(claim, measure, here, other, word if settled else f"{word}, but not settled by {seeds}")


def _at_equal_time(curves: Sequence[Sequence[RunResult]]) -> tuple[str, list[str]]:
    """
    Measure each curve where it is when the one that takes less time ends.

    All seeds of a curve are looked at after the same steps: a training that had to share the machine would otherwise be
    cut where others are not.

    :param curves: trainings of each
    :return: the measure with its seconds, and that of each curve
    """
    clocks = [median_seconds(found) for found in curves]
    seconds = min(each[-1] for each in clocks)
    shares = [int(np.searchsorted(each, seconds, side="right")) / N_SHARES for each in clocks]
    steps = [found[0].settings.n_timesteps for found in curves]
    each = [f"until:{share * n_timesteps:.0f}" for share, n_timesteps in zip(shares, steps, strict=True)]
    return f"{OF_TWO_CURVES}:{seconds:.0f}", each


def _holds(sign: str, ours: Array, theirs: Array) -> NDArray[np.bool_]:
    if sign == "~":
        ours, theirs = np.broadcast_arrays(ours, theirs)
        alike: NDArray[np.bool_] = np.equal(ours, theirs)  # so are two infinities, whose difference is none
        finite = np.isfinite(ours) & np.isfinite(theirs)
        one, other = ours[finite], theirs[finite]
        alike[finite] |= np.abs(one - other) <= ALIKE * np.maximum(np.abs(one), np.abs(other))
        return alike
    compare = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal}[sign]
    return np.asarray(compare(ours, theirs))
