"""Numbers that stand for several seeds, with intervals that say how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rl_zoo3.utils import ALGOS

from sb3_pg.lambda_rules import as_lambda_rule
from sb3_pg.study.plan import OF_TWO_CURVES, Claim, Study
from sb3_pg.study.results import N_SHARES, RunResult, RunSettings
from sb3_pg.study.runner import Results
from sb3_pg.tune.blocks import parameters_of
from sb3_pg.tune.scores import interquartile_mean, mean_of_middle_half

Array = NDArray[np.float64]

N_RESAMPLES = 4000
N_TO_SETTLE = 3
"""Seeds from which on an interval is believed: the bootstrap of one seed has no width, that of two hardly any."""
ALIKE = 0.2
"""Two numbers are alike (``~``) when they differ by no more than this share of the larger one."""


class Estimate(NamedTuple):
    """A number for several seeds, and its 95 % interval."""

    value: float
    low: float
    high: float
    n_seeds: int


def is_share(measure: str) -> bool:
    """Whether a measure is a share of episodes or of seeds; its mean is taken, since the middle half would hide it."""
    return measure == "success" or measure.startswith("above:")


def measured(result: RunResult, measure: str) -> float:
    """
    One number of one training.

    ``final``: mean return of the episodes that ended in the last tenth of the steps; where none did, of the last ones
    before. ``until:X``: the same of the first X steps, of which schedules know nothing. ``area``: mean of the learning
    curve. ``best``: its highest point. ``evaluation``: mean return of the final policy, actions not drawn at random.
    ``success``: share of successful episodes in the last tenth. ``wobble``: standard deviation of the second half of
    the learning curve, along time. ``steps_to:X``: steps until the learning curve first reaches X, infinite if never.
    ``above:X``: 1 if ``final`` is X or more. ``logged:KEY``: mean over the training of what the algorithm logged.
    ``early:KEY``: mean over the first tenth of the steps, where the policies of different settings are still alike.

    :param result: the training
    :param measure: one of these
    :return: NaN where there is no such number, or the training diverged
    """
    kind, _, argument = measure.partition(":")
    curve = result.curve()
    if kind == "until":
        return _until(result, float(argument))
    if result.failure:
        return {"above": 0.0, "steps_to": float("inf"), "success": 0.0}.get(kind, float("nan"))
    if kind in ("final", "above"):
        final = _final(result)
        return float(final >= float(argument)) if kind == "above" else final
    if kind == "steps_to":
        reached = np.flatnonzero(np.nan_to_num(curve, nan=-np.inf) >= float(argument))
        return float((reached[0] + 1) / N_SHARES * result.settings.n_timesteps) if len(reached) else float("inf")
    if kind == "evaluation":
        return float(np.mean(result.evaluation)) if result.evaluation else float("nan")
    if kind == "success":
        return result.mean(0.9, key="successes") if result.successes else float("nan")
    if kind in ("logged", "early"):
        shares = result.logged.get(argument, [])[: N_SHARES // 10 if kind == "early" else None]
        logged = np.array([value for value in shares if value is not None], dtype=float)
        return float(logged.mean()) if len(logged) else float("nan")
    if not np.isfinite(curve).any():
        return float("nan")
    if kind == "wobble":
        return float(np.nanstd(curve[N_SHARES // 2 :]))
    return float(np.nanmax(curve) if kind == "best" else np.nanmean(curve))


def _until(result: RunResult, n_steps: float) -> float:
    n_shares = math.floor(n_steps / result.settings.n_timesteps * N_SHARES + 1e-9)
    diverged = result.failure and n_shares > _end_of(result)
    return float("nan") if diverged or not 1 <= n_shares <= N_SHARES else _final(result, n_shares)


def _final(result: RunResult, n_shares: int = N_SHARES) -> float:
    """Mean return in the last tenth of the first shares of the steps; that of the last ones before where none ended."""
    tenth = max(1, round(n_shares / 10))
    found = result.mean((n_shares - tenth) / N_SHARES, n_shares / N_SHARES)
    return found if np.isfinite(found) else float(result.curve()[n_shares - 1])


def scores(study: Study, results: Results, env: str, curve: str, measure: str) -> Array:
    """
    Number of each seed of a curve; where a training diverged, the worst one of the environment's curves.

    What was logged is neither good nor bad: there, such a training is left out.

    :param study: the plan
    :param results: of its trainings
    :param env: id of the environment
    :param curve: name
    :param measure: see :func:`measured`
    :return: shape ``(n_seeds,)``
    """
    names = [curve]
    if any(result.failure for result in results.of(env, curve)):  # only then do the others matter
        names = [other.name for other in study.curves if env in other.envs]
    return _scores({name: (results.of(env, name), measure) for name in names})[curve]


def _scores(curves: Mapping[str, tuple[Sequence[RunResult], str]]) -> dict[str, Array]:
    """Number of each seed of curves that are compared; where a training diverged, the worst one of all of them.

    :param curves: results of each, and how they are measured
    """
    values = {
        name: np.array([measured(result, measure) for result in found], dtype=float)
        for name, (found, measure) in curves.items()
    }
    known = [value for each in values.values() for value in each if np.isfinite(value)]
    for name, (found, measure) in curves.items():
        if not measure.startswith(("logged:", "early:")):
            failed = np.array([bool(result.failure) for result in found], dtype=bool)
            worst = (max if measure == "wobble" else min)(known, default=float("nan"))
            values[name][np.isnan(values[name]) & failed] = worst
    return {name: each[~np.isnan(each)] for name, each in values.items()}


def estimate(values: Array, measure: str = "final") -> Estimate:
    """
    Interquartile mean with its interval; the mean for shares, and the median for what may be infinite.

    :param values: one for each seed
    :param measure: what they are
    """
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    resampled = _resampled(values, measure, np.random.default_rng(0))
    between: Literal["linear", "nearest"] = "linear" if np.isfinite(values).all() else "nearest"
    low, high = (float(np.quantile(resampled, end, method=between)) for end in (0.025, 0.975))
    if _is_yes_or_no(measure):  # an end that was seen cannot be excluded
        low, high = (0.0 if not values.any() else low), (1.0 if values.all() else high)
    return Estimate(float(_middle(values, measure)), low, high, len(values))


def _is_yes_or_no(measure: str) -> bool:
    """Whether a seed's number is 1 or 0."""
    return measure.startswith("above:")


def _resampled(values: Array, measure: str, rng: np.random.Generator) -> Array:
    """
    What the middle of other seeds like these would be, :data:`N_RESAMPLES` times: a bootstrap.

    Where a seed is only a yes or a no, a bootstrap of seeds that agree would have no width; there it is drawn from the
    posterior of Jeffreys' prior, Beta(yes + 1/2, no + 1/2) (Brown, Cai and DasGupta 2001,
    *Interval estimation for a binomial proportion*).
    """
    if _is_yes_or_no(measure):
        n_yes = values.sum()
        return rng.beta(n_yes + 0.5, len(values) - n_yes + 0.5, N_RESAMPLES)
    return _middle(rng.choice(values, size=(N_RESAMPLES, len(values))), measure)


def _middle(values: Array, measure: str) -> Array:
    """Mean for shares, median of what may be infinite, otherwise the interquartile mean; along the last axis."""
    if is_share(measure):
        return np.asarray(values.mean(axis=-1))
    if measure.startswith("steps_to"):
        return np.asarray(np.quantile(values, 0.5, axis=-1, method="higher"))
    return mean_of_middle_half(values)


def _end_of(result: RunResult) -> int:
    """Shares of the steps until the last episode that ended."""
    return max((share for share, n in enumerate(result.n_episodes, 1) if n), default=0)


class Band(NamedTuple):
    """A learning curve over seeds: each entry stands for an equal share of the steps."""

    middle: Array
    low: Array
    high: Array
    each: Array
    """Shape ``(n_seeds, N_SHARES)``."""


def band(found: Sequence[RunResult], key: str = "returns", n_resamples: int = 500) -> Band:
    """
    Interquartile mean over seeds at each share of the steps, with its bootstrap interval.

    :param found: trainings of one curve, at least one
    :param key: ``"returns"``, ``"lengths"``, ``"successes"`` or a logged key
    :param n_resamples: of the bootstrap; the seeds are resampled whole
    """
    each = np.array([result.curve(key) for result in found])
    if key == "returns" and np.isfinite(each).any():
        for row, result in zip(each, found, strict=True):
            if result.failure:  # not the last return before it
                row[_end_of(result) :] = np.nanmin(each)
    drawn = np.random.default_rng(0).integers(0, len(each), (n_resamples, len(each)))
    resampled = mean_of_middle_half(np.moveaxis(each[drawn], 1, -1))
    middle, (low, high) = mean_of_middle_half(each.T), np.quantile(resampled, [0.025, 0.975], axis=0)
    # Where a seed has no number yet: the others would stand for all
    middle[np.isnan(each).any(axis=0)] = np.nan
    return Band(middle, low, high, each)


# -- lambda ----------------------------------------------------------------------------------------------------------


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


def regrets(
    found: Mapping[str, Sequence[RunResult]], fixed: Sequence[str], n_resamples: int = N_RESAMPLES
) -> Regrets | None:
    """
    Regret to the best fixed lambda; None where no seed has been through two fixed lambdas.

    In every bootstrap resample of the seeds, the same for all curves, the best and the worst fixed lambda are chosen
    anew, so that the interval knows that the best was picked in hindsight. A training that diverged has the worst area
    of all.

    :param found: trainings of each curve
    :param fixed: curves whose lambda is a number
    :param n_resamples: of the bootstrap
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
    drawn = np.random.default_rng(0).integers(0, len(seeds), (n_resamples, len(seeds)))
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


# -- several environments: rliable -----------------------------------------------------------------------------------


def normalized(study: Study, results: Results, envs: Sequence[str], curves: Sequence[str]) -> dict[str, Array]:
    """
    Final returns on one scale: 0 is the worst training of any of the curves, 1 the best curve's interquartile mean.

    :param study: the plan
    :param results: of its trainings
    :param envs: those that every curve has been trained on
    :param curves: names
    :return: for each curve shape ``(n_seeds, n_envs)``, with as many trainings as all its environments have; a row
        need not be of one seed
    """
    columns: dict[str, list[Array]] = {name: [] for name in curves}
    for env in envs:
        found = {name: scores(study, results, env, name, "final") for name in curves}
        low = min(float(values.min()) for values in found.values())
        high = max(interquartile_mean(values.tolist()) for values in found.values())
        for name in curves:
            columns[name].append((found[name] - low) / (high - low if high > low else 1.0))
    n_seeds = {name: min(map(len, each)) for name, each in columns.items()}
    return {name: np.stack([column[: n_seeds[name]] for column in each], axis=1) for name, each in columns.items()}


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed NumPy's global generator, which rliable draws from: the same results shall make the same page."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def performance_profiles(found: dict[str, Array], taus: Array) -> dict[str, tuple[Array, Array, Array]]:
    """
    Share of trainings above each level, with intervals from a bootstrap that is stratified by environments.

    :param found: see :func:`normalized`
    :param taus: the levels
    :return: for each curve the share, and the lower and upper end of its interval
    :raises ImportError: without rliable (the extra ``plots``)
    """
    from rliable.library import get_interval_estimates

    def above(values: Array) -> Any:
        return (values[..., None] > taus).mean(axis=(0, 1))

    with _seeded():
        shares, intervals = get_interval_estimates(found, above, reps=500)
    return {name: (shares[name], intervals[name][0], intervals[name][1]) for name in found}


def probabilities_of_improvement(found: dict[str, Array], of: str) -> dict[str, Estimate]:
    """
    Probability that a training of one curve is better than one of another, over environments.

    :param found: see :func:`normalized`
    :param of: the one curve
    :return: for each other curve
    :raises ImportError: without rliable (the extra ``plots``)
    """
    from rliable.library import get_interval_estimates
    from rliable.metrics import probability_of_improvement

    pairs = {name: (found[of], values) for name, values in found.items() if name != of}
    with _seeded():
        values, intervals = get_interval_estimates(pairs, probability_of_improvement, reps=500)
    found_of = {}
    for name in pairs:
        low, high = map(float, np.ravel(intervals[name]))
        found_of[name] = Estimate(float(values[name]), low, high, len(found[of]))
    return found_of


# -- claims ----------------------------------------------------------------------------------------------------------


NOT_TRAINED = "not trained yet"
NO_NUMBER = "its trainings have no such number"


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
        found = list(_scores(dict(zip(names, zip(curves, of_each, strict=True), strict=True))).values())
    else:
        found = [scores(study, results, claim.env, name, measure) for name in names]
    ours, theirs = found if len(found) == 2 else (found[0], np.array([claim.than]))
    here, other = estimate(ours, measure), estimate(theirs, measure) if len(found) == 2 else None
    if not len(ours) or not len(theirs):
        return Verdict(claim, measure, here, other, NO_NUMBER)
    if not claim.sign:
        return Verdict(claim, measure, here, other, "")
    rng = np.random.default_rng(0)
    drawn = [_resampled(ours, measure, rng), _resampled(theirs, measure, rng) if other else theirs]
    share = float(np.mean(_holds(claim.sign, *drawn)))
    middles = [_middle(values[None], measure) for values in (ours, theirs)]
    held = bool(_holds(claim.sign, *middles)[0])
    word = "yes" if held else "no"
    n_seeds = len(ours) if other is None else min(len(ours), len(theirs))
    settled = n_seeds >= N_TO_SETTLE and (share >= 0.975 if held else share <= 0.025)
    seeds = "one seed" if n_seeds == 1 else f"{n_seeds} seeds"
    return Verdict(claim, measure, here, other, word if settled else f"{word}, but not settled by {seeds}")


def _at_equal_time(curves: Sequence[Sequence[RunResult]]) -> tuple[str, list[str]]:
    """
    Measure each curve where it is when the one that takes less time ends.

    Seconds are medians over a curve's seeds, so that all of them are looked at after the same steps: a training that
    had to share the machine would otherwise be cut where others are not. Those that diverged say nothing of time,
    unless all did.

    :param curves: trainings of each
    :return: the measure with its seconds, and that of each curve
    """
    timed = [[result.seconds for result in found if not result.failure] for found in curves]
    clocks = [
        np.median(seconds or [result.seconds for result in found], axis=0)
        for seconds, found in zip(timed, curves, strict=True)
    ]
    seconds = min(clock[-1] for clock in clocks)
    shares = [int(np.searchsorted(clock, seconds, side="right")) / N_SHARES for clock in clocks]
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
