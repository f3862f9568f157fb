"""A search whose answer is known: the returns are a function of one number, plus noise.

It is not in tests/tune because ``import tune`` finds zoo_scripts/tune.py.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from sb3_pg.launch import InThisProcess
from sb3_pg.tune.experiment import Experiment, SeedResult, SeedTask
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.search import Listener, Rules, Search

EXPERIMENT = Experiment("planted", "Planted-v0", n_timesteps=100, n_evaluations=5)
BEST_X = 0.7
NOISE = 20.0


def quality(x: float) -> float:
    """True score: 100 at the best x, 0 far from it."""
    return 100 * math.exp(-(((x - BEST_X) / 0.2) ** 2))


def train_planted(task: SeedTask) -> SeedResult:
    """A curve that rises to the quality plus what the seed adds to it; every other stopping rule as for real ones."""
    x = task.block["x"]
    noise = np.random.default_rng([task.seed, round(x * 1e9)]).normal(scale=NOISE)
    curve: list[float] = []
    for number in range(EXPERIMENT.n_evaluations):
        curve.append((quality(x) + noise) * (1 - 0.5 ** (number + 1)))
        if task.bars.missed(curve) is not None:
            return SeedResult(task.seed, tuple(curve), stopped="curve", why="planted")
    if x < 0.1:
        return SeedResult(task.seed, (), stopped="diverged", why="planted divergence")
    return SeedResult(task.seed, tuple(curve))


def is_trap(x: float) -> bool:
    """Where one seed in five does better than the best x, and the others badly."""
    return x >= 0.85


def train_with_trap(task: SeedTask) -> SeedResult:
    """As planted with little noise, but for the trap."""
    x = task.block["x"]
    rng = np.random.default_rng([task.seed, round(x * 1e9)])
    score = quality(x) + rng.normal(scale=5)
    if is_trap(x):
        score = 150.0 if rng.random() < 0.2 else 30.0
    return SeedResult(task.seed, (score,) * EXPERIMENT.n_evaluations)


class PlantedSpace:
    """One number between 0 and 1."""

    def suggest(self, trial: optuna.Trial) -> None:
        trial.suggest_float("x", 0, 1)

    def convert(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return dict(params)


class Shuffled(InThisProcess):
    """Several tasks at a time, which end in a random order."""

    def __init__(self, capacity: int, seed: int) -> None:
        super().__init__()
        self.capacity = capacity
        self._random = random.Random(seed)

    def wait(self) -> list[tuple[int, Any]]:
        self._random.shuffle(self._ended)
        return [self._ended.pop()]


class Killed(BaseException):
    """Ends the process of the search, as far as the search can tell."""


class KilledAfter(Shuffled):
    """Two workers, and after some trainings everything is gone."""

    def __init__(self, n_trainings: int) -> None:
        super().__init__(2, seed=n_trainings)
        self._left = n_trainings

    def wait(self) -> list[tuple[int, Any]]:
        if not self._left:
            raise Killed
        self._left -= 1
        return super().wait()


def rules(**changes: Any) -> Rules:
    settings: dict[str, Any] = dict(seed=1, seeds=(11, 12, 13, 14, 15), window=3, n_startup_trials=4, p_threshold=0.15)
    return Rules(**{**settings, **changes})


def journal(path: Path) -> optuna.storages.BaseStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def search(
    storage: optuna.storages.BaseStorage | None = None,
    n_trials: int = 20,
    train: Any = train_planted,
    backend: Any = None,
    listener: Listener | None = None,
    space: Any = None,
    **changes: Any,
) -> StudyRecord:
    """Carry out a search, and return its study."""
    record = StudyRecord(storage or optuna.storages.InMemoryStorage(), "planted", {"algo": "planted"})
    a_search = Search(record, EXPERIMENT, {}, space or PlantedSpace(), rules(**changes), n_trials, listener)
    a_search.run(train, backend or InThisProcess())
    return record


def summary(record: StudyRecord) -> list[tuple[Any, ...]]:
    """All that is to be equal in two searches that are the same."""
    return [
        (trial.number, trial.state, trial.value, trial.params, trial.intermediate_values, trial.user_attrs)
        for trial in record.trials
    ]
