"""The commands that users type, as processes of their own in a folder outside the checkout.

They need sb3_pg installed into the environment that runs the tests (its start-up hook is part of what is tested).
"""

from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.optim import Optimizer
from zoo_commands import ZOO_ENJOY, ZOO_TRAIN, config_of, run, run_folder

from sb3_pg import VPG


def saved_optimizers(model: BaseAlgorithm) -> list[Optimizer]:
    names, _ = model._get_torch_save_params()
    saved = [attrgetter(name)(model) for name in names]
    return [each for each in saved if isinstance(each, Optimizer)]


def learning_rates(model: BaseAlgorithm) -> set[float]:
    """Learning rates of all optimizers that the model saves."""
    return {group["lr"] for optimizer in saved_optimizers(model) for group in optimizer.param_groups}


def optimizer_steps(model: BaseAlgorithm) -> list[float]:
    """How many steps each of the saved optimizers has taken."""
    return [max(float(state["step"]) for state in optimizer.state.values()) for optimizer in saved_optimizers(model)]


# One worker trains the run that these tests share.
shares_the_run = pytest.mark.xdist_group("cartpole")


class TrainedRun(NamedTuple):
    cwd: Path
    folder: Path
    printed: str


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    cwd = tmp_path_factory.mktemp("cartpole")
    printed = run(
        cwd, *ZOO_TRAIN, "--algo", "vpg", "--env", "CartPole-v1", "-n", "1024", "--seed", "1", "--eval-freq", "512",
        "--save-freq", "512", "--tensorboard-log", "tb", "-P", "-params", "n_steps:32", "gae_lambda:0.5",
    )  # fmt: skip
    return TrainedRun(cwd, run_folder(cwd, "vpg", "CartPole-v1"), printed)


@shares_the_run
def test_train_writes_all_that_the_zoo_writes(cartpole: TrainedRun) -> None:
    for name in (
        "CartPole-v1.zip",
        "best_model.zip",
        "rl_model_512_steps.zip",
        "rl_model_1024_steps.zip",
        "evaluations.npz",
        "0.monitor.csv",
        "CartPole-v1/config.yml",
        "CartPole-v1/args.yml",
        "CartPole-v1/command.txt",
        "CartPole-v1/vecnormalize.pkl",
    ):
        assert (cartpole.folder / name).is_file(), name
    assert list(np.load(cartpole.folder / "evaluations.npz")["timesteps"]) == [512, 1024]


@shares_the_run
def test_tensorboard_runs_carry_the_name_of_the_algorithm(cartpole: TrainedRun) -> None:
    assert [path.name for path in (cartpole.cwd / "tb" / "CartPole-v1").iterdir()] == ["VPG_1"]


@shares_the_run
def test_hyperparameters_come_from_our_file_and_params_override_them(cartpole: TrainedRun) -> None:
    config = config_of(cartpole.folder, "CartPole-v1")
    assert (config["n_steps"], config["gae_lambda"]) == (32, 0.5)
    assert (config["n_envs"], config["normalize_advantage"]) == (8, False)
    assert Path("hyperparams", "vpg.yml").as_posix() in cartpole.printed


@shares_the_run
def test_the_saved_model_and_its_statistics_load_and_evaluate_in_python(cartpole: TrainedRun) -> None:
    model = VPG.load(cartpole.folder / "CartPole-v1.zip", device="cpu")
    assert (model.n_steps, model.num_timesteps) == (32, 1024)
    venv = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    env = VecNormalize.load(str(cartpole.folder / "CartPole-v1" / "vecnormalize.pkl"), venv)
    env.training = False
    assert env.obs_rms.count == pytest.approx(1024 + 8, abs=0.1)  # of each step, and of eight first observations
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=2, warn=False, return_episode_rewards=True)
    assert returns == lengths  # rewards of 1, which are not normalised


@shares_the_run
@pytest.mark.parametrize(
    "which",
    [pytest.param(["--load-best"], marks=pytest.mark.expensive), ["--load-last-checkpoint", "--n-envs", "2"]],
)
def test_enjoy_plays_the_best_model_and_the_last_checkpoint(cartpole: TrainedRun, which: list[str]) -> None:
    printed = run(
        cartpole.cwd, *ZOO_ENJOY, "--algo", "vpg", "--env", "CartPole-v1", "-f", "logs", "--exp-id", "1", "-n", "300",
        "--no-render", *which,
    )  # fmt: skip
    assert ("best_model.zip" if "--load-best" in which else "rl_model_1024_steps.zip") in printed


@shares_the_run
def test_training_continues_from_a_zip_with_both_optimizers_and_new_learning_rates(cartpole: TrainedRun) -> None:
    cwd, zip_path = cartpole.cwd, cartpole.folder / "CartPole-v1.zip"
    printed = run(
        cwd, *ZOO_TRAIN, "--algo", "vpg", "--env", "CartPole-v1", "-n", "512", "-f", "continued", "--eval-freq", "-1",
        "-i", str(zip_path), "-params", "learning_rate:0.0007", "vf_learning_rate:0.0009",
    )  # fmt: skip
    assert "Loading saved VecNormalize stats" in printed
    before = VPG.load(zip_path, device="cpu")
    after = VPG.load(cwd / "continued" / "vpg" / "CartPole-v1_1" / "CartPole-v1.zip", device="cpu")
    assert learning_rates(after) == {0.0007, 0.0009}
    # RL Zoo alone would count from 0; with our extension, -n is the number of further steps
    assert (before.num_timesteps, after.num_timesteps) == (1024, 1024 + 512)
    steps = list(zip(optimizer_steps(before), optimizer_steps(after), strict=True))
    assert len(steps) == 2
    assert all(0 < earlier < later for earlier, later in steps)


@shares_the_run
@pytest.mark.parametrize("continued", [False, pytest.param(True, marks=pytest.mark.expensive)])
def test_a_misspelt_hyperparameter_is_refused_by_name(cartpole: TrainedRun, continued: bool) -> None:
    more = ["-i", str(cartpole.folder / "CartPole-v1.zip")] if continued else []
    printed = run(
        cartpole.cwd, *ZOO_TRAIN, "--algo", "vpg", "--env", "CartPole-v1", "-n", "64", "-f", "misspelt", *more,
        "-params", "gae_lamda:0.9", succeeds=False,
    )  # fmt: skip
    assert "gae_lamda" in printed.splitlines()[-1]
    assert not list((cartpole.cwd / "misspelt").rglob("CartPole-v1.zip"))
