"""What the wrong lambda costs, and what a rule that chooses it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rl_zoo3.utils import ALGOS

from sb3_pg.lambda_rules import as_lambda_rule
from sb3_pg.study.results import RunResult, RunSettings
from sb3_pg.study.statistics import N_RESAMPLES, Array, measured
from sb3_pg.tune.blocks import parameters_of


class Regrets(NamedTuple):
    """What the seeds that all curves have in common say of one environment."""

    curves: list[str]
    areas: Array
    """Shape ``(n_curves, n_seeds)``."""
    best: str
    """The fixed lambda with the highest mean, in hindsight."""
    regrets: Array
    """Mean, lower and upper end of the interval for each curve, as a share of what the best fixed lambda is above the
    worst, shape ``(n_curves, 3)``."""
    lambdas: Array
    """Mean lambda in use, shape ``(n_curves,)``; NaN where it was not logged."""
    gains: dict[str, Array]
    """Of each rule with a default over that default held fixed, seed by seed: mean and interval, in the same unit."""


def regrets(found: Mapping[str, Sequence[RunResult]], fixed: Sequence[str]) -> Regrets | None:
    """
    Regret to the best fixed lambda; None where no seed has been through two fixed lambdas.

    In every bootstrap resample of the seeds, the same for all curves, the best and the worst fixed lambda are chosen
    anew, so that the interval knows that the best was picked in hindsight. A training that diverged has the worst area
    of all.

    :param found: trainings of each curve
    :param fixed: curves whose lambda is a number
    """
    by_curve = {
        name: {result.seed: result for result in each if np.isfinite(result.area) or result.failure}
        for name, each in found.items()
    }
    sound = [result.area for each in by_curve.values() for result in each.values() if not result.failure]
    names = [name for name in found if by_curve[name]]
    seeds = sorted(set.intersection(*(set(by_curve[name]) for name in names))) if names else []
    rows = [number for number, name in enumerate(names) if name in fixed]
    if len(rows) < 2 or not seeds or not sound:
        return None
    chosen = [[by_curve[name][seed] for seed in seeds] for name in names]
    areas = np.array([[min(sound) if result.failure else result.area for result in each] for each in chosen])
    key = "logged:train/gae_lambda"
    lambdas = np.array([np.mean([measured(result, key) for result in each]) for each in chosen])
    drawn = np.random.default_rng(0).integers(0, len(seeds), (N_RESAMPLES, len(seeds)))
    means, resampled = areas.mean(axis=1), areas[:, drawn].mean(axis=2)
    spread = np.ptp(means[rows]) or 1.0
    numbers = {lambda_of(chosen[row][0].settings): row for row in rows}
    gains = {}
    for row, name in enumerate(names):
        other = None if row in rows else numbers.get(_default_of(lambda_of(chosen[row][0].settings)))
        if other is not None:
            gains[name] = _with_interval(
                (means[row] - means[other]) / spread, (resampled[row] - resampled[other]) / spread
            )
    best = names[rows[int(means[rows].argmax())]]
    interval = _with_interval(_regret(means, rows), _regret(resampled, rows))
    return Regrets(names, areas, best, interval, lambdas, gains)


def lambda_of(settings: RunSettings) -> Any:
    """Number or rule that was trained with, the algorithm's default where the block has none; None without lambda."""
    parameter = parameters_of(ALGOS[settings.algo]).get("gae_lambda")
    return settings.block.get("gae_lambda", None if parameter is None else parameter.default)


def _default_of(gae_lambda: Any) -> float | None:
    """Lambda that a rule starts from, and stays with where it sees no reason to leave."""
    return None if gae_lambda is None else getattr(as_lambda_rule(gae_lambda, "gae_lambda"), "default", None)


def _with_interval(value: Any, resampled: Array) -> Array:
    """Value, 2.5th and 97.5th percentile, along a new last axis."""
    return np.stack([value, *np.percentile(resampled, [2.5, 97.5], axis=-1)], axis=-1)


def _regret(means: Array, fixed: list[int]) -> Array:
    best, worst = means[fixed].max(axis=0), means[fixed].min(axis=0)
    regret: Array = (best - means) / np.where(best > worst, best - worst, 1.0)
    return regret
