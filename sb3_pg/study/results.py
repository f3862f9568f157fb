"""What trainings came to: one small text file for each curve, a line for each seed.

``results/<study>/<environment>/<curve>.jsonl``. Lines are only ever appended, so that an interruption costs the
training that it met and nothing else, and a file can be kept in version control and grow.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_SHARES = 50
"""Points of a learning curve: each stands for 2 % of the steps."""


@dataclass(frozen=True)
class RunSettings:
    """
    What decides the numbers of a training, but for its seed and the versions of libraries.

    :param algo: RL Zoo's key of the algorithm
    :param env: Gymnasium's id of the environment
    :param n_timesteps: steps of the training
    :param block: hyperparameters as in RL Zoo's files
    :param env_kwargs: arguments of the environment
    """

    algo: str
    env: str
    n_timesteps: int
    block: dict[str, Any]
    env_kwargs: dict[str, Any] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunSettings) and plain(self) == plain(other)

    __hash__ = None  # type: ignore[assignment]  # blocks hold dictionaries


@dataclass(frozen=True)
class RunResult:
    """
    What one training came to. Lists have one entry for each of :data:`N_SHARES` equal shares of the steps.

    :param seed: its seed
    :param settings: what it was trained with
    :param returns: mean return of the training episodes that ended in the share; None where none did
    :param lengths: their mean length in steps
    :param n_episodes: their number
    :param seconds: time of the clock from the start of training to the end of the share
    :param logged: means of what the algorithm logged, by key; None where it logged nothing
    :param successes: share of successful episodes among those that report it, as SB3 counts them
    :param evaluation: returns of the episodes of the final policy, as RL Zoo plays it: drawn at random on Atari and
        MiniGrid alone
    :param failure: why training ended early; empty if it did not
    :param versions: of the libraries that matter
    """

    seed: int
    settings: RunSettings
    returns: list[float | None]
    lengths: list[float | None]
    n_episodes: list[int]
    seconds: list[float]
    logged: dict[str, list[float | None]] = field(default_factory=dict)
    successes: list[float | None] = field(default_factory=list)
    evaluation: list[float] = field(default_factory=list)
    failure: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def curve(self, key: str = "returns") -> NDArray[np.float64]:
        """
        A quantity along the training, shape ``(N_SHARES,)``.

        A share in which no episode ended has the value of the one before it; before the first one it is NaN.

        :param key: ``"returns"``, ``"lengths"``, ``"successes"``, or a key of ``logged``
        """
        along_the_training = key in ("returns", "lengths", "successes")
        values: list[float | None] = getattr(self, key) if along_the_training else self.logged.get(key, [])
        array = np.array([np.nan if value is None else value for value in values or [None] * N_SHARES], dtype=float)
        last = np.maximum.accumulate(np.where(np.isfinite(array), np.arange(len(array)), 0))
        return array[last]

    def mean(self, first: float = 0.0, last: float = 1.0, key: str = "returns") -> float:
        """
        Mean over the episodes that ended between two shares of the training, each episode with the same weight.

        :param first: from this share of the steps on, in [0, 1)
        :param last: up to this one
        :param key: ``"returns"``, ``"lengths"`` or ``"successes"``
        :return: NaN if no episode ended there, or none said whether it was a success
        """
        rows = slice(round(first * N_SHARES), round(last * N_SHARES))
        pairs = zip(getattr(self, key)[rows], self.n_episodes[rows], strict=True)
        known = [(value, n_episodes) for value, n_episodes in pairs if value is not None and n_episodes]
        if not known:
            return float("nan")
        values, weights = zip(*known, strict=True)
        return float(np.average(values, weights=weights))

    @property
    def final(self) -> float:
        """Mean return of the training episodes that ended in the last tenth of the steps; NaN where none did."""
        return self.mean(0.9)

    @property
    def area(self) -> float:
        """Mean of the learning curve: the area under it, divided by its length."""
        curve = self.curve()
        return float(np.nanmean(curve)) if np.isfinite(curve).any() else float("nan")


def path_of(folder: Path, env: str, curve: str) -> Path:
    """
    File of a curve.

    :param folder: of the study's results
    :param env: id of the environment
    :param curve: its name
    """
    return folder / file_name(env) / f"{file_name(curve)}.jsonl"


def file_name(name: str) -> str:
    """A name with what a file system does not take, Windows' too, made a dash."""
    return re.sub(r'[<>:"/\\|?*]', "-", name)


def read_results(path: Path) -> list[RunResult]:
    """
    Every complete line of a file; what an interruption cut is left out, but not what only lacks its newline.

    :param path: may be missing, and then there are no results
    :raises ValueError: names file and line of what no result is
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        if number == len(lines) and not _is_json(line):
            continue
        try:
            found.append(_from_json(json.loads(line.decode())))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no result of a training: {error}") from error
    return found


def append_result(path: Path, result: RunResult) -> None:
    """Add a line, whole or not at all; what is left of a line that an interruption cut goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(plain(result), ensure_ascii=False) + "\n"  # a block may hold .inf, which is Infinity here
    with path.open("ab+") as file:
        file.seek(0)
        whole = file.read()
        tail = whole[whole.rfind(b"\n") + 1 :]
        if _is_json(tail):
            file.write(b"\n")
        elif tail:
            file.truncate(len(whole) - len(tail))
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _is_json(text: str | bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _from_json(values: Mapping[str, Any]) -> RunResult:
    return RunResult(**{**values, "settings": RunSettings(**values["settings"])})


def plain(value: RunResult | RunSettings) -> Any:
    """Plain values, by way of JSON, so that what was written and what is about to be compare equal."""
    return json.loads(json.dumps(asdict(value), default=str))
