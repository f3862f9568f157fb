"""What is added to which rl_zoo3 module.

One function a module, listed in :data:`EXTENSIONS`. The start-up hook calls :func:`extend` right after a module of
rl_zoo3 has been executed; :func:`extend_all` does the same for all of them where .pth files are not read. rl_zoo3's
tables are changed in place (several of its modules hold the same dictionary) and with ``setdefault``: what upstream has
under our keys wins, and extending twice changes nothing.
"""

import functools
import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import yaml
from huggingface_sb3 import EnvironmentName
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_pg.files import whole
from sb3_pg.reinforce import REINFORCE
from sb3_pg.schedules import as_schedule
from sb3_pg.tunable import TunableA2C, TunablePPO, TunableTRPO
from sb3_pg.vpg import VPG
from sb3_pg.zoo import HOSTS

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "vpg": VPG,
    "reinforce": REINFORCE,
    "a2c_gae": TunableA2C,
    "ppo_gae": TunablePPO,
    "trpo_gae": TunableTRPO,
}
"""Algorithm of each key that ``--algo`` accepts."""


def extend(module: ModuleType) -> None:
    """Add to one rl_zoo3 module what sb3_pg has for it.

    :param module: an executed rl_zoo3 module, one of the keys of :data:`EXTENSIONS`
    :raises KeyError: for any other module
    """
    EXTENSIONS[module.__name__](module)


def extend_all() -> None:
    """Import the rl_zoo3 modules that sb3_pg extends, and extend them."""
    for name in EXTENSIONS:
        extend(importlib.import_module(name))


def hyperparams_path(algo: str) -> Path:
    """Return the path of the RL Zoo file with an algorithm's hyperparameters.

    :param algo: key in :data:`ALGORITHMS`
    :return: ``hyperparams/{algo}.yml`` as installed, or in the checkout of an editable installation
    :raises FileNotFoundError: if neither place has the file
    """
    # The checkout's folder serves editable modes that only put the checkout on sys.path: it is not inside sb3_pg there.
    places = [Path(__file__).parents[2] / "hyperparams"]
    with suppress(ModuleNotFoundError):
        places.insert(0, Path(str(resources.files("sb3_pg.hyperparams"))))
    for place in places:
        path = place / f"{algo}.yml"
        if path.is_file():
            return path
    looked_in = ", ".join(str(place) for place in places)
    raise FileNotFoundError(f"sb3_pg has no hyperparameters for algorithm {algo!r}: {algo}.yml is not in {looked_in}")


def _extend_utils(utils: ModuleType) -> None:
    """Add the algorithms to ``--algo``."""
    for key, algorithm in ALGORITHMS.items():
        utils.ALGOS.setdefault(key, algorithm)


def _extend_import_envs(_: ModuleType) -> None:
    """Register our environments together with the Zoo's."""
    importlib.import_module("sb3_pg.envs")


def _extend_hyperparams_opt(hyperparams_opt: ModuleType) -> None:
    """Add the search spaces of ``-optimize`` and the converters of ``--trial-id``."""
    # Here and not above: only tuning needs them, and Optuna is slow to import.
    from sb3_pg.zoo.search_spaces import CONVERTERS, SAMPLERS

    for key, sampler in SAMPLERS.items():
        hyperparams_opt.HYPERPARAMS_SAMPLER.setdefault(key, sampler)
    for key, converter in CONVERTERS.items():
        hyperparams_opt.HYPERPARAMS_CONVERTER.setdefault(key, converter)


def _extend_exp_manager(exp_manager: ModuleType) -> None:
    """Let the experiment manager read our hyperparameter files, trial 0 of a study, and ``lin_START_END``.

    And let ``--save-freq`` and ``-i`` go on where a run was, and tell our search spaces of gSDE.
    """
    manager_class = exp_manager.ExperimentManager
    upstream = manager_class.read_hyperparameters
    if hasattr(upstream, _EXTENDED):
        return
    preprocess_schedules = manager_class._preprocess_schedules
    zoo_root = Path(str(exp_manager.__file__)).parents[1]

    @functools.wraps(upstream)
    def read_hyperparameters(self: Any) -> Any:
        """From our files, where the Zoo has none for the algorithm."""
        if self.algo not in ALGORITHMS:
            return upstream(self)
        if self.trial_id == 0:
            self.trial_id = _TrialZero()
        if not _is_missing_default(self.config, self.algo, zoo_root):
            return upstream(self)
        path, block = _find_block(Path(self.config), self.algo, self.env_name.gym_id, self._is_atari)
        self.config = str(path)
        with _called(self, block):
            return upstream(self)

    @functools.wraps(preprocess_schedules)
    def read_schedules(hyperparams: dict[str, Any]) -> Any:
        """``lin_START_END`` beside the Zoo's own forms."""
        two_numbers = {
            key: as_schedule(hyperparams.pop(key), key)
            for key in ("learning_rate", "clip_range", "clip_range_vf")
            if isinstance(hyperparams.get(key), str) and hyperparams[key].count("_") == 2
        }
        return {**preprocess_schedules(hyperparams), **two_numbers}

    objective = manager_class.objective

    @functools.wraps(objective)
    def objective_with_attributes(self: Any, trial: Any) -> float:
        """The Zoo's, for a trial that knows whether the block has gSDE."""
        if self.algo in ALGORITHMS:
            from sb3_pg.zoo.search_spaces import USE_SDE  # not above: see _extend_hyperparams_opt

            trial.set_user_attr(USE_SDE, bool(self._hyperparams.get("use_sde")))
        return float(objective(self, trial))

    setattr(read_hyperparameters, _EXTENDED, True)
    manager_class.objective = objective_with_attributes
    manager_class.read_hyperparameters = read_hyperparameters
    manager_class._preprocess_schedules = staticmethod(read_schedules)
    _extend_continuation(manager_class)


def _extend_continuation(manager_class: Any) -> None:
    """Checkpoints with their statistics; ``-i`` with those of its checkpoint, its step count, and its schedules."""
    create_callbacks, maybe_normalize = manager_class.create_callbacks, manager_class._maybe_normalize
    learn = manager_class.learn

    @functools.wraps(create_callbacks)
    def create_our_callbacks(self: Any) -> None:
        """The Zoo's, with statistics beside every checkpoint."""
        given = list(self.callbacks)
        create_callbacks(self)
        if self.algo in ALGORITHMS:
            self.callbacks = [
                callback
                if callback in given or type(callback) is not CheckpointCallback
                else _with_statistics(callback)
                for callback in self.callbacks
            ]

    @functools.wraps(maybe_normalize)
    def normalize_as_the_checkpoint(self: Any, env: VecEnv, eval_env: bool) -> VecEnv:
        """With the statistics of the checkpoint that training goes on from, where it has its own."""
        path = _statistics_of(self.trained_agent)
        if self.algo not in ALGORITHMS or path is None or not path.is_file():
            return cast(VecEnv, maybe_normalize(self, env, eval_env))
        print(f"Loading saved VecNormalize stats of this checkpoint: {path}")
        normalized = VecNormalize.load(str(path), env)
        if eval_env:
            normalized.training = False
            normalized.norm_reward = False
        return normalized

    @functools.wraps(learn)
    def learn_on(self: Any, model: Any) -> None:
        """The Zoo's, counting on where ``-i`` goes on."""
        learn(self, _Continued(model) if self.algo in ALGORITHMS and self.continue_training else model)

    manager_class.create_callbacks = create_our_callbacks
    manager_class._maybe_normalize = normalize_as_the_checkpoint
    manager_class.learn = learn_on


class CheckpointWithStatistics(CheckpointCallback):
    """Writes VecNormalize's statistics beside every model, under SB3's name for them, whole or not at all.

    RL Zoo keeps only the last ones.
    """

    def _on_step(self) -> bool:
        normalized = self.model.get_vec_normalize_env()
        if self.n_calls % self.save_freq == 0 and normalized is not None:
            with whole(Path(self._checkpoint_path("vecnormalize_", extension="pkl"))) as unfinished:
                normalized.save(str(unfinished))
        return super()._on_step()


def _with_statistics(callback: CheckpointCallback) -> CheckpointWithStatistics:
    return CheckpointWithStatistics(
        callback.save_freq,
        callback.save_path,
        callback.name_prefix,
        callback.save_replay_buffer,
        verbose=callback.verbose,
    )


def _statistics_of(checkpoint: str) -> Path | None:
    """Where :class:`CheckpointWithStatistics` writes those of ``rl_model_N_steps.zip``; None for another file."""
    found = re.fullmatch(r"(.+)_(\d+)_steps\.zip", Path(checkpoint).name)
    return Path(checkpoint).with_name(f"{found[1]}_vecnormalize_{found[2]}_steps.pkl") if found else None


class _Continued:
    """A model that goes on counting: RL Zoo's ``-i`` would count from 0 again, and begin schedules anew."""

    def __init__(self, model: BaseAlgorithm) -> None:
        self._model = model

    def learn(self, total_timesteps: int, **kwargs: Any) -> BaseAlgorithm:
        """Learn for so many further steps."""
        model = self._model
        if model.tensorboard_log:
            # A run of its own: SB3 would go on in the newest folder, whosever it is
            name = kwargs.get("tb_log_name", type(model).__name__)
            model.set_logger(configure_logger(model.verbose, model.tensorboard_log, name, reset_num_timesteps=True))
        return model.learn(total_timesteps, reset_num_timesteps=False, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


_EXTENDED = "_extended_by_sb3_pg"
"""Marks the wrapped method: wrapping is the one extension that ``setdefault`` does not make repeatable."""


class _TrialZero(int):
    """The number 0 as ``--trial-id 0`` means it: rl_zoo3 tests the truth of the number, and so would ignore it."""

    def __bool__(self) -> bool:
        return True


def _is_missing_default(config: str, algo: str, zoo_root: Path) -> bool:
    """Whether ``config`` is the file that the Zoo takes without ``-conf``, and is not there.

    A missing file that the user named stays the Zoo's error.
    """
    path = Path(config)
    return zoo_root in path.parents and path.parts[-2:] == ("hyperparams", f"{algo}.yml") and not path.exists()


def _find_block(zoo_file: Path, algo: str, env_id: str, is_atari: bool) -> tuple[Path, str]:
    """The file with the hyperparameters of an environment, and the block in it.

    Where our file has none, and the algorithm is one of the Zoo's but for lambda, that is the Zoo's file, as it is
    installed. An environment without a block there takes that of its newest older version: RL Zoo's are for MuJoCo's
    -v4.

    :param zoo_file: where the Zoo's file for this algorithm would be
    :param algo: key in :data:`ALGORITHMS`
    :param env_id: the environment
    :param is_atari: whether RL Zoo takes the block ``atari`` for it
    """
    ours = hyperparams_path(algo)
    host = HOSTS.get(algo)
    if host is None or env_id in _blocks(ours):
        return ours, env_id
    theirs = zoo_file.with_name(f"{host}.yml")
    blocks = _blocks(theirs)
    older = next((each for each in older_versions(env_id) if each in blocks), None)
    if older is None or env_id in blocks or is_atari:
        return theirs, env_id
    print(f"{theirs} has no block for {env_id}: taking that of {older}")
    return theirs, older


def older_versions(env_id: str) -> list[str]:
    """Ids of the versions before this one, the newest first: Hopper-v4 to Hopper-v0 of Hopper-v5."""
    name, _, version = env_id.rpartition("-v")
    return [f"{name}-v{older}" for older in range(int(version) - 1, -1, -1)] if version.isdecimal() else []


def _blocks(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


@contextmanager
def _called(manager: Any, env_id: str) -> Iterator[None]:
    """While hyperparameters are read, the environment has the name of the block."""
    name = manager.env_name
    manager.env_name = EnvironmentName(env_id)
    try:
        yield
    finally:
        manager.env_name = name


EXTENSIONS: dict[str, Callable[[ModuleType], None]] = {
    "rl_zoo3.utils": _extend_utils,
    "rl_zoo3.import_envs": _extend_import_envs,
    "rl_zoo3.hyperparams_opt": _extend_hyperparams_opt,
    "rl_zoo3.exp_manager": _extend_exp_manager,
}
"""The function that extends each rl_zoo3 module."""
