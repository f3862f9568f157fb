from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER

from sb3_pg import VPG
from sb3_pg.tune.blocks import StartingPoint, prepare
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.space import GridSpace, ZooSpace, distributions_of, read_grid, searched_among, signature_of

optuna.logging.set_verbosity(optuna.logging.WARNING)
ROOT = Path(__file__).resolve().parents[2]


def start(algorithm: Any = VPG, n_actions: int = 0, block: dict[str, Any] | None = None) -> StartingPoint:
    prepare(())
    return StartingPoint(block or {}, n_actions, 8, algorithm)


def grid(tmp_path: Path, text: str, algorithm: Any = VPG) -> GridSpace:
    path = tmp_path / "grid.yml"
    path.write_text(text, encoding="latin-1")
    return read_grid(str(path), start(algorithm))


@pytest.mark.parametrize("algo", ["vpg", "reinforce", "a2c", "ppo", "trpo"])
@pytest.mark.parametrize("n_actions", [0, 3])
def test_the_space_of_an_algorithm_is_rl_zoos(algo: str, n_actions: int) -> None:
    space = ZooSpace(algo, start(n_actions=n_actions))
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    space.suggest(trial)
    theirs = HYPERPARAMS_SAMPLER[algo](FixedTrial(trial.params), n_actions, 8, {"using_her_replay_buffer": False})
    assert space.convert(trial.params) == theirs
    assert set(distributions_of(space)) == set(trial.params)


@pytest.mark.parametrize("algo", ["vpg", "a2c_gae", "ppo_gae", "trpo_gae"])
def test_with_gsde_no_rule_is_tried_that_refuses_it(algo: str) -> None:
    with_sde, without = (ZooSpace(algo, start(n_actions=1, block={"use_sde": use_sde})) for use_sde in (True, False))
    assert distributions_of(with_sde)["lambda_rule"].choices == ("constant", "explained_variance")
    assert distributions_of(without)["lambda_rule"].choices == ("constant", "explained_variance", "auto")


def test_what_is_searched_is_told_by_the_names_that_a_block_has() -> None:
    given = {"gamma": 0.5, "gae_lambda": 0.9, "n_steps": 16, "n_envs": 4, "policy_kwargs": {"net_arch": [8]}}
    space = ZooSpace("vpg", start())
    assert searched_among(given, space) == ["gae_lambda", "gamma", "n_steps", "policy_kwargs"]
    assert searched_among({"policy_kwargs": {"ortho_init": False}}, space) == []
    assert searched_among({"policy_kwargs": "dict(net_arch=[8])"}, space) == ["policy_kwargs"]
    assert searched_among(given, GridSpace({"n_envs": [1, 2]})) == ["n_envs"]


def test_an_algorithm_without_a_space_needs_a_grid() -> None:
    with pytest.raises(TuneError, match="no search space for 'crossq'; give one with --grid"):
        ZooSpace("crossq", start())


def test_spaces_are_told_apart_by_their_signature() -> None:
    assert signature_of(ZooSpace("a2c", start())) == signature_of(ZooSpace("a2c", start()))
    assert signature_of(ZooSpace("a2c", start())) != signature_of(ZooSpace("ppo", start()))
    assert signature_of(GridSpace({"gamma": [0.9]})) != signature_of(GridSpace({"gamma": [0.9, 0.99]}))


def test_the_grid_of_the_a2c_post_is_read() -> None:
    space = read_grid(str(ROOT / "zoo_scripts" / "grids" / "a2c_gae.yml"), start())
    n_points = 3 * 3 * 2 * 2
    assert space.n_points == n_points
    points = space.points(0, n_points)
    assert len({tuple(point.values()) for point in points}) == n_points
    assert space.points(0, 5) == points[:5]
    assert space.points(1, 5) != points[:5]
    assert set(space.choices) == {"learning_rate", "vf_learning_rate", "gamma", "gae_lambda"}


def test_a_grid_too_large_to_be_listed_is_drawn_from() -> None:
    space = GridSpace({f"p{number}": list(range(10)) for number in range(12)})
    points = space.points(0, 4)
    assert len(points) == 4
    assert space.points(0, 2) == points[:2]
    assert all(point.keys() == space.choices.keys() for point in points)
    assert len({tuple(point.values()) for point in points}) == 4


def test_grids_may_have_schedules_none_and_settings_of_the_zoo(tmp_path: Path) -> None:
    space = grid(
        tmp_path, "learning_rate: [lin_0.01, 0.01]\nmax_grad_norm: [null, 0.5]\nnormalize: [true]\nn_envs: [4]"
    )
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    space.suggest(trial)
    assert space.convert(trial.params)["n_envs"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no space to search"),
        ("{}", "no space to search"),
        ("[1, 2]", "must map hyperparameters"),
        ("gae_lamda: [0.9]", "'gae_lamda' is not known; did you mean 'gae_lambda'?"),
        ("n_timesteps: [100]", "'n_timesteps' is not known"),
        ("gamma: 0.9", "gamma must have a list"),
        ("gamma: []", "gamma must have a list"),
        ("policy_kwargs: [{net_arch: [8]}]", "write it as a string"),
        ("gamma: [0.9, 0.99]\n\ngamma: [0.5]", "grid.yml:3: 'gamma' is there twice"),
        ("gamma: [0.9", "cannot read the grid file"),
        ("# \xe9\ngamma: [0.9]", "cannot read the grid file"),
        ("gamma: [0.9, 1, 1.0]", "gamma has the value 1 more than once"),
    ],
)
def test_a_grid_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TuneError, match=message.replace("?", r"\?").replace("[", r"\[")):
        grid(tmp_path, text)


def test_a_missing_grid_file_is_named() -> None:
    with pytest.raises(TuneError, match=r"cannot read the grid file missing\.yml"):
        read_grid("missing.yml", start())
