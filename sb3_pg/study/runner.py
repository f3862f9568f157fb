"""Trains what a study is missing, and keeps each result as soon as it is there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sb3_pg.launch import Backend, Outcome, run_all
from sb3_pg.study.plan import Study
from sb3_pg.study.reading import StudyError
from sb3_pg.study.results import RunResult, append_result, path_of, read_results
from sb3_pg.study.training import RunTask, checkpoint_path, quiet_mujoco, train
from sb3_pg.tune.blocks import check_block
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.experiment import Experiment
from sb3_pg.tune.progress import LiveConsole, clock

Key = tuple[str, str]
"""Environment and name of a curve."""
MOST_FAILURES = 3
"""A mistake that all trainings make is not to be found in each of them."""


@dataclass
class Results:
    """
    The results of a study's settings.

    :param found: by environment and curve, then by seed
    :param n_others: results in the same files of other settings, or of seeds that the plan has not
    """

    found: dict[Key, dict[int, RunResult]] = field(default_factory=dict)
    n_others: int = 0

    def of(self, env: str, curve: str) -> list[RunResult]:
        """Results of a curve, in the order of their seeds."""
        return [result for _, result in sorted(self.found.get((env, curve), {}).items())]


def read_all(study: Study, folder: Path) -> Results:
    """
    Read what has been trained.

    :param study: what belongs to it
    :param folder: of its results
    :raises StudyError: names file and line of what no result is
    """
    results = Results()
    for curve in study.curves:
        for env in curve.envs:
            settings = study.settings(curve, env)
            known = results.found.setdefault((env, curve.name), {})
            try:
                there = read_results(path_of(folder, env, curve.name))
            except ValueError as error:
                raise StudyError(str(error)) from error
            for result in there:
                if result.settings == settings and result.seed in curve.seeds:
                    known.setdefault(result.seed, result)
                else:
                    results.n_others += 1
    return results


def missing(study: Study, results: Results, wanted: Iterable[str] = (), logs: Path | None = None) -> list[RunTask]:
    """
    Say what there is to train.

    :param study: the plan
    :param results: what is there
    :param wanted: environments and curves to train; empty for all
    :param logs: folder of checkpoints, and of the model of each curve's first seed; None for neither
    """
    pairs = study.pairs(wanted)
    tasks = []
    for task in study.tasks():
        key = task.key
        if key not in pairs or task.seed in results.found.get(key, {}):
            continue
        if logs is not None:
            every = study.checkpoint_every
            folder = folder_of(logs, study, *key, task.seed)
            is_first = task.seed == study.curve(task.curve).seeds[0]
            task = replace(
                task,
                folder=str(folder),
                keep_model=is_first,
                checkpoint_every=every if every and every < task.settings.n_timesteps else None,
            )
        tasks.append(task)
    return tasks


def folder_of(logs: Path, study: Study, env: str, curve: str, seed: int) -> Path:
    """Where checkpoint and model of a training are."""
    return path_of(logs / study.name, env, curve).with_suffix("") / str(seed)


def check(study: Study, tasks: Iterable[RunTask]) -> None:
    """
    Build every curve once, so that what is wrong with it shows before anything is trained.

    :raises StudyError: with the line of the curve
    """
    quiet_mujoco()
    seen: set[Key] = set()
    for task in tasks:
        settings = task.settings
        if (settings.env, task.curve) in seen:
            continue
        seen.add((settings.env, task.curve))
        experiment = Experiment(settings.algo, settings.env, settings.n_timesteps, env_kwargs=settings.env_kwargs)
        try:
            check_block(experiment, settings.block, task.seed)
        except TuneError as error:
            raise study.error(study.curve(task.curve), str(error)) from error


class Board(LiveConsole):
    """
    Shows how far a study is: a live table on a terminal, a line for each training everywhere else. A context manager.

    :param study: what is trained
    :param tasks: what there is to train
    :param results: what is there; grows while it is shown
    :param capacity: trainings at a time
    :param console: where to show it
    """

    def __init__(self, study: Study, tasks: list[RunTask], results: Results, capacity: float, console: Console) -> None:
        self._study, self._results = study, results
        self._capacity = max(min(capacity, len(tasks)), 1)
        self._left = Counter(task.key for task in tasks)
        self._running: dict[tuple[Key, int], float] = {}
        self._steps = {task.key: task.settings.n_timesteps for task in tasks}
        self._n_tasks, self._n_done = len(tasks), 0
        super().__init__(console)

    def started(self, task: RunTask) -> None:
        """Note that a training has begun."""
        self._running[task.key, task.seed] = time.monotonic()

    def ended(self, task: RunTask, result: RunResult) -> None:
        """Say what a training came to."""
        key = task.key
        self._running.pop((key, task.seed), None)
        self._left[key] -= 1
        self._n_done += 1
        seconds = result.seconds[-1]
        final = f"final {result.final:.5g}" if np.isfinite(result.final) else "no episode ended in the last tenth"
        shown = f"diverged: {result.failure}" if result.failure else f"{final} after {seconds:.0f} s"
        self.say(
            f"{self._study.name}: {self._n_done}/{self._n_tasks} {key[0]}, {key[1]}, seed {task.seed}: {shown}; "
            f"{self.time_left()} left"
        )

    def time_left(self) -> str:
        """Seconds of the trainings to come, as far as there are trainings like them."""
        per_step = {
            key: float(np.mean([result.seconds[-1] / result.settings.n_timesteps for result in list(found.values())]))
            for key, found in list(self._results.found.items())  # copies: rich's thread draws while results come in
            if found
        }
        if not per_step:
            return "?"
        total = 0.0
        for key, n_left in self._left.items():
            alike = [value for other, value in per_step.items() if other[0] == key[0]] or list(per_step.values())
            total += n_left * self._steps[key] * per_step.get(key, float(np.mean(alike)))
        now = time.monotonic()
        total -= sum(now - begin for begin in list(self._running.values()))
        return clock(max(total, 0) / self._capacity)

    def _table(self) -> Group:
        table = Table()
        for column in ("environment", "curve", "done", "running", "left", "final (mean)"):
            table.add_column(column, justify="left" if column in ("environment", "curve") else "right")
        for (env, curve), n_left in self._left.items():
            done = self._results.of(env, curve)
            seeds = [str(seed) for key, seed in list(self._running) if key == (env, curve)]
            finals = [result.final for result in done if not result.failure and np.isfinite(result.final)]
            mean = f"{np.mean(finals):.5g}" if finals else ""
            waiting = n_left - len(seeds)
            running = f"seed {', '.join(seeds)}" if seeds else ""
            style = "bold" if seeds else "dim" if not n_left else ""
            table.add_row(Text(env), Text(curve), str(len(done)), running, str(waiting or ""), mean, style=style)
        head = f"{self._study.name}: {self._n_done}/{self._n_tasks} trainings, {self.time_left()} left"
        return Group(Text(head), table)


class _Watched:
    """A backend that says when a task starts."""

    def __init__(self, backend: Backend, on_start: Callable[[RunTask], None]) -> None:
        self._backend, self._on_start = backend, on_start
        self.capacity = backend.capacity

    def start(self, key: int, function: Callable[[Any], Any], task: Any) -> None:
        self._on_start(task)
        self._backend.start(key, function, task)

    def wait(self) -> list[tuple[int, Any]]:
        return self._backend.wait()

    def __enter__(self) -> _Watched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two commands would train the same seeds, and use each other's checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        message = f"{folder}: another command is training this study. Several at a time are --workers or --ray of one"
        raise StudyError(message) from error


def run_study(
    study: Study,
    results: Results,
    tasks: list[RunTask],
    folder: Path,
    backend: Backend,
    console: Console,
    function: Callable[[RunTask], RunResult] = train,
) -> None:
    """
    Train, and append each result to its file as it comes in.

    :param study: the plan
    :param results: gets the new results
    :param tasks: what to train
    :param folder: of the study's results
    :param backend: where it is trained; entered by the caller
    :param console: shows how far it is
    :param function: carries out one training
    :raises StudyError: when trainings failed for another reason than that they diverged, after all others, or at the
        third; or when another command trains here
    """
    with ExitStack() as stack:
        stack.enter_context(_alone(folder))
        # Another command may have ended since the results were read
        results.found = read_all(study, folder).found
        tasks = [task for task in tasks if task.seed not in results.found[task.key]]
        board = stack.enter_context(Board(study, tasks, results, backend.capacity, console))
        failures: list[str] = []

        def keep(outcome: Outcome[RunTask, RunResult]) -> None:
            """Write down the result of a training before its checkpoint goes."""
            task = outcome.task
            if outcome.value is None:
                failures.append(_failure(study, outcome))
                board.say(failures[-1].splitlines()[0])
                if len(failures) == MOST_FAILURES:
                    raise StudyError(_told(failures))
                return
            append_result(path_of(folder, task.settings.env, task.curve), outcome.value)
            if task.folder:  # not before the result is safe
                with suppress(OSError):  # one that stays is used by nobody
                    checkpoint_path(task).unlink()
            results.found.setdefault(task.key, {})[task.seed] = outcome.value
            board.ended(task, outcome.value)

        def again(task: RunTask, why: str) -> None:
            board.say(f"{task.settings.env}, {task.curve}, seed {task.seed} is trained again: {why}")

        run_all(function, tasks, _Watched(backend, board.started), keep, again)
        if failures:
            raise StudyError(_told(failures))


def _failure(study: Study, outcome: Outcome[RunTask, RunResult]) -> str:
    task = outcome.task
    name = f"{study.name}: {task.settings.env}, curve {task.curve}, seed {task.seed}"
    if outcome.error is not None:
        return f"{name} failed\n{outcome.error.traceback}"
    return f"{name} was lost {outcome.runs} times: {outcome.lost}"


def _told(failures: list[str]) -> str:
    return "\n".join([*failures, "What is finished is kept, and the same command goes on with the rest."])
