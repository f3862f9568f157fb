"""One training of one seed: what a worker does."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed

from sb3_pg.faults import is_divergence
from sb3_pg.tune.blocks import BlockManager, prepare, silence
from sb3_pg.tune.evaluation import returns_of
from sb3_pg.tune.experiment import SeedResult, SeedTask
from sb3_pg.tune.pruning import Bars


class LearningCurve(BaseCallback):
    """
    Evaluates at even distances, and stops training when the curve misses a bar.

    The k-th of n evaluations is of the policy after the first update at or after k/n of the steps, and the last one of
    the final policy. A policy is never evaluated twice: with long rollouts an evaluation may stand for several points.

    :param evaluate: mean return of the policy as it is now
    :param n_timesteps: steps of the training
    :param n_evaluations: points of the curve
    :param bars: what the curve has to reach
    """

    def __init__(self, evaluate: Callable[[], float], n_timesteps: int, n_evaluations: int, bars: Bars) -> None:
        super().__init__()
        self._evaluate = evaluate
        self._steps = [n_timesteps * (number + 1) / n_evaluations for number in range(n_evaluations)]
        self._bars = bars
        self.curve: list[float] = []
        self.stopped = ""
        self.why = ""

    def _on_rollout_start(self) -> None:
        # The update of the rollout before has just been made. The last point waits for the final policy.
        self._add_points(sum(step <= self.num_timesteps for step in self._steps[:-1]))

    def _on_step(self) -> bool:
        return not self.stopped

    def _on_training_end(self) -> None:
        self._add_points(len(self._steps))

    def _add_points(self, n_points: int) -> None:
        if self.stopped or n_points <= len(self.curve):
            return
        value = self._evaluate()
        if not math.isfinite(value):
            self.stopped, self.why = "diverged", f"the mean return of evaluation {len(self.curve) + 1} is {value}"
            return
        while len(self.curve) < n_points:
            self.curve.append(value)
            bar = self._bars.missed(self.curve)
            if bar is not None:
                what = f"{'best of ' if self._bars.best_so_far else ''}evaluation {len(self.curve)}"
                reached = max(self.curve) if self._bars.best_so_far else value
                self.stopped = "curve"
                self.why = f"{what} of {len(self._steps)} is {reached:.6g}, below {bar:.6g}"
                return


def train_seed(task: SeedTask) -> SeedResult:
    """
    Train one seed, and evaluate it while training.

    Warnings are kept quiet: what a block warns of was shown when the search built it first, and that numbers overflow
    is said by a result that diverged.

    A training that diverges is a result: NaN or infinity among the weights, in an evaluation, or found by VPG while
    training. Any other exception is a mistake of a program or of its settings, and is raised.

    :param task: what to train
    :return: its learning curve
    """
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        curve = _train(task)
    return SeedResult(task.seed, tuple(curve.curve), time.perf_counter() - begin, curve.stopped, curve.why)


def _train(task: SeedTask) -> LearningCurve:
    experiment = task.experiment
    prepare(experiment.gym_packages)
    set_random_seed(task.seed)
    with silence():
        make_model, env, eval_env, callbacks = BlockManager(experiment, task.block, seed=task.seed).build()
    try:
        model = make_model()

        def evaluate() -> float:
            return float(np.mean(returns_of(model, eval_env, experiment)))

        curve = LearningCurve(evaluate, experiment.n_timesteps, experiment.n_evaluations, task.bars)
        failure = learn(model, experiment.n_timesteps, callback=[*callbacks, curve])
        if failure and not curve.stopped:
            curve.stopped, curve.why = "diverged", failure
    finally:
        env.close()
        eval_env.close()
    return curve


def learn(model: BaseAlgorithm, n_timesteps: int, **kwargs: Any) -> str:
    """Train, and say how it diverged; empty if it did not.

    :param model: what is trained
    :param n_timesteps: number of steps
    :param kwargs: for ``learn``
    """
    try:
        model.learn(n_timesteps, **kwargs)
    except Exception as error:
        if not (is_divergence(error) or _has_diverged(model)):
            raise
        return " ".join(str(error).split())[:300]
    return "weights of the final policy are NaN or infinite" if _has_diverged(model) else ""


def _has_diverged(model: BaseAlgorithm) -> bool:
    """Whether a weight of the policy is NaN or infinite."""
    return not all(bool(th.isfinite(weight).all()) for weight in model.policy.parameters())
