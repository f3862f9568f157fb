"""RL Zoo's experiment manager with a given block of hyperparameters instead of a file, and how blocks are put together.

A trial is trained exactly as ``rl_zoo3.train`` trains its block from a file, VecNormalize's gamma included.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import gymnasium as gym
import torch as th
import yaml
from gymnasium import spaces
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_pg.rollout.vec_env import LeanVecEnv
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.experiment import Block, Experiment
from sb3_pg.zoo.extend import extend_all

ZOO_KEYS = (
    "n_envs", "n_timesteps", "normalize", "policy", "policy_kwargs", "callback", "env_wrapper", "vec_env_wrapper",
    "frame_stack", "monitor_kwargs", "env_kwargs",
)  # fmt: skip
"""What a block may hold besides the algorithm's parameters."""
_GIVEN = {"env", "seed", "device", "verbose", "tensorboard_log"}
"""Parameters of an algorithm that no block may have: they are given by whoever trains it."""


def prepare(gym_packages: tuple[str, ...]) -> None:
    """Make our algorithms known to RL Zoo, and the environments of other packages to Gymnasium."""
    extend_all()
    for package in gym_packages:
        importlib.import_module(package)


class BlockManager(ExperimentManager):
    """
    Makes environments and models from a block.

    :param experiment: what is trained
    :param block: hyperparameters; None reads them from ``conf``
    :param conf: RL Zoo's ``-conf``; None for the file of the algorithm
    :param seed: of environments and model
    """

    def __init__(
        self, experiment: Experiment, block: Block | None = None, conf: str | None = None, seed: int = 0
    ) -> None:
        super().__init__(
            argparse.Namespace(),
            experiment.algo,
            experiment.env,
            log_folder="logs",
            n_timesteps=experiment.n_timesteps,
            env_kwargs=deepcopy(experiment.env_kwargs),
            eval_env_kwargs=deepcopy(experiment.eval_env_kwargs),
            n_evaluations=experiment.n_evaluations,
            n_eval_envs=experiment.n_eval_envs,
            vec_env_type=experiment.vec_env,
            device=experiment.device,
            config=conf,
            seed=seed,
            verbose=0,
        )
        self._block = block
        if experiment.vec_env == "dummy":
            self.vec_env_class = LeanVecEnv  # the same numbers in less time

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The block that was given, or the Zoo's way to find one."""
        if self._block is not None:
            return deepcopy(self._block), deepcopy(self._block)
        hyperparams, saved = super().read_hyperparameters()
        return hyperparams, saved

    def build(self) -> tuple[Callable[[], BaseAlgorithm], VecEnv, VecEnv, list[BaseCallback]]:
        """
        Make the environments, and say how to make the model.

        :return: a function that makes the model, its environment, one for evaluations (seeded otherwise), and the
            callbacks that the block asks for
        """
        block, _ = self.read_hyperparameters()
        hyperparams, self.env_wrapper, callbacks, self.vec_env_wrapper = self._preprocess_hyperparams(block)
        if self._eval_env_kwargs_args is None:
            self.eval_env_kwargs = self.env_kwargs  # the block's, too, which RL Zoo gives to training alone
        env = self.create_envs(self.n_envs, no_log=True)
        seed, self.seed = self.seed, (self.seed + 1_000_003) % 2**31
        try:
            eval_env = self.create_envs(self.n_eval_envs, eval_env=True, no_log=True)
        except BaseException:
            env.close()
            raise
        self.seed = seed

        def make_model() -> BaseAlgorithm:
            return ALGOS[self.algo](env=env, seed=seed, device=self.device, verbose=0, **hyperparams)

        return make_model, env, eval_env, callbacks


@contextlib.contextmanager
def silence() -> Iterator[io.StringIO]:
    """Keep what RL Zoo prints while it reads hyperparameters."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        yield text


@dataclass(frozen=True)
class StartingPoint:
    """
    What a search begins with.

    :param block: hyperparameters as in the file
    :param n_actions: dimension of a continuous action space; 0 where actions are discrete
    :param n_envs: environments of a training
    :param algorithm: the class
    """

    block: Block
    n_actions: int
    n_envs: int
    algorithm: type[BaseAlgorithm]


def starting_point(experiment: Experiment, conf: str | None, overrides: Block) -> StartingPoint:
    """
    Read the block of an environment, and build environments and model from it once.

    What is wrong with them shows before anything is trained.

    :param experiment: what is trained; 0 steps are those of the block
    :param conf: RL Zoo's ``-conf``; None for the file of the algorithm
    :param overrides: RL Zoo's ``-params``
    :raises TuneError: when the file cannot be read, has no block, or nothing can be built from its block
    """
    reader = BlockManager(experiment, conf=conf)
    reader.custom_hyperparams = overrides
    try:
        with silence():
            _, saved = reader.read_hyperparameters()
    except Exception as error:  # a file may hold anything, and RL Zoo checks little of it
        where = f" in {conf}" if conf else ""
        raise TuneError(f"no hyperparameters for {experiment.algo} on {experiment.env}{where}: {error}") from error
    if not experiment.n_timesteps and "n_timesteps" not in saved:
        raise TuneError(f"the hyperparameters of {experiment.env} have no n_timesteps: give -n")
    n_timesteps = experiment.n_timesteps or saved["n_timesteps"]
    if not isinstance(n_timesteps, (int, float)) or not 1 <= n_timesteps < math.inf:
        raise TuneError(
            f"n_timesteps of {experiment.env} is {n_timesteps!r}; accepted is a number above 0, such as 100000 or "
            "!!float 1e5 (YAML reads 1e5 as text)"
        )
    block = {**saved, "n_timesteps": int(n_timesteps)}
    space, n_envs = try_block(experiment, block)
    n_actions = space.shape[0] if isinstance(space, spaces.Box) else 0
    return StartingPoint(block, n_actions, n_envs, ALGOS[experiment.algo])


def try_block(experiment: Experiment, block: Block, seed: int = 0) -> tuple[spaces.Space[Any], int]:
    """
    Build environments and model from a block once, and close them again.

    :param experiment: what is trained
    :param block: hyperparameters
    :param seed: of environments and model
    :return: space of the actions, number of environments
    :raises TuneError: when they cannot be built
    """
    manager = BlockManager(experiment, block, seed=seed)
    try:
        with silence():
            make_model, env, eval_env, _ = manager.build()
    except Exception as error:
        message = f"cannot make {experiment.env}, or read its hyperparameters: {type(error).__name__}: {error}"
        raise TuneError(message + _numbers_as_text(block)) from error
    try:
        make_model()
    except Exception as error:
        message = f"cannot make {experiment.algo} for {experiment.env}: {type(error).__name__}: {error}"
        raise TuneError(message + _numbers_as_text(block)) from error
    finally:
        env.close()
        eval_env.close()
    return env.action_space, manager.n_envs


def _numbers_as_text(block: Block) -> str:
    """What to write instead of texts that were meant as numbers, such as 1e-3, as the end of a message."""
    advice = []
    for key, value in block.items():
        with contextlib.suppress(ValueError):
            number = float(value) if isinstance(value, str) else math.nan
            if math.isfinite(number):
                written = yaml.safe_dump(int(number) if number.is_integer() else number).split()[0]
                advice.append(f"{key} is the text {value!r}: write {written}")
    return f" ({'; '.join(advice)}. YAML reads 1e-3 as text, 1.0e-3 as a number)" if advice else ""


def check_block(experiment: Experiment, block: Block, seed: int = 0) -> None:
    """Do as :func:`try_block` does, without warnings: trainings show none either."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try_block(experiment, block, seed)


def check_can_be_sent(block: Block) -> None:
    """
    Refuse a block that no worker process can be given, before anything is trained with a part of it.

    A ``-conf`` file in Python may hold functions of its own, which exist in this process alone.

    :param block: hyperparameters
    :raises TuneError: naming the parameter
    """
    for key, value in block.items():
        why = _why_not_sent(value)
        if why:
            raise TuneError(
                f"{key} of the block is {value!r}, which cannot be sent to a worker process ({why}); accepted are "
                "plain values, and classes and functions of modules that can be imported. --workers 0 trains in this "
                "process"
            )


def _why_not_sent(value: Any) -> str:
    try:
        pickle.dumps(value)
    except Exception as error:  # of whatever kind an object chooses
        return f"{type(error).__name__}: {error}"
    return ""


def accepted_hyperparams(algorithm: type[BaseAlgorithm]) -> set[str]:
    """Every key that a block of an algorithm may have."""
    return {*parameters_of(algorithm), *ZOO_KEYS} - _GIVEN


def parameters_of(algorithm: type[BaseAlgorithm]) -> dict[str, Parameter]:
    """Parameters of an algorithm, with those that it passes on to the class that it is built on."""
    found: dict[str, Parameter] = {}
    for cls in algorithm.__mro__:
        parameters = signature(cls).parameters
        found = {**parameters, **found}
        if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return {
        name: parameter
        for name, parameter in found.items()
        if parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY) and not name.startswith("_")
    }


def is_deterministic(env_id: str) -> bool:
    """Whether RL Zoo evaluates without drawing actions: everywhere but in Atari games and MiniGrid."""
    return not (ExperimentManager.is_atari(env_id) or ExperimentManager.is_minigrid(env_id))


def merged(block: Block, sampled: Mapping[str, Any]) -> Block:
    """
    Put sampled hyperparameters over those of a block.

    Of ``policy_kwargs`` only what was sampled is replaced (RL Zoo's ``-optimize`` replaces all of it, and with it a
    block's ``log_std_init`` or ``ortho_init``). It becomes a string, as in the files.

    :param block: hyperparameters as in the file
    :param sampled: arguments of the algorithm
    :return: a new block
    """
    result = {**block, **sampled}
    ours = sampled.get("policy_kwargs")
    if isinstance(ours, Mapping):
        theirs = block.get("policy_kwargs") or {}
        arguments = ", ".join(f"{name}={as_text(value)}" for name, value in ours.items())
        if isinstance(theirs, str):
            result["policy_kwargs"] = f"dict({theirs}, {arguments})"
        else:
            try:
                result["policy_kwargs"] = as_text({**theirs, **ours})
            except TuneError:  # a module with hyperparameters may hold what no text can
                result["policy_kwargs"] = {**theirs, **ours}
    return result


def environment_flags(
    gym_packages: tuple[str, ...], env_kwargs: Mapping[str, Any], eval_env_kwargs: Mapping[str, Any] | None = None
) -> list[str]:
    """
    Words of an ``rl_zoo3`` command that make an environment as it was made here.

    :param gym_packages: modules to import for their environments
    :param env_kwargs: arguments of the environment
    :param eval_env_kwargs: of the one for evaluations; None for the same
    """
    words = ["--gym-packages", *gym_packages] if gym_packages else []
    for flag, values in (("--env-kwargs", env_kwargs), ("--eval-env-kwargs", eval_env_kwargs)):
        words += [flag, *as_words(values)] if values else []
    return words


def as_words(values: Mapping[str, Any]) -> list[str]:
    """
    Write values as RL Zoo's command line takes them, ``KEY:VALUE``, for RL Zoo to evaluate.

    :param values: plain values; infinity and NaN, which have no literal, become calls
    """
    return [f"{key}:{_as_literal(value)}" for key, value in values.items()]


def _as_literal(value: Any) -> str:
    has_literal = not isinstance(value, float) or math.isfinite(value)
    return repr(value) if has_literal else f"float('{value}')"


def as_text(value: Any) -> str:
    """
    Write a value as RL Zoo's files write it, for RL Zoo to evaluate.

    :param value: a class of ``torch.nn`` or ``torch.optim``, a plain value, or dictionaries and lists of them
    :raises TuneError: for anything else
    """
    name = getattr(value, "__name__", "")
    for package, known_as in ((nn, "nn"), (th.optim, "th.optim")):
        if isinstance(value, type) and getattr(package, name, None) is value:
            return f"{known_as}.{name}"
    if isinstance(value, Mapping):
        return f"dict({', '.join(f'{key}={as_text(part)}' for key, part in value.items())})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_text, value))}]"
    if value is None or isinstance(value, (bool, int, float, str)):
        return _as_literal(value)
    raise TuneError(f"the search space gave a value that no file can hold: {value!r}")


def registered_envs() -> list[str]:
    """Ids of all environments that Gymnasium knows."""
    return list(gym.registry)
