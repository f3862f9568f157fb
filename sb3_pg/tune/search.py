"""The search: which trial is asked for when, which seed is trained next, when a trial is stopped.

At most ``window`` trials are under way. Trials end in the order of their numbers, and trial i is asked for right after
trial i - window has ended. So its parameters, what its seeds are compared with, and with them its value follow from
the study's seed alone: not from the number of workers, nor from which of them was faster, nor from how often the search
was killed and started again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from sb3_pg.launch import Backend, Outcome, run_all
from sb3_pg.tune.blocks import merged
from sb3_pg.tune.errors import TuneError
from sb3_pg.tune.experiment import Block, Experiment, SeedResult, SeedTask
from sb3_pg.tune.pruning import Bars, bars_of, clearly_worse
from sb3_pg.tune.record import StudyRecord
from sb3_pg.tune.scores import interquartile_mean, score_of
from sb3_pg.tune.space import GridSpace, Space

SAMPLERS = ("tpe", "random", "grid")
MAX_LOST_TRIALS = 3


@dataclass(frozen=True)
class Rules:
    """
    How a study is searched. Two studies with the same rules, experiment and space have the same trials.

    :param seed: everything random follows from it
    :param seeds: the seeds that each trial trains
    :param objective: ``"last"`` or ``"auc"``, see :func:`~sb3_pg.tune.scores.score_of`
    :param last_k: evaluations that ``"last"`` takes the mean of
    :param sampler: one of :data:`SAMPLERS`
    :param n_startup_trials: random trials before TPE begins, and whole curves before the median pruner begins
    :param pruner: inside the first seed, one of :data:`~sb3_pg.tune.pruning.CURVE_PRUNERS`
    :param p_threshold: between seeds, see :func:`~sb3_pg.tune.pruning.clearly_worse`
    :param window: trials under way at a time
    """

    seed: int
    seeds: tuple[int, ...]
    objective: str = "last"
    last_k: int = 3
    sampler: str = "tpe"
    n_startup_trials: int = 10
    pruner: str = "median"
    p_threshold: float = 0.15
    window: int = 8

    def score(self, result: SeedResult) -> float | None:
        """Score of a seed; None if it diverged or has no evaluation."""
        if result.stopped == "diverged" or not result.curve:
            return None
        return score_of(result.curve, self.objective, self.last_k)

    def scores(self, results: Iterable[SeedResult]) -> list[float]:
        """Scores of the seeds that have one."""
        return [score for score in map(self.score, results) if score is not None]

    def sampler_of(self, number: int) -> BaseSampler:
        """Sampler of one trial: seeded by its number, since a sampler's state does not survive the process."""
        seed = int(np.random.SeedSequence([self.seed, 2, number]).generate_state(1)[0])
        if self.sampler != "tpe":
            return RandomSampler(seed=seed)
        # The liar keeps trials that are under way at the same time apart.
        return TPESampler(seed=seed, n_startup_trials=self.n_startup_trials, multivariate=True, constant_liar=True)


class Listener:
    """What a search tells while it runs; does nothing."""

    def begun(self, trial: FrozenTrial) -> None:
        """A trial was asked for."""

    def trained(self) -> None:
        """A seed was trained."""

    def ended(self, trial: FrozenTrial) -> None:
        """A trial has ended."""

    def final_begun(self, n_trained: int, n_trainings: int) -> None:
        """The candidates of the final are known: so many of its trainings are there, of so many."""

    def retrained(self, task: SeedTask, result: SeedResult) -> None:
        """A candidate was trained on a fresh seed."""

    def rerun(self, task: SeedTask, why: str) -> None:
        """A seed is trained again, since its worker died."""


class Search:
    """
    A search, new or resumed.

    :param record: the study
    :param experiment: what is trained
    :param block: hyperparameters of what is not searched
    :param space: what is searched
    :param rules: how
    :param n_trials: trials of the study, those that it has already included
    :param listener: is told what happens
    """

    def __init__(
        self,
        record: StudyRecord,
        experiment: Experiment,
        block: Block,
        space: Space,
        rules: Rules,
        n_trials: int,
        listener: Listener | None = None,
    ) -> None:
        self.record = record
        self._experiment = experiment
        self._block = block
        if isinstance(space, GridSpace):
            space = space.in_order(record.settings.get("space", ()))  # the file's lines may have changed places
        self._space = space
        self._rules = rules
        self._points: list[Block] | None = None
        if rules.sampler == "grid" and isinstance(space, GridSpace):
            self._points = space.points(rules.seed, n_trials)
        self._n_trials = n_trials if self._points is None else min(n_trials, len(self._points))
        self._listener = listener or Listener()
        self._finished: set[int] = set()  # trials that need no further seed, and wait for those before them
        self._best: list[FrozenTrial | None] = []  # of each number, the best trial up to it; as long as trials ended
        self._lost: dict[int, str] = {}
        self._lost_in_a_row = 0

    def run(self, train: Callable[[SeedTask], SeedResult], backend: Backend) -> None:
        """
        Search until the study has its trials.

        :param train: trains one seed; in the backend's processes
        :param backend: where seeds are trained
        :raises TuneError: when a training fails for another reason than divergence, or workers keep dying
        """
        for trial in self.record.trials:
            if trial.state.is_finished():
                self._rank(trial)
        under_way = [trial.number for trial in self.record.trials if trial.state is TrialState.RUNNING]
        tasks = [*self._next_seeds(under_way), *self._advance()]
        # The oldest trial first: new ones wait for its end
        run_all(train, tasks, backend, self._take, self._listener.rerun, order=lambda task: float(task.candidate))

    def _take(self, outcome: Outcome[SeedTask, SeedResult]) -> list[SeedTask]:
        """Take in a result; return what to train next."""
        task = outcome.task
        assert isinstance(task.candidate, int)
        if outcome.error is not None:
            raise failed(task, outcome.error.traceback)
        if outcome.value is None:
            why = f"seed {task.seed} was lost {outcome.runs} times: {outcome.lost}"
            self._lost[task.candidate] = why
            self._finished.add(task.candidate)
            return self._advance()
        self.record.add_result(task.candidate, task.index, outcome.value, self._rules.score(outcome.value))
        self._listener.trained()
        return [*self._next_seeds([task.candidate]), *self._advance()]

    def _advance(self) -> list[SeedTask]:
        """End what is finished, in the order of numbers, and ask for as many new trials; return their first seeds."""
        tasks: list[SeedTask] = []
        while True:
            oldest, number = len(self._best), len(self.record.trials)
            if number < min(self._n_trials, oldest + self._rules.window):
                params = None if self._points is None else self._points[number]
                trial = self.record.ask(self._space, self._rules.sampler_of(number), params)
                self._listener.begun(trial)
                tasks += self._next_seeds([trial.number])
            elif oldest in self._finished:
                self._end(oldest)
            else:
                return tasks

    def _next_seeds(self, numbers: Sequence[int]) -> list[SeedTask]:
        """The next seed of each of these trials; one that needs none is finished."""
        tasks = []
        for number in numbers:
            results = self.record.results(number)
            if len(results) == len(self._rules.seeds) or self._why_stopped(number, results):
                self._finished.add(number)
            else:
                block = merged(self._block, self._space.convert(self.record.trials[number].params))
                bars = self._bars(number) if not results else Bars()
                seed = self._rules.seeds[len(results)]
                tasks.append(SeedTask(number, len(results), seed, self._experiment, block, bars))
        return tasks

    def _end(self, number: int) -> None:
        self._finished.discard(number)
        results = self.record.results(number)
        lost = self._lost.pop(number, "")
        why = lost or self._why_stopped(number, results)
        self._lost_in_a_row = self._lost_in_a_row + 1 if lost else 0
        if why:
            self.record.end(number, TrialState.FAIL if lost else TrialState.PRUNED, None, why)
        else:
            self.record.end(number, TrialState.COMPLETE, interquartile_mean(self._scores(results)), "")
        self._rank(self.record.trials[number])
        self._listener.ended(self.record.trials[number])
        if self._lost_in_a_row >= MAX_LOST_TRIALS:
            raise TuneError(f"the workers of {MAX_LOST_TRIALS} trials in a row died. Trial {number}: {lost}")

    def _why_stopped(self, number: int, results: Sequence[SeedResult]) -> str:
        """Why a trial gets no further seed before it has all; empty if it gets one, or has all."""
        if not results:
            return ""
        if results[-1].stopped:
            return f"seed {results[-1].seed} {STOPPED[results[-1].stopped]}: {results[-1].why}"
        best = self._best_before(number)
        if len(results) == len(self._rules.seeds) or best is None:
            return ""
        scores, best_scores = self._scores(results), self._scores(self.record.results(best.number))
        if clearly_worse(scores, best_scores, self._rules.p_threshold):
            return f"after {len(results)} of {len(self._rules.seeds)} seeds clearly worse than trial {best.number}"
        return ""

    def _before(self, number: int) -> list[FrozenTrial]:
        """What had ended when a trial was asked for."""
        return self.record.trials[: max(number - self._rules.window + 1, 0)]

    def _best_before(self, number: int) -> FrozenTrial | None:
        last = number - self._rules.window
        return self._best[last] if last >= 0 else None

    def _rank(self, trial: FrozenTrial) -> None:
        """Take in a trial that has ended; of equals the older one is the best."""
        best = self._best[-1] if self._best else None
        if trial.state is TrialState.COMPLETE and (best is None or _value(trial) > _value(best)):
            best = trial
        self._best.append(best)

    def _bars(self, number: int) -> Bars:
        firsts = [result for trial in self._before(number) for result in self.record.results(trial.number)[:1]]
        whole = [result.curve for result in firsts if not result.stopped]
        stopped = [result.curve for result in firsts if result.stopped]
        rules = self._rules
        return bars_of(rules.pruner, whole, stopped, self._experiment.n_evaluations, rules.n_startup_trials)

    def _scores(self, results: Sequence[SeedResult]) -> list[float]:
        return self._rules.scores(results)


STOPPED = {"curve": "was stopped", "diverged": "diverged"}


def failed(task: SeedTask, traceback: str) -> TuneError:
    """
    Build the error for a training that raised an exception.

    :param task: what was trained
    :param traceback: of the exception
    """
    settings = "".join(f"\n    {key}: {value!r}" for key, value in task.block.items())
    return TuneError(
        f"training {task.title} with seed {task.seed} failed. This is no matter of luck, so the search stops here; "
        f"all results so far are kept, and the same command goes on with this seed.\n{traceback.rstrip()}\n"
        f"Hyperparameters:{settings}"
    )


def best_trials(trials: Sequence[FrozenTrial], top_k: int) -> list[FrozenTrial]:
    """The best complete trials, the best one first; of equals the older one."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (-_value(trial), trial.number))[:top_k]


def _value(trial: FrozenTrial) -> float:
    return float(trial.value) if trial.value is not None else float("-inf")
