"""What the parameters of VPG, and lambda of the hosts, may be; checked once before anything is built."""

from __future__ import annotations

import math
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium import spaces
from gymnasium.vector import VectorEnv
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy

from sb3_pg.advantage.baselines import get_baseline
from sb3_pg.advantage.estimators import get_estimator
from sb3_pg.advantage.gae_lambda import GradientAgreement, LambdaRule, Scheduled
from sb3_pg.gradient.per_episode import why_no_output_layer
from sb3_pg.lambda_rules import as_lambda_rule
from sb3_pg.policies import QCriticMixin
from sb3_pg.rollout.buffer import TrajectoryBuffer
from sb3_pg.rollout.tunable_buffer import TunableBuffer
from sb3_pg.schedules import as_schedule, check_schedule, interval

if TYPE_CHECKING:
    from sb3_pg.tunable import TunableLambda
    from sb3_pg.vpg import VPG

POLICY_LOSSES = ("vanilla", "importance", "clipped")
TRUNCATIONS = ("bootstrap", "terminal", "discard")
NORMALIZATIONS = (True, False, "batch", "center")

_LAMBDAS = ("gae_lambda", "critic_gae_lambda")
_FLAGS = ("whole_episodes", "state_discount", "joint_optimizer", "per_step_values", "use_sde")
_CRITIC_FREE_ESTIMATORS = "estimator='reward_to_go', 'total_return', or 'gae' with gae_lambda=1"


SCHEDULE_BOUNDS = {
    "learning_rate": (0.0, math.inf),
    "vf_learning_rate": (0.0, math.inf),
    "gae_lambda": (0.0, 1.0),
    "critic_gae_lambda": (0.0, 1.0),
    "ent_coef": (0.0, math.inf),
    "clip_range": (0.0, math.inf),
}
"""Smallest and largest accepted value of each schedule."""


def check_bounds(number: float, name: str) -> float:
    """Give the number back, or raise ValueError if a schedule has left its bounds."""
    low, high = SCHEDULE_BOUNDS[name]
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError(f"{name} is {number} at this point of the training; it must stay in {interval(low, high)}")
    return number


def check_arguments(
    env: Any, policy_kwargs: Any, use_rms_prop: Any, rms_prop_eps: Any, verbose: Any, set_up: bool
) -> None:
    """Raise ValueError for an argument that SB3's constructor would stumble over before anything else is checked."""
    if env is None and set_up:
        raise ValueError("env=None: an environment, a vectorised one, or the id of a registered one is expected")
    if isinstance(env, VectorEnv):
        raise ValueError(
            f"env={env!r} is vectorised in Gymnasium's way; accepted are SB3's VecEnv, as make_vec_env() makes it, or "
            "sb3_pg.rollout.vec_env.VectorEnvAdapter(env)"
        )
    if not (policy_kwargs is None or isinstance(policy_kwargs, dict)):
        raise ValueError(f"policy_kwargs={policy_kwargs!r} must be None or a dict of keyword arguments for the policy")
    if not isinstance(use_rms_prop, bool):
        raise ValueError(f"use_rms_prop={use_rms_prop!r} must be True or False")
    _check_range("rms_prop_eps", rms_prop_eps, 0.0, math.inf)
    if not isinstance(verbose, Integral) or verbose < 0:
        raise ValueError(f"verbose={verbose!r} must be 0 (silent), 1 (info), 2 (debug) or a larger whole number")


def check_parameters(model: VPG) -> None:
    """Raise ValueError for a parameter that cannot be meant, or for parameters that do not go together.

    :param model: with its parameters set as attributes, before its networks are built
    """
    _check_numbers(model)
    _check_schedules(model)
    _check_choices(model)
    _check_policy_class(model)
    _check_estimator_and_baseline(model)
    _check_enough_episodes(model)
    _check_lambda_rules(model)
    _check_optimizers(model)


def _check_numbers(model: VPG) -> None:
    for name in ("n_steps", "n_epochs", "n_critic_updates", "_stats_window_size"):
        _check_count(name, getattr(model, name))
    for name in ("n_episodes", "batch_size", "critic_batch_size"):
        if getattr(model, name) is not None:
            _check_count(name, getattr(model, name), "None, or ")
    if model.sde_sample_freq != -1:
        _check_count("sde_sample_freq", model.sde_sample_freq, "-1, or ")
    seed: Any = model.seed
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not (seed is None or (whole and 0 <= int(seed) < 2**32)):
        raise ValueError(f"seed={seed!r} must be None or a whole number in [0, 2**32)")
    _check_range("gamma", model.gamma, 0.0, 1.0)
    _check_range("vf_coef", model.vf_coef, 0.0, math.inf)
    for name in ("max_grad_norm", "target_kl"):
        value = getattr(model, name)
        if value is not None and not (_is_number(value) and value > 0):
            raise ValueError(f"{name}={value!r} must be None or a number above 0")


def _check_schedules(model: VPG) -> None:
    for name, (low, high) in SCHEDULE_BOUNDS.items():
        value = getattr(model, name)
        if value is None and name in ("vf_learning_rate", "critic_gae_lambda"):
            continue
        if name in _LAMBDAS:
            check_lambda_parameter(value, name)
        else:
            check_schedule(value, name, low, high)


def check_lambda_parameter(value: Any, name: str) -> LambdaRule:
    """Turn what the user gave for lambda into a rule, or raise ValueError.

    :param value: a number, a schedule, the name of a rule, or a rule
    :param name: the parameter's name
    """
    rule = as_lambda_rule(value, name)
    if isinstance(rule, Scheduled):
        try:
            check_schedule(value, name, *SCHEDULE_BOUNDS[name])
        except ValueError as error:
            if error.__cause__ is None:
                raise
            # The function itself failed, as one that expects a batch does
            hint = "A rule that chooses lambda for each batch is an object with a method choose(batch)"
            raise ValueError(f"{error}. {hint}") from error.__cause__
    return rule


def check_tunable(model: TunableLambda) -> LambdaRule:
    """The rule for lambda of a host's algorithm; ValueError where the host or its buffer cannot do what it asks for.

    :param model: with its parameters set as attributes
    """
    rule, given = check_lambda_parameter(model.gae_lambda, "gae_lambda"), f"gae_lambda={model.gae_lambda!r}"
    if isinstance(rule, Scheduled):
        return rule
    buffer_class: Any = model.rollout_buffer_class
    if not (buffer_class is None or (isinstance(buffer_class, type) and issubclass(buffer_class, TunableBuffer))):
        raise ValueError(
            f"{given} is chosen for each batch, and rollout_buffer_class={buffer_class!r} asks no rule; "
            "accepted are a number, a schedule, or subclasses of TunableRolloutBuffer and TunableDictRolloutBuffer in "
            "sb3_pg.rollout.tunable_buffer"
        )
    if hasattr(rule, "learning_rate_factor"):
        raise ValueError(
            f"{given} tries and scales steps of an optimizer that is the actor's alone, and {type(model).__name__} has "
            "none; accepted are a number, a schedule, 'length:ALPHA', 'explained_variance', 'auto', or an object with "
            "a method choose(batch) and without learning_rate_factor"
        )
    return rule


def check_last_layer(model: VPG | TunableLambda) -> None:
    """Raise ValueError where a rule needs the gradient of the policy's last layer, and it cannot be had.

    :param model: with its networks
    """
    for name in _LAMBDAS:
        value = getattr(model, name, None)
        if value is None or not isinstance(as_lambda_rule(value, name), GradientAgreement):
            continue
        reason = why_no_output_layer(model.policy)
        if reason:
            raise ValueError(
                f"{name}={value!r} needs the gradient of the policy's last layer, which cannot be had: {reason}; "
                "accepted are a policy with a linear action_net and one of SB3's distributions (use_sde=False), or "
                "another rule"
            )


def _check_policy_class(model: VPG) -> None:
    policy_class: Any = model.policy_class
    if not (isinstance(policy_class, type) and issubclass(policy_class, ActorCriticPolicy)):
        accepted = ", ".join(map(repr, model.policy_aliases))
        raise ValueError(f"policy={policy_class!r} is unknown; accepted are {accepted}, or an ActorCriticPolicy class")
    if issubclass(policy_class, RecurrentActorCriticPolicy):
        raise ValueError(
            f"policy={policy_class.__name__} is recurrent, and its states would not be kept; accepted are policies "
            "without memory, or sb3-contrib's RecurrentPPO"
        )
    if issubclass(policy_class, MultiInputActorCriticPolicy) and not isinstance(model.observation_space, spaces.Dict):
        raise ValueError(
            f"policy='MultiInputPolicy' needs a Dict observation space, not {model.observation_space}; accepted are "
            "'MlpPolicy', or 'CnnPolicy' for images"
        )


def _check_choices(model: VPG) -> None:
    for name in _FLAGS:
        if not isinstance(getattr(model, name), bool):
            raise ValueError(f"{name}={getattr(model, name)!r} must be True or False")
    for name, accepted in (
        ("normalize_advantage", NORMALIZATIONS),
        ("truncation", TRUNCATIONS),
        ("policy_loss", POLICY_LOSSES),
    ):
        value = getattr(model, name)
        if not any(value is choice or (isinstance(value, str) and value == choice) for choice in accepted):
            raise ValueError(f"{name}={value!r} is unknown; accepted are {', '.join(map(repr, accepted))}")
    if not (model.tensorboard_log is None or isinstance(model.tensorboard_log, (str, Path))):
        raise ValueError(f"tensorboard_log={model.tensorboard_log!r} must be None or a folder")
    buffer_class: Any = model.rollout_buffer_class
    if not (buffer_class is None or (isinstance(buffer_class, type) and issubclass(buffer_class, TrajectoryBuffer))):
        raise ValueError(
            f"rollout_buffer_class={buffer_class!r} must be a subclass of sb3_pg.rollout.buffer."
            "TrajectoryBuffer: SB3's buffers mix bootstrap values into the rewards"
        )
    for name in ("add", "compute_returns_and_advantage"):
        if buffer_class is not None and getattr(buffer_class, name) is not getattr(TrajectoryBuffer, name):
            raise ValueError(
                f"rollout_buffer_class={buffer_class!r} has a method {name} of its own, which is not called: steps are "
                "kept by append, and advantages are the estimator's; accepted is estimator=... for other advantages"
            )


def _check_estimator_and_baseline(model: VPG) -> None:
    entry, baseline = get_estimator(model.estimator), model.baseline
    get_baseline(baseline)
    whole = model.whole_episodes or model.n_episodes is not None
    if baseline != "value":
        low_lambda = _may_be_below_one(model.gae_lambda)
        if entry.needs_critic or (model.estimator == "gae" and low_lambda):
            raise ValueError(
                f"baseline={baseline!r} has no critic, and estimator={model.estimator!r} with "
                f"gae_lambda={model.gae_lambda!r} needs one; accepted are baseline='value', or "
                f"{_CRITIC_FREE_ESTIMATORS}"
            )
        if not whole:
            raise ValueError(
                f"baseline={baseline!r} has no critic to stand for the rest of an episode that the batch cuts; "
                "accepted are whole_episodes=True, n_episodes=..., or baseline='value'"
            )
    if model.state_discount and model.estimator == "total_return":
        raise ValueError(
            "state_discount=True with estimator='total_return' would discount twice: the total return is discounted "
            "from the first step of the episode on; accepted are state_discount=False, or estimator='reward_to_go'"
        )
    if entry.needs_whole_episodes and not whole:
        raise ValueError(
            f"estimator={model.estimator!r} needs episodes from their beginning; accepted are whole_episodes=True, "
            "n_episodes=..., or estimator='reward_to_go'"
        )
    if entry.needs_q and not issubclass(model.policy_class, QCriticMixin):
        raise ValueError(
            f"estimator={model.estimator!r} needs a Q critic, which policy={model.policy_class.__name__} does not "
            "have; accepted are 'MlpPolicy', 'CnnPolicy', 'MultiInputPolicy' and subclasses of sb3_pg.policies"
        )
    one_step = not whole and model.n_steps * getattr(model, "n_envs", 1) == 1
    if one_step and model.normalize_advantage is not False:
        raise ValueError(
            f"normalize_advantage={model.normalize_advantage!r} makes every advantage zero in a batch of one step; "
            "accepted are normalize_advantage=False, or n_steps of at least 2"
        )


def _check_enough_episodes(model: VPG) -> None:
    """Where a batch is one episode, what is the same for all its steps is zero after the baseline."""
    if (model.n_episodes or 0) * getattr(model, "n_envs", 1) != 1:
        return
    given = f"baseline={model.baseline!r}"
    is_zero = model.baseline == "time_mean"
    if model.estimator == "total_return":
        is_zero |= model.baseline == "mean"
        if model.normalize_advantage is not False:
            given, is_zero = f"normalize_advantage={model.normalize_advantage!r} with estimator='total_return'", True
    if is_zero:
        raise ValueError(
            f"{given} makes every advantage zero in a batch of one episode; accepted are more environments, "
            "n_episodes of at least 2, or baseline='none' with normalize_advantage=False"
        )


def _is_rule(value: Any, name: str) -> bool:
    """Whether lambda is chosen by something else than a schedule."""
    return not isinstance(as_lambda_rule(value, name), Scheduled)


def _may_be_below_one(gae_lambda: Any) -> bool:
    return _is_rule(gae_lambda, "gae_lambda") or min(map(as_schedule(gae_lambda, "gae_lambda"), (0.0, 1.0))) < 1


def _check_lambda_rules(model: VPG) -> None:
    rules: dict[str, LambdaRule] = {
        name: as_lambda_rule(value, name)
        for name in _LAMBDAS
        if (value := getattr(model, name)) is not None and _is_rule(value, name)
    }
    for name, rule in rules.items():
        given = f"{name}={getattr(model, name)!r}"
        if model.baseline != "value":
            raise ValueError(
                f"{given} weighs rewards against a critic, and baseline={model.baseline!r} has none; accepted are "
                f"baseline='value', or {name}=1.0"
            )
        if not hasattr(rule, "default"):
            continue
        if name == "critic_gae_lambda":
            raise ValueError(
                f"{given} judges policy gradients, which say nothing about the critic's target; accepted are a number, "
                "a schedule, 'length:ALPHA', 'explained_variance', or None"
            )
        if not get_estimator(model.estimator).uses_lambda:
            raise ValueError(
                f"{given} judges the policy gradients of GAE, and estimator={model.estimator!r} makes no use of "
                "lambda; accepted are estimator='gae' or one of your own, or a number for the critic's target"
            )


def _check_optimizers(model: VPG) -> None:
    if not model.joint_optimizer:
        return
    if model.vf_learning_rate is not None:
        raise ValueError(
            f"vf_learning_rate={model.vf_learning_rate!r} is for the critic's own optimizer; accepted are "
            "joint_optimizer=False, or vf_learning_rate=None (a joint optimizer weighs the critic by vf_coef)"
        )
    if model.baseline != "value" or get_estimator(model.estimator).needs_q:
        raise ValueError(
            f"joint_optimizer=True trains V beside the policy; baseline={model.baseline!r} with "
            f"estimator={model.estimator!r} cannot be trained so; accepted is joint_optimizer=False"
        )
    if hasattr(as_lambda_rule(model.gae_lambda, "gae_lambda"), "learning_rate_factor"):
        raise ValueError(
            f"gae_lambda={model.gae_lambda!r} tries steps of the actor's own optimizer, and with joint_optimizer=True "
            "the critic's loss is in every step; accepted are joint_optimizer=False, or another rule"
        )


def _check_count(name: str, value: Any, also: str = "") -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name.lstrip('_')}={value!r} must be {also}a whole number of at least 1")


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    if not _is_number(value) or not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name}={value!r} must be a number in {interval(low, high)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)
