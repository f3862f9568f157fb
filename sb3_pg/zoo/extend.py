"""What is added to which rl_zoo3 module.

One function a module, listed in :data:`EXTENSIONS`. The start-up hook calls :func:`extend` right after a module of
rl_zoo3 has been executed; :func:`extend_all` does the same for all of them where .pth files are not read. rl_zoo3's
tables are changed in place (several of its modules hold the same dictionary) and with ``setdefault``: what upstream has
under our keys wins, and extending twice changes nothing.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pg.reinforce import REINFORCE
from sb3_pg.schedules import as_schedule
from sb3_pg.vpg import VPG

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "vpg": VPG,
    "reinforce": REINFORCE,
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
    with contextlib.suppress(ModuleNotFoundError):
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
    """Let the experiment manager read our hyperparameter files, trial 0 of a study, and ``lin_START_END``."""
    manager_class = exp_manager.ExperimentManager
    upstream = manager_class.read_hyperparameters
    if hasattr(upstream, _EXTENDED):
        return
    preprocess_schedules = manager_class._preprocess_schedules
    zoo_root = Path(str(exp_manager.__file__)).parents[1]

    @functools.wraps(upstream)
    def read_hyperparameters(self: Any) -> Any:
        if self.algo in ALGORITHMS:
            if _is_missing_default(self.config, self.algo, zoo_root):
                self.config = str(hyperparams_path(self.algo))
            if self.trial_id == 0:
                self.trial_id = _TrialZero()
        return upstream(self)

    @functools.wraps(preprocess_schedules)
    def read_schedules(hyperparams: dict[str, Any]) -> Any:
        two_numbers = {
            key: as_schedule(hyperparams.pop(key), key)
            for key in ("learning_rate", "clip_range")
            if isinstance(hyperparams.get(key), str) and hyperparams[key].count("_") == 2
        }
        return {**preprocess_schedules(hyperparams), **two_numbers}

    setattr(read_hyperparameters, _EXTENDED, True)
    manager_class.read_hyperparameters = read_hyperparameters
    manager_class._preprocess_schedules = staticmethod(read_schedules)


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


EXTENSIONS: dict[str, Callable[[ModuleType], None]] = {
    "rl_zoo3.utils": _extend_utils,
    "rl_zoo3.import_envs": _extend_import_envs,
    "rl_zoo3.hyperparams_opt": _extend_hyperparams_opt,
    "rl_zoo3.exp_manager": _extend_exp_manager,
}
"""The function that extends each rl_zoo3 module."""
