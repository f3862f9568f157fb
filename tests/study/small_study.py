"""A study that is through in a second, and results that nobody has trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sb3_pg.study.plan import Study, read_study
from sb3_pg.study.results import N_SHARES, RunResult, RunSettings
from sb3_pg.study.runner import Results

PLAN = """\
title: A small one
question: Does it run?
source: These tests
notes: [Nothing of it means anything.]
seeds: 2
n_timesteps: 128
eval_episodes: 1
defaults:
  algo: vpg
  env: CartPole-v1
  hyperparams: {n_envs: 2, n_steps: 16}
curves:
  - name: "{gae_lambda}"
    label: "λ = {gae_lambda}"
    grid: {gae_lambda: [0.5, 1]}
  - {name: auto, hyperparams: {gae_lambda: "auto:0.5"}}
figures:
  - {kind: curves, seeds: true}
  - {kind: seconds}
  - {kind: scores, measure: "steps_to:20"}
  - {kind: against, parameter: gae_lambda}
  - {kind: regret}
  - {kind: profile}
  - {kind: improvement}
claims:
  - {claim: One is better than a half, curve: "1", holds_if: "> curve:0.5", why: It is not.}
  - {claim: It reaches ten, curve: auto, measure: best, claimed: 10, holds_if: ">= 10"}
picture: {curve: auto, env: CartPole-v1}
"""


def write_plan(folder: Path, text: str = PLAN, **changes: str) -> Path:
    """The file of a plan, some of whose words are replaced."""
    for old, new in changes.items():
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.yml"
    path.write_text(text, encoding="utf-8")
    return path


def study(folder: Path, text: str = PLAN) -> Study:
    return read_study(write_plan(folder, text))


def result(seed: int = 1, level: float = 100.0, settings: RunSettings | None = None, **kwargs: Any) -> RunResult:
    """A training whose return rises in a straight line to a level."""
    settings = settings or RunSettings("vpg", "CartPole-v1", 1000, {})
    returns: list[float | None] = list(np.linspace(level / N_SHARES, level, N_SHARES))
    seconds = list(np.linspace(0.1, 5, N_SHARES))
    return RunResult(**{
        **dict(seed=seed, settings=settings, returns=returns, lengths=returns, n_episodes=[2] * N_SHARES),
        **dict(seconds=seconds, evaluation=[level], versions={"sb3_pg": "0"}),
        **kwargs,
    })  # fmt: skip


def results_of(study: Study, n_seeds: int = 3) -> Results:
    """Of every curve of a study, each a little better than the one before."""
    found = Results()
    for number, curve in enumerate(study.curves):
        for env in curve.envs:
            settings = study.settings(curve, env)
            found.found[env, curve.name] = {
                seed: result(seed, 50 + 20 * number + seed, settings, logged={"train/gae_lambda": [0.9] * N_SHARES})
                for seed in range(1, n_seeds + 1)
            }
    return found
