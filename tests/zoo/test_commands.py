"""The commands that users type, as processes of their own in a folder outside the checkout.

They need sb3_pg installed into the environment that runs the tests (its start-up hook is part of what is tested).
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg import VPG, TunablePPO

ZOO_TRAIN = ("-m", "rl_zoo3.train")
ZOO_ENJOY = ("-m", "rl_zoo3.enjoy")


def run(cwd: Path, *arguments: str, succeeds: bool = True, **environment: str) -> str:
    """Run this Python with arguments; return all that it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert (done.returncode == 0) == succeeds, f"{' '.join(arguments)}\n{done.stdout}"
    return done.stdout


def run_folder(cwd: Path, algo: str, env_id: str, number: int = 1) -> Path:
    return cwd / "logs" / algo / f"{env_id}_{number}"


def config_of(folder: Path, env_id: str) -> dict[str, object]:
    return dict(yaml.unsafe_load((folder / env_id / "config.yml").read_text()))


def learning_rates(model: BaseAlgorithm) -> set[float]:
    """Learning rates of all optimizers that the model saves."""
    names, _ = model._get_torch_save_params()
    rates = set()
    for name in names:
        obj = model
        for part in name.split("."):
            obj = getattr(obj, part)
        rates |= {group["lr"] for group in getattr(obj, "param_groups", [])}
    return rates


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
    assert (config["n_envs"], config["max_grad_norm"]) == (8, None)
    assert Path("hyperparams", "vpg.yml").as_posix() in cartpole.printed


@shares_the_run
def test_the_saved_model_loads_and_evaluates_in_python(cartpole: TrainedRun) -> None:
    model = VPG.load(cartpole.folder / "CartPole-v1.zip", device="cpu")
    assert (model.n_steps, model.num_timesteps) == (32, 1024)
    venv = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    env = VecNormalize.load(str(cartpole.folder / "CartPole-v1" / "vecnormalize.pkl"), venv)
    env.training = False
    mean_return, _ = evaluate_policy(model, env, n_eval_episodes=2, warn=False)
    assert mean_return >= 1


@shares_the_run
@pytest.mark.parametrize("which", [["--load-best"], ["--load-last-checkpoint", "--n-envs", "2"]])
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
    # -n counts from where the model stopped, and the optimizers' step counts go on.
    assert after.num_timesteps == 512 or after.num_timesteps == before.num_timesteps + 512
    assert min(optimizer_steps(after)) > min(optimizer_steps(before)) > 0
    assert len(optimizer_steps(after)) == 2


def optimizer_steps(model: BaseAlgorithm) -> list[float]:
    """How many steps each of the saved optimizers has taken."""
    names, _ = model._get_torch_save_params()
    steps = []
    for name in names:
        obj = model
        for part in name.split("."):
            obj = getattr(obj, part)
        if hasattr(obj, "param_groups"):
            steps.append(max(float(state["step"]) for state in obj.state.values()))
    return steps


@shares_the_run
@pytest.mark.parametrize("continued", [False, True])
def test_a_misspelt_hyperparameter_is_refused_by_name(cartpole: TrainedRun, continued: bool) -> None:
    more = ["-i", str(cartpole.folder / "CartPole-v1.zip")] if continued else []
    printed = run(
        cartpole.cwd, *ZOO_TRAIN, "--algo", "vpg", "--env", "CartPole-v1", "-n", "64", "-f", "misspelt", *more,
        "-params", "gae_lamda:0.9", succeeds=False,
    )  # fmt: skip
    assert "gae_lamda" in printed.splitlines()[-1]
    assert not list((cartpole.cwd / "misspelt").rglob("CartPole-v1.zip"))


def test_lineworld_trains_in_subprocesses_and_reports_success(tmp_path: Path) -> None:
    run(
        tmp_path, *ZOO_TRAIN, "--algo", "vpg", "--env", "LineWorld-v0", "-n", "128", "--eval-freq", "64",
        "--vec-env", "subproc", "-params", "n_envs:2", "n_steps:32",
    )  # fmt: skip
    evaluations = np.load(run_folder(tmp_path, "vpg", "LineWorld-v0") / "evaluations.npz")
    assert evaluations["successes"].shape == (2, 5)


def test_a_mujoco_robot_trains_with_normalised_observations_and_rewards(tmp_path: Path) -> None:
    printed = run(
        tmp_path, *ZOO_TRAIN, "--algo", "vpg", "--env", "HalfCheetah-v5", "-n", "512", "--eval-freq", "-1",
    )  # fmt: skip
    assert "Normaliz" in printed
    folder = run_folder(tmp_path, "vpg", "HalfCheetah-v5")
    assert (folder / "HalfCheetah-v5" / "vecnormalize.pkl").is_file()
    printed = run(
        tmp_path, *ZOO_ENJOY, "--algo", "vpg", "--env", "HalfCheetah-v5", "-f", "logs", "--no-render", "-n", "1000",
    )  # fmt: skip
    assert "Loading running average" in printed
    assert "Episode Length 1000" in printed


def test_reinforce_trains_and_plays_through_the_console_command(tmp_path: Path) -> None:
    command = str(Path(sysconfig.get_path("scripts")) / "rl_zoo3")
    where = ("--algo", "reinforce", "--env", "CartPole-v1", "-f", "logs", "-n")
    run(tmp_path, command, "train", *where, "1024", "--eval-freq", "-1")
    assert "Episode Reward" in run(tmp_path, command, "enjoy", *where, "600", "--no-render")


def test_a_journal_study_is_resumed_and_its_trial_zero_is_trained(tmp_path: Path) -> None:
    study = ("--storage", "deep/study.log", "--study-name", "s")
    common = (*ZOO_TRAIN, "--algo", "vpg", "--env", "CartPole-v1", *study, "--seed", "3")
    tune = ("-optimize", "-n", "512", "--eval-episodes", "1", "--no-optim-plots", "--n-trials")
    assert "Number of finished trials:  2" in run(tmp_path, *common, *tune, "2")
    assert "Number of finished trials:  3" in run(tmp_path, *common, *tune, "1")
    assert len(list((tmp_path / "logs" / "vpg").glob("report_CartPole-v1_*.csv"))) == 2
    reports = sorted((tmp_path / "logs" / "vpg").glob("report_*.csv"))
    first = reports[0].read_text().splitlines()
    row = dict(zip(first[0].split(","), first[1].split(","), strict=True))

    printed = run(tmp_path, *common, "-f", "retrained", "-n", "64", "--eval-freq", "-1", "--trial-id", "0")
    assert "Loading from Optuna study" in printed
    config = config_of(tmp_path / "retrained" / "vpg" / "CartPole-v1_1", "CartPole-v1")
    assert config["vf_learning_rate"] == pytest.approx(float(row["params_vf_learning_rate"]))
    assert config["n_steps"] == int(row["user_attrs_n_steps"])
    assert config["gae_lambda"] == pytest.approx(float(row["user_attrs_gae_lambda"]))


def test_a_sqlite_study_of_reinforce_runs_two_jobs(tmp_path: Path) -> None:
    printed = run(
        tmp_path, *ZOO_TRAIN, "--algo", "reinforce", "--env", "CartPole-v1", "-optimize", "-n", "512",
        "--eval-episodes", "1", "--no-optim-plots", "--n-trials", "2", "--n-jobs", "2", "--study-name", "s",
        "--storage", "sqlite:///study.db",
    )  # fmt: skip
    assert "Number of finished trials:  2" in printed
    assert "baseline" in printed
    assert (tmp_path / "study.db").stat().st_size > 0


def test_a_file_of_the_user_replaces_ours(tmp_path: Path) -> None:
    block = {"n_timesteps": 64, "policy": "MlpPolicy", "n_steps": 16, "n_envs": 2, "critic_gae_lambda": 1.0}
    (tmp_path / "my.yml").write_text(yaml.dump({"CartPole-v1": block}))
    run(tmp_path, *ZOO_TRAIN, "--algo", "vpg", "--env", "CartPole-v1", "-conf", "my.yml", "--eval-freq", "-1")
    assert config_of(run_folder(tmp_path, "vpg", "CartPole-v1"), "CartPole-v1") == block


def test_our_own_commands_work_without_the_hook(tmp_path: Path) -> None:
    where = ("--algo", "vpg", "--env", "CartPole-v1", "-f", "logs", "-n")
    run(tmp_path, "-m", "sb3_pg.train", *where, "64", "--eval-freq", "-1", "-params", "n_steps:8", SB3_PG_ZOO="0")
    printed = run(tmp_path, "-m", "sb3_pg.enjoy", *where, "600", "--no-render", SB3_PG_ZOO="0")
    assert "Episode Reward" in printed


def test_an_environment_without_a_block_gets_the_default_one(tmp_path: Path) -> None:
    printed = run(
        tmp_path, *ZOO_TRAIN, "--algo", "vpg", "--env", "FrozenLake-v1", "-n", "1024", "--eval-freq", "-1",
    )  # fmt: skip
    assert "Using 'default' hyperparameters" in printed


def test_a_host_with_our_lambda_takes_a_rule_and_the_hosts_file(tmp_path: Path) -> None:
    printed = run(
        tmp_path, *ZOO_TRAIN, "--algo", "ppo_gae", "--env", "CartPole-v1", "-n", "64", "--eval-freq", "-1", "-params",
        "n_envs:1", "n_steps:32", "batch_size:32", "gae_lambda:'auto:0.8'",
    )  # fmt: skip
    assert str(Path("rl_zoo3", "hyperparams", "ppo.yml")) in printed
    model = TunablePPO.load(run_folder(tmp_path, "ppo_gae", "CartPole-v1") / "CartPole-v1.zip", device="cpu")
    assert (model.gae_lambda, model.n_epochs, model.num_timesteps) == ("auto:0.8", 20, 64)


def test_algorithms_of_the_zoo_are_untouched(tmp_path: Path) -> None:
    printed = run(tmp_path, *ZOO_TRAIN, "--algo", "a2c", "--env", "CartPole-v1", "-n", "64", "--eval-freq", "-1")
    assert str(Path("rl_zoo3", "hyperparams", "a2c.yml")) in printed
    assert (run_folder(tmp_path, "a2c", "CartPole-v1") / "CartPole-v1.zip").is_file()
