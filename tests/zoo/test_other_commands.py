"""More commands that users type, each in an empty folder of its own; as in test_commands.py."""

import sysconfig
from pathlib import Path

import numpy as np
import pytest
import yaml
from zoo_commands import ZOO_ENJOY, ZOO_TRAIN, config_of, run, run_folder

from sb3_pg import TunablePPO


@pytest.mark.expensive
def test_lineworld_trains_in_subprocesses_and_reports_success(tmp_path: Path) -> None:
    run(
        tmp_path, *ZOO_TRAIN, "--algo", "vpg", "--env", "LineWorld-v0", "-n", "128", "--eval-freq", "64",
        "--vec-env", "subproc", "-params", "n_envs:2", "n_steps:32",
    )  # fmt: skip
    evaluations = np.load(run_folder(tmp_path, "vpg", "LineWorld-v0") / "evaluations.npz")
    assert evaluations["successes"].shape == (2, 5)


@pytest.mark.expensive
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


@pytest.mark.expensive
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


@pytest.mark.expensive
def test_a_sqlite_study_of_reinforce_runs_two_jobs(tmp_path: Path) -> None:
    printed = run(
        tmp_path, *ZOO_TRAIN, "--algo", "reinforce", "--env", "CartPole-v1", "-optimize", "-n", "512",
        "--eval-episodes", "1", "--no-optim-plots", "--n-trials", "2", "--n-jobs", "2", "--study-name", "s",
        "--storage", "sqlite:///study.db",
    )  # fmt: skip
    assert "Number of finished trials:  2" in printed
    assert "baseline" in printed
    assert (tmp_path / "study.db").stat().st_size > 0


@pytest.mark.expensive
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
