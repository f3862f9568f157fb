"""Optuna search spaces for RL Zoo's ``-optimize``: one sampler and one converter for each algorithm.

A sampler asks a trial for raw values and returns its converter's answer; RL Zoo's ``--trial-id`` calls the converter
alone, on ``trial.params``. So a converter may use nothing but the raw values, and for every trial
``converter(trial.params) == sampler(trial, ...)``.

The sampled ``policy_kwargs`` take the place of those in the YAML file (RL Zoo updates one dict with the other), and a
sampled ``learning_rate`` the place of a ``lin_...`` schedule.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from torch import nn

from sb3_pg.advantage.baselines import critic_free
from sb3_pg.advantage.estimators import ESTIMATORS
from sb3_pg.zoo import HOSTS

Sampler = Callable[[optuna.Trial, int, int, dict[str, Any]], dict[str, Any]]
Converter = Callable[[dict[str, Any]], dict[str, Any]]

NET_ARCHS: dict[str, list[int]] = {"tiny": [64], "small": [64, 64], "medium": [256, 256]}
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}

# Batches in environment steps, as powers of two: 128 to 4096 with a critic; 256 was best on CartPole-v1, Pendulum-v1.
# Without one the gradient is noisier and a batch must hold several whole episodes: 512 to 8192.
VPG_BATCH_POWS = (7, 12)
REINFORCE_BATCH_POWS = (9, 13)
# Minibatches of the critic
CRITIC_BATCH_SIZES = [64, 256]
# With fewer than 2**3 steps of each environment nothing is left for lambda to choose from.
MIN_N_STEPS_POW = 3


def _sample_n_steps_pow(trial: optuna.Trial, n_envs: int, batch_pows: tuple[int, int]) -> int:
    """
    Sample log2(n_steps) so that n_steps * n_envs, the batch, covers the given range for any number of environments.

    The batch is what matters for learning, ``n_steps`` is what the constructor takes, and a converter does not know
    ``n_envs``: so the range is shifted by log2(n_envs) and the raw value is that of ``n_steps``. ``n_envs`` is the
    same in all trials of a study, and so is the range.

    :param trial: the trial to ask
    :param n_envs: number of parallel environments
    :param batch_pows: log2 of the smallest and of the largest batch
    :return: log2(n_steps)
    """
    shift = round(math.log2(n_envs))
    low = max(batch_pows[0] - shift, MIN_N_STEPS_POW)
    high = max(batch_pows[1] - shift, low)
    n_steps_pow = trial.suggest_int("n_steps_pow", low, high)
    trial.set_user_attr("n_steps", 2**n_steps_pow)
    trial.set_user_attr("rollout_size", 2**n_steps_pow * n_envs)
    return n_steps_pow


def _sample_common(trial: optuna.Trial, n_actions: int) -> dict[str, Any]:
    """
    Sample what every policy gradient has: learning rate, discount, normalisation, entropy, clipping and network.

    Learning rates around 2e-3 to 2e-2 did best with one gradient step a batch, so the range lies higher than PPO's.
    gamma goes down to 0.8 because short tasks (Pendulum, LineWorld) want 0.9 and less. With normalised advantages a
    ``max_grad_norm`` of 10 hardly ever clips, so "no clipping" needs no choice of its own.

    :param trial: the trial to ask
    :param n_actions: dimension of a continuous action space; 0 where actions are discrete
    :return: raw values
    """
    raw: dict[str, Any] = {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-4, 0.2, log=True),
        "normalize_advantage": trial.suggest_categorical("normalize_advantage", [True, "center", False]),
        "ent_coef": trial.suggest_float("ent_coef", 1e-6, 0.1, log=True),
        "max_grad_norm": trial.suggest_float("max_grad_norm", 0.3, 10.0, log=True),
        "net_arch": trial.suggest_categorical("net_arch", list(NET_ARCHS)),
        "activation_fn": trial.suggest_categorical("activation_fn", list(ACTIVATIONS)),
    }
    if n_actions > 0:
        raw["log_std_init"] = trial.suggest_float("log_std_init", -2.0, 0.5)
    trial.set_user_attr("gamma", 1 - raw["one_minus_gamma"])
    return raw


def _convert(raw: dict[str, Any], one_minus: tuple[str, ...]) -> dict[str, Any]:
    """
    Turn raw values into constructor arguments; ``raw`` itself is left as it is.

    :param raw: raw values, as in ``trial.params``
    :param one_minus: names that were sampled as ``one_minus_<name>``
    :return: keyword arguments of the algorithm
    """
    hyperparams = dict(raw)
    for name in one_minus:
        hyperparams[name] = 1 - hyperparams.pop(f"one_minus_{name}")
    hyperparams["n_steps"] = 2 ** hyperparams.pop("n_steps_pow")
    layers = NET_ARCHS[hyperparams.pop("net_arch")]
    policy_kwargs: dict[str, Any] = {
        "net_arch": {"pi": list(layers), "vf": list(layers)},
        "activation_fn": ACTIVATIONS[hyperparams.pop("activation_fn")],
    }
    if "log_std_init" in hyperparams:
        policy_kwargs["log_std_init"] = hyperparams.pop("log_std_init")
    hyperparams["policy_kwargs"] = policy_kwargs
    return hyperparams


# From the tables as they are when a trial asks, so that a new estimator or baseline is tried without a line here.


def vpg_estimators() -> list[str]:
    """Those that any rollout and any action space allows, without the special cases that lambda covers already."""
    return [
        name
        for name, entry in ESTIMATORS.items()
        if not (entry.needs_whole_episodes or entry.needs_q) and entry.gae_lambda is None
    ]


def reinforce_estimators() -> list[str]:
    """Those without a critic."""
    return [name for name, entry in ESTIMATORS.items() if not entry.needs_critic and name != "gae"]


# The range of 1 - lambda
ONE_MINUS_LAMBDA = (1e-3, 1.0)
# A trial's attribute: whether the block that it starts from has gSDE
USE_SDE = "use_sde"
# What the sampled lambda is: the number itself, the lower bound of a rule or its default. "length" is left out because
# its number is no lambda, and "hoof" because it trains at half the speed.
LAMBDA_RULES = {"constant": "{}", "explained_variance": "explained_variance:{}_1", "auto": "auto:{}"}


def convert_vpg_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the raw values of a VPG trial into constructor arguments.

    :param sampled_params: raw values, as in ``trial.params``; those of studies from before there were rules for lambda
        are taken, too
    :return: keyword arguments of :class:`sb3_pg.VPG`
    """
    return _with_rule(_convert(sampled_params, one_minus=("gamma", "gae_lambda")))


def _with_rule(hyperparams: dict[str, Any]) -> dict[str, Any]:
    """Put the rule that was sampled in the place of the number that was."""
    rule = hyperparams.pop("lambda_rule", "constant")
    if rule != "constant":
        hyperparams["gae_lambda"] = LAMBDA_RULES[rule].format(hyperparams["gae_lambda"])
    return hyperparams


def _sample_lambda_rule(trial: optuna.Trial) -> str:
    """
    Sample the kind of rule.

    What judges gradients of the last layer cannot be had with gSDE, which is not sampled: whoever has the block says it
    with the trial's attribute :data:`USE_SDE`.

    :param trial: the trial to ask
    """
    rules = [name for name in LAMBDA_RULES if not (name == "auto" and trial.user_attrs.get(USE_SDE))]
    return trial.suggest_categorical("lambda_rule", rules)


def sample_vpg_params(
    trial: optuna.Trial,
    n_actions: int,
    n_envs: int,
    additional_args: dict[str, Any],  # noqa: ARG001  (RL Zoo's signature)
) -> dict[str, Any]:
    """
    Sample the hyperparameters of VPG.

    lambda is searched as 1 - lambda, log-uniform in [1e-3, 1], which is lambda from 0 to 0.999. What lambda sets is how
    far the advantage looks before the critic takes over, 1 / (1 - lambda) steps, and this is uniform in the logarithm
    of that horizon from 1 to 1000 steps: a third of the trials falls below 0.9, a third between 0.9 and 0.99, a third
    above. Uniform in lambda would hardly ever try the last third, and RL Zoo's own range, [0.9, 1), never the first.
    ``lambda_rule`` says whether this number is lambda, or where a rule begins that chooses it for each batch
    (docs/lambda.md): the lower bound of ``explained_variance``, the default of ``auto``.

    :param trial: the trial to ask
    :param n_actions: dimension of a continuous action space; 0 where actions are discrete
    :param n_envs: number of parallel environments
    :param additional_args: what RL Zoo passes to every sampler; not used
    :return: keyword arguments of :class:`sb3_pg.VPG`
    """
    raw = _sample_common(trial, n_actions)
    raw["n_steps_pow"] = _sample_n_steps_pow(trial, n_envs, VPG_BATCH_POWS)
    raw["one_minus_gae_lambda"] = trial.suggest_float("one_minus_gae_lambda", *ONE_MINUS_LAMBDA, log=True)
    raw["lambda_rule"] = _sample_lambda_rule(trial)
    raw["vf_learning_rate"] = trial.suggest_float("vf_learning_rate", 1e-4, 3e-2, log=True)
    raw["estimator"] = trial.suggest_categorical("estimator", vpg_estimators())
    raw["n_critic_updates"] = trial.suggest_int("n_critic_updates", 1, 40, log=True)
    raw["critic_batch_size"] = trial.suggest_categorical("critic_batch_size", CRITIC_BATCH_SIZES)
    trial.set_user_attr("gae_lambda", 1 - raw["one_minus_gae_lambda"])
    return convert_vpg_params(raw)


def convert_reinforce_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the raw values of a REINFORCE trial into constructor arguments.

    :param sampled_params: raw values, as in ``trial.params``
    :return: keyword arguments of :class:`sb3_pg.REINFORCE`
    """
    return _convert(sampled_params, one_minus=("gamma",))


def sample_reinforce_params(
    trial: optuna.Trial,
    n_actions: int,
    n_envs: int,
    additional_args: dict[str, Any],  # noqa: ARG001  (RL Zoo's signature)
) -> dict[str, Any]:
    """
    Sample the hyperparameters of REINFORCE.

    Only the critic-free baselines are tried. ``baseline="value"`` would bring a critic's hyperparameters with it that
    mean nothing to the others, and a space that changes from trial to trial sends RL Zoo's multivariate TPE back to
    independent sampling; that question is what ``vpg`` answers.

    :param trial: the trial to ask
    :param n_actions: dimension of a continuous action space; 0 where actions are discrete
    :param n_envs: number of parallel environments
    :param additional_args: what RL Zoo passes to every sampler; not used
    :return: keyword arguments of :class:`sb3_pg.REINFORCE`
    """
    raw = _sample_common(trial, n_actions)
    raw["n_steps_pow"] = _sample_n_steps_pow(trial, n_envs, REINFORCE_BATCH_POWS)
    raw["estimator"] = trial.suggest_categorical("estimator", reinforce_estimators())
    raw["baseline"] = trial.suggest_categorical("baseline", critic_free())
    return convert_reinforce_params(raw)


class _AllLambdas:
    """A trial that is asked for lambda by RL Zoo, which never tries less than 0.9, and answers from VPG's range."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def suggest_float(self, name: str, low: float, high: float, **kwargs: Any) -> float:
        """
        Suggest a number, as the trial does; of 1 - lambda from all of VPG's range.

        :param name: the parameter's
        :param low: smallest value that RL Zoo asks for
        :param high: largest
        :param kwargs: of :meth:`optuna.Trial.suggest_float`
        """
        if name == "one_minus_gae_lambda":
            low, high = ONE_MINUS_LAMBDA
        return self._trial.suggest_float(name, low, high, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


def _hyperparams_opt() -> Any:
    # Here and not above: RL Zoo's module is extended by this one when it is imported
    from rl_zoo3 import hyperparams_opt

    return hyperparams_opt


def convert_host_params(host: str, sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the raw values of a trial of one of RL Zoo's algorithms with our lambda into constructor arguments.

    :param host: RL Zoo's key of the algorithm
    :param sampled_params: raw values, as in ``trial.params``
    :return: keyword arguments of the algorithm
    """
    return _with_rule(dict(_hyperparams_opt().HYPERPARAMS_CONVERTER[host](sampled_params)))


def sample_host_params(
    host: str, trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample the hyperparameters of one of RL Zoo's algorithms with our lambda.

    Its own search space, but for lambda: that is searched as for VPG, with the kind of rule.

    :param host: RL Zoo's key of the algorithm
    :param trial: the trial to ask
    :param n_actions: dimension of a continuous action space; 0 where actions are discrete
    :param n_envs: number of parallel environments
    :param additional_args: what RL Zoo passes to every sampler
    :return: keyword arguments of the algorithm
    """
    _hyperparams_opt().HYPERPARAMS_SAMPLER[host](_AllLambdas(trial), n_actions, n_envs, additional_args)
    _sample_lambda_rule(trial)
    trial.set_user_attr("gae_lambda", 1 - trial.params["one_minus_gae_lambda"])
    return convert_host_params(host, trial.params)


SAMPLERS: dict[str, Sampler] = {
    "vpg": sample_vpg_params,
    "reinforce": sample_reinforce_params,
    **{key: partial(sample_host_params, host) for key, host in HOSTS.items()},
}
CONVERTERS: dict[str, Converter] = {
    "vpg": convert_vpg_params,
    "reinforce": convert_reinforce_params,
    **{key: partial(convert_host_params, host) for key, host in HOSTS.items()},
}
