"""Numbers that stand for several seeds, with intervals that say how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sb3_pg.study.plan import Study
from sb3_pg.study.results import N_SHARES, RunResult
from sb3_pg.study.runner import Results
from sb3_pg.tune.scores import interquartile_mean, mean_of_middle_half

Array = NDArray[np.float64]

N_RESAMPLES = 4000
N_TO_SETTLE = 3
"""Seeds from which on an interval is believed: the bootstrap of one seed has no width, that of two hardly any."""


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
    curve. ``best``: its highest point. ``evaluation``: mean return of the final policy, as RL Zoo plays it: drawn
    at random on Atari and MiniGrid alone. ``success``: share of successful episodes in the last tenth. ``wobble``:
    standard deviation of the second half of the learning curve, along time. ``steps_to:X``: steps until the learning
    curve first reaches X, infinite if never. ``above:X``: 1 if ``final`` is X or more. ``logged:KEY``: mean over the
    training of what the algorithm logged. ``early:KEY``: mean over the first tenth of the steps, where the policies of
    different settings are still alike.

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
    if kind == "area":
        return result.area
    if not np.isfinite(curve).any():
        return float("nan")
    return float(np.nanstd(curve[N_SHARES // 2 :]) if kind == "wobble" else np.nanmax(curve))


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
    return scores_of({name: (results.of(env, name), measure) for name in names})[curve]


def scores_of(curves: Mapping[str, tuple[Sequence[RunResult], str]]) -> dict[str, Array]:
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
    others = resampled(values, measure, np.random.default_rng(0))
    between: Literal["linear", "nearest"] = "linear" if np.isfinite(values).all() else "nearest"
    low, high = (float(np.quantile(others, end, method=between)) for end in (0.025, 0.975))
    if _is_yes_or_no(measure):  # an end that was seen cannot be excluded
        low, high = (0.0 if not values.any() else low), (1.0 if values.all() else high)
    return Estimate(float(middle(values, measure)), low, high, len(values))


def _is_yes_or_no(measure: str) -> bool:
    """Whether a seed's number is 1 or 0."""
    return measure.startswith("above:")


def resampled(values: Array, measure: str, rng: np.random.Generator) -> Array:
    """
    What the middle of other seeds like these would be, :data:`N_RESAMPLES` times: a bootstrap.

    Where a seed is only a yes or a no, a bootstrap of seeds that agree would have no width; there it is drawn from the
    posterior of Jeffreys' prior, Beta(yes + 1/2, no + 1/2) (Brown, Cai and DasGupta 2001,
    *Interval estimation for a binomial proportion*).
    """
    if _is_yes_or_no(measure):
        n_yes = values.sum()
        return rng.beta(n_yes + 0.5, len(values) - n_yes + 0.5, N_RESAMPLES)
    return middle(rng.choice(values, size=(N_RESAMPLES, len(values))), measure)


def middle(values: Array, measure: str) -> Array:
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
    low, high = np.quantile(mean_of_middle_half(np.moveaxis(each[drawn], 1, -1)), [0.025, 0.975], axis=0)
    # Where a seed has no number yet the others would stand for all
    line = np.where(np.isnan(each).any(axis=0), np.nan, mean_of_middle_half(each.T))
    return Band(line, low, high, each)


def median_seconds(found: Sequence[RunResult]) -> Array:
    """
    Seconds at the end of each share of the steps: medians, which no training that had to share the machine moves.

    Trainings that diverged say nothing of time, unless all did.

    :param found: trainings of one curve, at least one
    """
    timed = [result.seconds for result in found if not result.failure] or [result.seconds for result in found]
    return np.asarray(np.median(timed, axis=0))


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
