import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import get_class_by_name
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike  # noqa: F401  (RL Zoo's eval knows it)
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn  # noqa: F401  (policy_kwargs may name it, as in RL Zoo)

import sb3_pg  # noqa: F401  (registers LineWorld-v0 and the others)
from sb3_pg import REINFORCE, VPG
from sb3_pg.schedules import as_schedule
from sb3_pg.zoo import HOSTS

with warnings.catch_warnings():
    # SWIG warns while it builds Box2D's types; turned into an error there, the warning crashes the interpreter.
    warnings.simplefilter("ignore", DeprecationWarning)
    import gymnasium.envs.box2d

HYPERPARAMS = Path(__file__).parents[1] / "hyperparams"
ALGORITHMS = {"vpg": VPG, "reinforce": REINFORCE}
RAW = {name: (HYPERPARAMS / f"{name}.yml").read_text(encoding="utf-8") for name in ALGORITHMS}
BLOCKS: dict[str, dict[str, dict[str, Any]]] = {name: yaml.safe_load(text) for name, text in RAW.items()}
CASES = [(name, block) for name, blocks in BLOCKS.items() for block in blocks]
ENV_CASES = [(name, block) for name, block in CASES if block not in ("default", "atari")]
CONSTRUCTED = [(name, block) for name, block in ENV_CASES if not block.startswith("Humanoid")]

# What RL Zoo takes out of a block before the algorithm sees it.
ZOO_KEYS = {
    "callback",
    "env_kwargs",
    "env_wrapper",
    "frame_stack",
    "monitor_kwargs",
    "n_envs",
    "n_timesteps",
    "normalize",
    "vec_env_wrapper",
}
SCHEDULES = ("learning_rate", "vf_learning_rate", "gae_lambda", "critic_gae_lambda", "ent_coef", "clip_range")
# fmt: off
REQUIRED = [
    "CartPole-v0", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1",
    "LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3", "InvertedPendulum-v4", "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5", "Reacher-v5", "Swimmer-v5", "HalfCheetah-v4", "HalfCheetah-v5", "Hopper-v5",
    "Walker2d-v5", "Ant-v5", "Humanoid-v4", "Humanoid-v5", "LineWorld-v0", "CartPoleSwingUp-v0",
]
# fmt: on
PROVENANCE = re.compile(r"untuned|prototype runs|a search (of|by)|CS285|CS440|A2C post")


# REINFORCE takes VPG's arguments, most of them as **kwargs.
CONSTRUCTOR_ARGUMENTS = set(inspect.signature(VPG).parameters) - {"env", "_init_setup_model"}


def comment_above(text: str, block: str) -> str:
    """The comment lines directly above a block's first line."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if re.match(rf"{re.escape(block)}:(\s|$)", line))
    comment: list[str] = []
    for line in reversed(lines[:first]):
        if not line.startswith("#"):
            break
        comment.insert(0, line.lstrip("# "))
    return " ".join(comment)


def kwargs_of(block: dict[str, Any]) -> dict[str, Any]:
    """The constructor's keyword arguments, as RL Zoo builds them from a block."""
    hyperparams = {key: value for key, value in block.items() if key not in ZOO_KEYS}
    if isinstance(hyperparams.get("policy_kwargs"), str):
        hyperparams["policy_kwargs"] = eval(hyperparams["policy_kwargs"])
    return ExperimentManager._preprocess_schedules(hyperparams)


def make_vec_env(env_id: str, block: dict[str, Any]) -> VecNormalize | DummyVecEnv:
    def make() -> gym.Env[Any, Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is out of date.*", DeprecationWarning)
            return gym.make(env_id)

    venv = DummyVecEnv([make] * 2)
    normalize = block.get("normalize", False)
    if not normalize:
        return venv
    return VecNormalize(venv, gamma=block["gamma"], **(eval(normalize) if isinstance(normalize, str) else {}))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_environment_of_the_project_has_a_block(name: str) -> None:
    assert set(BLOCKS[name]) >= {"default", "atari", *REQUIRED}


@pytest.mark.parametrize(("name", "block"), CASES)
def test_every_key_is_a_constructor_argument_or_one_of_the_zoo(name: str, block: str) -> None:
    assert set(BLOCKS[name][block]) <= CONSTRUCTOR_ARGUMENTS | ZOO_KEYS


@pytest.mark.parametrize(("name", "block"), CASES)
def test_every_block_has_what_the_zoo_cannot_do_without(name: str, block: str) -> None:
    hyperparams = BLOCKS[name][block]
    assert hyperparams["policy"] in ALGORITHMS[name].policy_aliases
    assert hyperparams["n_timesteps"] >= hyperparams["n_envs"] * hyperparams["n_steps"] > 0


@pytest.mark.parametrize(("name", "block"), CASES)
def test_no_number_is_read_as_a_string(name: str, block: str) -> None:
    # PyYAML reads 3e-3, without a dot, as a string.
    for value in BLOCKS[name][block].values():
        if isinstance(value, str):
            with pytest.raises(ValueError, match="could not convert"):
                float(value)


@pytest.mark.parametrize(("name", "block"), CASES)
def test_every_schedule_parses(name: str, block: str) -> None:
    for key in SCHEDULES:
        value = BLOCKS[name][block].get(key)
        if value is not None:
            schedule = as_schedule(value, key)
            assert 0 <= schedule(0.0) <= schedule(1.0)
            if isinstance(value, str):
                assert schedule(1.0) == float(value.split("_")[1])
                assert schedule(0.0) == 0


@pytest.mark.parametrize("block", sorted({block for _, block in ENV_CASES}))
def test_every_environment_is_registered(block: str) -> None:
    assert block in gym.registry


@pytest.mark.parametrize(("name", "block"), CASES)
def test_every_block_says_where_its_numbers_come_from(name: str, block: str) -> None:
    _, found, provenance = comment_above(RAW[name], block).partition("Provenance: ")
    assert found, f"no '# Provenance:' line above {block} in {name}.yml"
    assert PROVENANCE.search(provenance)
    if provenance.startswith("prototype runs"):
        assert re.search(r"\d[kM] steps, .*\bseed", provenance)


@pytest.mark.parametrize("name", HOSTS)
def test_the_few_blocks_of_the_hosts_algorithms_say_it_too(name: str) -> None:
    text = (HYPERPARAMS / f"{name}.yml").read_text(encoding="utf-8")
    for block in yaml.safe_load(text):
        assert block in gym.registry
        assert re.search("Provenance: (A2C post|lecture)", comment_above(text, block))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_atari_block_has_the_wrappers_of_the_zoo(name: str) -> None:
    atari = BLOCKS[name]["atari"]
    assert (atari["policy"], atari["frame_stack"]) == ("CnnPolicy", 4)
    assert [get_class_by_name(wrapper).__name__ for wrapper in atari["env_wrapper"]] == ["AtariWrapper"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_default_block_suits_discrete_observations(name: str) -> None:
    block = BLOCKS[name]["default"]
    venv = make_vec_env("FrozenLake-v1", block)
    model = ALGORITHMS[name](env=venv, **kwargs_of(block))
    model.learn(2 * block["n_steps"])
    assert model.num_timesteps >= 2 * block["n_steps"]


@pytest.mark.filterwarnings("ignore::UserWarning:mujoco")
@pytest.mark.parametrize(("name", "block"), CONSTRUCTED)
def test_every_block_constructs_its_algorithm(
    name: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the current folder
    hyperparams = BLOCKS[name][block]
    venv = make_vec_env(block, hyperparams)
    model = ALGORITHMS[name](env=venv, **kwargs_of(hyperparams))
    for key in ("n_steps", "gamma", "max_grad_norm"):
        if key in hyperparams:
            assert getattr(model, key) == hyperparams[key]
    assert model.lr_schedule(1.0) == as_schedule(hyperparams["learning_rate"], "learning_rate")(1.0)
    venv.close()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_block_asks_for_a_render_mode(name: str) -> None:
    # RL Zoo makes environments without one; "rgb_array" makes LunarLander draw particles, at half the speed.
    assert not any("render_mode" in block.get("env_kwargs", {}) for block in BLOCKS[name].values())
