"""Lambda of a model: reads what the user gave, tells rules of the batch, and keeps what they learned."""

from __future__ import annotations

import copy
import math
from functools import cache
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sb3_pg.advantage.estimators import Array, Trajectories, standardize
from sb3_pg.advantage.gae_lambda import (
    RULES,
    GradientProducts,
    LambdaBatch,
    LambdaRule,
    Scheduled,
    check_lambda,
    rule_from_text,
)
from sb3_pg.gradient.per_episode import Factors, gradients_from_factors, output_layer, split_episodes
from sb3_pg.gradient.statistics import moments
from sb3_pg.rollout.buffer import Samples, TrajectoryBuffer
from sb3_pg.rollout.tunable_buffer import TunableBuffer
from sb3_pg.schedules import ScheduleLike, as_schedule

if TYPE_CHECKING:
    from sb3_pg.tunable import TunableLambda
    from sb3_pg.vpg import VPG

LambdaLike = ScheduleLike | LambdaRule
"""What ``gae_lambda`` and ``critic_gae_lambda`` may be."""


def is_rule(value: Any) -> bool:
    """Whether a value is an object with the method of a :class:`~sb3_pg.advantage.gae_lambda.LambdaRule`."""
    # NumPy's arrays and numbers have a method of that name, too
    return callable(getattr(value, "choose", None)) and not isinstance(value, (type, np.ndarray, np.generic))


def as_lambda_rule(value: Any, name: str) -> LambdaRule:
    """Turn what the user gave into a rule.

    :param value: a number, a schedule, the name of a rule, or a rule
    :param name: the parameter's name, for the error
    :raises ValueError: when it is none of these
    """
    if is_rule(value):
        rule: LambdaRule = value
        return rule
    if isinstance(value, type):
        raise ValueError(f"{name}={value!r} is a class; a rule is an object of it, such as {value.__name__}(...)")
    if isinstance(value, str) and not value.startswith("lin_"):
        try:
            named = rule_from_text(value)
        except ValueError as error:
            raise ValueError(f"{name}={value!r}: {error}") from None
        if named is None:
            forms = ", ".join(entry.form for entry in RULES.values())
            raise ValueError(
                f"{name}={value!r} is unknown; accepted are a number in [0, 1], a callable of progress_remaining, "
                f"'lin_START', 'lin_START_END', {forms}, or an object with a method choose(batch)"
            )
        return named
    return Scheduled(as_schedule(value, name))


class LambdaRules:
    """The rules of one model. What they learn from a batch counts when the update is complete, and not before.

    :ivar log: keys and values to log when it is; those of the last batch stay with a saved model
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, LambdaRule]] = {}
        self._asked: dict[str, tuple[Any, LambdaRule]] = {}
        self.log: dict[str, float] = {}

    def begin(self) -> None:
        """Forget what was learned from a batch that was not trained on."""
        self._asked, self.log = {}, {}

    def choose(self, name: str, value: Any, batch: LambdaBatch) -> float | Array:
        """Ask the rule of a parameter.

        :param name: the parameter's
        :param value: what it is set to
        :param batch: see LambdaBatch
        :raises ValueError: when it chooses what no lambda is
        """
        given, rule = self._kept.get(name, (None, None))
        if rule is None or given != value:
            rule = as_lambda_rule(value, name)
        if not isinstance(rule, Scheduled):
            rule = copy.deepcopy(rule)
        self._asked[name] = value, rule
        return check_lambda(rule.choose(batch), name, batch.trajectories.rewards.shape)

    def of_the_critic(self, gae_lambda: float | Array) -> float | Array:
        """Lambda of the critic's target where it has none of its own: that of the advantages, or their rule's default.

        :param gae_lambda: what was chosen for the advantages
        """
        _, rule = self._asked["gae_lambda"]
        default = getattr(rule, "default", None)
        return gae_lambda if default is None else check_lambda(default, "default of gae_lambda", ())

    @property
    def learning_rate_factor(self) -> float:
        """
        What the rule of ``gae_lambda`` multiplies the actor's learning rate by in this update.

        :raises ValueError: where that is no finite number above 0: the step would go uphill, or nowhere
        """
        value, rule = self._asked.get("gae_lambda", (None, None))
        factor: Any = getattr(rule, "learning_rate_factor", 1.0)
        if not (isinstance(factor, Real) and math.isfinite(factor) and float(factor) > 0):
            raise ValueError(
                f"the rule of gae_lambda={value!r} chose learning_rate_factor={factor!r}; a finite number above 0 is "
                "expected"
            )
        return float(factor)

    def keep(self, model: Any) -> None:
        """The update is complete: what the rules learned from its batch counts from now on.

        :param model: whose parameters they are. A rule of the user's is an object there, and replaced by the copy that
            has learned
        """
        for name, (value, rule) in self._asked.items():
            if isinstance(value, str):
                self._kept[name] = value, rule
            elif is_rule(value) and getattr(model, name) is value:
                setattr(model, name, rule)
        self._asked = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_kept": self._kept, "_asked": {}, "log": self.log}


def mean_lambda(gae_lambda: float | Array, trajectories: Trajectories) -> float:
    """Lambda as one number: its mean over the steps of the batch where it varies."""
    return gae_lambda if isinstance(gae_lambda, float) else float(np.mean(gae_lambda[trajectories.valid]))


def choose_lambdas(
    model: VPG | TunableLambda, buffer: TrajectoryBuffer | TunableBuffer, trajectories: Trajectories
) -> tuple[float | Array, float | Array]:
    """Lambda of the advantages, and of the critic's target; numbers, or arrays of one for each step.

    :param model: whose policy collected the batch, and whose rules are asked; what they chose is noted in their log
    :param buffer: holds the batch
    :param trajectories: the same with what stands after each step
    :raises ValueError: see :meth:`LambdaRules.choose`
    """
    rules = model._lambda_rules
    rules.begin()
    batch = lambda_batch(model, buffer, trajectories, rules)
    gae_lambda = rules.choose("gae_lambda", model.gae_lambda, batch)
    batch.record("train/gae_lambda", mean_lambda(gae_lambda, trajectories))
    own = getattr(model, "critic_gae_lambda", None)
    if own is not None:
        critic_lambda = rules.choose("critic_gae_lambda", own, batch)
    else:
        critic_lambda = rules.of_the_critic(gae_lambda)
    if critic_lambda is not gae_lambda and getattr(model, "baseline", "value") == "value":
        batch.record("train/critic_gae_lambda", mean_lambda(critic_lambda, trajectories))
    return gae_lambda, critic_lambda


def lambda_batch(
    model: VPG | TunableLambda,
    buffer: TrajectoryBuffer | TunableBuffer,
    trajectories: Trajectories,
    rules: LambdaRules,
) -> LambdaBatch:
    """What the rules are told of the batch in a buffer; everything but the trajectories is computed when it is asked.

    :param model: whose policy collected it
    :param buffer: holds the batch
    :param trajectories: the same with what stands after each step
    :param rules: whose log is written
    """

    @cache
    def samples() -> Samples:
        return buffer.samples(trajectories.values)

    def products(advantages: Array) -> GradientProducts | None:
        return _gradient_products(model, trajectories, samples(), advantages)

    def after(gae_lambda: float | Array, factor: float) -> Array:
        return model._log_probs_after(trajectories, gae_lambda, factor)

    return LambdaBatch(
        trajectories=trajectories,
        gamma=model.gamma,
        progress_remaining=model._current_progress_remaining,
        gradient_products=products,
        log_probs=lambda: buffer.log_probs[trajectories.valid],
        log_probs_after=after,
        record=rules.log.__setitem__,
    )


def _gradient_products(
    model: VPG | TunableLambda, trajectories: Trajectories, samples: Samples, advantages: Array
) -> GradientProducts | None:
    """See :class:`~sb3_pg.advantage.gae_lambda.GradientProducts`.

    Every choice of advantages is centred and normalised as the update does it, or not.
    """
    blocks, counts = split_episodes(trajectories.dones, trajectories.valid)
    if len(counts) < 2:
        return None
    normalize, psi = getattr(model, "normalize_advantage", False), advantages
    if normalize is not False:
        psi = standardize(advantages, trajectories.valid, scale=normalize in (True, "batch"))
    psi = psi[:, trajectories.valid]
    if getattr(model, "state_discount", False):
        psi = psi * model.gamma ** trajectories.times[trajectories.valid]
    inputs, delta = output_layer(model.policy, samples.observations, samples.actions)
    factors = [Factors(delta, inputs), Factors(delta)]
    return products_of(gradients_from_factors(factors, psi, blocks[trajectories.valid], len(counts)), counts)


def products_of(gradients: Array, counts: NDArray[np.int64]) -> GradientProducts:
    """Scalar products of expected gradients, the last choice being the reference.

    :param gradients: of each block of the batch, shape ``(n_psi, n_blocks, n_parameters)``
    :param counts: episodes in each block, shape ``(n_blocks,)``
    """
    found = moments(gradients, counts)
    return GradientProducts(found.cross, found.own, found.variance(float(counts.sum())))
