"""Blocks of hyperparameters: what they may hold, how they are put together, and what is built from them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from rl_zoo3.utils import ALGOS
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pg import REINFORCE, VPG
from sb3_pg.tune.blocks import (
    BlockManager,
    accepted_hyperparams,
    check_can_be_sent,
    merged,
    parameters_of,
    prepare,
    starting_point,
)
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.experiment import Block, Experiment

CARTPOLE = Experiment("vpg", "CartPole-v1", 128, n_evaluations=4, eval_episodes=2, n_eval_envs=2, device="cpu")


@pytest.fixture(autouse=True)
def _prepared() -> None:
    prepare(())


@pytest.mark.parametrize("algorithm", [A2C, PPO, TRPO, VPG, REINFORCE])
def test_a_block_may_hold_what_the_algorithm_takes_but_for_what_the_zoo_gives_itself(
    algorithm: type[BaseAlgorithm],
) -> None:
    accepted = accepted_hyperparams(algorithm)
    assert {"n_steps", "gamma", "policy_kwargs", "policy", "use_sde", "n_envs", "normalize", "n_timesteps"} <= accepted
    assert not {"self", "env", "seed", "verbose", "device", "tensorboard_log", "_init_setup_model"} & accepted


def test_parameters_that_are_passed_on_count_too_and_others_do_not() -> None:
    assert {"gae_lambda", "n_critic_updates"} <= set(parameters_of(VPG)) <= set(parameters_of(REINFORCE))
    assert "baseline" in parameters_of(REINFORCE)
    assert "monitor_wrapper" not in parameters_of(A2C)
    assert {"gae_lambda", "use_rms_prop"} <= set(parameters_of(ALGOS["a2c_gae"]))
    assert parameters_of(A2C)["n_steps"].default == 5


def test_sampled_policy_kwargs_replace_only_themselves() -> None:
    block = merged(
        {"policy_kwargs": "dict(log_std_init=-2, net_arch=[8], activation_fn=nn.ReLU)", "n_steps": 5},
        {"policy_kwargs": {"net_arch": {"pi": [64], "vf": [32, 32]}, "activation_fn": th.nn.Tanh}, "n_steps": 7},
    )
    text = block["policy_kwargs"]
    assert eval(text, {"nn": th.nn}) == {
        "log_std_init": -2,
        "net_arch": {"pi": [64], "vf": [32, 32]},
        "activation_fn": th.nn.Tanh,
    }
    of_objects = merged(
        {"policy_kwargs": {"optimizer_class": th.optim.SGD, "bound": float("inf")}}, {"policy_kwargs": {}}
    )
    assert of_objects == {"policy_kwargs": "dict(optimizer_class=th.optim.SGD, bound=float('inf'))"}
    assert block["n_steps"] == 7
    of_mapping = merged(
        {"policy_kwargs": {"ortho_init": False, "net_arch": [8]}}, {"policy_kwargs": {"net_arch": [64]}}
    )
    assert of_mapping == {"policy_kwargs": "dict(ortho_init=False, net_arch=[64])"}
    assert merged({}, {"policy_kwargs": {"ortho_init": False}}) == {"policy_kwargs": "dict(ortho_init=False)"}
    with pytest.raises(TuneError, match="no file can hold"):
        merged({}, {"policy_kwargs": {"features": np.zeros(2)}})


def test_a_block_with_a_function_of_this_process_alone_is_refused() -> None:
    plain: Block = {"n_steps": 5, "policy_kwargs": {"activation_fn": th.nn.Tanh}, "learning_rate": abs}
    check_can_be_sent(plain)
    with pytest.raises(TuneError, match=r"^gae_lambda of the block is <function .*cannot be sent to a worker process"):
        check_can_be_sent({**plain, "gae_lambda": lambda _: 0.9})


def test_the_block_is_the_files_with_parameters_of_the_command_over_it() -> None:
    start = starting_point(Experiment("vpg", "CartPole-v1", 0), None, {"n_envs": 3})
    assert (start.n_envs, start.n_actions, start.algorithm) == (3, 0, VPG)
    assert start.block["n_timesteps"] == 100_000
    assert start.block["learning_rate"] == 0.003
    start = starting_point(Experiment("a2c", "Pendulum-v1", 500), None, {})
    assert (start.n_actions, start.block["n_timesteps"]) == (1, 500)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CartPole-v1: {n_steps: [3", "no hyperparameters for vpg on CartPole-v1 in conf.yml: while parsing"),
        ("CartPole-v1: 5", "no hyperparameters for vpg on CartPole-v1 in conf.yml: 'int'"),
        ("CartPole-v1: {n_envs: 2}", "the hyperparameters of CartPole-v1 have no n_timesteps: give -n"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conf.yml").write_text(text)
    with pytest.raises(TuneError, match=message):
        starting_point(Experiment("vpg", "CartPole-v1", 0), "conf.yml", {})


@pytest.mark.parametrize(
    ("experiment", "conf", "overrides", "message"),
    [
        (CARTPOLE, "missing.yml", {}, "no hyperparameters for vpg on CartPole-v1 in missing.yml: "),
        (CARTPOLE, None, {"gae_lamda": 0.9}, "cannot make vpg for CartPole-v1: .*gae_lamda"),
        (
            CARTPOLE,
            None,
            {"env_wrapper": "no.such.Wrapper"},
            "cannot make CartPole-v1, .*: ModuleNotFoundError",
        ),
    ],
)
def test_what_cannot_be_built_is_found_before_training(
    experiment: Experiment, conf: str | None, overrides: Block, message: str
) -> None:
    with pytest.raises(TuneError, match=message):
        starting_point(experiment, conf, overrides)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"learning_rate": "1e-3"},
            "cannot make CartPole-v1, .*: .*learning_rate is the text '1e-3': write 0.001. YAML",
        ),
        ({"gamma": "1e-5", "n_steps": "1e3"}, "gamma is the text '1e-5': write 1.0e-05; n_steps .*: write 1000. YAML"),
        ({"gamma": 2.0, "learning_rate": "lin_0.1"}, r"gamma=2.0[^(]*$"),
    ],
)
def test_a_number_that_yaml_reads_as_text_is_named(block: Block, message: str) -> None:
    with pytest.raises(TuneError, match=message):
        starting_point(CARTPOLE, None, block)


@pytest.mark.parametrize("given", [None, {"sutton_barto_reward": False}])
def test_the_blocks_arguments_of_the_environment_are_those_of_its_evaluation_too(given: Any) -> None:
    experiment = replace(CARTPOLE, eval_env_kwargs=given)
    block = {**starting_point(experiment, None, {}).block, "env_kwargs": {"sutton_barto_reward": True}}
    _, env, eval_env, _ = BlockManager(experiment, block).build()
    assert env.get_attr("spec")[0].kwargs["sutton_barto_reward"] is True
    assert eval_env.get_attr("spec")[0].kwargs["sutton_barto_reward"] is (given is None)
    env.close()
    eval_env.close()
