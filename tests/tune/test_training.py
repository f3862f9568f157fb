from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg import VPG
from sb3_pg.faults import TrainingError, WrongShapeError
from sb3_pg.tune import training
from sb3_pg.tune.blocks import merged, prepare
from sb3_pg.tune.experiment import Block, Experiment, SeedResult, SeedTask, seeds_of
from sb3_pg.tune.pruning import Bars
from sb3_pg.tune.training import LearningCurve, train_seed

SMALL = Experiment("vpg", "CartPole-v1", 128, n_evaluations=4, eval_episodes=2, n_eval_envs=2, device="cpu")
BLOCK: Block = {"policy": "MlpPolicy", "n_envs": 2, "n_steps": 16, "n_timesteps": 128, "learning_rate": "lin_0.01"}


@pytest.fixture(autouse=True)
def _prepared() -> None:
    prepare(())


def task(block: Block | None = None, seed: int = 3, experiment: Experiment = SMALL, **kwargs: Any) -> SeedTask:
    return SeedTask(0, 0, seed, experiment, BLOCK if block is None else block, **kwargs)


def test_a_training_gives_its_curve_and_the_same_one_again() -> None:
    one, other = train_seed(task()), train_seed(task())
    assert len(one.curve) == 4
    assert (one.seed, one.stopped) == (3, "")
    assert one.seconds > 0
    assert one.curve == other.curve
    assert train_seed(task(seed=4)).curve != one.curve


def test_evaluating_more_often_does_not_change_what_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    agents: list[dict[str, th.Tensor]] = []
    for n_evaluations in (1, 4):
        experiment = replace(SMALL, n_evaluations=n_evaluations)
        with monkeypatch.context() as patch:
            patch.setattr(training, "_has_diverged", lambda model: agents.append(model.policy.state_dict()))
            assert len(train_seed(task(experiment=experiment)).curve) == n_evaluations
    assert all(th.equal(agents[0][key], agents[1][key]) for key in agents[0])


class Scripted:
    """A training of given rollouts, as seen by a callback."""

    def __init__(self, rollouts: list[int]) -> None:
        self.rollouts = rollouts
        self.updates = 0

    def run(self, curve: LearningCurve) -> int:
        """Number of steps that were taken."""
        curve.num_timesteps = 0
        for length in self.rollouts:
            curve._on_rollout_start()
            for _ in range(length):
                curve.num_timesteps += 1
                if not curve._on_step():
                    curve._on_training_end()
                    return curve.num_timesteps
            self.updates += 1
        curve._on_training_end()
        return curve.num_timesteps


def test_the_policy_after_the_update_is_evaluated_and_none_twice() -> None:
    script = Scripted([10] * 10)
    evaluated: list[int] = []

    def evaluate() -> float:
        evaluated.append(script.updates)
        return float(script.updates)

    curve = LearningCurve(evaluate, 100, 5, Bars())
    script.run(curve)
    assert curve.curve == [2, 4, 6, 8, 10]
    assert evaluated == [2, 4, 6, 8, 10]


def test_an_evaluation_stands_for_all_points_of_a_long_rollout() -> None:
    script = Scripted([45, 45, 45])
    evaluated: list[int] = []

    def evaluate() -> float:
        evaluated.append(script.updates)
        return float(script.updates)

    curve = LearningCurve(evaluate, 100, 5, Bars())
    script.run(curve)
    assert evaluated == [1, 2, 3]
    assert curve.curve == [1, 1, 2, 2, 3]


def test_a_missed_bar_stops_the_training_and_says_which() -> None:
    script = Scripted([10] * 10)
    curve = LearningCurve(lambda: float(script.updates), 100, 5, Bars((None, 4.5, 1.0, 1.0, 1.0)))
    assert script.run(curve) == 41
    assert curve.curve == [2, 4]
    assert curve.stopped == "curve"
    assert curve.why == "best of evaluation 2 of 5 is 4, below 4.5"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_evaluation_that_is_no_number_is_divergence(value: float) -> None:
    curve = LearningCurve(lambda: value, 100, 5, Bars())
    Scripted([10] * 10).run(curve)
    assert curve.stopped == "diverged"
    assert str(value) in curve.why


def test_a_real_training_stops_at_a_bar() -> None:
    result = train_seed(task(bars=Bars((None, 1e9, None, None))))
    assert (len(result.curve), result.stopped) == (2, "curve")


def test_weights_that_become_nan_are_divergence_for_any_algorithm() -> None:
    experiment = Experiment("a2c", "CartPole-v1", 300, n_evaluations=2, eval_episodes=1, n_eval_envs=1, device="cpu")
    block = {"policy": "MlpPolicy", "n_envs": 2, "n_timesteps": 300, "learning_rate": 1e30}
    result = train_seed(task(block, experiment=experiment))
    assert result.stopped == "diverged"
    assert "nan" in result.why


@pytest.mark.parametrize(("algo", "validates"), [("vpg", True), ("a2c", True), ("a2c", False)])
def test_an_environment_that_gives_nan_is_divergence_for_any_algorithm(
    algo: str, validates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", validates)
    step = CartPoleEnv.step

    def nan(self: Any, action: Any) -> Any:
        return np.full(4, np.nan, np.float32), *step(self, action)[1:]

    monkeypatch.setattr(CartPoleEnv, "step", nan)
    experiment = replace(SMALL, algo=algo)
    block = {"policy": "MlpPolicy", "n_envs": 2, "n_timesteps": 300}
    assert train_seed(task(block, experiment=experiment)).stopped == "diverged"


def test_what_vpg_finds_while_training_is_divergence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(_: Any) -> None:
        raise TrainingError("a loss is nan at update 3")

    monkeypatch.setattr(VPG, "train", diverge)
    result = train_seed(task())
    assert (result.stopped, result.curve) == ("diverged", ())
    assert "a loss is nan at update 3" in result.why


@pytest.mark.parametrize("kind", [ValueError, WrongShapeError])
def test_a_mistake_is_raised_and_no_divergence(kind: type[ValueError], monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(_: Any) -> None:
        raise kind("a mistake")

    monkeypatch.setattr(VPG, "train", mistake)
    with pytest.raises(kind, match="a mistake"):
        train_seed(task())


class Spy(BaseCallback):
    """Keeps the environment of a training."""

    gammas: tuple[float, float] = (0, 0)

    def _on_step(self) -> bool:
        env = self.model.get_env()
        assert isinstance(env, VecNormalize)
        type(self).gammas = (env.gamma, self.model.gamma)  # type: ignore[attr-defined]
        return True


def test_the_gamma_of_vecnormalize_is_the_sampled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "Spy", Spy, raising=False)
    block = merged({**BLOCK, "gamma": 0.99, "normalize": True}, {"gamma": 0.9})
    train_seed(task({**block, "callback": "sb3_pg.tune.training.Spy"}))
    assert Spy.gammas == (0.9, 0.9)


def test_seeds_are_known_far_apart_and_others_for_the_final() -> None:
    search, fresh = seeds_of(7, "search", 20), seeds_of(7, "fresh", 20)
    assert search[:5] == seeds_of(7, "search", 5)
    assert not set(search) & set(fresh)
    assert search != seeds_of(8, "search", 20)
    both = sorted(search + fresh)
    assert min(np.diff(both)) > 1000
    assert both[0] >= 0
    assert both[-1] < 2**31


def test_a_result_survives_its_storage() -> None:
    result = SeedResult(5, (1.5, 2.5), 3.25, "curve", "too low")
    assert SeedResult.from_json(result.as_json()) == result
