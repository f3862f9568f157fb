"""What the numbers mean, in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from sb3_pg.advantage.estimators import get_estimator
from sb3_pg.advantage.gae_lambda import BATCHES
from sb3_pg.doctor.diagnosis import Critic, Diagnosis, EstimatorRow, LambdaCurve
from sb3_pg.pages import Finding

# Batches within a factor of ten of the noise scale are what is commonly used; beyond it, a step is nearly all noise, or
# a batch repeats itself (McCandlish et al. 2018, arXiv:1812.06162, sec. 2.2).
_MUCH = 10.0
_FAR_TOO_MUCH = 100.0
# A lambda whose cosine is less than this below the best one's is left alone.
_WORTH_CHANGING = 0.02
# Cosine of an infinite batch's gradient with the true one, below which it points elsewhere
_BIASED = 0.7
_FEW_GROUPS = 20


def advise(diagnosis: Diagnosis) -> list[Finding]:
    """All findings: the batch, lambda, the critic, the estimators."""
    found = [_about_the_batch(diagnosis)]
    if diagnosis.n_groups < _FEW_GROUPS:
        found.append(
            Finding(
                "unknown",
                "Few episodes",
                f"The numbers rest on {diagnosis.n_episodes} episodes in {diagnosis.n_groups} groups, and their "
                "standard errors are rough. Take a larger --n-batches.",
            )
        )
    if diagnosis.curve is not None:
        found.append(_about_lambda(diagnosis, diagnosis.curve))
    if diagnosis.critic is not None:
        found.append(_about_the_critic(diagnosis, diagnosis.critic))
    found.append(_about_estimators(diagnosis))
    return found


def _about_the_batch(diagnosis: Diagnosis) -> Finding:
    batch, scale = diagnosis.batch_steps, diagnosis.noise_scale
    low, high = diagnosis.noise_scale_range
    if not diagnosis.signal_is_clear:
        at_least = f"The noise scale is at least {steps(low)}. " if math.isfinite(low) else ""
        return Finding(
            "unknown",
            "No gradient above the noise",
            f"In {steps(diagnosis.n_steps)} the expected gradient cannot be told from zero. {at_least}Either the "
            "policy is near an optimum, or rewards say hardly anything about its actions yet, or far more data is "
            "needed: take a larger --n-batches to tell these apart.",
        )
    spread = (
        f"(between {steps(low).removesuffix(' steps')} and {steps(high)})"
        if math.isfinite(high)
        else f"(at least {steps(low)})"
    )
    cosine, ratio = float(diagnosis.cosine.value[0]), scale / batch
    facts = (
        f"One batch of {batch:.0f} steps gives a gradient whose cosine with the true one is about {cosine:.2f}. The "
        f"noise scale is {steps(scale)} {spread}"
    )
    if ratio > _MUCH:
        return Finding(
            "bad" if ratio > _FAR_TOO_MUCH else "watch",
            f"Batch too small by a factor of {ratio:.0f}",
            f"{facts}: a step is mostly noise, and about {ratio:.0f} of them have to average it out. A batch up to "
            "that much larger (n_steps or more environments) learns in about as many fewer updates; otherwise keep "
            "the learning rate low.",
        )
    if cosine <= 0:
        return Finding(
            "bad",
            "A batch points away from the true gradient",
            f"{facts}, so this is not noise but bias: the critic is wrong about what comes after the steps that count. "
            "A higher lambda, or a better critic, helps.",
        )
    if ratio < 1 / _MUCH:
        return Finding(
            "watch",
            f"Batch larger than needed by a factor of {batch / max(scale, 1.0):.0f}",
            f"{facts}: a batch repeats what a part of it knows. A smaller one, down to the noise scale, makes more "
            "updates from as many steps.",
        )
    return Finding("good", "The batch fits", f"{facts}, within a factor of ten of the batch: a fair trade.")


def _about_lambda(diagnosis: Diagnosis, curve: LambdaCurve) -> Finding:
    own = round(diagnosis.training.gae_lambda, 6)
    if not np.isfinite(curve.cosine.value).any() or not diagnosis.signal_is_clear:
        return Finding(
            "unknown",
            "Lambda cannot be judged",
            f"Without a gradient above the noise no lambda can be preferred. Keep {own:g}.",
        )
    index = _index(curve, own)
    best, good = float(curve.lambdas[curve.best]), curve.lambdas[curve.good]
    other = "" if index == curve.best else f", {own:g} has {curve.cosine.value[index]:.2f}"
    numbers = (
        f"The best of the grid is {best:g} (cosine {curve.cosine.value[curve.best]:.2f} of the mean of {BATCHES:g} "
        f"batches with the true gradient{other}); {good.min():g} to {good.max():g} cannot be told from it."
    )
    if len(good) > len(curve.lambdas) / 2:
        numbers += " A larger --n-batches would tell more of them apart."
    if diagnosis.training.estimator != "gae":
        estimator = diagnosis.training.estimator
        use = "is not GAE, for which this was measured" if get_estimator(estimator).uses_lambda else "uses none"
        return Finding("good", f"Lambda for GAE: {best:g}", f"{numbers} estimator={estimator!r} {use}.")
    if curve.good.all():
        return Finding("unknown", f"Lambda: nothing better than {own:g} was found", numbers)
    if recommended_lambda(diagnosis) == own:
        if not curve.good[index]:
            numbers += f" {own:g} can, but a difference of less than {_WORTH_CHANGING:g} is not worth a change."
        bias_alone = float(curve.cosine_of_bias[index])
        if bias_alone < _BIASED:
            numbers += (
                f" But with it even an infinite batch would have cosine {bias_alone:.2f} alone: the critic stands for "
                "what comes after a rollout's last step. A larger n_steps, or a better critic, helps."
            )
            return Finding("watch", f"No lambda helps: the gradient is biased with {own:g}", numbers)
        return Finding("good", f"Lambda {own:g} is fine", numbers)
    if own > best:
        return Finding(
            "bad", f"Lambda too high: {own:g}", f"{numbers} Lower it: the critic is good enough to be trusted earlier."
        )
    return Finding("bad", f"Lambda too low: {own:g}", f"{numbers} Raise it: the critic's errors turn the gradient.")


def _index(curve: LambdaCurve, gae_lambda: float) -> int:
    return int(np.flatnonzero(np.isclose(curve.lambdas, gae_lambda))[0])


def recommended_lambda(diagnosis: Diagnosis, among: Iterable[float] | None = None) -> float:
    """The lambda to train with: the one in use, unless another is measurably better, and by enough to matter.

    :param among: lambdas to choose from, of those that were measured; all of them when not given
    """
    curve, own = diagnosis.curve, round(diagnosis.training.gae_lambda, 6)
    if curve is None or not (diagnosis.signal_is_clear and np.isfinite(curve.cosine.value).any()):
        return own
    index = _index(curve, own)
    loss = curve.cosine.value[curve.best] - curve.cosine.value[index]
    if curve.good[index] or loss < _WORTH_CHANGING:
        return own
    allowed = np.isin(curve.lambdas, list(among)) if among is not None else np.ones(len(curve.lambdas), dtype=bool)
    return float(curve.lambdas[np.nanargmax(np.where(allowed, curve.cosine.value, np.nan))])


def _about_the_critic(diagnosis: Diagnosis, critic: Critic) -> Finding:
    explained, gain = critic.explained_by_returns, diagnosis.critic_gain
    if not math.isfinite(explained):
        return Finding("unknown", "The critic has nothing to explain", "All returns are equal.")
    of_targets = critic.explained_by_targets
    facts = (
        f"It explains {explained:.0%} of the variance of first-visit Monte-Carlo returns "
        f"({f'{of_targets:.0%} of' if math.isfinite(of_targets) else 'nothing varies in'} TD(0) targets), and is off "
        f"by {critic.bias:+.2f} of their standard deviations on average."
    )
    with_critic = _row(diagnosis, "reward_to_go", "value").variance
    without = _row(diagnosis, "reward_to_go", "time_mean").variance
    if with_critic >= 0 < without:  # NaN is neither
        facts += (
            f" As a baseline of returns it leaves {with_critic / without:.2f} times the variance that the mean return "
            "at the same time in the episode leaves."
        )
    help_it = "More n_critic_updates, another vf_learning_rate, or normalised observations and rewards help it."
    if gain is None or not diagnosis.signal_is_clear:
        if explained <= 0:
            return Finding("bad", "The critic is not yet worth using", f"{facts} {help_it}")
        return Finding("unknown", "Whether the critic helps cannot be told", facts)
    value, error = float(gain.value[0]), float(gain.standard_error[0])
    compared = (
        f"The best cosine with it is {'higher' if value >= 0 else 'lower'} by {abs(value):.2f} (standard error "
        f"{error:.2f}) than the best without it."
    )
    if value < -2 * error or (explained <= 0 and value < 0):
        return Finding(
            "bad",
            "The critic is not yet worth using",
            f"{facts} {compared} Until it is better, a high lambda, or a critic-free baseline with whole episodes, "
            f"does better. {help_it}",
        )
    if value < 2 * error:
        return Finding("watch", "The critic does not help measurably", f"{facts} {compared} {help_it}")
    return Finding("good", "The critic is worth using", f"{facts} {compared}")


def _about_estimators(diagnosis: Diagnosis) -> Finding:
    rows = [row for row in diagnosis.estimators if math.isfinite(row.cosine)]
    if not rows or not diagnosis.signal_is_clear:
        return Finding(
            "unknown", "Estimators cannot be compared", "There is no gradient above the noise to compare with."
        )
    best, worst = max(rows, key=lambda row: row.cosine), max(rows, key=lambda row: row.variance)
    if best.cosine <= 0:
        return Finding(
            "bad",
            "No estimator points along the true gradient",
            f"The best, {describe(best)}, has cosine {best.cosine:.2f} with it.",
        )
    return Finding(
        "good",
        f"Best estimator: {describe(best)}",
        f"Its gradient has cosine {best.cosine:.2f} with the true one, and signal to noise {best.snr:.2g}. "
        f"{describe(worst)} has {worst.variance / best.variance:.0f} times its variance.",
    )


def _row(diagnosis: Diagnosis, estimator: str, baseline: str) -> EstimatorRow:
    return next(row for row in diagnosis.estimators if (row.estimator, row.baseline) == (estimator, baseline))


def describe(row: EstimatorRow) -> str:
    """Estimator and baseline in a few words."""
    has_a_choice = row.estimator in ("total_return", "reward_to_go")
    return f"{row.estimator}, baseline {row.baseline}" if has_a_choice else row.estimator


def steps(number: float) -> str:
    """A number of steps with two digits: ``2 100 steps``."""
    if not math.isfinite(number):
        return "infinitely many steps"
    digits = max(0, math.floor(math.log10(number)) - 1) if number >= 1 else 0
    rounded = round(number / 10**digits) * 10**digits
    return f"{rounded:,} steps".replace(",", " ")
