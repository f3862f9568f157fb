"""Evaluations end, whatever the environment does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_pg.study.results import RunSettings
from sb3_pg.study.training import RunTask, train
from sb3_pg.tune import evaluation
from sb3_pg.tune.blocks import BlockManager, prepare
from sb3_pg.tune.evaluation import EndlessEpisodeError, returns_of
from sb3_pg.tune.experiment import Block, Experiment, SeedTask
from sb3_pg.tune.training import train_seed

BLOCK: Block = {"policy": "MlpPolicy", "n_envs": 2, "n_steps": 16, "n_timesteps": 64}


class Endless(gym.Env[np.ndarray, int]):
    """Each step is worth 1, and none is the last one."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, _: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, dtype=np.float32), 1.0, False, False, {}


@pytest.fixture(autouse=True)
def _endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    prepare(())
    gym.register("Endless-v0", Endless)
    monkeypatch.setattr(evaluation, "LONGEST_EPISODE", 100)
    yield
    del gym.registry["Endless-v0"]


def test_the_returns_are_those_of_whole_episodes() -> None:
    experiment = Experiment("vpg", "Endless-v0", 64, eval_episodes=3, n_eval_envs=2, device="cpu")
    limited = Experiment(**{**vars(experiment), "env_kwargs": {"max_episode_steps": 100}})
    make_model, _, eval_env, _ = BlockManager(limited, BLOCK, seed=1).build()
    assert returns_of(make_model(), eval_env, limited) == [100.0] * 3


def test_an_evaluation_without_an_end_gives_up_and_says_what_helps() -> None:
    experiment = Experiment("vpg", "Endless-v0", 64, n_evaluations=1, eval_episodes=1, n_eval_envs=1, device="cpu")
    with pytest.raises(EndlessEpisodeError, match=r"Endless-v0 has not ended after 100 steps.*max_episode_steps"):
        train_seed(SeedTask(0, 0, 1, experiment, BLOCK))


def test_an_episode_may_be_as_long_as_the_training() -> None:
    experiment = Experiment("vpg", "Endless-v0", 400, n_evaluations=1, eval_episodes=1, n_eval_envs=1, device="cpu")
    with pytest.raises(EndlessEpisodeError, match="after 400 steps"):
        train_seed(SeedTask(0, 0, 1, experiment, BLOCK))


def test_a_study_keeps_the_training_of_an_endless_environment() -> None:
    result = train(RunTask("a", RunSettings("vpg", "Endless-v0", 64, BLOCK), 1, eval_episodes=2))
    assert (result.evaluation, result.failure, sum(result.n_episodes)) == ([], "", 0)
