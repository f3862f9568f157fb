"""What is searched: RL Zoo's search space of an algorithm, or the values of a grid file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
import yaml
from optuna.distributions import BaseDistribution, distribution_to_json
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

from sb3_pg.tune.blocks import StartingPoint, accepted_hyperparams
from sb3_pg.tune.errors import TuneError, unknown
from sb3_pg.tune.yaml_keys import keys_of
from sb3_pg.zoo.search_spaces import USE_SDE

LARGE_GRID = 10**6
"""Combinations from which on they are not listed."""


class Space(Protocol):
    """What is searched."""

    def suggest(self, trial: optuna.Trial) -> None:
        """Ask a trial for a value of every parameter."""

    def convert(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Turn the values of a trial into hyperparameters of a block."""


class ZooSpace:
    """
    The search space that RL Zoo's ``-optimize`` has for an algorithm.

    :param algo: RL Zoo's key
    :param start: what the search begins with
    :raises TuneError: when the Zoo has none
    """

    def __init__(self, algo: str, start: StartingPoint) -> None:
        if algo not in HYPERPARAMS_SAMPLER or algo not in HYPERPARAMS_CONVERTER:
            raise TuneError(f"RL Zoo has no search space for {algo!r}; give one with --grid FILE")
        self._algo = algo
        self._start = start

    def suggest(self, trial: optuna.Trial) -> None:
        """Ask as RL Zoo asks."""
        trial.set_user_attr(USE_SDE, bool(self._start.block.get("use_sde")))
        her: dict[str, Any] = {"using_her_replay_buffer": False, "her_kwargs": {}}
        HYPERPARAMS_SAMPLER[self._algo](trial, self._start.n_actions, self._start.n_envs, her)

    def convert(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Convert as RL Zoo's ``--trial-id`` does."""
        return dict(HYPERPARAMS_CONVERTER[self._algo](dict(params)))


class GridSpace:
    """
    Some values of each of some hyperparameters, every combination of which is a point.

    :param choices: values of each hyperparameter, as they are written in RL Zoo's files
    """

    def __init__(self, choices: Mapping[str, list[Any]]) -> None:
        self.choices = dict(choices)

    def suggest(self, trial: optuna.Trial) -> None:
        """Choose one value of each."""
        for name, values in self.choices.items():
            trial.suggest_categorical(name, values)

    def convert(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The values are those of the block."""
        return dict(params)

    def in_order(self, names: Iterable[str]) -> GridSpace:
        """
        Give the same grid with its hyperparameters in the order of a study: the order of the points follows from it.

        :param names: hyperparameters; the others come after these
        """
        return GridSpace({**{name: self.choices[name] for name in names if name in self.choices}, **self.choices})

    @property
    def n_points(self) -> int:
        """Number of all combinations."""
        return math.prod(map(len, self.choices.values()))

    def points(self, seed: int, n_points: int) -> list[dict[str, Any]]:
        """Some combinations, in a random order that follows from a seed: half a grid says something about all of it.

        :param seed: of the order
        :param n_points: how many; of a grid with more than :data:`LARGE_GRID` points, some may be there twice
        """
        rng = np.random.default_rng(seed)
        is_large = self.n_points > LARGE_GRID
        chosen = rng.integers(self.n_points, size=n_points) if is_large else rng.permutation(self.n_points)[:n_points]
        places = np.array(np.unravel_index(chosen, [len(values) for values in self.choices.values()])).T
        return [
            {name: values[at] for (name, values), at in zip(self.choices.items(), row, strict=True)} for row in places
        ]


def read_grid(path: str, start: StartingPoint) -> GridSpace:
    """
    Read a grid file: a mapping of hyperparameters to lists of values.

    :param path: the file
    :param start: whose algorithm takes the hyperparameters
    :raises TuneError: when there is no such file, or something else in it
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        choices = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TuneError(f"cannot read the grid file {path}: {error}") from error
    if not isinstance(choices, dict) or not choices:
        raise TuneError(f"no space to search: {path} must map hyperparameters to lists of values, it has {choices!r}")
    _check_keys(path, node)
    known = accepted_hyperparams(start.algorithm) - {"n_timesteps"}  # trials are compared at equal steps
    for name, values in choices.items():
        if name not in known:
            raise unknown(f"hyperparameter in {path}", str(name), known)
        if not isinstance(values, list) or not values:
            raise TuneError(f"{path}: {name} must have a list of values, it has {values!r}")
        for value in values:
            if not (value is None or isinstance(value, (bool, int, float, str))):
                raise TuneError(f"{path}: {name} has the value {value!r}; write it as a string, as in RL Zoo's files")
            if values.count(value) > 1:  # True is 1 here, as it is to Optuna
                raise TuneError(f"{path}: {name} has the value {value!r} more than once: {values!r}")
    return GridSpace(choices)


def _check_keys(path: str, node: Any) -> None:
    for key, _, is_double in keys_of(node):
        if is_double:
            raise TuneError(f"{path}:{key.start_mark.line + 1}: {key.value!r} is there twice; give one list of values")


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """
    What a space asks for.

    :raises TuneError: when that is nothing
    """
    trial = _sample(space)
    if not trial.distributions:
        raise TuneError("no space to search: it has no hyperparameter")
    return dict(trial.distributions)


def _sample(space: Space) -> optuna.Trial:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    space.suggest(trial)
    return trial


def searched_among(given: Mapping[str, Any], space: Space) -> list[str]:
    """
    Say which hyperparameters a space replaces; of ``policy_kwargs`` it may have others.

    :param given: hyperparameters of a block
    :param space: what is searched
    :return: their names, sorted
    """
    sampled = space.convert(_sample(space).params)
    names = given.keys() & sampled.keys()
    theirs, ours = given.get("policy_kwargs"), sampled.get("policy_kwargs")
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping) and not theirs.keys() & ours.keys():
        names -= {"policy_kwargs"}
    return sorted(names)


def signature_of(space: Space) -> dict[str, str]:
    """A space as text, to compare it with another one."""
    return {name: distribution_to_json(found) for name, found in distributions_of(space).items()}
