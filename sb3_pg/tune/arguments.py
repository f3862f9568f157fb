"""The command line of ``python -m sb3_pg.tune``: RL Zoo's flags where the same is meant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gymnasium as gym
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_pg.tune.blocks import prepare
from sb3_pg.tune.errors import TuneError, unknown
from sb3_pg.tune.pruning import CURVE_PRUNERS, default_p_threshold
from sb3_pg.tune.scores import OBJECTIVES
from sb3_pg.tune.search import SAMPLERS, Rules
from sb3_pg.zoo.pairs import Pairs

DESCRIPTION = """
Search hyperparameters over several seeds, confirm the best on fresh seeds, and write a report and a block for -conf.
"""
EPILOG = """
The study goes on when the same command is given again, also after it was killed. --n-trials is then the number of
trials of the whole study. Every worker has one thread of torch and BLAS.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser; what only makes sense together is checked by :func:`parse`."""
    result = argparse.ArgumentParser("python -m sb3_pg.tune", description=DESCRIPTION, epilog=EPILOG)
    _add_training(result.add_argument_group("training (as in RL Zoo)"))
    _add_search(result.add_argument_group("search"))
    _add_place(result.add_argument_group("where it runs, and where it is kept"))
    return result


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--algo", required=True, help="any on-policy algorithm that RL Zoo knows")
    group.add_argument("--env", required=True, help="id of the environment")
    group.add_argument(
        "-n", "--n-timesteps", type=int, default=0, help="steps of a training (default: those of the file)"
    )
    group.add_argument("--eval-episodes", type=int, default=5, help="episodes of an evaluation (%(default)s)")
    group.add_argument("--n-eval-envs", type=int, default=5, help="environments that play them (%(default)s)")
    group.add_argument("--n-evaluations", type=int, default=10, help="evaluations of a training (%(default)s)")
    group.add_argument("--vec-env", choices=("dummy", "subproc"), default="dummy", help="kind of VecEnv (%(default)s)")
    group.add_argument("--device", default="auto", help="torch device (%(default)s)")
    group.add_argument("--gym-packages", nargs="+", default=[], help="modules that register environments")
    group.add_argument("--env-kwargs", nargs="+", action=Pairs, help="arguments of the environment")
    group.add_argument("--eval-env-kwargs", nargs="+", action=Pairs, help="arguments of the one for evaluations")
    group.add_argument("-params", "--hyperparams", nargs="+", action=Pairs, help="hyperparameters over the file's")
    group.add_argument("-conf", "--conf-file", help="file or module with the hyperparameters that are not searched")


def _add_search(group: argparse._ArgumentGroup) -> None:
    default = Rules(seed=0, seeds=(0,))
    group.add_argument("--n-trials", type=int, help="trials of the study, also after resuming (100, or the whole grid)")
    group.add_argument("--n-seeds", type=int, default=5, help="seeds of a trial (%(default)s)")
    group.add_argument("--seeds", type=int, nargs="+", help="these seeds, instead of --n-seeds")
    group.add_argument("--seed", type=int, default=0, help="seed from which all randomness derives (%(default)s)")
    group.add_argument(
        "--objective", choices=OBJECTIVES, default=default.objective,
        help="score of a seed: mean of the last evaluations, or of all (area under the curve) (%(default)s)",
    )  # fmt: skip
    group.add_argument("--last-k", type=int, default=default.last_k, help="the last evaluations (%(default)s)")
    group.add_argument("--sampler", choices=SAMPLERS, help="how hyperparameters are drawn (tpe, or grid with --grid)")
    group.add_argument("--grid", help="YAML file with values of hyperparameters, instead of RL Zoo's search space")
    group.add_argument(
        "--n-startup-trials", type=int, default=default.n_startup_trials,
        help="random trials before TPE, whole curves before the median pruner (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--pruner", choices=CURVE_PRUNERS, default=default.pruner, help="within the first seed (%(default)s)"
    )
    group.add_argument(
        "--p-threshold",
        type=float,
        help="p-value below which the Wilcoxon pruner stops a trial between seeds; 0 trains all seeds of every trial "
        "(0.15; up to 3 seeds 0.3)",
    )
    group.add_argument("--window", type=int, default=default.window, help="trials under way at a time (%(default)s)")
    group.add_argument("--top-k", type=int, default=3, help="best trials to train on fresh seeds (%(default)s)")
    group.add_argument("--n-final-seeds", type=int, default=10, help="fresh seeds (%(default)s)")


def _add_place(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--workers", type=int, help="processes of this machine; 0 for this process itself (1)")
    group.add_argument(
        "--ray", metavar="ADDRESS", help="instead: host:port of a Ray cluster, 'auto' for this machine's, or 'local'"
    )
    group.add_argument("--ray-cpus", type=float, default=1, help="CPUs of a training (%(default)s)")
    group.add_argument("--ray-gpus", type=float, default=0, help="GPUs of a training (%(default)s)")
    group.add_argument("--ray-memory", type=float, metavar="GB", help="memory of a training")
    group.add_argument("-f", "--log-folder", default="logs", help="results go to tune/STUDY in there (%(default)s)")
    group.add_argument("--study-name", help="name of the study (ALGO_ENV)")
    group.add_argument(
        "--storage", help="journal file, URL of a database, or grpc://host:port (study.log in the results' folder)"
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: its words; None for those of this process
    :raises TuneError: when something cannot be
    """
    args = parser().parse_args(argv)
    at_least = {"n_seeds": 1, "n_evaluations": 1, "eval_episodes": 1, "n_eval_envs": 1, "last_k": 1, "window": 1}
    at_least |= {"n_timesteps": 0, "seed": 0, "n_startup_trials": 0, "top_k": 0, "n_final_seeds": 1}
    at_least |= {"workers": 0, "n_trials": 1, "ray_cpus": 0, "ray_gpus": 0, "ray_memory": 0}
    for name, least in at_least.items():
        value = getattr(args, name)
        if value is not None and not value >= least:  # NaN is not, either
            raise TuneError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if args.p_threshold is None:
        args.p_threshold = default_p_threshold(len(args.seeds or range(args.n_seeds)))
    if not 0 <= args.p_threshold <= 1:
        raise TuneError(f"--p-threshold must be from 0 to 1, not {args.p_threshold}")
    if args.objective == "last" and args.last_k > args.n_evaluations:
        raise TuneError(f"--last-k is {args.last_k}, but there are only {args.n_evaluations} evaluations")
    seeds = args.seeds or [0]
    if min(seeds) < 0 or max(seeds) >= 2**32 or len(set(seeds)) < len(seeds):
        raise TuneError(f"--seeds must be different from each other, not negative and below 2**32, not {seeds}")
    if args.ray is not None and args.workers is not None:
        raise TuneError("--workers are processes of this machine, --ray has its own: give one of them")
    args.sampler = args.sampler or ("grid" if args.grid else "tpe")
    if args.sampler == "grid" and not args.grid:
        raise TuneError("--sampler grid needs --grid FILE: RL Zoo's search spaces are no grids")
    _check_names(args)
    return args


def _check_names(args: argparse.Namespace) -> None:
    try:
        prepare(tuple(args.gym_packages))
    except ImportError as error:
        raise TuneError(f"--gym-packages {' '.join(args.gym_packages)}: {error}") from error
    on_policy = [name for name, algorithm in ALGOS.items() if issubclass(algorithm, OnPolicyAlgorithm)]
    if args.algo in ALGOS and args.algo not in on_policy:
        raise TuneError(
            f"--algo {args.algo} is not on-policy, which this command is for; accepted are {', '.join(on_policy)}. "
            "RL Zoo's own -optimize tunes all algorithms, one seed a trial"
        )
    if args.algo not in ALGOS:
        raise unknown("--algo", args.algo, on_policy)
    if args.env not in gym.registry:
        raise unknown("--env", args.env, gym.registry)
