"""What a checkpoint's policy gradient looks like, and what to do about it: one page.

    python -m sb3_pg.doctor --algo vpg --env CartPole-v1 -f logs
    python -m sb3_pg.doctor --rollout mine.npz

The first plays whole episodes with the frozen policy of a run of RL Zoo (its flags mean what they mean for
``rl_zoo3.enjoy``) and writes doctor.html, doctor.png and doctor.csv into the run's folder. The second looks for the
classical mistakes in the arrays of any implementation (sb3_pg/doctor/arrays.py says what has to be in the file), and
ends with status 1 when it finds one.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path

import gymnasium as gym
import torch as th

from sb3_pg.doctor.advice import advise
from sb3_pg.files import accept_any_text
from sb3_pg.pages import Finding

_WORDS = {"good": "ok", "watch": "watch", "bad": "BAD", "unknown": "?"}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_pg.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algo", help="algorithm of the run")
    parser.add_argument("--env", help="environment of the run")
    parser.add_argument("-f", "--folder", default="logs", help="RL Zoo's log folder (%(default)s)")
    parser.add_argument("--exp-id", type=int, default=0, help="number of the run (0: the latest, -1: no folder for it)")
    parser.add_argument("--load-best", action="store_true", help="the best model of the run's evaluations")
    parser.add_argument("--load-checkpoint", type=int, help="the checkpoint after this many steps")
    parser.add_argument("--load-last-checkpoint", action="store_true", help="the last checkpoint")
    parser.add_argument("--n-batches", type=int, default=40, help="batches' worth of steps to play (%(default)s)")
    parser.add_argument("--n-envs", type=int, help="environments to play in (as many as in training)")
    parser.add_argument("--gae-lambda", type=float, help="lambda to judge, instead of the model's")
    parser.add_argument("--last-layer", action="store_true", help="gradients of the last layer: less memory")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes")
    parser.add_argument("--device", default="auto", help="PyTorch device")
    parser.add_argument("--num-threads", type=int, default=-1, help="threads for PyTorch (-1: its default)")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="modules that register environments")
    parser.add_argument("--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="for the environment")
    parser.add_argument("--rollout", type=Path, help="an .npz file with arrays of any implementation, instead of a run")
    parser.add_argument("-o", "--output", type=Path, help="folder for the page (doctor in the run's folder)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    :param arguments: of the command line; those of this process when not given
    :return: exit status: 0, or 1 where a rollout has a mistake
    """
    accept_any_text()
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        if args.rollout is not None:
            return _examine_rollout(args)
        if args.algo is None or args.env is None:
            raise ValueError("--algo and --env are needed, or --rollout with an .npz file")
        _examine_run(args)
    except gym.error.UnregisteredEnv as error:
        parser.error(f"{error} --gym-packages names modules that register environments")
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    return 0


def _examine_run(args: argparse.Namespace) -> None:
    for name, least in (("n_batches", 1), ("n_envs", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value}: at least {least} is expected")
    if args.gae_lambda is not None and not 0 <= args.gae_lambda <= 1:
        raise ValueError(f"--gae-lambda {args.gae_lambda}: expected is a number in [0, 1]")
    if args.num_threads > 0:
        th.set_num_threads(args.num_threads)
    # Here, because importing RL Zoo takes seconds, and arrays do not need it
    from sb3_pg.doctor.diagnosis import diagnose
    from sb3_pg.doctor.experience import check_policy, describe_training, gather
    from sb3_pg.doctor.page import write_page
    from sb3_pg.doctor.zoo_run import load_run
    from sb3_pg.zoo.pairs import read_pairs

    args.env_kwargs = read_pairs("--env-kwargs", args.env_kwargs)
    run = load_run(args)
    try:
        folder = _make_folder(args.output or run.folder / "doctor")
        check_policy(run.model)
        training = describe_training(run.model, f"{args.algo} on {args.env}", run.n_envs, args.gae_lambda)
        print(f"Examining {run.path}")
        diagnosis = diagnose(gather(run.model, training, args.n_batches, last_layer=args.last_layer), training)
    finally:
        run.model.get_env().close()
    advice = advise(diagnosis)
    _print(advice)
    for path in write_page(diagnosis, advice, folder):
        print(path)


def _make_folder(folder: Path) -> Path:
    """Make the folder of the page before there is anything to lose."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to ({error.strerror}); -o names another folder") from error
    return folder


def _print(advice: list[Finding]) -> None:
    for each in advice:
        print(f"[{_WORDS[each.level]}] {each.title}\n    {each.text}")


def _examine_rollout(args: argparse.Namespace) -> int:
    from sb3_pg.doctor.arrays import read_rollout
    from sb3_pg.doctor.mistakes import examine
    from sb3_pg.doctor.page import write_rollout_page

    rollout = read_rollout(args.rollout)
    folder = _make_folder(args.output or args.rollout.with_name(f"{args.rollout.stem}_doctor"))
    advice = [finding.advice for finding in examine(rollout)]
    _print(advice)
    for path in write_rollout_page(rollout, advice, args.rollout.name, folder):
        print(path)
    return int(any(each.level == "bad" for each in advice))


if __name__ == "__main__":
    sys.exit(main())
