"""``python -m sb3_pg.tune``: from the command line to the report."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from sb3_pg.files import accept_any_text, write_whole
from sb3_pg.launch import backend_for
from sb3_pg.tune.arguments import parse
from sb3_pg.tune.blocks import check_block, check_can_be_sent, merged, starting_point
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.experiment import Block, Experiment, seeds_of
from sb3_pg.tune.final import Standing, candidates_of, ranking, run_finals
from sb3_pg.tune.progress import Progress
from sb3_pg.tune.record import BLOCK_CANDIDATE, StudyRecord
from sb3_pg.tune.report import write_report
from sb3_pg.tune.scores import say_interval
from sb3_pg.tune.search import Rules, Search
from sb3_pg.tune.space import GridSpace, Space, ZooSpace, read_grid, searched_among, signature_of
from sb3_pg.tune.storage import Lease, from_any_folder, open_storage, without_password
from sb3_pg.tune.training import train_seed
from sb3_pg.tune.winner import winner_file

DEFAULT_N_TRIALS = 100


@dataclass(frozen=True)
class Plan:
    """
    What a command asks for.

    :param experiment: what is trained
    :param block: hyperparameters of what is not searched
    :param space: what is searched
    :param rules: how
    :param n_trials: trials of the study
    :param top_k: trials of the final
    :param fresh_seeds: seeds of the final
    :param name: of the study
    :param storage: where it is kept
    :param folder: where the results go
    """

    experiment: Experiment
    block: Block
    space: Space
    rules: Rules
    n_trials: int
    top_k: int
    fresh_seeds: tuple[int, ...]
    name: str
    storage: str
    folder: Path

    @property
    def shown_storage(self) -> str:
        """The storage by a name that is the same from every folder, and says no password."""
        if "://" in self.storage:
            return without_password(from_any_folder(self.storage))
        path, folder = Path(self.storage).resolve(), self.folder.resolve()
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes trials comparable, as plain values."""
        experiment = asdict(self.experiment)
        del experiment["gym_packages"]
        everything = {**experiment, **asdict(self.rules), "block": self.block, "space": signature_of(self.space)}
        plain: dict[str, Any] = json.loads(json.dumps(everything, default=_name))
        return plain


def _name(value: Any) -> str:
    """Of an object that is no plain value; its repr may hold an address, which changes from run to run."""
    return str(getattr(value, "__qualname__", type(value).__qualname__))


class GuardedProgress(Progress):
    """Progress that stops a search whose study another process has taken."""

    lease: Lease

    def trained(self) -> None:
        """Count a training."""
        self.lease.check()
        super().trained()

    def retrained(self, *args: Any, **kwargs: Any) -> None:
        """Count a training on a fresh seed."""
        self.lease.check()
        super().retrained(*args, **kwargs)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Search, train the best again, write the report.

    :param argv: the words of the command line; None for those of this process
    :return: exit code: 0, 1 when no trial was completed, 2 for an error, 130 after an interrupt
    """
    accept_any_text()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        args = parse(argv)
        return run(plan_of(args), args)
    except TuneError as error:
        print(f"sb3_pg.tune: error: {error}", file=sys.stderr)
        return 2
    except (StorageInternalError, SQLAlchemyError, OSError) as error:
        what = "a file could not be read or written" if isinstance(error, OSError) else "the storage failed"
        why = " ".join(str(error).split())
        print(f"sb3_pg.tune: error: {what}: {why}. What is kept stays; the same command goes on", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sb3_pg.tune: interrupted. What is finished is kept; the same command goes on", file=sys.stderr)
        return 130


def plan_of(args: argparse.Namespace) -> Plan:
    """
    Look up all that a command refers to.

    :param args: the command line
    :raises TuneError: when something of it does not exist
    """
    experiment = Experiment(
        algo=args.algo,
        env=args.env,
        n_timesteps=args.n_timesteps,
        n_evaluations=args.n_evaluations,
        eval_episodes=args.eval_episodes,
        n_eval_envs=args.n_eval_envs,
        vec_env=args.vec_env,
        device=args.device,
        env_kwargs=args.env_kwargs or {},
        eval_env_kwargs=args.eval_env_kwargs,
        gym_packages=tuple(args.gym_packages),
    )
    start = starting_point(experiment, args.conf_file, args.hyperparams or {})
    if args.workers != 0 and not args.ray:  # a cluster's tasks can be sent with functions in them
        check_can_be_sent(start.block)
    space: Space = read_grid(args.grid, start) if args.grid else ZooSpace(args.algo, start)
    seeds = tuple(args.seeds or seeds_of(args.seed, "search", args.n_seeds))
    fresh = [seed for seed in seeds_of(args.seed, "fresh", args.n_final_seeds + len(seeds)) if seed not in seeds]
    names = ("seed", "objective", "last_k", "sampler", "n_startup_trials", "pruner", "p_threshold", "window")
    n_trials = args.n_trials or DEFAULT_N_TRIALS
    if args.sampler == "grid" and isinstance(space, GridSpace):
        n_trials = min(args.n_trials or space.n_points, space.n_points)
    experiment = replace(experiment, n_timesteps=start.block["n_timesteps"])
    if isinstance(space, GridSpace):
        # With another sampler, which chooses for itself, a sample of what it may choose
        for point in tqdm(space.points(args.seed, n_trials), f"checking {args.grid}", leave=False, disable=None):
            _check(point, experiment, start.block, args.grid)
    name = args.study_name or f"{args.algo}_{args.env.replace('/', '-')}"
    folder = Path(args.log_folder, "tune", name)
    return Plan(
        experiment=experiment,
        block=start.block,
        space=space,
        rules=Rules(seeds=seeds, **{key: getattr(args, key) for key in names}),
        n_trials=n_trials,
        top_k=args.top_k,
        fresh_seeds=tuple(fresh[: args.n_final_seeds]),
        name=name,
        storage=args.storage or str(folder / "study.log"),
        folder=folder,
    )


def _check(point: Block, experiment: Experiment, block: Block, path: str) -> None:
    """
    Build a point of a grid once: if that cannot be, the search would end on its turn, each time anew.

    :param point: of the grid
    :param experiment: what is trained
    :param block: hyperparameters that are not searched
    :param path: of the grid's file
    :raises TuneError: naming the point
    """
    try:
        check_block(experiment, merged(block, point))
    except TuneError as error:
        shown = ", ".join(f"{name} {value!r}" for name, value in point.items())
        raise TuneError(f"{path}: with {shown}: {error}") from error


def run(plan: Plan, args: argparse.Namespace) -> int:
    """
    Carry out a plan.

    :param plan: what to do
    :param args: the command line, for what it runs on
    :return: exit code
    """
    signature_of(plan.space)  # fails if there is nothing to search
    with ExitStack() as stack:
        storage = open_storage(plan.storage)
        mark = _place_for_report(plan)
        memory = None if args.ray_memory is None else args.ray_memory * 1e9
        backend = backend_for(args.workers, args.ray, args.ray_cpus, args.ray_gpus, memory)
        try:
            stack.enter_context(backend)
        except (ConnectionError, ImportError) as error:
            raise TuneError(str(error)) from error
        record = StudyRecord(storage, plan.name, plan.settings)
        lease = stack.enter_context(Lease(record))
        try:
            write_whole(mark, plan.shown_storage)
        except OSError as error:
            raise TuneError(f"cannot write to {plan.folder}: {error}") from error
        record.read()  # again: another search may have ended meanwhile
        n_final = plan.top_k and (plan.top_k + 1) * len(plan.fresh_seeds)
        progress = GuardedProgress(record, plan.rules, plan.n_trials, n_final, Console(highlight=False))
        progress.lease = lease
        stack.enter_context(progress)
        _introduce(plan, record, progress, args)
        Search(record, plan.experiment, plan.block, plan.space, plan.rules, plan.n_trials, progress).run(
            train_seed, backend
        )
        candidates = candidates_of(record, plan.block, plan.space, plan.top_k) if plan.top_k else []
        run_finals(record, plan.experiment, candidates, plan.fresh_seeds, train_seed, backend, progress)
        standings = ranking(record, plan.rules, candidates, len(plan.fresh_seeds))
    return finish(plan, record, standings)


def _place_for_report(plan: Plan) -> Path:
    """Make the folder of the report, which is that of one study in one storage.

    :return: the file that says which storage
    :raises TuneError: when it cannot be made, or has the report of another storage's study
    """
    mark = plan.folder / "storage.txt"
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        there = mark.read_text(encoding="utf-8") if mark.exists() else plan.shown_storage
        if from_any_folder(there) != plan.shown_storage:
            raise TuneError(
                f"{plan.folder} has the report of a study in {there}, and the one in {plan.shown_storage} would write "
                "over it; use another --study-name, or another -f"
            )
    except OSError as error:
        raise TuneError(f"cannot write to {plan.folder}: {error}") from error
    return mark


def _introduce(plan: Plan, record: StudyRecord, progress: Progress, args: argparse.Namespace) -> None:
    ended = sum(trial.state.is_finished() for trial in record.trials)
    state = "new" if record.is_new else f"goes on: {ended} trials have ended"
    n_seeds, steps = len(plan.rules.seeds), plan.experiment.n_timesteps
    progress.say(f"study {record.name} in {plan.storage}: {state}")
    progress.say(f"{plan.n_trials} trials of at most {n_seeds} seeds ({', '.join(map(str, plan.rules.seeds))})")
    progress.say(f"{steps} steps each; block of the file: {plan.block}")
    searched = searched_among(args.hyperparams or {}, plan.space)
    if searched:
        names = ", ".join(searched)
        progress.say(f"note: {names} of -params are searched: every trial but the block itself has values of its own")
    if (args.workers or 0) > plan.rules.window:
        progress.say(
            f"note: at most {plan.rules.window} of {args.workers} workers are busy, since so many trials are under way "
            f"at a time: --window {args.workers} (in another study: it is part of what makes a study reproducible)"
        )


def finish(plan: Plan, record: StudyRecord, standings: Sequence[Standing]) -> int:
    """
    Write the winner and the report, and say where they are.

    :param plan: what was done
    :param record: the study
    :param standings: ranked candidates; empty without a final
    :return: exit code
    """
    winner = ""
    if standings:
        today = datetime.date.today()
        winner = winner_file(record, plan.experiment, plan.rules, standings, today)
        write_whole(plan.folder / "winner.yml", winner)
    page = write_report(record, plan.experiment, plan.rules, standings, winner, plan.folder)
    for rank, standing in enumerate(standings, 1):
        interval = say_interval(standing.interval, " [{:.6g}, {:.6g}]", "")
        diverged = f", {standing.n_diverged} diverged" if standing.n_diverged else ""
        print(f"{rank}. {standing.candidate.title}: IQM {standing.iqm:.6g}{interval} on "
              f"{len(standing.results)} fresh seeds{diverged}")  # fmt: skip
    if standings and standings[0].candidate.name == BLOCK_CANDIDATE:
        print("No trial was better on fresh seeds than the block that is there already.")
    if winner:
        print(f"winner: {plan.folder / 'winner.yml'}")
    print(f"report: {page}")
    if any(trial.state.name == "COMPLETE" for trial in record.trials):
        return 0
    reasons = Counter(str(trial.user_attrs.get("why", "")) for trial in record.trials).most_common(3)
    print("No trial was completed: " + "; ".join(f"{reason} ({times} times)" for reason, times in reasons))
    return 1
