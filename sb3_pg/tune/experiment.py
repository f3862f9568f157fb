"""What is trained, for how long and how it is evaluated: plain data, the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sb3_pg.tune.pruning import Bars

Block = dict[str, Any]
"""Hyperparameters of one environment as in RL Zoo's files, before the Zoo has made schedules and classes of them."""


@dataclass(frozen=True)
class Experiment:
    """
    What all trainings of a study share.

    :param algo: RL Zoo's key of the algorithm
    :param env: Gymnasium's id of the environment
    :param n_timesteps: steps of a training
    :param n_evaluations: evaluations of a training, evenly spaced over its steps
    :param eval_episodes: episodes of an evaluation
    :param n_eval_envs: environments that play them at a time
    :param vec_env: ``"dummy"`` or ``"subproc"``
    :param device: torch's name of it
    :param env_kwargs: arguments of the environment
    :param eval_env_kwargs: of the one for evaluations; None for the same
    :param gym_packages: modules to import for their environments
    """

    algo: str
    env: str
    n_timesteps: int
    n_evaluations: int = 10
    eval_episodes: int = 5
    n_eval_envs: int = 5
    vec_env: str = "dummy"
    device: str = "cpu"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    eval_env_kwargs: dict[str, Any] | None = None
    gym_packages: tuple[str, ...] = ()


def title_of(candidate: int | str) -> str:
    """Name of a trial, or of the block that the search began with, for tables and messages."""
    return f"trial {candidate}" if isinstance(candidate, int) else "block of the file"


@dataclass(frozen=True)
class SeedTask:
    """
    One training: one seed of one trial.

    :param candidate: number of the trial, or a name
    :param index: which of its seeds it is
    :param seed: the seed
    :param experiment: what all trainings share
    :param block: hyperparameters
    :param bars: what the learning curve has to reach
    """

    candidate: int | str
    index: int
    seed: int
    experiment: Experiment
    block: Block
    bars: Bars = field(default_factory=Bars)

    @property
    def title(self) -> str:
        """What is trained, for messages."""
        return title_of(self.candidate)


@dataclass(frozen=True)
class SeedResult:
    """
    What one training came to.

    :param seed: its seed
    :param curve: mean return of each evaluation
    :param seconds: how long it took
    :param stopped: empty, ``"curve"`` if it missed a bar, or ``"diverged"``
    :param why: the reason in words
    """

    seed: int
    curve: tuple[float, ...]
    seconds: float = 0.0
    stopped: str = ""
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """For a storage."""
        return {**asdict(self), "curve": list(self.curve)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SeedResult:
        """From a storage."""
        return cls(**{**values, "curve": tuple(values["curve"])})


def seeds_of(seed: int, purpose: str, n_seeds: int) -> list[int]:
    """
    Seeds that follow from one: the same whenever they are asked for, and others for each purpose.

    They lie far apart, since environment i of a training gets its seed + i.

    :param seed: the study's
    :param purpose: ``"search"`` or ``"fresh"``
    :param n_seeds: how many; more of them begin with the same ones
    """
    stream = {"search": 0, "fresh": 1}[purpose]
    # 31 bits: Gymnasium and NumPy take more, some environments do not
    return [int(word) >> 1 for word in np.random.SeedSequence([seed, stream]).generate_state(n_seeds)]
