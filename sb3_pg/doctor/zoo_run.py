"""Finds and loads a run of RL Zoo as ``rl_zoo3.enjoy`` does, but with the rewards that it was trained on."""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch as th
import yaml
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import ALGOS, create_test_env, get_model_path, get_saved_hyperparams
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize

from sb3_pg.zoo.extend import extend_all


class Run(NamedTuple):
    """A loaded run."""

    model: Any
    """With its environment."""
    n_envs: int
    """Environments that it was trained with."""
    folder: Path
    path: Path
    """Of the model's file."""


def load_run(args: Namespace) -> Run:
    """Load a model and make its environment.

    :param args: see :mod:`sb3_pg.doctor.__main__`; the names are those of ``rl_zoo3.enjoy``
    :raises ValueError: for an unknown algorithm, or where no run or no model is, naming what there is
    """
    extend_all()
    for module in args.gym_packages:
        importlib.import_module(module)
    if args.algo not in ALGOS:
        raise ValueError(f"--algo {args.algo}: unknown; accepted are {', '.join(ALGOS)}")
    name = EnvironmentName(args.env)
    path, folder = _find(args, name)
    set_random_seed(args.seed)
    with _naming(f"the settings in {folder / name}, or the environment with --env-kwargs"):
        env, n_envs = _make_env(args, name, folder)
    try:
        th.empty(0, device="cpu" if args.device == "auto" else args.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device}: {str(error).splitlines()[0]}") from error
    # As enjoy does: what a schedule was, and the module of a user's function, do not matter any more
    custom_objects = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    with _naming(str(path)):
        model = ALGOS[args.algo].load(path, env=env, custom_objects=custom_objects, device=args.device, seed=args.seed)
    return Run(model, n_envs, folder, path)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say what could not be read, whatever the reader says of it."""
    try:
        yield
    except gym.error.UnregisteredEnv:
        raise
    except Exception as error:
        raise ValueError(f"{what} cannot be loaded ({type(error).__name__}: {error})") from error


def _find(args: Namespace, name: EnvironmentName) -> tuple[Path, Path]:
    try:
        _, model_path, log_path = get_model_path(
            args.exp_id, args.folder, args.algo, name, args.load_best, args.load_checkpoint, args.load_last_checkpoint
        )
    except (AssertionError, ValueError) as error:
        runs = Path(args.folder, args.algo)
        there = sorted(each.name for each in runs.iterdir() if each.is_dir()) if runs.is_dir() else []
        listed = (
            f"{runs} has {', '.join(there[:10])}{' ...' if len(there) > 10 else ''}" if there else f"{runs} has none"
        )
        raise ValueError(f"--algo {args.algo} --env {args.env} -f {args.folder}: {error}. Runs: {listed}") from error
    return Path(model_path), Path(log_path)


def _make_env(args: Namespace, name: EnvironmentName, folder: Path) -> tuple[VecEnv, int]:
    stats_path = folder / name
    # Rewards normalised as in training: that is what the critic has learned to predict
    hyperparams, found = get_saved_hyperparams(str(stats_path), norm_reward=True)
    normalize_reward = bool(hyperparams.get("normalize_kwargs", {}).get("norm_reward", True))
    env_kwargs = dict(hyperparams.pop("env_kwargs", None) or {})
    saved_args = stats_path / "args.yml"
    if saved_args.is_file():
        # RL Zoo's own file, which holds Python objects
        saved = yaml.load(saved_args.read_text(encoding="utf-8"), Loader=yaml.UnsafeLoader)
        env_kwargs = dict(saved["env_kwargs"] or env_kwargs)
    env_kwargs.update(args.env_kwargs or {})
    n_envs = int(hyperparams.get("n_envs", 1))
    env = create_test_env(
        name.gym_id,
        n_envs=args.n_envs or n_envs,
        stats_path=found,
        seed=args.seed,
        should_render=False,
        hyperparams=hyperparams,
        env_kwargs=env_kwargs,
        vec_env_cls=DummyVecEnv,
    )
    normalization = unwrap_vec_normalize(env)
    if normalization is not None:
        normalization.norm_reward = normalize_reward
    return env, n_envs
