r"""The classical mistakes in a rollout: advantages are computed right and wrong, and compared with those in the file.

The right ones are GAE's (Schulman et al. 2016, eq. 16, arXiv:1506.02438),

.. math:: A_t = \delta_t + \gamma\lambda (1 - d_t) A_{t+1}, \qquad \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t)

with :math:`V(s_{t+1})` zero at terminal states, and V of the last observation after a time limit. Whatever multiplies
them and is added to them (normalisation) is fitted, and judged apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sb3_pg.advantage.estimators import discounted_sums
from sb3_pg.doctor.arrays import Array, StrangersRollout
from sb3_pg.pages import Finding

# Largest difference that counts as none, in units of the largest advantage: float32 sums over long episodes
_TOLERANCE = 1e-3
# The same for a mistake that explains what the right formula cannot: a critic that is hardly trained gives the states
# around the end of an episode values so alike that a wrong one fits to a thousandth. With it, rounding of numbers this
# many times larger than the advantages is allowed for.
_EXACT = 1e-5
_ROUNDING = 32 * 2.0**-23
# Part of the steps that a wrong formula has to be known for, to be compared at all, and steps that the right one has to
_LEAST_COVERAGE = 0.25
_LEAST_STEPS = 16
_OTHER_LAMBDAS = (1.0, 0.0, 0.9, 0.95, 0.97, 0.98, 0.99)


class Variant(NamedTuple):
    """One way of computing advantages; the defaults are right."""

    leak: str = ""
    """What passes the end of an episode: ``recursion`` (A of the next one), ``values`` (V of its first state)."""
    cut: str = ""
    """At the rollout's end: V is counted ``twice``, or ``dropped``."""
    limit: str = ""
    """At a time limit: V is ``dropped``, counted ``twice``, or that of the ``same`` state as before the step."""

    @property
    def mistakes(self) -> list[str]:
        """Keys of :data:`MISTAKES`."""
        leaks = {"": [], "both": ["leak_recursion", "leak_values"]}.get(self.leak, [f"leak_{self.leak}"])
        named = [f"{name}_{what}" for name, what in (("cut", self.cut), ("limit", self.limit)) if what]
        return leaks + named


MISTAKES: dict[str, tuple[str, str]] = {
    "leak_recursion": (
        "Advantages leak over episode ends",
        "the advantage of an episode's last step contains that of the next episode's first one. Multiply it by "
        "(1 - done) in the recursion.",
    ),
    "leak_values": (
        "Values leak over episode ends",
        "the last step of an episode is bootstrapped with the value of the next episode's first state. Multiply it by "
        "(1 - done); after a time limit, take the value of the episode's own last observation.",
    ),
    "cut_twice": (
        "The last value is counted twice",
        "the value after the rollout's last step is in the rewards or returns, and added again in the TD residual.",
    ),
    "cut_dropped": (
        "The rollout's end is taken for the episode's end",
        "episodes that go on are not bootstrapped with the value after the last step.",
    ),
    "limit_dropped": (
        "Time-outs are taken for terminations",
        "an episode that a time limit ended is not bootstrapped with the value of its last observation: the policy "
        "learns that late states are worth less (Pardo et al. 2018, arXiv:1712.00378). Unless that value is in the "
        "rewards of the file already, as SB3 puts it there: save the environment's own.",
    ),
    "limit_twice": (
        "The value at time limits is counted twice",
        "it is in the rewards already (as SB3's collection puts it there), and added again in the TD residual.",
    ),
    "limit_same": (
        "Time-outs are bootstrapped with the wrong state",
        "with V(s_t), the state before the last step, instead of V(s_{t+1}), the episode's last observation.",
    ),
}
"""Title and explanation of each mistake."""


class Found(NamedTuple):
    """What was found about one array."""

    kind: str
    """A key of :data:`MISTAKES`, or ``variance``, ``sign``, ``lambda``, ``log_probs`` ...; empty where all is right."""
    advice: Finding


class Fit(NamedTuple):
    """A formula that gives the array in the file, as factor * formula + shift."""

    variant: Variant
    gae_lambda: float
    raw: Array
    """The formula's numbers; NaN where they are not known."""
    factor: float
    shift: float
    coverage: float
    error: float
    """Largest difference, in units of the array's largest deviation from its mean."""
    tolerance: float
    """What the error may be for a match."""


def examine(rollout: StrangersRollout) -> list[Found]:
    """Look for the classical mistakes in every array that is there."""
    found: list[Found] = []
    if rollout.advantages is not None:
        found += _examine_advantages(rollout, rollout.advantages)
    if rollout.returns is not None:
        found += _examine_returns(rollout, rollout.returns)
    if rollout.log_probs is not None:
        found += _examine_log_probs(rollout)
    if not found:
        text = "The file has none of advantages, returns and log_probs."
        found.append(Found("nothing", Finding("unknown", "Nothing to examine", text)))
    return found


# -- the formulas ----------------------------------------------------------------------------------------------------


def compute(rollout: StrangersRollout, gae_lambda: float, variant: Variant = Variant()) -> Array:  # noqa: B008
    """GAE, right or wrong.

    :return: shape ``(n_steps, n_envs)``; NaN where it depends on a value that the file does not have
    """
    assert rollout.values is not None
    assert rollout.next_values is not None
    assert rollout.gamma is not None
    next_values = _next_values(rollout, variant)
    residuals = rollout.rewards + rollout.gamma * next_values - rollout.values
    ends = np.zeros_like(rollout.dones) if variant.leak in ("recursion", "both") else rollout.dones
    decay = rollout.gamma * gae_lambda
    unknown = np.isnan(residuals)
    # What is not known spreads as the numbers do
    spoilt = discounted_sums(unknown.astype(np.float64), float(decay > 0), ends) > 0
    advantages = discounted_sums(np.where(unknown, 0.0, residuals), decay, ends)
    return np.where(spoilt, np.nan, advantages)


def right_advantages(rollout: StrangersRollout) -> Array | None:
    """The right advantages on the scale of those in the file: multiplied and shifted like these, if that is known.

    None where the file has no advantages, or no lambda that would tell.
    """
    if rollout.advantages is None or rollout.gae_lambda is None:
        return None
    fit = _best(_fits(rollout, rollout.advantages, (rollout.gae_lambda,), 0.0, affine=True))
    right = compute(rollout, rollout.gae_lambda)
    return right if fit is None else fit.factor * right + fit.shift


def _next_values(rollout: StrangersRollout, variant: Variant) -> Array:
    values, dones, limits = rollout.values, rollout.dones, rollout.truncated
    assert values is not None
    assert rollout.next_values is not None
    found = rollout.next_values.copy()
    if variant.limit:
        at_limits: dict[str, Array] = {
            "dropped": np.zeros(int(limits.sum())),
            "twice": 2.0 * found[limits],
            "same": values[limits],
        }
        found[limits] = at_limits[variant.limit]
    if variant.leak in ("values", "both"):
        found[:-1][dones[:-1]] = values[1:][dones[:-1]]
        if rollout.last_values is not None:
            found[-1] = rollout.last_values
    open_end = np.ones_like(dones[-1]) if variant.leak in ("values", "both") else ~dones[-1]
    if variant.cut:
        found[-1, open_end] *= 2.0 if variant.cut == "twice" else 0.0
    return found


def _variants() -> Iterator[Variant]:
    """All of them, right first, then by the number of mistakes."""
    found = product(("", "recursion", "values", "both"), ("", "twice", "dropped"), ("", "dropped", "twice", "same"))
    return iter(sorted((Variant(*each) for each in found), key=lambda variant: len(variant.mistakes)))


def _fits(
    rollout: StrangersRollout, array: Array, lambdas: tuple[float, ...], added: Array | float, affine: bool
) -> list[Fit]:
    """Every formula, best first.

    :param added: to the advantages: the values, for returns
    :param affine: fit a factor and a shift
    """
    found = []
    largest = float(np.abs(array - array.mean()).max())
    assert rollout.values is not None
    rounding = _ROUNDING * max(float(np.abs(each).max()) for each in (array, rollout.values, rollout.rewards))
    exact = min(_TOLERANCE, _EXACT + rounding / largest) if largest > 0 else _TOLERANCE
    for gae_lambda, variant in product(lambdas, _variants()):
        raw = compute(rollout, gae_lambda, variant) + added
        known = np.isfinite(raw)
        if not variant.mistakes:  # the first of each lambda
            told = known if rollout.ends_are_told_apart else np.zeros_like(known)
        if known.mean() < _LEAST_COVERAGE and (variant.mistakes or known.sum() < _LEAST_STEPS):
            continue
        tolerance = exact if variant.mistakes and (known & ~told).any() else _TOLERANCE
        factor, shift = _line(raw[known], array[known]) if affine else (1.0, 0.0)
        error = float(np.abs(array[known] - factor * raw[known] - shift).max())
        relative = error / largest if largest > 0 else (0.0 if error == 0 else np.inf)
        found.append(Fit(variant, gae_lambda, raw, factor, shift, float(known.mean()), relative, tolerance))
    return found


def _line(x: Array, y: Array) -> tuple[float, float]:
    spread = float(((x - x.mean()) ** 2).sum())
    factor = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else 1.0
    return factor, float(y.mean() - factor * x.mean())


def _best(fits: list[Fit]) -> Fit | None:
    """The matching formula that explains the most steps, and of those the one with the fewest mistakes."""
    matching = [fit for fit in fits if fit.error < fit.tolerance and fit.factor != 0]
    return min(matching, key=lambda fit: (-fit.coverage, len(fit.variant.mistakes)), default=None)


# -- the arrays ------------------------------------------------------------------------------------------------------


def _examine_advantages(rollout: StrangersRollout, advantages: Array) -> list[Found]:
    assert rollout.gae_lambda is not None
    fits = _fits(rollout, advantages, (rollout.gae_lambda,), 0.0, affine=True)
    fit = _best(fits)
    if fit is not None:
        found = _name_mistakes(rollout, fit, advantages, "advantages")
        found += _judge_scale(fit, advantages)
        if not any(each.advice.level == "bad" for each in found):
            found.append(_right("advantages", f"GAE with lambda {rollout.gae_lambda:g}", fit, rollout))
        return found
    other = _best(_fits(rollout, advantages, _OTHER_LAMBDAS, 0.0, affine=True))
    if other is not None:
        title = f"Advantages are those of lambda {other.gae_lambda:g}"
        text = f"gae_lambda is {rollout.gae_lambda:g} in the file."
        return [
            Found("lambda", Finding("bad", title, text)),
            *_name_mistakes(rollout, other, advantages, "advantages"),
        ]
    return [_unmatched("advantages", fits, rollout)]


def _examine_returns(rollout: StrangersRollout, returns: Array) -> list[Found]:
    assert rollout.values is not None
    lambdas = tuple(dict.fromkeys([*([] if rollout.gae_lambda is None else [rollout.gae_lambda]), *_OTHER_LAMBDAS]))
    fits = _fits(rollout, returns, lambdas, rollout.values, affine=False)
    fit = _best(fits)
    if fit is not None:
        found = _name_mistakes(rollout, fit, returns, "returns")
        return found or [_right("returns", f"lambda-returns with lambda {fit.gae_lambda:g}", fit, rollout)]
    if rollout.advantages is not None:
        scale = float(np.abs(returns - returns.mean()).max())
        normalised = abs(float(rollout.advantages.mean())) < 1e-3 and abs(float(rollout.advantages.std()) - 1) < 0.05
        if normalised and np.abs(rollout.advantages + rollout.values - returns).max() < _TOLERANCE * scale:
            text = "they are the normalised advantages plus values; add the values before normalising."
            return [Found("normalised_returns", Finding("bad", "Returns of normalised advantages", f"Returns: {text}"))]
    return [_unmatched("returns", fits, rollout)]


def _name_mistakes(rollout: StrangersRollout, fit: Fit, array: Array, name: str) -> list[Found]:
    found = []
    for kind in fit.variant.mistakes:
        title, text = MISTAKES[kind]
        found.append(Found(kind, Finding("bad", title, f"{name.capitalize()}: {text} {_where(rollout, fit, array)}")))
    return found


def _where(rollout: StrangersRollout, fit: Fit, array: Array) -> str:
    """Where the file's numbers differ most from the right ones."""
    added = 0.0 if array is rollout.advantages or rollout.values is None else rollout.values
    right = fit.factor * (compute(rollout, fit.gae_lambda) + added) + fit.shift
    difference = np.nan_to_num(np.abs(array - right))
    step, env_index = np.unravel_index(difference.argmax(), difference.shape)
    n_wrong = int((difference > _TOLERANCE * np.abs(array - array.mean()).max()).sum())
    if n_wrong == 0:
        return ""
    return (
        f"{n_wrong} of {array.size} steps are wrong by it; the worst is step {step} of environment {env_index}: "
        f"{array[step, env_index]:.4g} instead of {right[step, env_index]:.4g}."
    )


def _judge_scale(fit: Fit, advantages: Array) -> list[Found]:
    """What the advantages were multiplied by and shifted."""
    known = fit.raw[np.isfinite(fit.raw)]
    deviation, rough = float(known.std()), 0.005 if fit.coverage == 1 else 0.1
    mean, own = float(advantages.mean()), float(advantages.std())
    n = advantages.size
    if fit.factor < 0:
        text = "they are right but for their sign: the policy would unlearn what is good."
        return [Found("sign", Finding("bad", "Advantages have the wrong sign", f"Advantages: {text}"))]
    centred = abs(mean) < 1e-3 * own
    if abs(own - 1) < 1e-3 or abs(own * np.sqrt(n / (n - 1)) - 1) < 1e-3:
        if centred:
            return []
        text = "they are divided by their deviation without subtracting their mean."
        return [Found("not_centred", Finding("watch", "Advantages are scaled, not centred", f"Advantages: {text}"))]
    if abs(fit.factor - 1) < rough:
        if fit.coverage < 1 or centred or abs(fit.shift) < 0.005 * own:
            return []
        text = f"they are shifted by {fit.shift:.4g}, which no normalisation does: it pushes every action up or down."
        return [Found("shift", Finding("watch", "Advantages are shifted", f"Advantages: {text}"))]
    if abs(fit.factor * deviation**2 - 1) < rough + 1 / n:
        text = (
            f"they are divided by their variance, not by their standard deviation: that of the result is {own:.3g} "
            "instead of 1, and the size of a step depends on the scale of the rewards, inversely."
        )
        return [Found("variance", Finding("bad", "Normalised by the variance", f"Advantages: {text}"))]
    text = (
        f"they are multiplied by {fit.factor:.4g}, which is neither 1 nor one over their deviation ({deviation:.4g})."
    )
    return [Found("scale", Finding("watch", "Advantages are scaled by an unknown factor", f"Advantages: {text}"))]


def _right(name: str, formula: str, fit: Fit, rollout: StrangersRollout) -> Found:
    how_well = f"to {fit.error:.1g} of their largest deviation" if fit.error else "exactly"
    notes = [f"{name.capitalize()} match {formula} {how_well}"]
    if fit.coverage < 1:
        notes.append(
            f"on {fit.coverage:.0%} of the steps; the others depend on values at time limits, which terminal_values or "
            "next_values would tell"
        )
    if not rollout.ends_are_told_apart:
        notes.append("every end of an episode was taken for a termination: truncated would tell the time limits")
    if fit.coverage < _LEAST_COVERAGE:
        title = f"{name.capitalize()} are right where it can be told"
        return Found("", Finding("unknown", title, "; ".join(notes) + "."))
    return Found("", Finding("good", f"{name.capitalize()} are right", "; ".join(notes) + "."))


def _unmatched(name: str, fits: list[Fit], rollout: StrangersRollout) -> Found:
    closest = min(fits, key=lambda fit: fit.error, default=None)
    hint = ""
    if not rollout.ends_are_told_apart:
        hint = " Every end of an episode was taken for a termination: truncated would tell the time limits."
    elif closest is not None:
        mistakes = ", ".join(MISTAKES[kind][0].lower() for kind in closest.variant.mistakes) or "no mistake"
        hint = f" The closest has {mistakes}, and is off by {closest.error:.2g} of their largest deviation."
    text = (
        f"{name.capitalize()} match no formula that is known here, right or wrong. Are gamma, gae_lambda and the "
        f"values those that they were computed with, before the critic's update?{hint}"
    )
    return Found("unmatched", Finding("unknown", f"{name.capitalize()} match no formula", text))


# -- log-probabilities -----------------------------------------------------------------------------------------------


def _examine_log_probs(rollout: StrangersRollout) -> list[Found]:
    shape, given = rollout.rewards.shape, rollout.log_probs
    assert given is not None
    size = given.size // rollout.rewards.size
    dimensions = 1 if rollout.actions is None else rollout.actions.shape[-1]
    if size > 1:
        what = (
            "one for each dimension of the action" if size in (dimensions, given.shape[-1]) else f"{size} for each step"
        )
        text = f"log_probs has shape {given.shape}, {what}: sum over the last axis, or the ratio of actions is wrong."
        return [Found("log_probs_not_summed", Finding("bad", "Log-probabilities are not summed", text))]
    each = _expected_log_probs(rollout)
    if each is None:
        text = "Their shape is right; means and stds, or logits, and actions would tell whether they are."
        return [Found("", Finding("good", "Log-probabilities have one number a step", text))]
    log_probs = given.reshape(shape)
    if _close(log_probs, each.sum(axis=-1)):
        return [Found("", Finding("good", "Log-probabilities are right", "They are those of the stored actions."))]
    wrong = {"the mean over the dimensions": each.mean(axis=-1), "the first dimension's alone": each[..., 0]}
    for what, values in wrong.items():
        if dimensions > 1 and _close(log_probs, values):
            text = f"log_probs is {what} of the action, instead of the sum."
            return [Found("log_probs_not_summed", Finding("bad", "Log-probabilities are not summed", text))]
    text = (
        "log_probs is neither their sum over the dimensions nor their mean: it belongs to other actions (drawn again, "
        "or clipped to the bounds before), or to another policy."
    )
    return [Found("log_probs_of_others", Finding("bad", "Log-probabilities are not those of the actions", text))]


def _expected_log_probs(rollout: StrangersRollout) -> Array | None:
    """Of each dimension, shape ``(n_steps, n_envs, action_dim)``."""
    actions = rollout.actions
    if rollout.means is not None and rollout.stds is not None and actions is not None:
        z = (actions - rollout.means) / rollout.stds
        gaussian: Array = -0.5 * z**2 - np.log(rollout.stds) - 0.5 * np.log(2 * np.pi)
        return gaussian
    if rollout.logits is not None and actions is not None:
        shifted = rollout.logits - rollout.logits.max(axis=-1, keepdims=True)
        normalised = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        chosen: NDArray[np.int64] = actions.astype(np.int64)
        categorical: Array = np.take_along_axis(normalised, chosen, axis=-1)
        return categorical
    return None


def _close(one: Array, other: Array) -> bool:
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-3))
